//! The functions and filters that chat templates expect beyond Jinja's own, and the ones replaced because theirs could
//! overflow the stack or memory.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::json;
use super::scan::HOLD;

/// Levels of lists and maps a value may have to be kept or printed.
pub(super) const DEPTH: usize = 32;
/// Parts a value may have to be kept in a namespace.
const PARTS: usize = 100_000;
/// `strftime_now` formats are dates of a few words.
const FORMAT_BYTES: usize = 256;

/// Why the template called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

pub(super) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

pub(super) fn register(environment: &mut Environment<'static>) {
    environment.remove_global("debug");
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |why: &str| -> Result<Value, Error> {
        Err(invalid("raise_exception was called").with_source(Refused(why.to_owned())))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("namespace", namespace);
    environment.add_function(HOLD, |value: Value| hold(&value));
}

/// `namespace(a=1)`: as Jinja's, but what it holds passes [`hold`].
fn namespace(values: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut held = Vec::new();
    for name in kwargs.args() {
        held.push((name.to_owned(), hold(&kwargs.get::<Value>(name)?)?));
    }
    for value in values.iter() {
        if value.kind() != ValueKind::Map {
            return Err(invalid("namespace takes named values or a mapping"));
        }
        for key in value.try_iter()? {
            let name = key.as_str().ok_or_else(|| invalid("namespace takes names that are texts"))?;
            held.push((name.to_owned(), hold(&value.get_item(&key)?)?));
        }
    }
    minijinja::functions::namespace(Some(Value::from_pairs(held).into()))
}

/// A value as plain data: texts, numbers, lists and maps of them. Namespaces are the only values that change, so where
/// none can be inside another, no value can contain itself.
fn hold(value: &Value) -> Result<Value, Error> {
    settle(value, DEPTH, &mut PARTS.clone())
}

fn settle(value: &Value, depth: usize, parts: &mut usize) -> Result<Value, Error> {
    *parts = parts.checked_sub(1).ok_or_else(|| invalid("a value is too large to be kept in a namespace"))?;
    match value.kind() {
        ValueKind::Undefined
        | ValueKind::None
        | ValueKind::Bool
        | ValueKind::Number
        | ValueKind::String
        | ValueKind::Bytes => return Ok(value.clone()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {}
        _ => return Err(invalid("a namespace keeps plain data only")),
    }
    if value.as_object().is_some_and(|object| object.type_name().contains("Namespace")) {
        return Err(invalid("a namespace cannot be kept in a namespace"));
    }
    let depth = depth.checked_sub(1).ok_or_else(|| invalid("a value is nested too deeply to be kept"))?;
    let mut items = Vec::new();
    if value.kind() == ValueKind::Map {
        for key in value.try_iter()? {
            let item = settle(&value.get_item(&key)?, depth, parts)?;
            items.push((key, item));
        }
        return Ok(Value::from_pairs(items));
    }
    let mut list = Vec::new();
    for item in value.try_iter()? {
        list.push(settle(&item, depth, parts)?);
    }
    Ok(Value::from(list))
}

thread_local! {
    static NOW: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Sets the time that templates on this thread see.
pub(super) fn set_now(now_s: Option<i64>) {
    NOW.set(now_s);
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The time in UTC, by C's format letters; unknown letters stay as they are.
fn strftime_now(format: &str) -> Result<String, Error> {
    if format.len() > FORMAT_BYTES {
        return Err(invalid("the format of strftime_now is too long"));
    }
    let clock = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(0)
    };
    let now = NOW.get().unwrap_or_else(clock);
    let (day_number, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = civil(day_number);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let weekday = DAYS[usize::try_from((day_number + 4).rem_euclid(7)).unwrap_or(0)];
    let month_name = MONTHS[usize::try_from(month - 1).unwrap_or(0) % 12];
    let day_of_year = day_number - days_before(year) + 1;
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match letters.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year.rem_euclid(100)),
            Some('m') => out += &format!("{month:02}"),
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('d') => out += &format!("{day:02}"),
            Some('e') => out += &format!("{day:2}"),
            Some('j') => out += &format!("{day_of_year:03}"),
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => out += &format!("{minute:02}"),
            Some('S') => out += &format!("{second:02}"),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('z') => out += "+0000",
            Some('Z') => out += "UTC",
            Some('%') | None => out.push('%'),
            Some(other) => out.extend(['%', other]),
        }
    }
    Ok(out)
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)) - 477
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    let mut year = 1970 + day.div_euclid(366);
    while days_before(year + 1) <= day {
        year += 1;
    }
    let leap = days_before(year + 1) - days_before(year) == 366;
    let mut left = day - days_before(year);
    for (month, len) in (1..).zip([31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if left < len {
            return (year, month, left + 1);
        }
        left -= len;
    }
    (year, 12, 31)
}
