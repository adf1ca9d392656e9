//! Activations to integers of 11 bits, per 128 values (`matmul::acts`).

use crate::isa::{Isa, LANES, max_lane};
use crate::matmul::acts::{ActMeta, ActQuants, BLOCK, LARGEST, RADIX, SCALED};

/// Quantizes one row into row `row` of a tile of `height` rows, whose slices are given whole: per group of 128 values
/// `d = max|x| / 1,016` and `Q = x · (1,016 / max|x|)`, cut into the nearest multiple of 8 and what is left, each to
/// nearest even. `Q = 0` where that factor overflows (`max|x| < 3e-36`). Blocks past the row become zero.
#[inline(always)]
pub(crate) fn quantize<I: Isa>(
    isa: I,
    x: &[f32],
    height: usize,
    row: usize,
    quants: &mut [ActQuants],
    metas: &mut [ActMeta],
) {
    let mut blocks = quants.chunks_exact_mut(height).zip(metas.chunks_exact_mut(height));
    for x in x.chunks(SCALED * BLOCK) {
        let mut values = [[0.0; LANES]; SCALED * BLOCK / LANES];
        let whole = x.len() / LANES;
        for (to, from) in values.iter_mut().zip(x.as_chunks::<LANES>().0) {
            *to = *from;
        }
        if let Some(last) = values.get_mut(whole) {
            last[..x.len() % LANES].copy_from_slice(&x[whole * LANES..]);
        }
        group(isa, &values, x.len().div_ceil(BLOCK), row, &mut blocks);
    }
    for (quants, metas) in blocks {
        (quants[row], metas[row]) = (ActQuants::ZERO, ActMeta::ZERO);
    }
}

#[inline(always)]
fn group<'a, I: Isa>(
    isa: I,
    x: &[[f32; LANES]; SCALED * BLOCK / LANES],
    filled: usize,
    row: usize,
    blocks: &mut impl Iterator<Item = (&'a mut [ActQuants], &'a mut [ActMeta])>,
) {
    let zero = isa.splat(0.0);
    let mut abs = zero;
    for x in x {
        let x = isa.load(x);
        abs = isa.max(isa.max(x, isa.sub(zero, x)), abs);
    }
    let max = max_lane(isa, abs);
    // For a tiny maximum there is no such factor: zeros, not what infinity times them rounds to.
    let factor = LARGEST / max;
    let factor = isa.splat(if factor.is_finite() { factor } else { 0.0 });
    let d = max / LARGEST;
    for ((quants, metas), x) in blocks.take(filled).zip(x.as_chunks::<2>().0) {
        let q = &mut quants[row];
        let a = half(isa, isa.mul(isa.load(&x[0]), factor), &mut q.hi, &mut q.lo, 0);
        let b = half(isa, isa.mul(isa.load(&x[1]), factor), &mut q.hi, &mut q.lo, 4);
        metas[row] = ActMeta { d, sum: (a + b) as f32, halves: [a, b] };
    }
}

/// Writes the parts of 16 values from `at` on and returns the sum of their `Q`.
#[inline(always)]
fn half<I: Isa>(isa: I, q: I::F, hi: &mut [[i8; 4]; 8], lo: &mut [[i8; 4]; 8], at: usize) -> i32 {
    let upper = byte(isa, isa.mul(q, isa.splat(1.0 / RADIX as f32)), hi, at);
    // At most half of the radix, and exact.
    let rest = isa.fma(isa.to_f32(upper), isa.splat(-RADIX as f32), q);
    let lower = byte(isa, rest, lo, at);
    isa.isum(isa.iadd(isa.ishl::<3>(upper), lower))
}

/// Rounds 16 values to bytes and writes them. In range by construction, but a NaN or an infinity among the activations
/// must not become -128.
#[inline(always)]
fn byte<I: Isa>(isa: I, x: I::F, part: &mut [[i8; 4]; 8], at: usize) -> I::I {
    let within = isa.max(isa.min(x, isa.splat(127.0)), isa.splat(-127.0));
    let integers = isa.to_i32(within);
    let mut lanes = [0; LANES];
    isa.istore_i8(integers, &mut lanes);
    part[at..at + 4].copy_from_slice(lanes.as_chunks::<4>().0);
    integers
}
const _: () = assert!(RADIX == 1 << 3);
