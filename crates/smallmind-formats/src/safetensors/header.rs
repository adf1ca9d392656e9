//! Bytes -> tensors: the length, the JSON, and proof that the tensors cover the rest of the file exactly once.

use super::{SafeTensor, SafeType};
use crate::error::FormatError;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The specification's own limit.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// Dimensions that we believe.
const MAX_DIMS: usize = 8;
const LENGTH_BYTES: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

enum Item {
    Tensor(Entry),
    Metadata,
}

/// All entries, a name that is there twice told from one that is not.
struct Entries {
    items: BTreeMap<String, Item>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Entries, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries { items: BTreeMap::new(), twice: None };
                while let Some(name) = map.next_key::<String>()? {
                    let item = if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        Item::Metadata
                    } else {
                        Item::Tensor(map.next_value()?)
                    };
                    if entries.items.insert(name.clone(), item).is_some() {
                        entries.twice = Some(name);
                    }
                }
                Ok(entries)
            }
        }
        from.deserialize_map(All)
    }
}

/// Says what a file that does not begin as the format does seems to be.
fn wrong_start(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"version https://git-lfs") {
        "the file is a git-lfs pointer in place of the weights; run `git lfs pull` or download the file itself"
    } else if bytes.starts_with(b"GGUF") {
        "the file is GGUF, not safetensors"
    } else if bytes.starts_with(b"PK\x03\x04") {
        "the file is a PyTorch or zip file, not safetensors; get the model as safetensors"
    } else {
        "the file is no safetensors file (its header is not where it should be); fetch it again"
    }
}

pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Vec<SafeTensor>, FormatError> {
    let file = |message: String| FormatError::file(path, message);
    let (Some(length), Some(rest)) = (bytes.first_chunk::<LENGTH_BYTES>(), bytes.get(LENGTH_BYTES..)) else {
        return Err(file(wrong_start(bytes).to_owned()));
    };
    let length = u64::from_le_bytes(*length);
    let header_len = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER_BYTES);
    let Some(header_len) = header_len.filter(|_| rest.first() == Some(&b'{')) else {
        return Err(file(wrong_start(bytes).to_owned()));
    };
    let (Some(header), Some(data)) = (rest.get(..header_len), rest.get(header_len..)) else {
        let missing = length.saturating_sub(rest.len() as u64);
        let (inside, len) = ("its header".to_owned(), bytes.len() as u64);
        return Err(FormatError::Truncated { path: path.to_owned(), inside, missing, len });
    };
    let entries: Entries = serde_json::from_slice(header)
        .map_err(|e| file(format!("its header is not what the format asks for ({e}); fetch it again")))?;
    if let Some(name) = entries.twice {
        return Err(FormatError::tensor(path, &name, "it is there twice; convert the model again"));
    }
    let data_start = LENGTH_BYTES.saturating_add(header_len);
    let mut tensors = Vec::new();
    for (name, item) in entries.items {
        if let Item::Tensor(entry) = item {
            tensors.push(tensor(path, name, &entry, data_start)?);
        }
    }
    check_cover(path, &tensors, data_start, bytes.len(), data.len())?;
    Ok(tensors)
}

fn tensor(path: &Path, name: String, entry: &Entry, data_start: usize) -> Result<SafeTensor, FormatError> {
    let error = |message: String| FormatError::tensor(path, &name, message);
    let dtype = SafeType::from_name(&entry.dtype)
        .ok_or_else(|| error(format!("has the unknown type `{}`", entry.dtype)))?;
    if entry.shape.len() > MAX_DIMS {
        return Err(error(format!("has {} dimensions", entry.shape.len())));
    }
    let too_large = || error(format!("its dimensions {:?} are too large", entry.shape));
    let shape: Vec<usize> =
        entry.shape.iter().map(|d| usize::try_from(*d)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    let bytes = shape.iter().try_fold(dtype.bytes(), |n, d| n.checked_mul(*d)).ok_or_else(too_large)?;
    let [begin, end] = entry.data_offsets;
    if end.checked_sub(begin) != Some(bytes as u64) {
        return Err(error(format!(
            "lies at bytes {begin} to {end}, and {} of shape {:?} take {bytes} bytes; fetch it again",
            dtype.name(),
            entry.shape
        )));
    }
    let at = |offset: u64| {
        usize::try_from(offset).ok().and_then(|o| o.checked_add(data_start)).ok_or_else(too_large)
    };
    let range = at(begin)?..at(end)?;
    Ok(SafeTensor { name, dtype, shape, range })
}

/// Each byte behind the header belongs to one tensor.
fn check_cover(
    path: &Path,
    tensors: &[SafeTensor],
    data_start: usize,
    file_len: usize,
    data_len: usize,
) -> Result<(), FormatError> {
    let mut by_place: Vec<&SafeTensor> = tensors.iter().collect();
    by_place.sort_unstable_by_key(|t| (t.range.start, t.range.end));
    let mut end = data_start;
    for t in by_place {
        if t.range.start != end {
            let what =
                if t.range.start < end { "overlaps the tensor" } else { "leaves a gap behind the tensor" };
            return Err(FormatError::tensor(
                path,
                &t.name,
                format!("{what} before it; convert the model again"),
            ));
        }
        end = t.range.end;
    }
    if end > file_len {
        let missing = end.saturating_sub(file_len) as u64;
        let (inside, len) = ("its tensors".to_owned(), file_len as u64);
        return Err(FormatError::Truncated { path: path.to_owned(), inside, missing, len });
    }
    if end < file_len {
        let extra = file_len.saturating_sub(end);
        let message =
            format!("{extra} of {data_len} bytes behind the header belong to no tensor; fetch it again");
        return Err(FormatError::file(path, message));
    }
    Ok(())
}
