//! The inner loops of [`super::bf16`]: packing, and 32 × 32 of C at a time.
#![allow(unsafe_code, reason = "hands on the proof that tiles may be used; a transposition in intrinsics")]

use std::arch::x86_64::{
    __m512i, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::bf16::Piece;
use super::piece::{lanes, put};
use super::{Into, Mat};
use crate::isa::amx::{BfTiles, ROWS, Sums, TileIsa};
use crate::isa::avx512::Avx512;
use crate::isa::{Isa, LANES};
use crate::matmul::acts::{ActQuants, BLOCK};

/// Packs rows of A: `[rows / 16, blocks, 16]`, 32 values of one row each.
#[inline(always)]
pub(crate) fn pack_a<T: BfTiles>(isa: Avx512, a: Mat<'_>, out: &mut [ActQuants]) {
    pack::<T>(isa, a, out, false);
}

/// Packs columns of B: `[columns / 16, blocks, 16]`, two values of each of 16 columns each.
#[inline(always)]
pub(crate) fn pack_b<T: BfTiles>(isa: Avx512, b: Mat<'_>, out: &mut [ActQuants]) {
    pack::<T>(isa, b.t(), out, true);
}

/// Packs rows as tiles, of rows or (`pairs`) of pairs of their values; beyond the ends are zeros.
#[inline(always)]
fn pack<T: BfTiles>(isa: Avx512, x: Mat<'_>, out: &mut [ActQuants], pairs: bool) {
    let blocks = x.cols.div_ceil(BLOCK);
    for block in 0..blocks {
        for (i, tiles) in out.chunks_exact_mut(ROWS * blocks).enumerate() {
            let tile = &mut tiles[block * ROWS..(block + 1) * ROWS];
            let rows = i * ROWS..x.rows.min((i + 1) * ROWS);
            if rows.is_empty() {
                tile.fill(ActQuants::ZERO);
                continue;
            }
            let ks = block * BLOCK..x.cols.min((block + 1) * BLOCK);
            let part = x.block(rows, ks);
            let mut words = [T::rounded(isa.splat(0.0), isa.splat(0.0)); ROWS];
            if x.col_stride == 1 {
                for (r, word) in words.iter_mut().enumerate().take(part.rows) {
                    let row = &part.data[r * part.row_stride..][..part.cols];
                    *word = T::rounded(isa.load(&lanes(row, 0)), isa.load(&lanes(row, 1)));
                }
            } else {
                // Macros, for a closure would be compiled without the caller's instructions, here and below.
                macro_rules! column {
                    ($k:expr) => {
                        match part.data.get($k * part.col_stride..) {
                            Some(from) if $k < part.cols => isa.load(&lanes(&from[..part.rows], 0)),
                            _ => isa.splat(0.0),
                        }
                    };
                }
                for (j, word) in words.iter_mut().enumerate() {
                    *word = T::pairs(column!(2 * j), column!(2 * j + 1));
                }
            }
            if pairs == (x.col_stride == 1) {
                words = transposed(isa, words);
            }
            for (word, out) in words.into_iter().zip(tile) {
                let mut bytes = [0; 2 * BLOCK];
                isa.bstore(word, &mut bytes);
                *out = ActQuants::of_bytes(bytes);
            }
        }
    }
}

/// 16 × 16 words, rows and columns exchanged.
#[inline(always)]
fn transposed(_proof: Avx512, x: [__m512i; 16]) -> [__m512i; 16] {
    let mut y = x;
    // SAFETY: the proof says that the CPU has the instructions, here and below.
    macro_rules! step {
        ($x:ident, $y:ident, |$i:ident| $first:expr, $apart:literal, $low:expr, $high:expr) => {
            for $i in 0..8 {
                let at = $first;
                let (a, b) = ($x[at], $x[at + $apart]);
                // SAFETY: as above.
                ($y[at], $y[at + $apart]) = unsafe { ($low(a, b), $high(a, b)) };
            }
        };
    }
    // Words of rows 2i and 2i + 1 alternate; then pairs of them; then quarters of four, and of eight rows.
    step!(x, y, |i| 2 * i, 1, _mm512_unpacklo_epi32, _mm512_unpackhi_epi32);
    let x = y;
    step!(x, y, |i| i / 2 * 4 + i % 2, 2, _mm512_unpacklo_epi64, _mm512_unpackhi_epi64);
    let x = y;
    step!(
        x,
        y,
        |i| i / 4 * 8 + i % 4,
        4,
        _mm512_shuffle_i32x4::<0b10_00_10_00>,
        _mm512_shuffle_i32x4::<0b11_01_11_01>
    );
    let x = y;
    step!(x, y, |i| i, 8, _mm512_shuffle_i32x4::<0b10_00_10_00>, _mm512_shuffle_i32x4::<0b11_01_11_01>);
    // Row r of the result stands where the steps have put it: of r, the lower two bits came first, exchanged.
    let x = y;
    let mut rows = x;
    for r in 0..16 {
        rows[r] = x[ORDER[r]];
    }
    rows
}

/// Where the steps of [`transposed`] put each row.
const ORDER: [usize; 16] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];

/// Computes a piece.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
pub(crate) unsafe fn piece<T: BfTiles>(isa: Avx512, p: &mut Piece<'_>) {
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    let strip = ROWS * p.blocks;
    let (of_a, of_b) = (p.a.len() / strip, p.cols.div_ceil(ROWS));
    for j in (0..of_b).step_by(2) {
        let columns = 2.min(of_b - j);
        for i in (0..of_a).step_by(2) {
            let rows = 2.min(of_a - i);
            let quad = [i, i + rows - 1, j, j + columns - 1];
            match (rows, columns) {
                (2, 2) => multiply::<T, 2, 2>(isa, &mut tiles, p, quad),
                (2, _) => multiply::<T, 2, 1>(isa, &mut tiles, p, quad),
                (_, 2) => multiply::<T, 1, 2>(isa, &mut tiles, p, quad),
                _ => multiply::<T, 1, 1>(isa, &mut tiles, p, quad),
            }
        }
    }
}

/// `R` tiles of rows by `C` tiles of columns.
#[inline(always)]
fn multiply<T: BfTiles, const R: usize, const C: usize>(
    isa: Avx512,
    tiles: &mut T,
    p: &mut Piece<'_>,
    [i0, i1, j0, j1]: [usize; 4],
) {
    let strip = ROWS * p.blocks;
    macro_rules! strip {
        ($of:expr, $at:expr) => {
            $of[$at * strip..($at + 1) * strip].as_chunks::<ROWS>().0
        };
    }
    let a = [strip!(p.a, i0), strip!(p.a, i1)];
    let b = [strip!(p.b, j0), strip!(p.b, j1)];
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    for k in 0..p.blocks {
        tiles.load::<4>((&a[0][k]).into());
        tiles.load::<6>((&b[0][k]).into());
        tiles.dot_bf16::<0, 4, 6>();
        if C == 2 {
            tiles.load::<7>((&b[1][k]).into());
            tiles.dot_bf16::<1, 4, 7>();
        }
        if R == 2 {
            tiles.load::<5>((&a[1][k]).into());
            tiles.dot_bf16::<2, 5, 6>();
        }
        if R == 2 && C == 2 {
            tiles.dot_bf16::<3, 5, 7>();
        }
    }
    let mut sums = [Sums::ZERO; 4];
    tiles.store::<0>((&mut sums[0]).into());
    tiles.store::<1>((&mut sums[1]).into());
    tiles.store::<2>((&mut sums[2]).into());
    tiles.store::<3>((&mut sums[3]).into());
    for (r, i) in [i0, i1].into_iter().enumerate().take(R) {
        let row = i * ROWS;
        for (c, j) in [j0, j1].into_iter().enumerate().take(C) {
            let col = j * ROWS;
            for (t, sums) in sums[2 * r + c].0.iter().enumerate().take(p.rows.len() - row) {
                store(isa, p, (row + t, col), isa.floats(isa.iload(sums)));
            }
        }
    }
}

/// Adds 16 sums to what C begins with.
#[inline(always)]
fn store(isa: Avx512, p: &mut Piece<'_>, (row, col): (usize, usize), sums: <Avx512 as Isa>::F) {
    let wide = (p.cols - col).min(LANES);
    let out = &mut p.c[row * p.c_stride + col..][..wide];
    macro_rules! bias {
        ($bias:expr) => {
            isa.load(&lanes(&$bias[col..][..wide], 0))
        };
    }
    let begin = match p.into {
        Into::Store => isa.splat(0.0),
        Into::Add => isa.load(&lanes(out, 0)),
        Into::Bias(b) => bias!(b),
        Into::Onto(from, b) => {
            let at = (p.rows.start + row) * from.row_stride + col;
            let value = isa.load(&lanes(&from.data[at..][..wide], 0));
            match b {
                Some(b) => isa.add(value, bias!(b)),
                None => value,
            }
        }
    };
    put(isa, isa.add(begin, sums), out, 0);
}
const _: () = assert!(ROWS == LANES && 2 * LANES == BLOCK);
