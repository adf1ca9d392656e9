//! One metadata value. Text and arrays stay in the file and are read from there on demand; their bounds were walked
//! when the file was opened. May not trust them all the same: every read is checked again.

use crate::bytes::{Cursor, Short};
use crate::escape::escaped;
use crate::map::Map;
use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

/// The type of a metadata value or of an array's elements. The numbers are the specification's
/// `gguf_metadata_value_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the specification's own names")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    pub(crate) fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.into_iter().find(|t| t.id() == id)
    }

    /// The number that stands for the type in a file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Stored bytes of one value; `None` where they vary.
    pub(crate) fn size(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

impl Display for ValueType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metadata value. `Display` is made for people: one line, bounded in length, safe to print.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the specification's own names")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Text),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value, if it is of an integer type.
    pub fn as_integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The value as `f32` (rounded, infinite where too large), if it is of a floating-point type.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            #[allow(
                clippy::cast_possible_truncation,
                reason = "rounding to the nearest f32 is what is meant"
            )]
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The value, if it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// Reads one value of a type of fixed size; `None` if it is a boolean other than 0 and 1, or of another type.
    pub(crate) fn read(value_type: ValueType, cursor: &mut Cursor<'_>) -> Result<Option<Value>, Short> {
        Ok(Some(match value_type {
            ValueType::U8 => Value::U8(cursor.u8()?),
            ValueType::I8 => Value::I8(cursor.i8()?),
            ValueType::U16 => Value::U16(cursor.u16()?),
            ValueType::I16 => Value::I16(cursor.i16()?),
            ValueType::U32 => Value::U32(cursor.u32()?),
            ValueType::I32 => Value::I32(cursor.i32()?),
            ValueType::F32 => Value::F32(cursor.f32()?),
            ValueType::U64 => Value::U64(cursor.u64()?),
            ValueType::I64 => Value::I64(cursor.i64()?),
            ValueType::F64 => Value::F64(cursor.f64()?),
            ValueType::Bool => match cursor.u8()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Ok(None),
            },
            ValueType::String | ValueType::Array => return Ok(None),
        }))
    }

    /// The type, with the value where it is a number: what an error about a wrong type says was found.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::String(_) => "a string".to_owned(),
            Value::Array(array) => format!("an array of {} × {}", array.len(), array.elem_type()),
            other => format!("{} {other}", other.value_type()),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            // `Debug` writes 1e300 instead of 301 digits.
            Value::F32(v) => write!(f, "{v:?}"),
            Value::F64(v) => write!(f, "{v:?}"),
            Value::Bool(v) => v.fmt(f),
            Value::String(v) => v.fmt(f),
            Value::Array(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
        }
    }
}

/// Text in the file: bytes that should be UTF-8.
#[derive(Clone)]
pub struct Text {
    map: Arc<Map>,
    start: usize,
    end: usize,
}

impl Text {
    /// `range` is where the text's bytes lie, its length prefix excluded.
    pub(crate) fn new(map: &Arc<Map>, range: Range<usize>) -> Text {
        Text { map: Arc::clone(map), start: range.start, end: range.end }
    }

    /// The bytes as stored.
    pub fn as_bytes(&self) -> &[u8] {
        self.map.get(self.start..self.end)
    }

    /// The text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        str::from_utf8(self.as_bytes()).ok()
    }
}

/// Characters of a text that are shown.
const SHOWN_CHARS: usize = 200;
/// Elements of an array that are shown, and characters of each.
const SHOWN_ELEMENTS: usize = 8;
const SHOWN_ELEMENT_CHARS: usize = 32;

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        escaped(self.as_bytes(), SHOWN_CHARS).fmt(f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Text({self})")
    }
}

/// An array in the file, all of one type.
#[derive(Clone)]
pub struct Array {
    map: Arc<Map>,
    elem: ValueType,
    len: usize,
    start: usize,
    end: usize,
}

impl Array {
    /// `range` is where the elements lie, element type and length excluded.
    pub(crate) fn new(map: &Arc<Map>, elem: ValueType, len: usize, range: Range<usize>) -> Array {
        Array { map: Arc::clone(map), elem, len, start: range.start, end: range.end }
    }

    /// The elements' type.
    pub fn elem_type(&self) -> ValueType {
        self.elem
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as stored.
    pub(crate) fn raw(&self) -> &[u8] {
        self.map.get(self.start..self.end)
    }

    /// The elements' bytes, if they are strings.
    pub fn byte_strings(&self) -> Option<ByteStrings<'_>> {
        (self.elem == ValueType::String)
            .then(|| ByteStrings { cursor: Cursor::new(self.raw()), left: self.len })
    }

    /// The elements, if they are numbers or booleans; nothing for strings and nested arrays.
    pub fn scalars(&self) -> impl Iterator<Item = Value> + '_ {
        let (elem, mut cursor) = (self.elem, Cursor::new(self.raw()));
        std::iter::from_fn(move || Value::read(elem, &mut cursor).ok().flatten())
    }
}

impl Display for Array {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        f.write_str("[")?;
        if let Some(strings) = self.byte_strings() {
            for string in strings.take(SHOWN_ELEMENTS) {
                write!(f, "{separator}\"{}\"", escaped(string, SHOWN_ELEMENT_CHARS))?;
                separator = ", ";
            }
        } else if self.elem == ValueType::Array {
            return write!(f, "{} arrays]", self.len);
        } else {
            for value in self.scalars().take(SHOWN_ELEMENTS) {
                write!(f, "{separator}{value}")?;
                separator = ", ";
            }
        }
        if self.len > SHOWN_ELEMENTS {
            write!(f, ", … {} in all", self.len)?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Array({self})")
    }
}

/// The bytes of an array's strings, in order.
#[derive(Clone, Debug)]
pub struct ByteStrings<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.string().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ByteStrings<'_> {}
