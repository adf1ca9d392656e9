//! Python's methods on texts and lists (`.split()`, `.strip()`), with the work and the memory of each call paid for
//! before it runs: the library behind them counts only what they return.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::functions::invalid;

/// Bytes a step of fuel pays for when they are built, and when they are only looked at.
const BUILT: usize = 64;
const READ: usize = 1024;
/// The widest field of `str.format`.
const WIDTH: usize = 1000;

pub(super) fn register(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(call);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
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

fn join(state: &mut State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(args)?;
    let mut out = String::new();
    for (i, value) in values.try_iter()?.enumerate() {
        pay(state, if i > 0 { separator.len() } else { 0 }, BUILT)?;
        if i > 0 {
            out.push_str(separator);
        }
        match value.as_str() {
            Some(text) => {
                pay(state, text.len(), BUILT)?;
                out.push_str(text);
            }
            // Written through the formatter, which is limited.
            None => out.push_str(&state.format(value)?),
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
    let mut bytes = WIDTH;
    for arg in args {
        if arg.is_kwargs() {
            let kwargs = Kwargs::try_from(arg.clone())?;
            for name in kwargs.args() {
                bytes = bytes.saturating_add(size(&kwargs.peek::<Value>(name)?)?);
            }
        } else {
            bytes = bytes.saturating_add(size(arg)?);
        }
    }
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    if numbers.into_iter().any(|digits| digits.parse::<usize>().map_or(true, |n| n > WIDTH)) {
        return Err(invalid("a field of str.format is at most 1000 wide"));
    }
    pay(state, format.matches('{').count().saturating_mul(bytes).saturating_add(format.len()), BUILT)
}

/// Bytes a plain value shows as.
fn size(value: &Value) -> Result<usize, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => Ok(text.len()),
        (None, ValueKind::Number | ValueKind::Bool | ValueKind::None | ValueKind::Undefined) => Ok(BUILT),
        _ => Err(invalid("this method takes texts and numbers only")),
    }
}
