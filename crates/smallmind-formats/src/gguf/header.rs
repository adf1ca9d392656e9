//! Bytes -> header: magic, version, counts, keys and values, tensor descriptions. Every count is compared with the
//! bytes that are left before anything is allocated by it, so a refused file costs no memory and no time beyond its
//! real size.

use super::metadata::Metadata;
use super::tensors::{self, TensorInfo};
use super::value::{Array, Text, Value, ValueType};
use crate::bytes::{Cursor, Short};
use crate::error::FormatError;
use crate::map::Map;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The first four bytes of every GGUF file.
pub(crate) const MAGIC: &[u8] = b"GGUF";
/// The key that says what tensor offsets are multiples of.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment where that key is absent, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;

/// The specification's longest key.
const MAX_KEY_BYTES: u64 = 65_535;
/// More than any model has (hundreds); bounds the memory for a hostile file of small entries.
const MAX_KEYS: u64 = 1 << 16;
/// The largest models have some thousands.
const MAX_TENSORS: u64 = 1 << 17;
/// The largest headers, with vocabularies of 262,144 tokens and half a million merges, are near 20 MB. Bounds the
/// time for a sparse file that claims an array of terabytes.
const MAX_HEADER_BYTES: usize = 256 << 20;
/// Arrays in arrays in … are legal, but no known key nests at all.
const MAX_NESTING: u32 = 8;
/// Length (8), key (1), type (4), value (1).
const MIN_KEY_VALUE_BYTES: u64 = 14;
/// Length (8), name (1), number of dimensions (4), one dimension (8), type (4), offset (8).
const MIN_TENSOR_BYTES: u64 = 33;

/// A checked header.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    /// Bytes up to the end of the last description.
    pub(super) end: u64,
}

/// Reads the header, in which every tensor lies inside the file and beside the others. It lies at `within` of the map;
/// `file_len` is the length of the GGUF file, which is another where its tensors are kept in another order.
pub(super) fn parse(
    map: &Arc<Map>,
    path: &Arc<Path>,
    within: Range<usize>,
    file_len: u64,
) -> Result<Header, FormatError> {
    let all = map.get(within.clone());
    check_magic(all, path)?;
    let length = all.len().min(MAX_HEADER_BYTES);
    let header = map.get(0..within.start.saturating_add(length));
    let unread = all.len().saturating_sub(length) as u64;
    let mut parser = Parser { map, path, cursor: Cursor::at(header, within.start), file_len, unread };
    let p = &mut parser;
    p.cursor.take(MAGIC.len() as u64).map_err(|s| p.short("the magic number", s))?;
    let version = p.version()?;
    let n_tensors = p.cursor.u64().map_err(|s| p.short("the tensor count", s))?;
    let n_keys = p.cursor.u64().map_err(|s| p.short("the key count", s))?;
    p.check_count("keys", n_keys, MAX_KEYS, MIN_KEY_VALUE_BYTES)?;
    p.check_count("tensors", n_tensors, MAX_TENSORS, MIN_TENSOR_BYTES)?;
    if n_tensors == 0 {
        return Err(FormatError::file(
            path,
            "the file holds no tensors (a vocabulary only?); get the whole model",
        ));
    }
    let metadata = p.metadata(n_keys)?;
    refuse_split(&metadata)?;
    let alignment = alignment(&metadata)?;
    let mut raw = Vec::new();
    for i in 0..n_tensors {
        raw.push(tensors::parse(p, i)?);
    }
    let end = p.cursor.pos().saturating_sub(within.start) as u64;
    let data_start = end.checked_next_multiple_of(alignment);
    let data_start = data_start.ok_or_else(|| FormatError::file(path, "the header is too long"))?;
    let tensors = tensors::place(path, raw, data_start, alignment, parser.file_len)?;
    Ok(Header { version, metadata, tensors, end })
}

impl Metadata {
    /// `n_keys` keys and values as a file stores them, and nothing after them.
    pub(crate) fn from_entries(bytes: Vec<u8>, n_keys: u64, path: &Path) -> Result<Metadata, FormatError> {
        let (map, path) = (Arc::new(Map::from_bytes(bytes)), Arc::<Path>::from(path));
        let (cursor, file_len) = (Cursor::new(map.bytes()), map.bytes().len() as u64);
        let mut parser = Parser { map: &map, path: &path, cursor, file_len, unread: 0 };
        parser.check_count("keys", n_keys, MAX_KEYS, MIN_KEY_VALUE_BYTES)?;
        let metadata = parser.metadata(n_keys)?;
        if parser.cursor.left() > 0 {
            return Err(FormatError::file(&path, "holds bytes behind its last key"));
        }
        Ok(metadata)
    }
}

/// Says what a file without GGUF's magic number seems to be.
fn check_magic(bytes: &[u8], path: &Path) -> Result<(), FormatError> {
    if bytes.starts_with(MAGIC) {
        return Ok(());
    }
    let starts = |with: &[u8]| bytes.starts_with(with);
    let seems = if bytes.is_empty() {
        "is empty (0 bytes); fetch it again"
    } else if starts(b"version https://git-lfs") {
        "is a git-lfs pointer in place of the model; run `git lfs pull` or download the model itself"
    } else if starts(b"<!") || starts(b"<html") || starts(b"<HTML") || starts(b"<?xml") {
        "is a web page (an error message of the download?), not a model; fetch it again"
    } else if starts(b"PK\x03\x04") || starts(b"\x80\x02") || starts(b"\x80\x04") {
        "is a PyTorch or zip file, not GGUF; convert it or get the model as GGUF"
    } else if bytes.get(8) == Some(&b'{') && bytes.get(6..8) == Some(&[0, 0]) {
        "is a safetensors file, not GGUF; convert it or get the model as GGUF"
    } else if starts(b"\x1f\x8b") || starts(b"\x28\xb5\x2f\xfd") || starts(b"BZh") || starts(b"\xfd7zXZ") {
        "is compressed; unpack it first"
    } else if starts(b"lmgg") || starts(b"fmgg") || starts(b"tjgg") || starts(b"algg") || starts(b"GGML") {
        "is in GGML's old format from before GGUF; get a newer version of the model"
    } else if starts(b"\x7fELF") || starts(b"MZ") {
        "is a program, not a model"
    } else if starts(b"{") || starts(b"[") {
        "is JSON text, not a model"
    } else if starts(b"FUGG") {
        "has its bytes in the wrong order; fetch it again"
    } else if bytes.iter().take(4096).all(|b| *b == 0) {
        "begins with zeros: a download that never finished; fetch it again"
    } else if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) {
        "ends within its first four bytes: the download is incomplete; fetch it again"
    } else {
        "is not a GGUF model (its first four bytes are not `GGUF`)"
    };
    Err(FormatError::file(path, format!("the file {seems}")))
}

/// Part of a model is no model.
fn refuse_split(metadata: &Metadata) -> Result<(), FormatError> {
    const KEY: &str = "split.count";
    match metadata.u64(KEY)? {
        Some(count) if count > 1 => {
            let message = format!(
                "the model is split into {count} files, and joining them is not supported; get it as one file or join them with `llama-gguf-split --merge`"
            );
            Err(FormatError::invalid(metadata.path(), KEY, message))
        }
        _ => Ok(()),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, FormatError> {
    let alignment = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    check_alignment(alignment)
        .map_err(|message| FormatError::invalid(metadata.path(), ALIGNMENT_KEY, message))?;
    Ok(alignment)
}

/// The specification wants a multiple of 8; powers of two are what exists, and 64 KiB is the largest page.
pub(crate) fn check_alignment(alignment: u64) -> Result<(), String> {
    if alignment.is_power_of_two() && (8..=65_536).contains(&alignment) {
        return Ok(());
    }
    Err(format!("is {alignment}, not a power of two from 8 to 65536; convert the model again"))
}

/// Keys are printable ASCII of at most 65,535 bytes.
pub(crate) fn check_key(key: &[u8]) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("is empty");
    }
    if key.len() as u64 > MAX_KEY_BYTES {
        return Err("is longer than 65535 bytes");
    }
    if !key.iter().all(|b| matches!(b, b' '..=b'~')) {
        return Err("is not printable ASCII");
    }
    Ok(())
}

/// Where the reading stands.
pub(super) struct Parser<'a> {
    map: &'a Arc<Map>,
    pub(super) path: &'a Arc<Path>,
    pub(super) cursor: Cursor<'a>,
    file_len: u64,
    /// Bytes of the file behind the cursor's slice, which ends at [`MAX_HEADER_BYTES`].
    unread: u64,
}

impl Parser<'_> {
    fn metadata(&mut self, n_keys: u64) -> Result<Metadata, FormatError> {
        let mut entries = Vec::new();
        for i in 0..n_keys {
            let key = self.key(i)?;
            let value = self.value(&key)?;
            entries.push((key, value));
        }
        Metadata::new(self.path, entries)
    }

    /// The error for a file that ends inside `inside`.
    pub(super) fn short(&self, inside: impl Into<String>, short: Short) -> FormatError {
        let inside = inside.into();
        if short.wanted <= short.left.saturating_add(self.unread) {
            let message =
                format!("the header exceeds {MAX_HEADER_BYTES} bytes at {inside}; this is no model we know");
            return FormatError::file(self.path, message);
        }
        let missing = short.wanted.saturating_sub(short.left);
        FormatError::Truncated { path: self.path.to_path_buf(), inside, missing, len: self.file_len }
    }

    fn version(&mut self) -> Result<u32, FormatError> {
        let version = self.cursor.u32().map_err(|s| self.short("the version", s))?;
        let refused = match version {
            2 | 3 => return Ok(version),
            1 => "version 1 of GGUF is obsolete; get a newer version of the model or convert it again".to_owned(),
            v if (1..=255).contains(&v.swap_bytes()) => {
                "the file is big-endian GGUF, made for other machines; get the little-endian version of the model"
                    .to_owned()
            }
            v => format!("version {v} of GGUF is unknown (2 and 3 are read); convert the model again"),
        };
        Err(FormatError::file(self.path, refused))
    }

    fn check_count(&self, what: &str, count: u64, limit: u64, min_bytes: u64) -> Result<(), FormatError> {
        let left = self.cursor.left() as u64;
        let needed = count.saturating_mul(min_bytes);
        if needed > left {
            return Err(self
                .short(format!("the header, which claims {count} {what}"), Short { wanted: needed, left }));
        }
        if count > limit {
            let message = format!("the header claims {count} {what}, and at most {limit} are read");
            return Err(FormatError::file(self.path, message));
        }
        Ok(())
    }

    fn key(&mut self, i: u64) -> Result<String, FormatError> {
        let bytes = self.cursor.string().map_err(|s| self.short(format!("the name of key {i}"), s))?;
        check_key(bytes).map_err(|fault| {
            FormatError::file(self.path, format!("the name of key {i} {fault}; convert the model again"))
        })?;
        // Cannot fail: printable ASCII is UTF-8.
        String::from_utf8(bytes.to_vec())
            .map_err(|_| FormatError::file(self.path, format!("key {i} is not UTF-8")))
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, FormatError> {
        let id = self.cursor.u32().map_err(|s| self.short(format!("the type of key `{key}`"), s))?;
        ValueType::from_id(id).ok_or_else(|| {
            FormatError::invalid(
                self.path,
                key,
                format!("has the unknown value type {id}; convert the model again"),
            )
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, FormatError> {
        match self.value_type(key)? {
            ValueType::String => {
                let text =
                    self.cursor.string().map_err(|s| self.short(format!("the value of key `{key}`"), s))?;
                let end = self.cursor.pos();
                Ok(Value::String(Text::new(self.map, end.saturating_sub(text.len())..end)))
            }
            ValueType::Array => {
                let elem = self.value_type(key)?;
                let len = self.array_len(key)?;
                let start = self.cursor.pos();
                self.walk(key, elem, len, 1)?;
                // The walk has found at least a byte for every element.
                let len =
                    usize::try_from(len).map_err(|_| FormatError::invalid(self.path, key, "is too long"))?;
                Ok(Value::Array(Array::new(self.map, elem, len, start..self.cursor.pos())))
            }
            scalar => Value::read(scalar, &mut self.cursor)
                .map_err(|s| self.short(format!("the value of key `{key}`"), s))?
                .ok_or_else(|| self.bad_bool(key)),
        }
    }

    fn array_len(&mut self, key: &str) -> Result<u64, FormatError> {
        self.cursor.u64().map_err(|s| self.short(format!("the length of key `{key}`"), s))
    }

    fn bad_bool(&self, key: &str) -> FormatError {
        FormatError::invalid(
            self.path,
            key,
            "holds a boolean that is neither 0 nor 1; convert the model again",
        )
    }

    /// Goes over an array's elements. The recursion is bounded by [`MAX_NESTING`]; each element takes at least one
    /// byte, so the time is linear in the header's size.
    fn walk(&mut self, key: &str, elem: ValueType, len: u64, depth: u32) -> Result<(), FormatError> {
        let inside = || format!("key `{key}`, which claims {len} elements of type {elem}");
        // A string takes at least its length's 8 bytes, an array its type's 4 and its length's 8.
        let min_size = elem.size().unwrap_or(if elem == ValueType::String { 8 } else { 12 });
        let wanted = len.saturating_mul(min_size);
        if elem.size().is_some() {
            let bytes = self.cursor.take(wanted).map_err(|s| self.short(inside(), s))?;
            if elem == ValueType::Bool && bytes.iter().any(|b| *b > 1) {
                return Err(self.bad_bool(key));
            }
            return Ok(());
        }
        let left = self.cursor.left() as u64;
        if wanted > left {
            return Err(self.short(inside(), Short { wanted, left }));
        }
        if elem == ValueType::String {
            for _ in 0..len {
                self.cursor.string().map_err(|s| self.short(inside(), s))?;
            }
            return Ok(());
        }
        let deeper = depth.saturating_add(1);
        if deeper > MAX_NESTING {
            let message = format!("nests arrays more than {MAX_NESTING} deep; this is no model we know");
            return Err(FormatError::invalid(self.path, key, message));
        }
        for _ in 0..len {
            let elem = self.value_type(key)?;
            let len = self.array_len(key)?;
            self.walk(key, elem, len, deeper)?;
        }
        Ok(())
    }
}
