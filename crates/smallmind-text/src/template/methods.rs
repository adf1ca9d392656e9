//! Python's methods on texts and lists (`.split()`, `.strip()`), with the work and the memory of each call paid for
//! before it runs: the library behind them counts only what they return.

use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::concat::TEXT;
use super::functions::invalid;
use super::guard::FUEL;
use super::print::to_text;

/// Bytes a step of fuel pays for when they are built, and when they are only looked at.
const BUILT: usize = 64;
const READ: usize = 1024;
/// The widest field of `str.format`.
const WIDTH: usize = 1000;

pub(super) fn register(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(call);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("string", text);
    environment.add_function(TEXT, text);
    environment.add_filter("join", join_filter);
    environment.remove_filter("pprint");
    for name in TEXT_FILTERS {
        environment.add_filter(name, move |args: Rest<ValueOrKwargs>| texts_only(name, args));
    }
    environment.add_test("lower", |state: &State<'_, '_>, text: &str| -> Result<bool, Error> {
        pay(state, text.len(), READ)?;
        Ok(text.chars().all(char::is_lowercase))
    });
    environment.add_test("upper", |state: &State<'_, '_>, text: &str| -> Result<bool, Error> {
        pay(state, text.len(), READ)?;
        Ok(text.chars().all(char::is_uppercase))
    });
}

fn pay(state: &State<'_, '_>, bytes: usize, a_step: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(bytes / a_step).unwrap_or(u64::MAX).saturating_add(1))
}

/// The engine's filters that turn whatever they are given into text, without limit for lists and maps.
const TEXT_FILTERS: [&str; 12] = [
    "upper",
    "lower",
    "title",
    "capitalize",
    "trim",
    "replace",
    "indent",
    "escape",
    "e",
    "safe",
    "split",
    "format",
];

/// The engine's own filters, with a budget for each call.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment
});

fn texts_only(filter: &'static str, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    for arg in &args {
        sizes(arg)?;
    }
    ENGINE.empty_state().apply_filter(filter, &args)
}

/// `value` as text the way Python has it; texts and numbers stay what they are where they show the same.
fn text(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Number => Ok(value.clone()),
        ValueKind::Undefined => Ok(Value::from("")),
        _ => to_text(state, value).map(Value::from),
    }
}

fn length(state: &State<'_, '_>, value: &Value) -> Result<usize, Error> {
    if let Some(text) = value.as_str() {
        pay(state, text.len(), READ)?;
    }
    value.len().ok_or_else(|| invalid(format!("a value of type {} has no length", value.kind())))
}

/// Calls a method that the engine itself does not have.
fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => {
            pay(state, text.len(), READ)?;
            match method {
                "join" => return join(state, text, args),
                "format" => pay_format(state, text, args)?,
                "replace" => pay_replace(state, text, args)?,
                "split" | "rsplit" | "splitlines" => {
                    let separator = args.first().and_then(Value::as_str).filter(|s| !s.is_empty());
                    let parts = match separator {
                        Some(separator) => text.matches(separator).count(),
                        None => text.matches(char::is_whitespace).count(),
                    };
                    pay(state, parts.saturating_mul(BUILT), BUILT)?;
                }
                _ => {}
            }
        }
        // Comparing one value with each of a list: only short texts and numbers are that cheap.
        None if method == "count" => {
            let size = args.iter().map(size).sum::<Result<usize, Error>>()?;
            pay(state, value.len().unwrap_or(0).saturating_mul(size), BUILT)?;
        }
        None => {}
    }
    unknown_method_callback(state, value, method, args)
}

fn join(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(args)?;
    join_all(state, separator, values.try_iter()?.map(Ok))
}

/// The filter: `list|join(', ')`, also with `attribute='name'`.
fn join_filter(
    state: &State<'_, '_>,
    values: &Value,
    separator: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let separator = separator.or(kwargs.get("d")?).unwrap_or_default();
    let attribute: Option<&str> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let items = values.try_iter()?.map(|item| match attribute {
        Some(name) => item.get_attr(name),
        None => Ok(item),
    });
    join_all(state, separator, items)
}

fn join_all(
    state: &State<'_, '_>,
    separator: &str,
    values: impl Iterator<Item = Result<Value, Error>>,
) -> Result<Value, Error> {
    let mut out = String::new();
    for (i, value) in values.enumerate() {
        let value = value?;
        pay(state, if i > 0 { separator.len() } else { 0 }, BUILT)?;
        if i > 0 {
            out.push_str(separator);
        }
        match value.as_str() {
            Some(text) => {
                pay(state, text.len(), BUILT)?;
                out.push_str(text);
            }
            None => out.push_str(&to_text(state, &value)?),
        }
    }
    Ok(Value::from(out))
}

fn pay_replace(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<(), Error> {
    let (old, new, count): (&str, &str, Option<i32>) = from_args(args)?;
    let found = text.matches(old).count();
    let replaced = count.and_then(|c| usize::try_from(c).ok()).map_or(found, |c| c.min(found));
    pay(state, text.len().saturating_add(replaced.saturating_mul(new.len())), BUILT)
}

/// Each field may show every argument, at its full width.
fn pay_format(state: &State<'_, '_>, format: &str, args: &[Value]) -> Result<(), Error> {
    let bytes =
        args.iter().map(sizes).try_fold(WIDTH, |sum, size| Ok::<_, Error>(sum.saturating_add(size?)))?;
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    if numbers.into_iter().any(|digits| digits.parse::<usize>().map_or(true, |n| n > WIDTH)) {
        return Err(invalid("a field of str.format is at most 1000 wide"));
    }
    pay(state, format.matches('{').count().saturating_mul(bytes).saturating_add(format.len()), BUILT)
}

/// Bytes an argument shows as, or all the named ones together.
fn sizes(arg: &Value) -> Result<usize, Error> {
    if !arg.is_kwargs() {
        return size(arg);
    }
    let kwargs = Kwargs::try_from(arg.clone())?;
    kwargs.args().try_fold(0usize, |sum, name| Ok(sum.saturating_add(size(&kwargs.peek::<Value>(name)?)?)))
}

/// Bytes a plain value shows as.
fn size(value: &Value) -> Result<usize, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => Ok(text.len()),
        (None, ValueKind::Number | ValueKind::Bool | ValueKind::None | ValueKind::Undefined) => Ok(BUILT),
        _ => Err(invalid("this method takes texts and numbers only")),
    }
}
