//! From a file's rows to the packed layout: a permutation of bytes, done once at load, group by group.

use super::float::{FloatFormat, FloatUnit, UNIT_K};
use super::format::{self, Format, GROUP, Pod, row_group_mut};
use super::group_bytes;
use crate::aligned::cast_mut;
use crate::dtype::DType;
use crate::quant;

/// Which row of the file becomes which row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As in the file.
    Natural,
    /// Within each head of `head_dim` rows, the first `rope_dim` come as pairs (2i, 2i + 1) that RoPE turns; they are
    /// put as two halves, so that one RoPE kernel serves both conventions.
    PairsToHalves {
        /// Rows a head.
        head_dim: usize,
        /// Rows of a head that RoPE turns (even).
        rope_dim: usize,
    },
}

impl RowOrder {
    /// The file's row that becomes row `row`.
    pub fn source(self, row: usize) -> usize {
        match self {
            RowOrder::Natural => row,
            RowOrder::PairsToHalves { head_dim, rope_dim } => {
                let (head, i) = (row / head_dim, row % head_dim);
                let half = rope_dim / 2;
                let from = match i {
                    _ if i < half => 2 * i,
                    _ if i < rope_dim => 2 * (i - half) + 1,
                    _ => i,
                };
                head * head_dim + from
            }
        }
    }
}

/// Rows of a file's tensor, as stored.
#[derive(Clone, Copy, Debug)]
pub struct FileRows<'a> {
    /// Type of the bytes.
    pub dtype: DType,
    /// `rows` rows of `k` values.
    pub bytes: &'a [u8],
    /// Rows.
    pub rows: usize,
    /// Values a row, whole blocks.
    pub k: usize,
    /// The order in which they are packed.
    pub order: RowOrder,
}

/// Packs row groups from `first_group` on into `out` (whole groups of [`group_bytes`]; rows past the end become zero).
///
/// `packed` is the rows' own type or F32, which dequantizes.
///
/// # Panics
/// Where the slices are not of the shape's size: the loader proved them before.
pub fn pack_rows(from: FileRows<'_>, packed: DType, first_group: usize, out: &mut [u8]) {
    let FileRows { dtype, bytes, rows, k, order } = from;
    let (Some(row_bytes), Some(step)) = (dtype.bytes_of(k), group_bytes(packed, k)) else {
        unreachable!("the loader checked that rows are whole blocks")
    };
    assert!(bytes.len() == row_bytes * rows && (step == 0 || out.len().is_multiple_of(step)), "pack: sizes");
    if step == 0 {
        return;
    }
    let row = |r: usize| {
        (r < rows).then(|| {
            let from = order.source(r) * row_bytes;
            &bytes[from..from + row_bytes]
        })
    };
    for (g, group) in out.chunks_exact_mut(step).enumerate() {
        let lane = |l: usize| row((first_group + g) * GROUP + l);
        if packed != dtype {
            dequantized(dtype, k, lane, group);
            continue;
        }
        by_format!(dtype,
            F => blocks::<F>(dtype, lane, group),
            G => floats::<G>(dtype.block_bytes(), lane, group));
    }
}

fn blocks<'a, F: Format>(dtype: DType, lane: impl Fn(usize) -> Option<&'a [u8]>, group: &mut [u8]) {
    // Fresh memory from the loader is zero already, but a reused buffer need not be.
    group.fill(0);
    let (bounds, units) = row_group_mut::<F::Unit>(group);
    let unit_bytes = F::BLOCKS * 32 / dtype.block_len() * dtype.block_bytes();
    for l in 0..GROUP {
        let Some(row) = lane(l) else { continue };
        for (unit, bytes) in units.iter_mut().zip(row.chunks(unit_bytes)) {
            F::pack(unit, l, bytes);
        }
    }
    *bounds = format::bounds::<F>(units);
}

fn floats<'a, F: FloatFormat>(size: usize, lane: impl Fn(usize) -> Option<&'a [u8]>, group: &mut [u8])
where
    FloatUnit<F::Item>: Pod,
{
    group.fill(0);
    let Some(units) = cast_mut::<FloatUnit<F::Item>>(group) else { unreachable!("the arena is aligned") };
    for l in 0..GROUP {
        let Some(row) = lane(l) else { continue };
        for (k, item) in row.chunks_exact(size).enumerate() {
            units[k / UNIT_K].w[k % UNIT_K][l] = F::item(item);
        }
    }
}

fn dequantized<'a>(dtype: DType, k: usize, lane: impl Fn(usize) -> Option<&'a [u8]>, group: &mut [u8]) {
    group.fill(0);
    let Some(units) = cast_mut::<FloatUnit<f32>>(group) else { unreachable!("the arena is aligned") };
    let mut values = [0.0f32; 256];
    let (len, size) = if dtype.block_len() == 1 {
        (256, 256 * dtype.block_bytes())
    } else {
        (dtype.block_len(), dtype.block_bytes())
    };
    for l in 0..GROUP {
        let Some(row) = lane(l) else { continue };
        for (b, block) in row.chunks(size).enumerate() {
            let n = len.min(k - b * len);
            if quant::dequantize(dtype, block, &mut values[..n]).is_err() {
                unreachable!("a whole number of blocks");
            }
            for (i, v) in values[..n].iter().enumerate() {
                let k = b * len + i;
                units[k / UNIT_K].w[k % UNIT_K][l] = *v;
            }
        }
    }
}
