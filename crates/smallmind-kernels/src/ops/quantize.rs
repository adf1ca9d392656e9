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

/// Quantizes one row to 16 bits: `Q = 256 · hi + lo ≈ x · 32,512 / max|x|` with |hi|, |lo| <= 127 (of a `lo` of ±128, one
/// in 512, the last step is lost), stored as a block of `hi` with the scale and sums of `Q` and a block of `lo`.
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
const RADIX: f32 = 256.0;

#[inline(always)]
fn block<I: Isa, const PARTS: usize>(isa: I, x: &[f32; BLOCK], out: &mut [ActBlock; PARTS]) {
    let (lanes, _) = x.as_chunks::<LANES>();
    let (a, b) = (isa.load(&lanes[0]), isa.load(&lanes[1]));
    let zero = isa.splat(0.0);
    let abs = isa.max(isa.max(a, isa.sub(zero, a)), isa.max(b, isa.sub(zero, b)));
    let max = max_lane(isa, abs);
    let limit = if PARTS == 1 { 127.0 } else { 127.0 * RADIX };
    // For a tiny maximum there is no such factor: zeros, not what infinity times them rounds to.
    let factor = limit / max;
    let factor = isa.splat(if factor.is_finite() { factor } else { 0.0 });
    let (a, b) = (isa.mul(a, factor), isa.mul(b, factor));
    let d = max / limit;
    if PARTS == 1 {
        let halves = fill(isa, &mut out[0], isa.to_i32(a), isa.to_i32(b));
        scaled(&mut out[0], d, halves);
    } else {
        // Upper parts are the nearest multiples of the radix; what is left is at most half of it, exactly.
        let share = isa.splat(1.0 / RADIX);
        let (ua, ub) = (isa.to_i32(isa.mul(a, share)), isa.to_i32(isa.mul(b, share)));
        let back = isa.splat(-RADIX);
        let (la, lb) = (isa.fma(isa.to_f32(ua), back, a), isa.fma(isa.to_f32(ub), back, b));
        let upper = fill(isa, &mut out[0], ua, ub);
        let last = &mut out[PARTS - 1];
        let lower = fill(isa, last, isa.to_i32(la), isa.to_i32(lb));
        (last.d, last.ds, last.halves) = (0.0, 0.0, [0; 2]);
        scaled(&mut out[0], d, [256 * upper[0] + lower[0], 256 * upper[1] + lower[1]]);
    }
}

#[inline(always)]
fn scaled(out: &mut ActBlock, d: f32, halves: [i32; 2]) {
    (out.d, out.ds, out.halves) = (d, d * (halves[0] + halves[1]) as f32, halves);
}

/// Writes 32 integers and returns the sums of their halves.
#[inline(always)]
fn fill<I: Isa>(isa: I, out: &mut ActBlock, a: I::I, b: I::I) -> [i32; 2] {
    let mut q = [[0i32; LANES]; 2];
    isa.istore(a, &mut q[0]);
    isa.istore(b, &mut q[1]);
    let mut halves = [0; 2];
    for (half, sum) in q.iter_mut().zip(&mut halves) {
        for q in half {
            // In range by construction; a NaN or an infinity among the activations must not reach -128.
            *q = (*q).clamp(-127, 127);
            *sum += *q;
        }
    }
    for (to, from) in out.q.as_flattened_mut().iter_mut().zip(q.as_flattened()) {
        *to = *from as i8;
    }
    halves
}
