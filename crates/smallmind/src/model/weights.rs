//! From the checked file to weights ready for the kernels: every tensor is found, its shape proven, and only then is
//! memory committed; matrices are packed into one arena in the order in which a token meets them.

use std::ops::Range;

use memmap2::MmapMut;
use smallmind_formats::{FormatError, Gguf, TensorInfo};
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

/// A packed `[rows, k]` matrix in the arena.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    dtype: DType,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    range: Range<usize>,
}

impl Matrix {
    /// The packed type.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }
}

/// The arena of packed matrices.
pub(crate) struct Arena {
    map: Option<MmapMut>,
}

impl Arena {
    /// The view that the kernels take.
    pub(crate) fn get(&self, m: &Matrix) -> PackedRef<'_> {
        let bytes = self.map.as_deref().and_then(|a| a.get(m.range.clone())).unwrap_or_default();
        match PackedRef::new(m.dtype, m.rows, m.k, bytes) {
            Some(view) => view,
            None => unreachable!("the loader laid the arena out by the same sizes"),
        }
    }

    /// Bytes of the arena.
    pub(crate) fn bytes(&self) -> usize {
        self.map.as_ref().map_or(0, |m| m.len())
    }
}

/// A matrix to be packed once all are known.
struct Job<'g> {
    matrix: Matrix,
    tensor: &'g TensorInfo,
    /// Rows of the file's tensor that it takes, from this one on.
    first_row: usize,
    order: RowOrder,
}

/// Finds and proves tensors, then packs them.
pub(crate) struct Loader<'g> {
    gguf: &'g Gguf,
    config: &'g Config,
    precise: bool,
    jobs: Vec<Job<'g>>,
    arena_bytes: usize,
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
        Ok(Loader { gguf, config, precise, jobs: Vec::new(), arena_bytes: 0 })
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

    /// A vector, as f32.
    pub(crate) fn vector(&self, slot: Slot, layer: usize) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.tensor(slot, layer)? else { return Ok(None) };
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
        let matrix = Matrix { dtype, rows: rows.len(), k, range };
        self.jobs.push(Job { matrix: matrix.clone(), tensor, first_row: rows.start, order });
        Ok(matrix)
    }

    /// Packs everything that was laid out. The file's pages are given back as they are done with, so that the weights
    /// are in memory once.
    pub(crate) fn pack(self, pool: &Pool) -> Result<Arena> {
        if self.arena_bytes == 0 {
            return Ok(Arena { map: None });
        }
        let memory = |cause| Error::Memory { what: "the weights", bytes: self.arena_bytes, cause };
        let mut map = MmapMut::map_anon(self.arena_bytes).map_err(memory)?;
        // Huge pages: fewer misses of the address cache; a system without them runs as well with small ones.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        for job in &self.jobs {
            let Matrix { dtype, rows, k, range } = job.matrix.clone();
            let Some(group) = matmul::group_bytes(dtype, k).filter(|g| *g > 0) else { continue };
            let row_bytes = job.tensor.dtype.bytes_of(k).unwrap_or(0);
            let data = self.gguf.data(job.tensor);
            let Some(data) = data.get(job.first_row * row_bytes..(job.first_row + rows) * row_bytes) else {
                continue;
            };
            let Some(out) = map.get_mut(range) else { continue };
            let from = FileRows { dtype: job.tensor.dtype, bytes: data, rows, k, order: job.order };
            let at_once = |bytes: usize| (bytes / group).max(1);
            let (step, task) = (at_once(STEP_BYTES), at_once(TASK_BYTES));
            for (i, out) in out.chunks_mut(step * group).enumerate() {
                pool.chunks(out, task * group, &|t, out| {
                    matmul::pack_rows(from, dtype, i * step + t * task, out)
                });
                let done = |groups: usize| (job.first_row + groups * matmul::GROUP) * row_bytes;
                self.gguf.release(job.tensor, done(i * step)..done((i + 1) * step));
            }
        }
        Ok(Arena { map: Some(map) })
    }
}

/// One row or vector of a tensor, whose size the file's checks proved.
pub(crate) fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    if quant::dequantize(dtype, bytes, out).is_err() {
        unreachable!("tensor sizes were proven when the file was opened");
    }
}
