//! Activations to integers, per block of 32: 8 bits, or 16 as two blocks of 8.

use crate::isa::{Isa, LANES, max_lane};
use crate::matmul::format::{ActBlock, BLOCK};

/// Quantizes one row: `d = max|x| / 127` in f32, `q = round(x · 127 / max|x|)` to nearest even, so |q| <= 127;
/// `q = 0` where the factor overflows (`max|x| < 4e-37`).
///
/// `out` has [`crate::matmul::act_blocks`] blocks; those past the row become zero.
#[inline(always)]
pub(crate) fn quantize<I: Isa>(isa: I, x: &[f32], out: &mut [ActBlock]) {
    row::<I, 1>(isa, x, out);
}

/// Quantizes one row to 16 bits: `Q = round(x · 32,258 / max|x|) = 254 · hi + lo` with |hi|, |lo| <= 127, stored as a
/// block of `hi` with 254 times the scale and a block of `lo`, side by side.
///
/// `out` has twice [`crate::matmul::act_blocks`] blocks; those past the row become zero.
#[inline(always)]
pub(crate) fn quantize_wide<I: Isa>(isa: I, x: &[f32], out: &mut [ActBlock]) {
    row::<I, 2>(isa, x, out);
}

#[inline(always)]
fn row<I: Isa, const PARTS: usize>(isa: I, x: &[f32], out: &mut [ActBlock]) {
    let (body, tail) = x.as_chunks::<BLOCK>();
    let mut blocks = out.as_chunks_mut::<PARTS>().0.iter_mut();
    for (v, b) in body.iter().zip(&mut blocks) {
        block(isa, v, b);
    }
    if !tail.is_empty()
        && let Some(b) = blocks.next()
    {
        let mut v = [0.0; BLOCK];
        v[..tail.len()].copy_from_slice(tail);
        block(isa, &v, b);
    }
    for b in blocks {
        *b = [ActBlock::ZERO; PARTS];
    }
}

/// Steps of the lower part in one of the upper.
const RADIX: i32 = 254;

#[inline(always)]
fn block<I: Isa, const PARTS: usize>(isa: I, x: &[f32; BLOCK], out: &mut [ActBlock; PARTS]) {
    let (lanes, _) = x.as_chunks::<LANES>();
    let (a, b) = (isa.load(&lanes[0]), isa.load(&lanes[1]));
    let zero = isa.splat(0.0);
    let abs = isa.max(isa.max(a, isa.sub(zero, a)), isa.max(b, isa.sub(zero, b)));
    let max = max_lane(isa, abs);
    let limit = if PARTS == 1 { 127 } else { 127 * RADIX };
    // For a tiny maximum there is no such factor: zeros, not what infinity times them rounds to.
    let factor = limit as f32 / max;
    let factor = isa.splat(if factor.is_finite() { factor } else { 0.0 });
    let mut q = [[0i32; LANES]; 2];
    isa.istore(isa.to_i32(isa.mul(a, factor)), &mut q[0]);
    isa.istore(isa.to_i32(isa.mul(b, factor)), &mut q[1]);
    let d = max / limit as f32;
    // In range by construction; a NaN or an infinity among the activations must not reach -128.
    let q = q.as_flattened();
    if PARTS == 1 {
        fill(&mut out[0], d, |i| q[i].clamp(-127, 127));
    } else {
        let upper = |i: usize| (q[i].clamp(-limit, limit) + RADIX / 2).div_euclid(RADIX);
        fill(&mut out[0], d * RADIX as f32, upper);
        fill(&mut out[PARTS - 1], d, |i| q[i].clamp(-limit, limit) - RADIX * upper(i));
    }
}

/// Writes integers (at most 127 in size) with their sums.
#[inline(always)]
fn fill(out: &mut ActBlock, d: f32, q: impl Fn(usize) -> i32) {
    let (mut first, mut last) = (0i32, 0i32);
    for i in 0..LANES {
        let (a, b) = (q(i), q(LANES + i));
        out.q[i / 4][i % 4] = a as i8;
        out.q[4 + i / 4][i % 4] = b as i8;
        first += a;
        last += b;
    }
    out.d = d;
    out.halves = [first, last];
    out.ds = d * (first + last) as f32;
}
