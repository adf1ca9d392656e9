//! Activations to 8-bit integers, per block of 32.

use crate::isa::{Isa, LANES, max_lane};
use crate::matmul::format::{ActBlock, BLOCK};

/// Quantizes one row: `d = max|x| / 127` in f32, `q = round(x · 127 / max|x|)` to nearest even, so |q| <= 127;
/// `q = 0` where `127 / max|x|` overflows (`max|x| < 4e-37`).
///
/// `out` has [`crate::matmul::act_blocks`] blocks; those past the row become zero.
#[inline(always)]
pub(crate) fn quantize<I: Isa>(isa: I, x: &[f32], out: &mut [ActBlock]) {
    let (body, tail) = x.as_chunks::<BLOCK>();
    let mut blocks = out.iter_mut();
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
        *b = ActBlock::ZERO;
    }
}

#[inline(always)]
fn block<I: Isa>(isa: I, x: &[f32; BLOCK], out: &mut ActBlock) {
    let [lo, hi] = halves(x);
    let (lo, hi) = (isa.load(lo), isa.load(hi));
    let zero = isa.splat(0.0);
    let abs = isa.max(isa.max(lo, isa.sub(zero, lo)), isa.max(hi, isa.sub(zero, hi)));
    let max = max_lane(isa, abs);
    // Below 127 / f32::MAX (4e-37) there is no such factor: zeros, not what infinity times them rounds to.
    let inverse = 127.0 / max;
    let inverse = isa.splat(if inverse.is_finite() { inverse } else { 0.0 });
    let (mut a, mut b) = ([0i32; LANES], [0i32; LANES]);
    isa.istore(isa.to_i32(isa.mul(lo, inverse)), &mut a);
    isa.istore(isa.to_i32(isa.mul(hi, inverse)), &mut b);
    let (mut sa, mut sb) = (0i32, 0i32);
    for i in 0..LANES {
        // In range by construction; a NaN or an infinity among the activations must not reach -128.
        let (qa, qb) = (a[i].clamp(-127, 127), b[i].clamp(-127, 127));
        out.q[i / 4][i % 4] = qa as i8;
        out.q[4 + i / 4][i % 4] = qb as i8;
        sa += qa;
        sb += qb;
    }
    out.d = max / 127.0;
    out.halves = [sa, sb];
    out.ds = out.d * (sa + sb) as f32;
}

#[inline(always)]
fn halves(x: &[f32; BLOCK]) -> [&[f32; LANES]; 2] {
    let (v, _) = x.as_chunks::<LANES>();
    [&v[0], &v[1]]
}
