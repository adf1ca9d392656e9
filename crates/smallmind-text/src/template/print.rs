//! How `{{ value }}` writes a value: as Python does (`True`, `None`, `['a', 'b']`), because templates were tried there.

use minijinja::value::ValueKind;
use minijinja::{Error, Output, State, Value};

use super::functions::{DEPTH, invalid};

/// The engine's formatter.
pub(super) fn format(out: &mut Output<'_>, _state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => text(out, value.as_str().unwrap_or_default()),
        _ => nested(out, value, 0),
    }
}

fn text(out: &mut Output<'_>, text: &str) -> Result<(), Error> {
    out.write_str(text).map_err(Error::from)
}

/// A value as it shows inside a list.
fn nested(out: &mut Output<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(invalid("a value is nested too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::Undefined => text(out, "Undefined"),
        ValueKind::None => text(out, "None"),
        ValueKind::Bool => text(out, if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            text(out, "[")?;
            for (i, item) in value.try_iter()?.enumerate() {
                text(out, if i > 0 { ", " } else { "" })?;
                nested(out, &item, depth + 1)?;
            }
            text(out, "]")
        }
        ValueKind::Map => {
            text(out, "{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                text(out, if i > 0 { ", " } else { "" })?;
                nested(out, &key, depth + 1)?;
                text(out, ": ")?;
                nested(out, &value.get_item(&key)?, depth + 1)?;
            }
            text(out, "}")
        }
        // Numbers, bytes, and objects such as macros, which print as their name.
        _ => text(out, &value.to_string()),
    }
}

/// Python's `repr` of a text.
fn quoted(out: &mut Output<'_>, content: &str) -> Result<(), Error> {
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
    text(out, &repr)
}
