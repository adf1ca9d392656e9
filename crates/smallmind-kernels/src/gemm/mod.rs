//! C = A · B of plain F32 matrices in any orientation, for training: every output is one chain of fused multiply-adds,
//! `k` ascending, whatever the threads, the blocks and the ISA, so its bits are those of three plain loops.
//!
//! B is packed into panels of `PANEL` columns, block by block of `k`, by all threads together; A is read where it is,
//! or packed too where its rows are not contiguous. Threads split the rows of C, never `k`. The scheme is that of Goto
//! and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).

pub mod bf16;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16_tile;
pub mod packed;
pub(crate) mod piece;

use crate::table::Kernels;
use crate::threads::Pool;
use piece::{Panels, Piece, Start, Strip, Strips};

/// Columns of one packed panel of B.
pub(crate) const PANEL: usize = 32;
/// `k` of one block: a panel is 48 KiB, the first-level cache of the CPUs that this was measured on (256 gave 0.94 and 512
/// 0.99 of its speed).
const DEPTH: usize = 384;
/// Columns of one block of B: with [`DEPTH`] 1.5 MiB, which stays in a second-level cache of 2 MiB.
const WIDTH: usize = 1024;
/// Rows of C that one task computes at most; always a multiple of [`STEP`].
const ROWS: usize = 48;
/// A multiple of every ISA's tile.
const STEP: usize = 12;
/// Tasks that there are at least, where C has the rows: then threads that end one after the other lose little.
const TASKS: usize = 21;

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

/// Where each chain of sums begins.
#[derive(Clone, Copy, Debug)]
pub enum Into<'a> {
    /// At zero: what C holds is overwritten.
    Store,
    /// At what C holds.
    Add,
    /// At the bias of its column, `[n]`.
    Bias(&'a [f32]),
    /// At the value of another matrix, `[m, n]` with contiguous rows, plus the bias of its column where there is one.
    Onto(Mat<'a>, Option<&'a [f32]>),
}

impl<'a> Into<'a> {
    /// Where the sums of some rows and columns begin.
    fn start(self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Start<'a> {
        match self {
            Into::Store => Start::Zero,
            Into::Add => Start::C,
            Into::Bias(bias) => Start::Bias(&bias[cols]),
            Into::Onto(from, bias) => {
                Start::Onto(from.block(rows, cols.clone()), bias.map(|bias| &bias[cols]))
            }
        }
    }

    /// Row `i` of C where there is nothing to add up.
    fn begin(self, i: usize, row: &mut [f32]) {
        match self {
            Into::Store => row.fill(0.0),
            Into::Add => {}
            Into::Bias(bias) => row.copy_from_slice(bias),
            Into::Onto(from, bias) => {
                row.copy_from_slice(&from.data[i * from.row_stride..][..row.len()]);
                row.iter_mut().zip(bias.unwrap_or_default()).for_each(|(v, b)| *v += b);
            }
        }
    }
}

/// What of a product is asked for, or where its left factor holds nothing but zeros: of causal attention's products it is
/// half. Tiles outside are left out; what a tile computes outside has no meaning.
#[derive(Clone, Copy, Debug)]
pub enum Triangle {
    /// All of C is asked for, of all of A.
    None,
    /// Only `C[i, j]` with j ≤ i + this is asked for.
    Sums(usize),
    /// `A[i, k]` is 0 where k > i + this.
    Lower(usize),
    /// `A[i, k]` is 0 where i > k + this.
    Upper(usize),
}

impl Triangle {
    /// The `k` that a tile of these rows, from column `col` on, adds up; nothing where it is not asked for.
    #[inline(always)]
    fn ks(self, rows: std::ops::Range<usize>, col: usize, depth: usize) -> Option<std::ops::Range<usize>> {
        match self {
            Triangle::None => Some(0..depth),
            Triangle::Sums(from) => (col < rows.end + from).then_some(0..depth),
            Triangle::Lower(from) => Some(0..depth.min(rows.end + from)),
            Triangle::Upper(from) => Some(depth.min(rows.start.saturating_sub(from))..depth),
        }
    }
}

/// Rows that one task computes, of `m`.
fn at_once(m: usize) -> usize {
    (m / TASKS / STEP * STEP).clamp(STEP, ROWS)
}

/// Values of scratch memory that a product of these sizes needs.
pub fn scratch_len(m: usize, n: usize, k: usize) -> usize {
    let depth = k.min(DEPTH);
    (n.min(WIDTH).next_multiple_of(PANEL) + m.next_multiple_of(at_once(m))) * depth
}

/// C = A · B, or that added to what `into` says: `a` is `[m, k]`, `b` is `[k, n]`, `c` is `[m, n]` with rows `c_stride`
/// apart. Without a pool the calling thread does it alone; the bits are the same. `scratch` holds at least
/// [`scratch_len`] values of any content.
///
/// # Panics
/// Where a shape does not fit.
pub fn gemm(
    kernels: &Kernels,
    pool: Option<&Pool>,
    a: Mat<'_>,
    b: Mat<'_>,
    (c, c_stride): (&mut [f32], usize),
    into: Into<'_>,
    scratch: &mut [f32],
) {
    if nothing_to_add_up((a, b), (c, c_stride), into) {
        return;
    }
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let c = &mut c[..(m - 1) * c_stride + n];
    let at_once = at_once(m);
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
            let strips = if a.col_stride == 1 { 0 } else { at_once * depth };
            let rest = &mut rest[..m.div_ceil(at_once) * strips];
            let compute = |packed: &[f32], i: usize, c: &mut [f32], strips: &mut [f32]| {
                let rows = i * at_once..((i + 1) * at_once).min(m);
                (kernels.gemm_piece)(&mut Piece {
                    a: a.block(rows.clone(), ks.clone()),
                    b: Panels { data: packed, of: depth, from: 0 },
                    c: Strip { data: &mut c[ns.start..], stride: c_stride, cols: ns.len() },
                    start: if k0 > 0 { Start::C } else { into.start(rows, ns.clone()) },
                    strips: Strips::Packed(strips),
                    triangle: Triangle::None,
                });
            };
            match pool {
                Some(pool) => {
                    pool.chunks(packed, panel, &pack);
                    let packed = &*packed;
                    pool.chunks2(c, at_once * c_stride, rest, strips, &|i, c, strips| {
                        compute(packed, i, c, strips)
                    });
                }
                None => {
                    packed.chunks_mut(panel).enumerate().for_each(|(j, out)| pack(j, out));
                    for (i, c) in c.chunks_mut(at_once * c_stride).enumerate() {
                        // One strip's place serves all: they are computed one after the other.
                        compute(packed, i, c, &mut rest[..strips]);
                    }
                }
            }
        }
    }
}

/// Checks the shapes of a product; where it has no sums, C becomes what it begins with, and there is nothing left to do.
fn nothing_to_add_up((a, b): (Mat<'_>, Mat<'_>), (c, c_stride): (&mut [f32], usize), into: Into<'_>) -> bool {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k, "gemm: inner lengths differ");
    if m == 0 || n == 0 {
        return true;
    }
    assert!(c_stride >= n && c.len() >= (m - 1) * c_stride + n, "gemm: output too small");
    match into {
        Into::Store | Into::Add => {}
        Into::Bias(bias) => assert!(bias.len() == n, "gemm: a bias of another length"),
        Into::Onto(from, bias) => {
            let fits = from.rows == m && from.cols == n && from.col_stride == 1;
            assert!(fits && bias.is_none_or(|b| b.len() == n), "gemm: another matrix to add to");
        }
    }
    if k == 0 {
        let rows = c.chunks_mut(c_stride).take(m).enumerate();
        rows.for_each(|(i, row)| into.begin(i, &mut row[..n]));
    }
    k == 0
}
