//! Bytes -> index: the fixed header, the sections, the parts. Everything a flip could change is under the index's digest,
//! and is checked all the same: a digest proves that a file is as it was written, not that it was written well.

use super::{
    DIGESTED_BYTES, FEATURES, HEADER_BYTES, MAGIC, PART_ALIGNMENT, PART_BYTES, Part, PartForm, PartOrder,
    REQUIRED, SECTION_HEAD_BYTES, VERSION, section,
};
use crate::bytes::{Cursor, Short};
use crate::error::FormatError;
use crate::gguf::TensorInfo;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;

/// Packed parts begin behind this boundary: a huge page.
pub(crate) const DATA_ALIGNMENT: u64 = 2 << 20;

/// What the index says before the tensors are known.
pub(crate) struct Index<'a> {
    /// Where the GGUF header lies.
    pub(crate) gguf: Range<usize>,
    /// The length of the GGUF file.
    pub(crate) gguf_len: u64,
    /// Where header and index end.
    pub(crate) end: usize,
    parts: &'a [u8],
}

fn short(path: &Path, inside: &str, short: Short, len: u64) -> FormatError {
    let missing = short.wanted.saturating_sub(short.left);
    FormatError::Truncated { path: path.to_owned(), inside: inside.to_owned(), missing, len }
}

/// Reads header and sections of a file that begins with [`MAGIC`].
pub(crate) fn parse<'a>(all: &'a [u8], path: &Path) -> Result<Index<'a>, FormatError> {
    let len = all.len() as u64;
    let file = |message: String| FormatError::file(path, message);
    let mut cursor = Cursor::new(all);
    let cut = |s: Short| short(path, "its header", s, len);
    cursor.take(MAGIC.len() as u64).map_err(cut)?;
    let version = cursor.u32().map_err(cut)?;
    let features = cursor.u32().map_err(cut)?;
    let index_len = cursor.u64().map_err(cut)?;
    let file_len = cursor.u64().map_err(cut)?;
    let digest = cursor.take(32).map_err(cut)?;
    if version != VERSION {
        return Err(file(format!(
            "version {version} of SMQ is unknown (version {VERSION} is read): convert the model again, or use the \
             version of this program that wrote it"
        )));
    }
    let index = cursor.take(index_len).map_err(|s| short(path, "its index", s, len))?;
    let covered = all.get(..DIGESTED_BYTES).unwrap_or_default();
    let found = Sha256::new().chain_update(covered).chain_update(index).finalize();
    if found.as_slice() != digest {
        return Err(file(
            "its header or index is damaged (the SHA-256 differs); convert or fetch it again".into(),
        ));
    }
    let unknown = features & !FEATURES;
    if unknown != 0 {
        return Err(file(format!(
            "needs the features {unknown:#x} of SMQ, which this version does not know: use a newer one"
        )));
    }
    if file_len != len {
        let words = if file_len > len { "is cut short" } else { "has bytes behind its end" };
        return Err(file(format!(
            "{words}: it should be {file_len} bytes long and is {len}; fetch it again"
        )));
    }
    sections(index, path)
}

fn sections<'a>(index: &'a [u8], path: &Path) -> Result<Index<'a>, FormatError> {
    let file = |message: String| FormatError::file(path, message);
    let malformed = |_: Short| file("its index is malformed; convert it again".to_owned());
    let (mut gguf, mut parts) = (None, None);
    let mut cursor = Cursor::new(index);
    while cursor.left() > 0 {
        let kind = cursor.u32().map_err(malformed)?;
        let flags = cursor.u32().map_err(malformed)?;
        let length = cursor.u64().map_err(malformed)?;
        let start = cursor.pos();
        let payload = cursor.take(length).map_err(malformed)?;
        // Sections begin at multiples of 64 bytes in the file, and so in the index.
        let padding = (cursor.pos() as u64).checked_next_multiple_of(PART_ALIGNMENT);
        let padding = padding.map_or(0, |end| end.saturating_sub(cursor.pos() as u64));
        if cursor.take(padding).map_err(malformed)?.iter().any(|b| *b != 0) {
            return Err(file("its index has bytes between sections; convert it again".to_owned()));
        }
        let known = match kind {
            section::GGUF => gguf.replace((start, payload)).is_some(),
            section::PARTS => parts.replace(payload).is_some(),
            _ if flags & REQUIRED != 0 => {
                return Err(file(format!(
                    "has a section of kind {kind} that must be understood, which this version does not: use a newer one"
                )));
            }
            _ => false,
        };
        if known {
            return Err(file(format!("has two sections of kind {kind}; convert it again")));
        }
    }
    let (Some((start, payload)), Some(parts)) = (gguf, parts) else {
        return Err(file("lacks the GGUF header or the list of parts; convert it again".to_owned()));
    };
    let (Some(gguf_len), Some(header)) = (payload.first_chunk::<8>(), payload.get(8..)) else {
        return Err(file("its GGUF header is malformed; convert it again".to_owned()));
    };
    let begin = HEADER_BYTES.saturating_add(start).saturating_add(8);
    Ok(Index {
        gguf: begin..begin.saturating_add(header.len()),
        gguf_len: u64::from_le_bytes(*gguf_len),
        end: HEADER_BYTES.saturating_add(index.len()),
        parts,
    })
}

impl Index<'_> {
    /// The parts, proven to lie behind the index, aligned, apart, and to hold rows that their tensors have.
    pub(crate) fn parts(
        &self,
        path: &Path,
        tensors: &[TensorInfo],
        file_len: usize,
    ) -> Result<Vec<Part>, FormatError> {
        let (chunks, rest) = self.parts.as_chunks::<PART_BYTES>();
        if !rest.is_empty() {
            return Err(FormatError::file(path, "its list of parts is malformed; convert it again"));
        }
        let mut parts = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            parts.push(part(chunk, path, tensors, self.end, file_len)?);
        }
        let mut by_place: Vec<&Part> = parts.iter().collect();
        by_place.sort_unstable_by_key(|p| p.range.start);
        for (a, b) in by_place.iter().zip(by_place.iter().skip(1)) {
            if a.range.end > b.range.start {
                let name = tensors.get(b.tensor).map_or("", |t| t.name.as_str());
                return Err(FormatError::tensor(
                    path,
                    name,
                    "its bytes overlap another's; convert the model again",
                ));
            }
        }
        Ok(parts)
    }
}

fn part(
    bytes: &[u8; PART_BYTES],
    path: &Path,
    tensors: &[TensorInfo],
    index_end: usize,
    file_len: usize,
) -> Result<Part, FormatError> {
    let mut cursor = Cursor::new(bytes);
    // The array is as long as what is read from it.
    let whole = |_: Short| FormatError::file(path, "its list of parts is malformed");
    let tensor = cursor.u32().map_err(whole)? as usize;
    let form = cursor.u32().map_err(whole)?;
    let first_row = cursor.u64().map_err(whole)?;
    let rows = cursor.u64().map_err(whole)?;
    let layout = cursor.u32().map_err(whole)?;
    let order = cursor.u32().map_err(whole)?;
    let head_dim = cursor.u32().map_err(whole)?;
    let rope_dim = cursor.u32().map_err(whole)?;
    let offset = cursor.u64().map_err(whole)?;
    let length = cursor.u64().map_err(whole)?;
    let digest = cursor.take(32).map_err(whole)?;
    let Some(info) = tensors.get(tensor) else {
        return Err(FormatError::file(
            path,
            format!("has a part of tensor {tensor}, which the header does not list"),
        ));
    };
    let error = |message: String| {
        FormatError::tensor(path, &info.name, format!("{message}; convert the model again"))
    };
    let inside = |n: u64| usize::try_from(n).ok().filter(|n| *n <= info.rows());
    let (Some(first_row), Some(rows)) = (inside(first_row), inside(rows)) else {
        return Err(error(format!(
            "has a part with rows {first_row} and {rows} more, and {} rows",
            info.rows()
        )));
    };
    if rows == 0 || first_row.saturating_add(rows) > info.rows() {
        return Err(error(format!(
            "has a part of {rows} rows from row {first_row}, and {} rows",
            info.rows()
        )));
    }
    let order = match (order, head_dim, rope_dim) {
        (0, 0, 0) => PartOrder::Natural,
        (1, head_dim, rope_dim)
            if head_dim > 0
                && rope_dim <= head_dim
                && rope_dim.is_multiple_of(2)
                && (rows as u64).is_multiple_of(u64::from(head_dim)) =>
        {
            PartOrder::PairsToHalves { head_dim, rope_dim }
        }
        _ => return Err(error(format!("has rows in the unknown order {order} ({head_dim}, {rope_dim})"))),
    };
    let form = match form {
        0 if order == PartOrder::Natural && layout == 0 => PartForm::Rows,
        1 => PartForm::Packed { layout, order },
        _ => return Err(error(format!("has a part of the unknown form {form}"))),
    };
    let range = place(offset, length, index_end, file_len).ok_or_else(|| {
        error(format!("has {length} bytes at {offset}, which is not a place for them in the file"))
    })?;
    let expected = info.bytes().checked_div(info.rows()).and_then(|row| row.checked_mul(rows));
    if form == PartForm::Rows && expected != Some(range.len()) {
        return Err(error(format!("has {rows} rows in {length} bytes")));
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest);
    Ok(Part { tensor, form, first_row, rows, range, sha256 })
}

/// An aligned stretch behind the index and within the file.
fn place(offset: u64, length: u64, index_end: usize, file_len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok().filter(|s| *s >= index_end)?;
    let end = start.checked_add(usize::try_from(length).ok()?).filter(|end| *end <= file_len)?;
    (offset.is_multiple_of(PART_ALIGNMENT) && length > 0).then_some(start..end)
}

/// Bytes of a section with its head and padding.
pub(crate) fn padded_section(kind: u32, flags: u32, payload: &[&[u8]]) -> Vec<u8> {
    let length: usize = payload.iter().map(|p| p.len()).sum();
    let mut bytes = Vec::with_capacity(length.saturating_add(SECTION_HEAD_BYTES));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend((length as u64).to_le_bytes());
    payload.iter().for_each(|p| bytes.extend_from_slice(p));
    let alignment = usize::try_from(PART_ALIGNMENT).unwrap_or(1);
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    bytes
}
