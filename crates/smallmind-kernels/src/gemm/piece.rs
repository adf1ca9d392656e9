//! The inner loops of [`super::gemm`]: packing, and tiles of a few rows by one or two vectors of columns.

use super::{Mat, PANEL};
use crate::isa::{Isa, LANES};

/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

/// Some rows of C.
pub(crate) struct Strip<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) cols: usize,
}

/// What one task computes: some rows of C, all columns of a block, one block of `k`.
pub(crate) struct Piece<'a> {
    /// `[rows, depth]`.
    pub(crate) a: Mat<'a>,
    /// Packed: `[panels, depth, PANEL]`.
    pub(crate) b: &'a [f32],
    pub(crate) c: Strip<'a>,
    /// Whether the sums go on from what C holds.
    pub(crate) begun: bool,
    /// Room for the packed rows of A, `[rows, depth]`; unused where A's rows are contiguous.
    pub(crate) strips: &'a mut [f32],
}

/// Packs a panel `[depth, cols]` of B, filled up with zeros to `[depth, PANEL]`.
#[inline(always)]
pub(crate) fn pack<I: Isa>(_isa: I, b: Mat<'_>, out: &mut [f32]) {
    let (rows, _) = out.as_chunks_mut::<PANEL>();
    if b.cols < PANEL {
        rows.iter_mut().for_each(|row| *row = [0.0; PANEL]);
    }
    if b.col_stride == 1 {
        for (k, row) in rows.iter_mut().enumerate() {
            row[..b.cols].copy_from_slice(&b.data[k * b.row_stride..][..b.cols]);
        }
        return;
    }
    // Columns are contiguous: several at once, so that a cache line of the panel is written in one go.
    let mut j = 0;
    while j + 8 <= b.cols {
        let columns: [&[f32]; 8] = std::array::from_fn(|i| &b.data[(j + i) * b.col_stride..][..b.rows]);
        for (k, row) in rows.iter_mut().take(b.rows).enumerate() {
            let part: [f32; 8] = std::array::from_fn(|i| columns[i][k]);
            row[j..j + 8].copy_from_slice(&part);
        }
        j += 8;
    }
    for j in j..b.cols {
        for (row, v) in rows.iter_mut().zip(&b.data[j * b.col_stride..][..b.rows]) {
            row[j] = *v;
        }
    }
}

/// Computes a piece.
#[inline(always)]
pub(crate) fn piece<I: Isa>(isa: I, p: &mut Piece<'_>) {
    // As many accumulators as fit the registers beside the vectors of B.
    if I::TOKENS >= 8 { rows::<I, 12, VECTORS>(isa, p) } else { rows::<I, 6, 1>(isa, p) }
}

/// `R` rows of A, value by value of `k`.
trait Rows<const R: usize>: Copy {
    fn at(&self, k: usize) -> [f32; R];
}

/// Contiguous rows.
#[derive(Clone, Copy)]
struct Plain<'a, const R: usize>([&'a [f32]; R]);
impl<const R: usize> Rows<R> for Plain<'_, R> {
    #[inline(always)]
    fn at(&self, k: usize) -> [f32; R] {
        std::array::from_fn(|r| self.0[r][k])
    }
}

/// Packed: `R` values of each `k`.
#[derive(Clone, Copy)]
struct Packed<'a, const R: usize>(&'a [[f32; R]]);
impl<const R: usize> Rows<R> for Packed<'_, R> {
    #[inline(always)]
    fn at(&self, k: usize) -> [f32; R] {
        self.0[k]
    }
}

#[inline(always)]
fn rows<I: Isa, const R: usize, const V: usize>(isa: I, p: &mut Piece<'_>) {
    let depth = p.a.cols;
    if p.a.col_stride != 1 {
        pack_strips::<R>(p.a, p.strips);
    }
    let (b, _) = p.b.as_chunks::<PANEL>();
    for (j, panel) in b.chunks_exact(depth).enumerate() {
        for v in (0..VECTORS).step_by(V) {
            let col = j * PANEL + v * LANES;
            if col >= p.c.cols {
                break;
            }
            for row in (0..p.a.rows).step_by(R) {
                let there = R.min(p.a.rows - row);
                if p.a.col_stride == 1 {
                    // Rows beyond the end repeat the last one; what they give is not stored.
                    let of = |r: usize| &p.a.data[(row + r.min(there - 1)) * p.a.row_stride..][..depth];
                    let a = Plain::<R>(std::array::from_fn(of));
                    tile::<I, _, R, V>(isa, a, (panel, v), &mut p.c, (row, there, col), p.begun);
                } else {
                    let (a, _) = p.strips[row * depth..][..R * depth].as_chunks::<R>();
                    tile::<I, _, R, V>(isa, Packed(a), (panel, v), &mut p.c, (row, there, col), p.begun);
                }
            }
        }
    }
}

/// Packs strips of `R` rows of A, whose columns are contiguous: `[strips, depth, R]`.
#[inline(always)]
fn pack_strips<const R: usize>(a: Mat<'_>, out: &mut [f32]) {
    for (i, strip) in out.chunks_exact_mut(R * a.cols).enumerate() {
        let row = i * R;
        if row >= a.rows {
            break;
        }
        let there = R.min(a.rows - row);
        for (k, out) in strip.as_chunks_mut::<R>().0.iter_mut().enumerate() {
            let from = &a.data[k * a.col_stride + row..];
            match from.first_chunk::<R>() {
                Some(from) if there == R => *out = *from,
                _ => {
                    *out = [0.0; R];
                    out[..there].copy_from_slice(&from[..there]);
                }
            }
        }
    }
}

/// `R` rows by `V` vectors of C at (row, col), of which `there` rows exist.
#[inline(always)]
fn tile<I: Isa, A: Rows<R>, const R: usize, const V: usize>(
    isa: I,
    a: A,
    (panel, first): (&[[f32; PANEL]], usize),
    c: &mut Strip<'_>,
    (row, there, col): (usize, usize, usize),
    begun: bool,
) {
    let wide = (c.cols - col).min(V * LANES);
    let mut acc = [[isa.splat(0.0); V]; R];
    if begun {
        for r in 0..R {
            if r < there {
                let from = &c.data[(row + r) * c.stride + col..][..wide];
                for v in 0..V {
                    acc[r][v] = isa.load(&lanes(from, v));
                }
            }
        }
    }
    for (k, b) in panel.iter().enumerate() {
        let (b, _) = b.as_chunks::<LANES>();
        let mut bs = [isa.splat(0.0); V];
        for v in 0..V {
            bs[v] = isa.load(&b[first + v]);
        }
        let x = a.at(k);
        for r in 0..R {
            let x = isa.splat(x[r]);
            for v in 0..V {
                acc[r][v] = isa.fma(x, bs[v], acc[r][v]);
            }
        }
    }
    for r in 0..R {
        if r < there {
            let out = &mut c.data[(row + r) * c.stride + col..][..wide];
            for v in 0..V {
                let from = (v * LANES).min(wide);
                match out[from..].first_chunk_mut::<LANES>() {
                    Some(out) => isa.store(acc[r][v], out),
                    None => {
                        let mut all = [0.0; LANES];
                        isa.store(acc[r][v], &mut all);
                        let rest = &mut out[from..];
                        rest.copy_from_slice(&all[..rest.len()]);
                    }
                }
            }
        }
    }
}

/// The `v`-th vector of a row, filled up with zeros.
#[inline(always)]
fn lanes(row: &[f32], v: usize) -> [f32; LANES] {
    let rest = &row[(v * LANES).min(row.len())..];
    match rest.first_chunk::<LANES>() {
        Some(whole) => *whole,
        None => {
            let mut all = [0.0; LANES];
            all[..rest.len()].copy_from_slice(rest);
            all
        }
    }
}
