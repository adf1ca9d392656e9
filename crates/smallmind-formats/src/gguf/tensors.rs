//! Tensor descriptions: names, shapes, types, and proof that each tensor's bytes lie in the file, aligned, and apart
//! from every other's.

use super::header::Parser;
use crate::error::FormatError;
use smallmind_kernels::dtype::DType;
use std::ops::Range;
use std::path::Path;

/// GGML's limit.
pub(crate) const MAX_DIMS: usize = 4;
/// The specification's longest name.
const MAX_NAME_BYTES: usize = 64;

/// What the header says about one tensor, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Unique in its file.
    pub name: String,
    /// Type of the stored elements.
    pub dtype: DType,
    /// One to four dimensions, none of them 0, in GGML's order: `shape[0]` is the fastest one, the length of a row
    /// (the `k` of a matrix product), and a whole number of the type's blocks.
    pub shape: Vec<usize>,
    elements: usize,
    bytes: usize,
    offset: usize,
    /// Where its rows lie in the opened file; nowhere where they are only packed.
    place: Option<usize>,
}

impl TensorInfo {
    /// Number of elements: the product of the dimensions.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Stored bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.elements.checked_div(self.row_len()).unwrap_or_default()
    }

    /// Elements of one row: `shape[0]`.
    pub fn row_len(&self) -> usize {
        self.shape.first().copied().unwrap_or_default()
    }

    /// Where its bytes start in the GGUF file, counted from the start of the file: a multiple of 8.
    pub fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// Where its rows lie in the opened file; empty where they are only packed.
    pub(super) fn range(&self) -> Range<usize> {
        self.place.map_or(0..0, |at| at..at.saturating_add(self.bytes))
    }

    /// Whether its rows are there as GGUF stores them.
    pub fn has_rows(&self) -> bool {
        self.place.is_some()
    }

    pub(super) fn put(&mut self, place: Option<usize>) {
        self.place = place;
    }
}

/// A description whose offset (still counted from the data section's start) has not been checked.
pub(super) struct Unplaced {
    info: TensorInfo,
    offset: u64,
}

/// Names are UTF-8 without control characters, of 1 to 64 bytes.
pub(crate) fn check_name(name: &[u8]) -> Result<&str, &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("is longer than 64 bytes");
    }
    let name = str::from_utf8(name).map_err(|_| "is not UTF-8")?;
    if name.chars().any(char::is_control) {
        return Err("holds control characters");
    }
    Ok(name)
}

/// Reads the `i`-th description: name, dimensions, type, offset.
pub(super) fn parse(p: &mut Parser<'_>, i: u64) -> Result<Unplaced, FormatError> {
    let name = p.cursor.string().map_err(|s| p.short(format!("the name of tensor {i}"), s))?;
    let name = check_name(name).map_err(|fault| {
        FormatError::file(p.path, format!("the name of tensor {i} {fault}; convert the model again"))
    })?;
    let error =
        |message: String| FormatError::tensor(p.path, name, format!("{message}; convert the model again"));
    let inside = || format!("the description of tensor `{name}`");
    let n_dims = p.cursor.u32().map_err(|s| p.short(inside(), s))?;
    if !(1..=MAX_DIMS as u64).contains(&u64::from(n_dims)) {
        return Err(error(format!("it has {n_dims} dimensions, not 1 to {MAX_DIMS}")));
    }
    let mut claimed = Vec::new();
    for _ in 0..n_dims {
        claimed.push(p.cursor.u64().map_err(|s| p.short(inside(), s))?);
    }
    let type_id = p.cursor.u32().map_err(|s| p.short(inside(), s))?;
    let offset = p.cursor.u64().map_err(|s| p.short(inside(), s))?;
    let dtype = DType::from_gguf_id(type_id).ok_or_else(|| unread_type(p.path, name, type_id))?;
    if claimed.contains(&0) {
        return Err(error(format!("a dimension of {claimed:?} is 0")));
    }
    let too_large = || error(format!("its dimensions {claimed:?} are too large"));
    let shape: Vec<usize> =
        claimed.iter().map(|d| usize::try_from(*d)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    let row_len = shape.first().copied().unwrap_or_default();
    if !row_len.is_multiple_of(dtype.block_len()) {
        let block_len = dtype.block_len();
        return Err(error(format!(
            "its rows of {row_len} are not a whole number of {dtype} blocks of {block_len}"
        )));
    }
    let elements =
        shape.iter().try_fold(1usize, |product, d| product.checked_mul(*d)).ok_or_else(too_large)?;
    let bytes = dtype.bytes_of(elements).ok_or_else(too_large)?;
    let info = TensorInfo { name: name.to_owned(), dtype, shape, elements, bytes, offset: 0, place: None };
    Ok(Unplaced { info, offset })
}

fn unread_type(path: &Path, name: &str, type_id: u32) -> FormatError {
    let read: Vec<&str> = DType::all().map(DType::name).collect();
    let found = DType::gguf_type_name(type_id).map_or_else(
        || format!("the unknown type {type_id}"),
        |type_name| format!("type {type_name}, which is not supported"),
    );
    FormatError::tensor(path, name, format!("it has {found}; get the model in one of {}", read.join(", ")))
}

/// Checks where every tensor lies. `data_start` is where offsets count from.
pub(super) fn place(
    path: &Path,
    unplaced: Vec<Unplaced>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<TensorInfo>, FormatError> {
    let mut placed = Vec::with_capacity(unplaced.len());
    let (mut needed, mut last) = (0, 0);
    for Unplaced { mut info, offset } in unplaced {
        let error = |message: String| FormatError::tensor(path, &info.name, message);
        if !offset.is_multiple_of(alignment) {
            let message =
                format!("its offset {offset} is not a multiple of {alignment}; convert the model again");
            return Err(error(message));
        }
        let beyond = || error(format!("its offset {offset} lies beyond any file; convert the model again"));
        let start = data_start.checked_add(offset).ok_or_else(beyond)?;
        let end = start.checked_add(info.bytes as u64).ok_or_else(beyond)?;
        if end > needed {
            (needed, last) = (end, placed.len());
        }
        // On a machine of 32 bits a file that is mapped is shorter than this.
        info.offset = usize::try_from(start).map_err(|_| beyond())?;
        info.place = Some(info.offset);
        placed.push(info);
    }
    if needed > file_len {
        let name = placed.get(last).map_or("", |t| t.name.as_str());
        let inside = format!("its tensors (`{name}` should end at byte {needed})");
        let missing = needed.saturating_sub(file_len);
        return Err(FormatError::Truncated { path: path.to_owned(), inside, missing, len: file_len });
    }
    check_apart(path, &placed)?;
    Ok(placed)
}

fn check_apart(path: &Path, tensors: &[TensorInfo]) -> Result<(), FormatError> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_unstable_by_key(|t| t.offset);
    for (a, b) in by_offset.iter().zip(by_offset.iter().skip(1)) {
        if a.range().end > b.offset {
            let message = format!("its bytes overlap those of tensor `{}`; convert the model again", a.name);
            return Err(FormatError::tensor(path, &b.name, message));
        }
    }
    Ok(())
}

/// Indices sorted by name. Refuses a name that is there twice.
pub(super) fn index_by_name(path: &Path, tensors: &[TensorInfo]) -> Result<Vec<usize>, FormatError> {
    let name = |i: &usize| tensors.get(*i).map_or("", |t| t.name.as_str());
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    for (a, b) in by_name.iter().zip(by_name.iter().skip(1)) {
        if name(a) == name(b) {
            return Err(FormatError::tensor(path, name(a), "it is there twice; convert the model again"));
        }
    }
    Ok(by_name)
}
