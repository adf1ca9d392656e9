//! From the checked file to weights ready for the kernels: every tensor is found, its shape proven, and only then is
//! memory committed; matrices are packed into one arena in the order in which a token meets them. Matrices that a file
//! holds packed (SMQ) are read where they are.

use std::borrow::Cow;
use std::ops::Range;

use memmap2::MmapMut;
use smallmind_formats::{FormatError, Gguf, Part, PartForm, PartOrder, SharedBytes, TensorInfo};
use smallmind_kernels::matmul::{self, FileRows, PackedRef, RowOrder};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{ALIGN, DType, quant};

use super::config::Config;
use super::slots::{Need, SLOTS, Shape, Slot, spec_of};
use crate::error::{Error, Result};

/// Packed before the file's pages behind it are given back: the most that weights are in memory twice.
const STEP_BYTES: usize = 4 << 20;
/// Packed by one task.
const TASK_BYTES: usize = 64 << 10;

/// A packed `[rows, k]` matrix, in the arena or in the file.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    dtype: DType,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Arena(Range<usize>),
    File(Part),
}

impl Matrix {
    /// The packed type.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }
}

/// Where packed matrices are: an arena of our own, the mapped file, or both.
#[derive(Default)]
pub(crate) struct Arena {
    map: Option<MmapMut>,
    file: Option<SharedBytes>,
    bytes: usize,
}

impl Arena {
    /// The view that the kernels take.
    pub(crate) fn get(&self, m: &Matrix) -> PackedRef<'_> {
        let bytes = match &m.place {
            Place::Arena(range) => self.map.as_deref().and_then(|a| a.get(range.clone())),
            Place::File(part) => self.file.as_ref().map(|f| f.part(part)),
        };
        let bytes = bytes.unwrap_or_default();
        match PackedRef::new(m.dtype, m.rows, m.k, bytes) {
            Some(view) => view,
            None => unreachable!("the loader laid the arena out by the same sizes"),
        }
    }

    /// Bytes of all matrices.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A matrix to be packed once all are known.
#[derive(Clone, Debug)]
pub(crate) struct Job<'g> {
    pub(crate) tensor: &'g TensorInfo,
    /// Rows of the file's tensor that it takes.
    pub(crate) rows: Range<usize>,
    pub(crate) order: RowOrder,
    /// The packed type.
    pub(crate) dtype: DType,
    /// Its place in the arena.
    range: Range<usize>,
}

/// Finds and proves tensors, then packs them.
pub(crate) struct Loader<'g> {
    gguf: &'g Gguf,
    config: &'g Config,
    precise: bool,
    jobs: Vec<Job<'g>>,
    arena_bytes: usize,
    /// Of matrices that are read where the file has them.
    file_bytes: usize,
}

impl<'g> Loader<'g> {
    /// Checks that the file holds nothing in the model's layers that the family does not know.
    pub(crate) fn new(gguf: &'g Gguf, config: &'g Config, precise: bool) -> Result<Loader<'g>> {
        for t in gguf.tensors() {
            let Some((layer, _)) = t.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            let Ok(layer) = layer.parse::<usize>() else { continue };
            if layer >= config.layers {
                continue;
            }
            let known = SLOTS
                .iter()
                .any(|s| s.per_layer() && (s.need)(config.arch) != Need::Absent && s.name(layer) == t.name);
            if !known && !t.name.ends_with(".attn_rot_embd") && !t.name.ends_with(".rope_freqs.weight") {
                let message = format!("is no part of the {} architecture as we know it", config.arch.name);
                return Err(FormatError::tensor(gguf.path(), &t.name, message).into());
            }
        }
        Ok(Loader { gguf, config, precise, jobs: Vec::new(), arena_bytes: 0, file_bytes: 0 })
    }

    /// The tensor of a slot with its shape proven; `None` where the family or the file has none.
    pub(crate) fn tensor(&self, slot: Slot, layer: usize) -> Result<Option<&'g TensorInfo>> {
        let spec = spec_of(slot);
        let need = (spec.need)(self.config.arch);
        let name = spec.name(layer);
        let found = self.gguf.tensor(&name).filter(|_| need != Need::Absent);
        let Some(tensor) = found else {
            return match need {
                Need::Required => {
                    Err(FormatError::tensor(self.gguf.path(), &name, "is missing: the file is incomplete")
                        .into())
                }
                Need::Optional | Need::Absent => Ok(None),
            };
        };
        let shape = (spec.shape)(self.config);
        let fits = match shape {
            Shape::Matrix(rows, k) => {
                tensor.shape.as_slice() == [k, rows] || (rows == 1 && tensor.shape.as_slice() == [k])
            }
            Shape::Vector(n) => tensor.shape.first() == Some(&n) && tensor.elements() == n,
        };
        if fits {
            return Ok(Some(tensor));
        }
        let want = match shape {
            Shape::Matrix(rows, k) => format!("[{k}, {rows}]"),
            Shape::Vector(n) => format!("[{n}]"),
        };
        let message = format!("has the shape {:?}, and the model's numbers ask for {want}", tensor.shape);
        Err(FormatError::tensor(self.gguf.path(), &name, message).into())
    }

    /// A tensor that is read as the file's rows, not as a matrix.
    pub(crate) fn with_rows(&self, slot: Slot, layer: usize) -> Result<Option<&'g TensorInfo>> {
        match self.tensor(slot, layer)? {
            Some(t) if !t.has_rows() => {
                let message = "is not there as rows: convert the model again";
                Err(FormatError::tensor(self.gguf.path(), &t.name, message).into())
            }
            found => Ok(found),
        }
    }

    /// Where the rows of the embedding are looked up: in the file's rows (`None`), or out of the packed matrix that an SMQ
    /// file has in their place.
    pub(crate) fn embedding(&self) -> Result<Option<Matrix>> {
        let Some(tensor) = self.tensor(Slot::TokenEmbd, 0)?.filter(|t| !t.has_rows()) else {
            return Ok(None);
        };
        let (rows, k) = (tensor.rows(), tensor.row_len());
        let Some(part) = self.gguf.packed(tensor, &(0..rows)) else {
            let message = "is there neither as rows nor packed as a whole: convert the model again";
            return Err(FormatError::tensor(self.gguf.path(), &tensor.name, message).into());
        };
        check_packed(self.gguf, tensor, part, Some(RowOrder::Natural))?;
        Ok(Some(Matrix { dtype: tensor.dtype, rows, k, place: Place::File(part.clone()) }))
    }

    /// A vector, as f32.
    pub(crate) fn vector(&self, slot: Slot, layer: usize) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.with_rows(slot, layer)? else { return Ok(None) };
        let mut values = vec![0.0; tensor.elements()];
        dequantize(tensor.dtype, self.gguf.data(tensor), &mut values);
        Ok(Some(values))
    }

    /// Lays a slot's matrix out in the arena, to be packed by [`Loader::pack`].
    pub(crate) fn matrix(&mut self, slot: Slot, layer: usize, order: RowOrder) -> Result<Option<Matrix>> {
        let Some(tensor) = self.tensor(slot, layer)? else { return Ok(None) };
        self.rows_of(tensor, 0..tensor.rows(), order).map(Some)
    }

    /// Lays some rows of a tensor out as a matrix of their own.
    pub(crate) fn rows_of(
        &mut self,
        tensor: &'g TensorInfo,
        rows: Range<usize>,
        order: RowOrder,
    ) -> Result<Matrix> {
        let k = tensor.row_len();
        if !self.precise
            && let Some(part) = self.gguf.packed(tensor, &rows)
        {
            check_packed(self.gguf, tensor, part, Some(order))?;
            self.file_bytes += part.bytes();
            return Ok(Matrix { dtype: tensor.dtype, rows: rows.len(), k, place: Place::File(part.clone()) });
        }
        let dtype = if self.precise { DType::F32 } else { tensor.dtype };
        let laid = matmul::packed_bytes(dtype, rows.len(), k).and_then(|bytes| {
            Some((bytes, self.arena_bytes.checked_add(bytes)?.checked_next_multiple_of(ALIGN)?))
        });
        let Some((bytes, end)) = laid else {
            let message = "is larger than this machine can address";
            return Err(FormatError::tensor(self.gguf.path(), &tensor.name, message).into());
        };
        let range = self.arena_bytes..self.arena_bytes + bytes;
        self.arena_bytes = end;
        let matrix = Matrix { dtype, rows: rows.len(), k, place: Place::Arena(range.clone()) };
        self.jobs.push(Job { tensor, rows, order, dtype, range });
        Ok(matrix)
    }

    /// What is to be packed.
    pub(crate) fn into_jobs(self) -> Vec<Job<'g>> {
        self.jobs
    }

    /// Packs everything that was laid out. The file's pages are given back as they are done with, so that the weights
    /// are in memory once.
    pub(crate) fn pack(self, pool: &Pool) -> Result<Arena> {
        let file = self.gguf.parts().map(|_| self.gguf.shared());
        let bytes = self.arena_bytes + self.file_bytes;
        if self.arena_bytes == 0 {
            return Ok(Arena { map: None, file, bytes });
        }
        let memory = |cause| Error::Memory { what: "the weights", bytes: self.arena_bytes, cause };
        let mut map = MmapMut::map_anon(self.arena_bytes).map_err(memory)?;
        // Huge pages: fewer misses of the address cache; a system without them runs as well with small ones.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        for job in &self.jobs {
            let Some(out) = map.get_mut(job.range.clone()) else { continue };
            job.pack(self.gguf, out, pool)?;
        }
        Ok(Arena { map: Some(map), file, bytes })
    }
}

impl Job<'_> {
    /// Packs the matrix into `out`, which is of its size and aligned; the file's pages are given back.
    pub(crate) fn pack(&self, gguf: &Gguf, out: &mut [u8], pool: &Pool) -> Result<()> {
        let (tensor, k) = (self.tensor, self.tensor.row_len());
        let Some(group) = matmul::group_bytes(self.dtype, k).filter(|g| *g > 0) else { return Ok(()) };
        let (data, order) = match gguf.packed(tensor, &self.rows) {
            // Rows out of a packed part are in its order already.
            Some(part) if !tensor.has_rows() => {
                check_packed(gguf, tensor, part, Some(self.order))?;
                (Cow::Owned(unpacked(gguf, tensor, part)), RowOrder::Natural)
            }
            _ if !tensor.has_rows() => {
                let message = "is packed in other parts than the family's: convert the model again";
                return Err(FormatError::tensor(gguf.path(), &tensor.name, message).into());
            }
            _ => {
                let row_bytes = tensor.dtype.bytes_of(k).unwrap_or(0);
                let data = gguf.data(tensor).get(self.rows.start * row_bytes..self.rows.end * row_bytes);
                (Cow::Borrowed(data.unwrap_or_default()), self.order)
            }
        };
        let from = FileRows { dtype: tensor.dtype, bytes: &data, rows: self.rows.len(), k, order };
        let row_bytes = tensor.dtype.bytes_of(k).unwrap_or(0);
        let at_once = |bytes: usize| (bytes / group).max(1);
        let (step, task) = (at_once(STEP_BYTES), at_once(TASK_BYTES));
        for (i, out) in out.chunks_mut(step * group).enumerate() {
            pool.chunks(out, task * group, &|t, out| {
                matmul::pack_rows(from, self.dtype, i * step + t * task, out)
            });
            let done = |groups: usize| (self.rows.start + groups * matmul::GROUP) * row_bytes;
            gguf.release(tensor, done(i * step)..done((i + 1) * step));
        }
        Ok(())
    }
}

/// The file's word for an order of rows.
pub(crate) fn part_order(order: RowOrder) -> PartOrder {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    match order {
        RowOrder::Natural => PartOrder::Natural,
        RowOrder::PairsToHalves { head_dim, rope_dim } => {
            PartOrder::PairsToHalves { head_dim: small(head_dim), rope_dim: small(rope_dim) }
        }
    }
}

/// Proves that a packed part is what this program's kernels read; `order` is the one that is wanted, if it matters.
fn check_packed(gguf: &Gguf, tensor: &TensorInfo, part: &Part, order: Option<RowOrder>) -> Result<()> {
    let error = |message: String| FormatError::tensor(gguf.path(), &tensor.name, message).into();
    let PartForm::Packed { layout, order: found } = part.form else {
        return Err(error("is not packed: convert the model again".into()));
    };
    if layout != matmul::LAYOUT {
        return Err(error(format!(
            "is packed in layout {layout}, and this version reads layout {}: convert the GGUF file again (the version \
             that wrote this file turns it back into one)",
            matmul::LAYOUT
        )));
    }
    if order.is_some_and(|order| part_order(order) != found) {
        return Err(error(
            "has its rows in another order than the model's numbers ask for: convert it again".into(),
        ));
    }
    let expected = matmul::packed_bytes(tensor.dtype, part.rows, tensor.row_len());
    if expected != Some(part.bytes()) {
        return Err(error(format!(
            "is packed in {} bytes, which is not its size: convert it again",
            part.bytes()
        )));
    }
    Ok(())
}

/// The rows of a packed part that was checked, in its own order.
fn unpacked(gguf: &Gguf, tensor: &TensorInfo, part: &Part) -> Vec<u8> {
    let k = tensor.row_len();
    let row_bytes = tensor.dtype.bytes_of(k).unwrap_or(0).max(1);
    let mut rows = vec![0; part.rows * row_bytes];
    let Some(view) = PackedRef::new(tensor.dtype, part.rows, k, gguf.part_data(part)) else {
        unreachable!("size and alignment of the part were checked")
    };
    rows.chunks_exact_mut(row_bytes).enumerate().for_each(|(r, row)| matmul::unpack_row(view, r, row));
    rows
}

/// A tensor's bytes as GGUF stores them, out of packed parts where an SMQ file has only those.
///
/// # Errors
/// Where the parts are in a layout that this version does not read, or are not all of the tensor.
pub fn stored_rows<'g>(gguf: &'g Gguf, tensor: &TensorInfo) -> Result<Cow<'g, [u8]>> {
    if tensor.has_rows() {
        return Ok(gguf.data(tensor).into());
    }
    let index = gguf.tensors().iter().position(|t| t.name == tensor.name);
    let row_bytes = tensor.dtype.bytes_of(tensor.row_len()).unwrap_or(0);
    let mut rows = vec![0; tensor.bytes()];
    let mut found = 0;
    for part in gguf.parts().into_iter().flatten().filter(|p| Some(p.tensor) == index) {
        check_packed(gguf, tensor, part, None)?;
        let order = match part.form {
            PartForm::Packed { order: PartOrder::PairsToHalves { head_dim, rope_dim }, .. } => {
                RowOrder::PairsToHalves { head_dim: head_dim as usize, rope_dim: rope_dim as usize }
            }
            _ => RowOrder::Natural,
        };
        for (r, row) in unpacked(gguf, tensor, part).chunks_exact(row_bytes.max(1)).enumerate() {
            let at = (part.first_row + order.source(r)) * row_bytes;
            rows[at..at + row_bytes].copy_from_slice(row);
        }
        found += part.rows;
    }
    if found != tensor.rows() {
        let message = format!("is there with {found} of {} rows: convert the model again", tensor.rows());
        return Err(FormatError::tensor(gguf.path(), &tensor.name, message).into());
    }
    Ok(rows.into())
}

/// One row or vector of a tensor, whose size the file's checks proved.
pub(crate) fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    if quant::dequantize(dtype, bytes, out).is_err() {
        unreachable!("tensor sizes were proven when the file was opened");
    }
}
