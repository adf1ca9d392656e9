//! The keys and values, with a typed getter for each type a reader wants. May not know any key's meaning.

use super::value::{Array, ByteStrings, Value, ValueType};
use crate::error::FormatError;
use std::path::Path;
use std::sync::Arc;

/// Keys and values in the order of the file, found by binary search.
///
/// Every getter answers `Ok(None)` where the key is absent and an error (naming file, key, the type found and the type
/// wanted) where its value is of another type. `require_…` turns absence into an error too.
#[derive(Debug)]
pub struct Metadata {
    path: Arc<Path>,
    entries: Vec<(String, Value)>,
    /// Indices into `entries`, sorted by key.
    by_key: Vec<usize>,
}

macro_rules! require {
    ($($(#[$doc:meta])* $name:ident, $getter:ident -> $type:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// If the key is absent, or as the getter without `require_`.
        pub fn $name(&self, key: &str) -> Result<$type, FormatError> {
            self.$getter(key)?.ok_or_else(|| FormatError::missing(&self.path, key))
        }
    )*};
}

impl Metadata {
    /// Refuses a key that is there twice.
    pub(super) fn new(path: &Arc<Path>, entries: Vec<(String, Value)>) -> Result<Metadata, FormatError> {
        let key = |i: &usize| entries.get(*i).map_or("", |(key, _)| key.as_str());
        let mut by_key: Vec<usize> = (0..entries.len()).collect();
        by_key.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        for (a, b) in by_key.iter().zip(by_key.iter().skip(1)) {
            if key(a) == key(b) {
                return Err(FormatError::invalid(path, key(a), "is there twice; convert the model again"));
            }
        }
        Ok(Metadata { path: Arc::clone(path), entries, by_key })
    }

    /// The file that the metadata is from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys and values in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the key is there, whatever its type.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The key's value, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = |i: &usize| self.entries.get(*i).map_or("", |(k, _)| k.as_str()).cmp(key);
        let at = self.by_key.binary_search_by(found).ok()?;
        self.by_key.get(at).and_then(|i| self.entries.get(*i)).map(|(_, value)| value)
    }

    fn wrong_type(&self, key: &str, value: &Value, wanted: &'static str) -> FormatError {
        let (path, key) = (self.path.to_path_buf(), key.to_owned());
        FormatError::WrongType { path, key, found: value.describe(), wanted }
    }

    fn scalar<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong_type(key, value, wanted))
    }

    fn array(&self, key: &str, wanted: &'static str) -> Result<Option<&Array>, FormatError> {
        self.scalar(key, wanted, |value| match value {
            Value::Array(array) => Some(array),
            _ => None,
        })
    }

    /// Every element through `read`; `None` from it is an error naming the element.
    fn elements<T>(
        &self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, FormatError> {
        let Some(array) = self.array(key, wanted)? else { return Ok(None) };
        // An empty array has no element of the wrong type, whatever it says it would hold.
        if matches!(array.elem_type(), ValueType::String | ValueType::Array) && !array.is_empty() {
            return Err(self.wrong_type(key, &Value::Array(array.clone()), wanted));
        }
        let mut elements = Vec::with_capacity(array.len());
        for (i, value) in array.scalars().enumerate() {
            elements.push(read(&value).ok_or_else(|| {
                let message = format!(
                    "element {i} is {}; {wanted} is needed; convert the model again",
                    value.describe()
                );
                FormatError::invalid(&self.path, key, message)
            })?);
        }
        Ok(Some(elements))
    }

    /// A text.
    ///
    /// # Errors
    /// If the value is not a string or not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        let text = self.scalar(key, "a string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })?;
        let not_utf8 = || FormatError::invalid(&self.path, key, "is not UTF-8 text; convert the model again");
        text.map(|text| text.as_str().ok_or_else(not_utf8)).transpose()
    }

    /// An integer of any stored type whose value fits.
    ///
    /// # Errors
    /// If the value is not an integer or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, FormatError> {
        self.scalar(key, "an integer of 0..=4294967295", |v| v.as_integer()?.try_into().ok())
    }

    /// An integer of any stored type whose value fits.
    ///
    /// # Errors
    /// If the value is not an integer or is negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        self.scalar(key, "an integer of at least 0", |v| v.as_integer()?.try_into().ok())
    }

    /// An integer of any stored type whose value fits; the value is the file's claim, not to be allocated by.
    ///
    /// # Errors
    /// If the value is not an integer or does not fit.
    pub fn usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        self.scalar(key, "an integer of at least 0", |v| v.as_integer()?.try_into().ok())
    }

    /// An integer of any stored type whose value fits.
    ///
    /// # Errors
    /// If the value is not an integer or does not fit.
    pub fn i32(&self, key: &str) -> Result<Option<i32>, FormatError> {
        self.scalar(key, "an integer of 32 bits", |v| v.as_integer()?.try_into().ok())
    }

    /// A floating-point number (`f32`, or `f64` rounded); it may be infinite or not a number.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        self.scalar(key, "a floating-point number", Value::as_f32)
    }

    /// A boolean.
    ///
    /// # Errors
    /// If the value is of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.scalar(key, "a boolean", Value::as_bool)
    }

    /// An array of strings, not copied.
    ///
    /// # Errors
    /// If the value is not an array of strings, or one of them is not UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, FormatError> {
        let Some(strings) = self.string_array(key)? else { return Ok(None) };
        let mut all = Vec::with_capacity(strings.len());
        for (i, string) in strings.enumerate() {
            all.push(str::from_utf8(string).map_err(|_| {
                FormatError::invalid(
                    &self.path,
                    key,
                    format!("string {i} is not UTF-8 text; convert the model again"),
                )
            })?);
        }
        Ok(Some(all))
    }

    /// An array of strings as bytes, not copied and not required to be UTF-8.
    ///
    /// # Errors
    /// If the value is not an array of strings.
    pub fn byte_strings(&self, key: &str) -> Result<Option<Vec<&[u8]>>, FormatError> {
        Ok(self.string_array(key)?.map(Iterator::collect))
    }

    fn string_array(&self, key: &str) -> Result<Option<ByteStrings<'_>>, FormatError> {
        const WANTED: &str = "an array of strings";
        let Some(array) = self.array(key, WANTED)? else { return Ok(None) };
        let wrong = || self.wrong_type(key, &Value::Array(array.clone()), WANTED);
        array.byte_strings().map(Some).ok_or_else(wrong)
    }

    /// An array of floating-point numbers (`f32`, or `f64` rounded).
    ///
    /// # Errors
    /// If the value is not such an array.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, FormatError> {
        self.elements(key, "an array of floating-point numbers", Value::as_f32)
    }

    /// An array of integers of any stored type that all fit.
    ///
    /// # Errors
    /// If the value is not such an array or an element does not fit.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, FormatError> {
        // The usual type, without a value for each: a vocabulary has a type for every token.
        if let Some(Value::Array(array)) = self.get(key)
            && array.elem_type() == ValueType::I32
        {
            let (numbers, _) = array.raw().as_chunks::<4>();
            return Ok(Some(numbers.iter().map(|n| i32::from_le_bytes(*n)).collect()));
        }
        self.elements(key, "an array of 32-bit integers", |v| v.as_integer()?.try_into().ok())
    }

    /// An array of integers of any stored type that all fit.
    ///
    /// # Errors
    /// If the value is not such an array or an element does not fit.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, FormatError> {
        self.elements(key, "an array of integers of 0..=4294967295", |v| v.as_integer()?.try_into().ok())
    }

    /// An array of booleans.
    ///
    /// # Errors
    /// If the value is not such an array.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, FormatError> {
        self.elements(key, "an array of booleans", Value::as_bool)
    }

    require! {
        /// [`Metadata::str`] that must be there.
        require_str, str -> &str;
        /// [`Metadata::u32`] that must be there.
        require_u32, u32 -> u32;
        /// [`Metadata::u64`] that must be there.
        require_u64, u64 -> u64;
        /// [`Metadata::usize`] that must be there.
        require_usize, usize -> usize;
        /// [`Metadata::i32`] that must be there.
        require_i32, i32 -> i32;
        /// [`Metadata::f32`] that must be there.
        require_f32, f32 -> f32;
        /// [`Metadata::bool`] that must be there.
        require_bool, bool -> bool;
        /// [`Metadata::strings`] that must be there.
        require_strings, strings -> Vec<&str>;
        /// [`Metadata::byte_strings`] that must be there.
        require_byte_strings, byte_strings -> Vec<&[u8]>;
        /// [`Metadata::f32s`] that must be there.
        require_f32s, f32s -> Vec<f32>;
        /// [`Metadata::i32s`] that must be there.
        require_i32s, i32s -> Vec<i32>;
        /// [`Metadata::u32s`] that must be there.
        require_u32s, u32s -> Vec<u32>;
        /// [`Metadata::bools`] that must be there.
        require_bools, bools -> Vec<bool>;
    }
}
