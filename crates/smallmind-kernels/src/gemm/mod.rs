//! C = A · B of plain F32 matrices in any orientation, for training: every output is one chain of fused multiply-adds,
//! `k` ascending, whatever the threads, the blocks and the ISA, so its bits are those of three plain loops.
//!
//! B is packed into panels of `PANEL` columns, block by block of `k`, by all threads together; A is read where it is,
//! or packed too where its rows are not contiguous. Threads split the rows of C, never `k`. The scheme is that of Goto
//! and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).

pub(crate) mod piece;

use crate::table::Kernels;
use crate::threads::Pool;
use piece::{Piece, Strip};

/// Columns of one packed panel of B.
pub(crate) const PANEL: usize = 32;
/// `k` of one block: a panel is 32 KiB, and stays in the first-level cache.
const DEPTH: usize = 256;
/// Columns of one block of B: with [`DEPTH`] 1 MiB, which stays in the second-level cache.
const WIDTH: usize = 1024;
/// Rows of C that one task computes: a multiple of every ISA's tile.
const ROWS: usize = 48;

/// A matrix to read: `[rows, cols]`, with contiguous rows or (transposed) contiguous columns.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` rows of `cols` values, one after the other.
    ///
    /// # Panics
    /// Where `data` is too short: shapes are the caller's.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat::strided(data, rows, cols, cols)
    }

    /// Rows that start `stride` values apart.
    ///
    /// # Panics
    /// As [`Mat::new`].
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Mat<'a> {
        assert!(
            rows == 0 || (stride >= cols && data.len() >= (rows - 1) * stride + cols),
            "gemm: data too short"
        );
        Mat { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transposed matrix; nothing moves.
    #[must_use]
    pub fn t(self) -> Mat<'a> {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Its rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Some of its rows.
    #[must_use]
    pub fn rows_of(self, rows: std::ops::Range<usize>) -> Mat<'a> {
        self.block(rows, 0..self.cols)
    }

    /// Some rows and columns of it.
    fn block(self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Mat<'a> {
        let at = (rows.start * self.row_stride + cols.start * self.col_stride).min(self.data.len());
        Mat { data: &self.data[at..], rows: rows.len(), cols: cols.len(), ..self }
    }
}

/// What becomes of the values that C holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// They are overwritten.
    Store,
    /// They are where each chain of sums begins.
    Add,
}

/// Values of scratch memory that a product of these sizes needs.
pub fn scratch_len(m: usize, n: usize, k: usize) -> usize {
    let depth = k.min(DEPTH);
    (n.min(WIDTH).next_multiple_of(PANEL) + m.next_multiple_of(ROWS)) * depth
}

/// C = A · B, or C += A · B: `a` is `[m, k]`, `b` is `[k, n]`, `c` is `[m, n]` with rows `c_stride` apart. Without a pool
/// the calling thread does it alone; the bits are the same. `scratch` holds at least [`scratch_len`] values of any
/// content.
///
/// # Panics
/// Where a shape does not fit.
pub fn gemm(
    kernels: &Kernels,
    pool: Option<&Pool>,
    a: Mat<'_>,
    b: Mat<'_>,
    (c, c_stride): (&mut [f32], usize),
    into: Into,
    scratch: &mut [f32],
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k, "gemm: inner lengths differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_stride >= n && c.len() >= (m - 1) * c_stride + n, "gemm: output too small");
    if k == 0 {
        if into == Into::Store {
            c.chunks_mut(c_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let c_len = (m - 1) * c_stride + n;
    let c = &mut c[..c_len];
    for k0 in (0..k).step_by(DEPTH) {
        let ks = k0..(k0 + DEPTH).min(k);
        let depth = ks.len();
        for n0 in (0..n).step_by(WIDTH) {
            let ns = n0..(n0 + WIDTH).min(n);
            let panel = depth * PANEL;
            let (packed, rest) = scratch.split_at_mut(ns.len().div_ceil(PANEL) * panel);
            let of_b = b.block(ks.clone(), ns.clone());
            let pack = |j: usize, out: &mut [f32]| {
                let cols = j * PANEL..((j + 1) * PANEL).min(of_b.cols);
                (kernels.gemm_pack)(of_b.block(0..depth, cols), out);
            };
            let strips = if a.col_stride == 1 { 0 } else { ROWS * depth };
            let rest = &mut rest[..m.div_ceil(ROWS) * strips];
            let compute = |packed: &[f32], i: usize, c: &mut [f32], strips: &mut [f32]| {
                let rows = i * ROWS..((i + 1) * ROWS).min(m);
                (kernels.gemm_piece)(&mut Piece {
                    a: a.block(rows, ks.clone()),
                    b: packed,
                    c: Strip { data: &mut c[ns.start..], stride: c_stride, cols: ns.len() },
                    begun: k0 > 0 || into == Into::Add,
                    strips,
                });
            };
            match pool {
                Some(pool) => {
                    pool.chunks(packed, panel, &pack);
                    let packed = &*packed;
                    pool.chunks2(c, ROWS * c_stride, rest, strips, &|i, c, strips| {
                        compute(packed, i, c, strips)
                    });
                }
                None => {
                    packed.chunks_mut(panel).enumerate().for_each(|(j, out)| pack(j, out));
                    for (i, c) in c.chunks_mut(ROWS * c_stride).enumerate() {
                        // One strip's place serves all: they are computed one after the other.
                        compute(packed, i, c, &mut rest[..strips]);
                    }
                }
            }
        }
    }
}
