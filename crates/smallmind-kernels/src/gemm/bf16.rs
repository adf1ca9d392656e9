//! C = A · B with both factors rounded to bfloat16 and sums in F32, by matrix units: what mixed precision trains with.
//! Every output is one chain over `k` in steps of 32 (of the form of `TDPBF16PS`), to which
//! what C begins with is added at the end, so its bits do not depend on the threads.
//!
//! Both factors are packed whole, into tiles of 16 rows (or columns) by 32 values of `k`; then threads split the rows
//! of C, and each 32 × 32 of it stays in the registers over all of `k`.

use super::{Into, Mat};
use crate::matmul::acts::{ActQuants, BLOCK, TILE};
use crate::table::Bf16Kernels;
use crate::threads::Pool;

/// Rows or columns that one task packs: a line of memory holds 16 of them, so that neighbouring lines are read together.
const PACKED: usize = 4 * TILE;
/// Rows of C that one task computes.
const ROWS: usize = 4 * TILE;

/// Tiles of [`ActQuants`] as scratch memory that a product of these sizes needs.
pub fn scratch_len(m: usize, n: usize, k: usize) -> usize {
    (m.next_multiple_of(PACKED) + n.next_multiple_of(PACKED)) * k.div_ceil(BLOCK)
}

/// What one task computes: some rows of C, all columns.
pub(crate) struct Piece<'a> {
    /// Packed rows of A, `[tiles, blocks, 16]`.
    pub(crate) a: &'a [ActQuants],
    /// Packed columns of B, `[tiles, blocks, 16]`.
    pub(crate) b: &'a [ActQuants],
    /// Tiles of a packed row or column.
    pub(crate) blocks: usize,
    pub(crate) c: &'a mut [f32],
    pub(crate) c_stride: usize,
    pub(crate) rows: std::ops::Range<usize>,
    pub(crate) cols: usize,
    pub(crate) into: Into<'a>,
}

/// [`super::gemm`] in bfloat16; `scratch` holds at least [`scratch_len`] values of any content.
///
/// # Panics
/// Where a shape does not fit.
pub fn gemm(
    kernels: &Bf16Kernels,
    pool: &Pool,
    a: Mat<'_>,
    b: Mat<'_>,
    (c, c_stride): (&mut [f32], usize),
    into: Into<'_>,
    scratch: &mut [ActQuants],
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if super::nothing_to_add_up((a, b), (c, c_stride), into) {
        return;
    }
    let c = &mut c[..(m - 1) * c_stride + n];
    let blocks = k.div_ceil(BLOCK);
    let (of_a, of_b) = scratch.split_at_mut(m.next_multiple_of(PACKED) * blocks);
    let of_b = &mut of_b[..n.next_multiple_of(PACKED) * blocks];
    let strip = |i: usize, all: usize| i * PACKED..((i + 1) * PACKED).min(all);
    pool.chunks(of_a, PACKED * blocks, &|i, out| (kernels.gemm_pack_a)(a.block(strip(i, m), 0..k), out));
    pool.chunks(of_b, PACKED * blocks, &|i, out| (kernels.gemm_pack_b)(b.block(0..k, strip(i, n)), out));
    let (of_a, of_b) = (&*of_a, &*of_b);
    pool.chunks(c, ROWS * c_stride, &|i, c| {
        let rows = i * ROWS..((i + 1) * ROWS).min(m);
        let tiles = i * ROWS * blocks..rows.end.next_multiple_of(TILE) * blocks;
        (kernels.gemm_piece)(&mut Piece {
            a: &of_a[tiles],
            b: of_b,
            blocks,
            c,
            c_stride,
            rows,
            cols: n,
            into,
        });
    });
}
