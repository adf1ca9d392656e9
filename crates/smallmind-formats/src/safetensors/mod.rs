//! Safetensors files, mapped and checked (the format's specification: `safetensors` README, "Format"): the header is
//! JSON, the tensors lie behind it without gap or overlap. What a tensor is for is the engine's business.

mod folder;
mod header;

pub use folder::{SafetensorsFolder, Shard};

use crate::error::FormatError;
use crate::map::Map;
use std::ops::Range;
use std::path::Path;

/// The element types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types, reason = "the format's own names")]
pub enum SafeType {
    BOOL,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

impl SafeType {
    const ALL: [(SafeType, &'static str, usize); 15] = {
        use SafeType::*;
        [
            (BOOL, "BOOL", 1),
            (U8, "U8", 1),
            (I8, "I8", 1),
            (F8_E5M2, "F8_E5M2", 1),
            (F8_E4M3, "F8_E4M3", 1),
            (I16, "I16", 2),
            (U16, "U16", 2),
            (F16, "F16", 2),
            (BF16, "BF16", 2),
            (I32, "I32", 4),
            (U32, "U32", 4),
            (F32, "F32", 4),
            (F64, "F64", 8),
            (I64, "I64", 8),
            (U64, "U64", 8),
        ]
    };

    fn from_name(name: &str) -> Option<SafeType> {
        SafeType::ALL.iter().find(|(_, n, _)| *n == name).map(|(t, ..)| *t)
    }

    /// The format's name of the type.
    pub fn name(self) -> &'static str {
        SafeType::ALL.iter().find(|(t, ..)| *t == self).map_or("", |(_, n, _)| n)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        SafeType::ALL.iter().find(|(t, ..)| *t == self).map_or(0, |(.., b)| *b)
    }
}

/// One tensor, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeTensor {
    /// Unique in its file.
    pub name: String,
    /// Type of the elements.
    pub dtype: SafeType,
    /// Dimensions, the last one contiguous: `[rows, columns]` of a matrix.
    pub shape: Vec<usize>,
    range: Range<usize>,
}

/// An opened safetensors file.
///
/// ```
/// use smallmind_formats::Safetensors;
/// let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
/// let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &1f32.to_le_bytes()].concat();
/// let file = Safetensors::from_bytes("example", bytes)?;
/// let x = file.tensor("x").expect("it is there");
/// assert_eq!((x.shape.as_slice(), file.data(x)), (&[1][..], &1f32.to_le_bytes()[..]));
/// # Ok::<(), smallmind_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct Safetensors {
    map: Map,
    /// By name.
    tensors: Vec<SafeTensor>,
}

impl Safetensors {
    /// Maps a file and checks its whole header. The file must stay as it is while it is open, as for
    /// [`crate::Gguf::open`].
    ///
    /// # Errors
    /// If the file cannot be read, or its header is not the format's, or does not account for every byte behind it.
    pub fn open(path: &Path) -> Result<Safetensors, FormatError> {
        Safetensors::parse(Map::open(path)?, path)
    }

    /// The same for bytes in memory; `name` takes the path's place in errors.
    ///
    /// # Errors
    /// As [`Safetensors::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Safetensors, FormatError> {
        Safetensors::parse(Map::from_bytes(bytes), Path::new(name))
    }

    fn parse(map: Map, path: &Path) -> Result<Safetensors, FormatError> {
        let tensors = header::parse(map.bytes(), path)?;
        Ok(Safetensors { map, tensors })
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> &[SafeTensor] {
        &self.tensors
    }

    /// The tensor of that exact name.
    pub fn tensor(&self, name: &str) -> Option<&SafeTensor> {
        let at = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// The stored bytes of one of this file's tensors: little-endian elements at any address.
    pub fn data(&self, tensor: &SafeTensor) -> &[u8] {
        self.map.get(tensor.range.clone())
    }

    /// Gives a tensor's resident memory back to the system; reading it again fetches it from the file.
    pub fn release(&self, tensor: &SafeTensor) {
        self.map.release(tensor.range.clone());
    }
}

#[cfg(test)]
mod tests;
