//! How `{{ value }}` writes a value: as Python does (`True`, `None`, `['a', 'b']`), because templates were tried there.

use minijinja::value::ValueKind;
use minijinja::{Error, Output, State, Value};

use super::functions::{DEPTH, invalid};

/// Where text goes, and what refuses more of it.
type Sink<'s> = &'s mut dyn FnMut(&str) -> Result<(), Error>;

/// The engine's formatter.
pub(super) fn format(out: &mut Output<'_>, _state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()).map_err(Error::from),
        _ => nested(&mut |part| out.write_str(part).map_err(Error::from), value, 0),
    }
}

/// A value as text; what it takes is paid for as it is written.
pub(super) fn to_text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    let mut owed = 0;
    let mut sink = |part: &str| {
        owed += part.len() + 4;
        if owed >= 64 {
            state.consume_fuel(owed as u64 / 64)?;
            owed %= 64;
        }
        text.push_str(part);
        Ok(())
    };
    match value.as_str() {
        Some(part) => sink(part)?,
        None => nested(&mut sink, value, 0)?,
    }
    Ok(text)
}

/// A value as it shows inside a list.
fn nested(out: Sink<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(invalid("a value is nested too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::Undefined => out("Undefined"),
        ValueKind::None => out("None"),
        ValueKind::Bool => out(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out("[")?;
            for (i, item) in value.try_iter()?.enumerate() {
                out(if i > 0 { ", " } else { "" })?;
                nested(out, &item, depth + 1)?;
            }
            out("]")
        }
        ValueKind::Map => {
            out("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                out(if i > 0 { ", " } else { "" })?;
                nested(out, &key, depth + 1)?;
                out(": ")?;
                nested(out, &value.get_item(&key)?, depth + 1)?;
            }
            out("}")
        }
        // Numbers, bytes, and objects such as macros, which print as their name.
        _ => out(&value.to_string()),
    }
}

/// Python's `repr` of a text.
fn quoted(out: Sink<'_>, content: &str) -> Result<(), Error> {
    let quote = if content.contains('\'') && !content.contains('"') { '"' } else { '\'' };
    let mut repr = String::with_capacity(content.len() + 2);
    repr.push(quote);
    for c in content.chars() {
        match c {
            '\\' => repr.push_str("\\\\"),
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            c if c == quote => repr.extend(['\\', c]),
            c if c.is_control() => repr.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => repr.push(c),
        }
    }
    repr.push(quote);
    out(&repr)
}
