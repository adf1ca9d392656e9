//! `tojson` as transformers has it: Python's `json.dumps` with `ensure_ascii=False`, so that tools look as in training.
//! Limits: indentation, depth; the length is the engine's to count.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, State, Value};

use super::functions::{DEPTH, invalid};

/// Wider than any template asks for.
const INDENT: usize = 8;

struct Writer {
    out: String,
    indent: Option<usize>,
    comma: String,
    colon: String,
    sorted: bool,
}

/// The filter.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    _ensure_ascii: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let _: Option<Value> = kwargs.get("ensure_ascii")?;
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sorted: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    if indent.is_some_and(|width| width > INDENT) {
        return Err(invalid("tojson indents by at most 8"));
    }
    let (comma, colon) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some([comma, colon]) if comma.len() <= 8 && colon.len() <= 8 => (comma.clone(), colon.clone()),
        Some(_) => return Err(invalid("the separators of tojson are two short texts")),
    };
    let mut writer = Writer { out: String::new(), indent, comma, colon, sorted: sorted.unwrap_or(false) };
    writer.value(state, value, 0)?;
    Ok(Value::from_safe_string(writer.out))
}

impl Writer {
    fn value(&mut self, state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(invalid("tojson was given a value that is nested too deeply"));
        }
        let before = self.out.len();
        match value.kind() {
            ValueKind::Undefined => return Err(invalid("tojson was given an undefined value")),
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool | ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut any = false;
                self.out.push('[');
                for item in value.try_iter()? {
                    self.part(any, depth + 1);
                    any = true;
                    self.value(state, &item, depth + 1)?;
                }
                self.close(any, depth, ']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if keys.iter().any(|key| key.as_object().is_some()) {
                    return Err(invalid("tojson was given a map with a key that is no text"));
                }
                if self.sorted {
                    keys.sort_by_key(Value::to_string);
                }
                let mut any = false;
                self.out.push('{');
                for key in keys {
                    self.part(any, depth + 1);
                    any = true;
                    self.text(&key.to_string());
                    let colon = std::mem::take(&mut self.colon);
                    self.out.push_str(&colon);
                    self.colon = colon;
                    self.value(state, &value.get_item(&key)?, depth + 1)?;
                }
                self.close(any, depth, '}');
            }
            kind => return Err(invalid(format!("tojson cannot write a {kind}"))),
        }
        // One step and what it wrote, so that a list that holds itself many times over ends.
        state.consume_fuel(1 + (self.out.len() - before) as u64 / 64)
    }

    /// What stands before an item.
    fn part(&mut self, follows: bool, depth: usize) {
        if follows {
            let comma = std::mem::take(&mut self.comma);
            self.out.push_str(&comma);
            self.comma = comma;
        }
        self.line(depth);
    }

    fn close(&mut self, any: bool, depth: usize, bracket: char) {
        if any {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(width) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\x1f' => self.out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A JSON value as the engine sees it. Depth: `serde_json` reads at most 128 levels.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), ..) => Value::from(i),
            (_, Some(u), _) => Value::from(u),
            (.., f) => Value::from(f.unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(items) => Value::from_pairs(items.iter().map(|(k, v)| (k.as_str(), value(v)))),
    }
}
