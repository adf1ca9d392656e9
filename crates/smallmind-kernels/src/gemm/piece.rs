//! The inner loops of [`super::gemm`]: packing, and tiles of a few rows by one or two vectors of columns.

use super::{Mat, PANEL, Triangle};
use crate::isa::{Isa, LANES};

/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

/// Some rows of C.
pub(crate) struct Strip<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) cols: usize,
}

/// Where the sums of a piece begin.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// At what C holds.
    C,
    /// At a value a column.
    Bias(&'a [f32]),
    /// At another matrix, and a value a column.
    Onto(Mat<'a>, Option<&'a [f32]>),
}

/// What one task computes: some rows of C, all columns of a block, one block of `k`.
pub(crate) struct Piece<'a> {
    /// `[rows, depth]`.
    pub(crate) a: Mat<'a>,
    pub(crate) b: Panels<'a>,
    pub(crate) c: Strip<'a>,
    pub(crate) start: Start<'a>,
    pub(crate) strips: Strips<'a>,
    pub(crate) triangle: Triangle,
}

/// Packed columns of B, `[panels, of, PANEL]`: as many of their rows as A has columns.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) data: &'a [f32],
    /// Rows that are packed.
    pub(crate) of: usize,
    /// The first of them that counts.
    pub(crate) from: usize,
}

/// How A is read where its rows are not contiguous, but its columns.
pub(crate) enum Strips<'a> {
    /// Packed into this room, `[rows, depth]`.
    Packed(&'a mut [f32]),
    /// Where it is, but for the last rows, fewer than a tile has: they are packed into this room, `[STEP, depth]`.
    InPlace(&'a mut [f32]),
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
            let from = &b.data[k * b.row_stride..][..b.cols];
            match from.first_chunk::<PANEL>() {
                Some(whole) => *row = *whole,
                None => row[..from.len()].copy_from_slice(from),
            }
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

/// `R` rows of A, value by value. No arrays made by closures: not every build inlines those.
trait Rows<const R: usize>: Copy {
    fn at(&self, k: usize, row: usize) -> f32;
}

/// Contiguous rows.
#[derive(Clone, Copy)]
struct Plain<'a, const R: usize>([&'a [f32]; R]);
impl<const R: usize> Rows<R> for Plain<'_, R> {
    #[inline(always)]
    fn at(&self, k: usize, row: usize) -> f32 {
        self.0[row][k]
    }
}

/// Packed: `R` values of each `k`.
#[derive(Clone, Copy)]
struct Packed<'a, const R: usize>(&'a [[f32; R]]);
impl<const R: usize> Rows<R> for Packed<'_, R> {
    #[inline(always)]
    fn at(&self, k: usize, row: usize) -> f32 {
        self.0[k][row]
    }
}

/// `R` values of each of many contiguous columns, these so far apart.
#[derive(Clone, Copy)]
struct Columns<'a, const R: usize>(&'a [f32], usize);
impl<const R: usize> Rows<R> for Columns<'_, R> {
    #[inline(always)]
    fn at(&self, k: usize, row: usize) -> f32 {
        self.0[k * self.1..][..R][row]
    }
}

#[inline(always)]
fn rows<I: Isa, const R: usize, const V: usize>(isa: I, p: &mut Piece<'_>) {
    let depth = p.a.cols;
    let by_row = p.a.col_stride == 1;
    let (strips, in_place) = match &mut p.strips {
        Strips::Packed(room) => (room, 0),
        Strips::InPlace(room) => (room, p.a.rows / R * R),
    };
    if !by_row && in_place < p.a.rows {
        pack_strips::<R>(p.a.block(in_place..p.a.rows, 0..depth), strips);
    }
    let (b, _) = p.b.data.as_chunks::<PANEL>();
    for (j, panel) in b.chunks_exact(p.b.of).enumerate() {
        let panel = &panel[p.b.from..][..depth];
        for v in (0..VECTORS).step_by(V) {
            let col = j * PANEL + v * LANES;
            if col >= p.c.cols {
                break;
            }
            for row in (0..p.a.rows).step_by(R) {
                let there = R.min(p.a.rows - row);
                let Some(ks) = p.triangle.ks(row..row + there, col, depth) else { continue };
                let (panel, at) = ((&panel[ks.clone()], v), (row, there, col));
                if by_row {
                    // Rows beyond the end repeat the last one; what they give is not stored.
                    let of = |r: usize| &p.a.data[(row + r.min(there - 1)) * p.a.row_stride..][ks.clone()];
                    let a = Plain::<R>(std::array::from_fn(of));
                    tile::<I, _, R, V>(isa, a, panel, &mut p.c, at, p.start);
                } else if row < in_place {
                    let a = Columns::<R>(p.a.block(row..row + R, ks).data, p.a.col_stride);
                    tile::<I, _, R, V>(isa, a, panel, &mut p.c, at, p.start);
                } else {
                    let (a, _) = strips[(row - in_place) * depth..][..R * depth].as_chunks::<R>();
                    tile::<I, _, R, V>(isa, Packed(&a[ks]), panel, &mut p.c, at, p.start);
                }
            }
        }
    }
}

/// Packs strips of `R` rows of A, whose columns are contiguous: `[strips, depth, R]`. All strips side by side, so that
/// each line of memory is read once.
#[inline(always)]
fn pack_strips<const R: usize>(a: Mat<'_>, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<R>();
    let depth = a.cols;
    for k in 0..depth {
        let column = &a.data[k * a.col_stride..][..a.rows];
        let (whole, rest) = column.as_chunks::<R>();
        for (i, from) in whole.iter().enumerate() {
            out[i * depth + k] = *from;
        }
        if !rest.is_empty() {
            let last = &mut out[whole.len() * depth + k];
            *last = [0.0; R];
            last[..rest.len()].copy_from_slice(rest);
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
    start: Start<'_>,
) {
    let wide = (c.cols - col).min(V * LANES);
    let mut acc = [[isa.splat(0.0); V]; R];
    // Unrolled by hand: where the compiler unrolls loops, it has already given the sums a place in memory, and stores
    // half of them in each step.
    macro_rules! each_row {
        (|$r:ident| $body:block) => {
            each_row!(@ $r $body 0 1 2 3 4 5 6 7 8 9 10 11)
        };
        (@ $r:ident $body:block $($number:literal)*) => {
            {$(if $number < R {
                const $r: usize = $number;
                $body
            })*}
        };
    }
    macro_rules! each_vector {
        (|$v:ident| $body:block) => {
            each_vector!(@ $v $body 0 1)
        };
        (@ $v:ident $body:block $($number:literal)*) => {
            {$(if $number < V {
                const $v: usize = $number;
                $body
            })*}
        };
    }
    const { assert!(R <= 12 && V <= 2) };
    match start {
        Start::Zero => {}
        Start::C => each_row!(|ROW| {
            if ROW < there {
                let from = &c.data[(row + ROW) * c.stride + col..][..wide];
                each_vector!(|VECTOR| { acc[ROW][VECTOR] = isa.load(&lanes(from, VECTOR)) });
            }
        }),
        Start::Bias(bias) => each_vector!(|VECTOR| {
            let bias = isa.load(&lanes(&bias[col..][..wide], VECTOR));
            each_row!(|ROW| { acc[ROW][VECTOR] = bias });
        }),
        Start::Onto(from, bias) => each_row!(|ROW| {
            if ROW < there {
                let from = &from.data[(row + ROW) * from.row_stride + col..][..wide];
                each_vector!(|VECTOR| {
                    acc[ROW][VECTOR] = isa.load(&lanes(from, VECTOR));
                    if let Some(bias) = bias {
                        // A plain sum: one rounding.
                        let bias = isa.load(&lanes(&bias[col..][..wide], VECTOR));
                        acc[ROW][VECTOR] = isa.fma(isa.splat(1.0), acc[ROW][VECTOR], bias);
                    }
                });
            }
        }),
    }
    for (k, b) in panel.iter().enumerate() {
        let (b, _) = b.as_chunks::<LANES>();
        let mut bs = [isa.splat(0.0); V];
        each_vector!(|VECTOR| { bs[VECTOR] = isa.load(&b[first + VECTOR]) });
        each_row!(|ROW| {
            let x = isa.splat(a.at(k, ROW));
            each_vector!(|VECTOR| { acc[ROW][VECTOR] = isa.fma(x, bs[VECTOR], acc[ROW][VECTOR]) });
        });
    }
    each_row!(|ROW| {
        if ROW < there {
            let out = &mut c.data[(row + ROW) * c.stride + col..][..wide];
            each_vector!(|VECTOR| { put(isa, acc[ROW][VECTOR], out, VECTOR) });
        }
    });
}

/// The `v`-th vector of a row, filled up with zeros.
#[inline(always)]
pub(super) fn lanes(row: &[f32], v: usize) -> [f32; LANES] {
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

/// Writes the `v`-th vector of a row, as far as it goes.
#[inline(always)]
pub(super) fn put<I: Isa>(isa: I, sums: I::F, row: &mut [f32], v: usize) {
    let from = (v * LANES).min(row.len());
    match row[from..].first_chunk_mut::<LANES>() {
        Some(out) => isa.store(sums, out),
        None => {
            let mut all = [0.0; LANES];
            isa.store(sums, &mut all);
            let rest = &mut row[from..];
            rest.copy_from_slice(&all[..rest.len()]);
        }
    }
}
