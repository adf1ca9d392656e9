//! Activations to integers of 15 bits with a scale for each token (`matmul::acts`).

use crate::isa::{Isa, LANES, max_lane};
use crate::matmul::acts::{ActMeta, ActQuants, LARGEST, PARTS, RADIX, SPAN};

/// Vectors of a span.
const VECTORS: usize = SPAN / LANES;

/// Quantizes a part of one row, from span `first` on as many as the slices hold, into row `row` of a tile of `height`
/// rows: `d = max|x| / 16,256` of the whole row and `Q = x · (16,256 / max|x|)`, cut into the nearest multiple of 128 and
/// what is left, each to nearest even. `Q = 0` where that factor overflows (`max|x| < 5e-35`). Values past the row are
/// zero.
#[inline(always)]
pub(crate) fn quantize<I: Isa>(
    isa: I,
    x: &[f32],
    first: usize,
    height: usize,
    row: usize,
    quants: &mut [ActQuants],
    metas: &mut [ActMeta],
) {
    let zero = isa.splat(0.0);
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    // Several chains: one would wait for itself.
    let mut abs = [zero; VECTORS];
    for (i, x) in whole.iter().chain([&last]).enumerate() {
        let x = isa.load(x);
        abs[i % VECTORS] = isa.max(isa.max(x, isa.sub(zero, x)), abs[i % VECTORS]);
    }
    let max = max_lane(isa, isa.max(isa.max(abs[0], abs[1]), isa.max(abs[2], abs[3])));
    // For a tiny maximum there is no such factor: zeros, not what infinity times them rounds to.
    let factor = LARGEST / max;
    let factor = isa.splat(if factor.is_finite() { factor } else { 0.0 });
    let d = max / LARGEST;
    let spans = quants.chunks_exact_mut(PARTS * height).zip(metas.chunks_exact_mut(2 * height));
    for (i, (quants, metas)) in spans.enumerate() {
        let x = x.get((first + i) * SPAN..).unwrap_or_default();
        let (hi, lo) = quants.split_at_mut(height);
        let (hi, lo) = (&mut hi[row].q, &mut lo[row].q);
        let mut sums = [[0; PARTS]; VECTORS];
        if let Some(x) = x.first_chunk::<SPAN>() {
            for (j, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
                sums[j] = vector(isa, isa.mul(isa.load(x), factor), hi, lo, j);
            }
        } else {
            let mut values = [[0.0; LANES]; VECTORS];
            values.as_flattened_mut()[..x.len()].copy_from_slice(x);
            for (j, x) in values.iter().enumerate() {
                sums[j] = vector(isa, isa.mul(isa.load(x), factor), hi, lo, j);
            }
        }
        metas[row] = meta(d, [sums[0], sums[1]]);
        metas[height + row] = meta(d, [sums[2], sums[3]]);
    }
}

/// Of a block whose vectors have these sums of parts.
#[inline(always)]
fn meta(d: f32, [first, last]: [[i32; PARTS]; 2]) -> ActMeta {
    let total = |[hi, lo]: [i32; PARTS]| RADIX * hi + lo;
    let parts = std::array::from_fn(|part| [first[part] as i16, last[part] as i16]);
    ActMeta { d, halves: [total(first), total(last)], parts }
}

/// Writes the parts of vector `j` of a span and returns the sums of either.
#[inline(always)]
fn vector<I: Isa>(isa: I, q: I::F, hi: &mut [[i8; 4]; 16], lo: &mut [[i8; 4]; 16], j: usize) -> [i32; PARTS] {
    let upper = byte(isa, isa.mul(q, isa.splat(1.0 / RADIX as f32)), hi, j);
    // At most half of the radix, and exact.
    let rest = isa.fma(isa.to_f32(upper), isa.splat(-RADIX as f32), q);
    let lower = byte(isa, rest, lo, j);
    [isa.isum(upper), isa.isum(lower)]
}

/// Rounds 16 values to bytes and writes them. In range by construction, but a NaN or an infinity among the activations
/// must not become -128.
#[inline(always)]
fn byte<I: Isa>(isa: I, x: I::F, part: &mut [[i8; 4]; 16], j: usize) -> I::I {
    let within = isa.max(isa.min(x, isa.splat(127.0)), isa.splat(-127.0));
    let integers = isa.to_i32(within);
    let mut lanes = [0; LANES];
    isa.istore_i8(integers, &mut lanes);
    part[4 * j..4 * j + 4].copy_from_slice(lanes.as_chunks::<4>().0);
    integers
}
const _: () = assert!(VECTORS == 4);
