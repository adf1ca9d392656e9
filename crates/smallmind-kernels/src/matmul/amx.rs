//! The inner loop of matrix units: 16 tokens × 16 rows of one block at a time. Their integer sums are those of
//! [`super::tile`], and join the same chain by the same operations, so the bits are the same.

use super::format::{self, Format, MatrixUnit};
use super::tile::{OutPtr, PANEL, Piece};
use crate::aligned::cast;
use crate::isa::amx::{Sums, TOKENS, TileIsa, Tiles, Weights};

/// Fewest tokens for which matrix units pay. Measured on a CPU with AMX for another program of the same structure: at
/// 16 tokens the vector loop was level, at 32 behind.
const LEAST_TOKENS: usize = 32;

/// Computes a piece; `vectors` is the same CPU's vector loop, for what does not fill tiles.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
#[allow(unsafe_code, reason = "hands on the proof that tiles may be used")]
pub(crate) unsafe fn piece<I: TileIsa, T: Tiles>(isa: I, p: &Piece<'_>, vectors: fn(&Piece<'_>)) {
    let fits = by_format!(p.w.dtype(), F => !matches!(F::MATRIX_UNIT, MatrixUnit::No), G => false);
    if p.tokens < LEAST_TOKENS || !fits {
        return vectors(p);
    }
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    by_format!(p.w.dtype(),
        F => if !matches!(F::MATRIX_UNIT, MatrixUnit::No) {
            match p.parts() {
                2 => rows::<I, F, T, 2>(isa, &mut tiles, p, vectors),
                _ => rows::<I, F, T, 1>(isa, &mut tiles, p, vectors),
            }
        },
        G => {});
}

#[inline(always)]
fn rows<I: TileIsa, F: Format, T: Tiles, const PARTS: usize>(
    isa: I,
    tiles: &mut T,
    p: &Piece<'_>,
    vectors: fn(&Piece<'_>),
) {
    let per_group = p.w.k().div_ceil(format::BLOCK).div_ceil(F::BLOCKS);
    let Some(units) = cast::<F::Unit>(p.w.bytes()) else { return };
    let whole = p.tokens - p.tokens % TOKENS;
    let mut first = p.groups.start;
    while first < p.groups.end {
        let last = p.groups.end.min(first + PANEL);
        let mut t = 0;
        while t < whole {
            for g in first..last {
                group::<I, F, T, PARTS>(isa, tiles, p, &units[g * per_group..(g + 1) * per_group], g, t);
            }
            t += TOKENS;
        }
        if whole < p.tokens {
            let stride = p.blocks.len() / p.tokens;
            vectors(&Piece {
                w: p.w,
                groups: first..last,
                tokens: p.tokens - whole,
                blocks: &p.blocks[whole * stride..],
                x: p.x,
                bias: p.bias,
                accumulate: p.accumulate,
                out: OutPtr(p.out.0.wrapping_add(whole * p.out_stride)),
                out_stride: p.out_stride,
            });
        }
        first = last;
    }
}

/// `$body` for every token `$t` of a tile, written out: the compiler leaves a loop of this length, and sums in memory.
macro_rules! each {
    (|$t:ident| $body:expr) => {
        each!(@ $t $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $t:ident $body:expr; $($n:literal)*) => {{
        $({
            let $t: usize = $n;
            $body
        })*
        const _: () = assert!([$($n),*].len() == TOKENS);
    }};
}

/// One row group × 16 tokens: while the tiles multiply one block, the vectors add the one before to the chains.
#[inline(always)]
fn group<I: TileIsa, F: Format, T: Tiles, const PARTS: usize>(
    isa: I,
    tiles: &mut T,
    p: &Piece<'_>,
    group: &[F::Unit],
    g: usize,
    first_token: usize,
) {
    let stride = p.blocks.len() / p.tokens;
    let x = &p.blocks[first_token * stride..(first_token + TOKENS) * stride];
    let mut sums = [[Sums::ZERO; PARTS]; 2];
    let mut acc = [isa.splat(0.0); TOKENS];
    let mut before = None;
    macro_rules! add {
        ($before:expr) => {
            let (s, at): (F::Scales<I>, usize) = $before;
            each!(|t| {
                let x = &x[t * stride + at * PARTS];
                let mut dot = isa.iload(&sums[at % 2][0].0[t]);
                if PARTS == 2 {
                    dot = isa.iadd(isa.ishl::<8>(dot), isa.iload(&sums[at % 2][PARTS - 1].0[t]));
                }
                if let MatrixUnit::Unsigned { offset: 1.. } = F::MATRIX_UNIT {
                    dot = isa.iadd(dot, isa.isplat(F::MATRIX_UNIT.correction(x)));
                }
                acc[t] = F::join(isa, isa.to_f32(dot), s, x, acc[t]);
            });
        };
    }
    for (u, unit) in group.iter().enumerate() {
        for b in 0..F::BLOCKS {
            let mut unpacked = Unpacked([[0; 64]; 8]);
            let w = match F::bytes(unit, b) {
                Some(w) => w,
                None => {
                    let vectors = F::unpack(isa, unit, b);
                    for j in 0..8 {
                        isa.bstore(vectors[j], &mut unpacked.0[j]);
                    }
                    &unpacked.0
                }
            };
            let s = F::scales(isa, unit, b);
            let at = u * F::BLOCKS + b;
            let signed = matches!(F::MATRIX_UNIT, MatrixUnit::Signed);
            for (part, sums) in sums[at % 2].iter_mut().enumerate() {
                tiles.multiply(&x[at * PARTS + part..], stride, w, signed, sums);
            }
            if let Some(before) = before.replace((s, at)) {
                add!(before);
            }
        }
    }
    if let Some(before) = before {
        add!(before);
    }
    // A copy, because an array that is indexed by a variable lies in memory.
    let mut done = [isa.splat(0.0); TOKENS];
    each!(|t| done[t] = acc[t]);
    for (t, done) in done.iter().enumerate() {
        p.store(isa, g, first_token + t, *done);
    }
}

/// One tile of weights, a line of the cache a row.
#[repr(C, align(64))]
struct Unpacked(Weights);
