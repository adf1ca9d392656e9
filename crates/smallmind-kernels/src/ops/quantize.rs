//! Activations to integers of 15 bits with a scale for each token (`matmul::acts`).

use crate::isa::{Isa, LANES};
use crate::matmul::acts::{ActMeta, ActQuants, LARGEST, PARTS, SPAN};

/// Vectors of a span.
const VECTORS: usize = SPAN / LANES;

/// Quantizes a part of one row, from span `first` on as many as the slices hold, into row `row` of a tile of `height`
/// rows: `d = max|x| / 16,256` of the whole row and `Q = x · (16,256 / max|x|)` to nearest even, cut into a multiple of
/// 128 and what is left, at least -64 and less than 64. `Q = 0` where that factor overflows (`max|x| < 5e-35`). Values past
/// the row are zero.
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
    let max = largest(isa, x);
    // For a tiny maximum there is no such factor: zeros, not what infinity times them rounds to.
    let factor = LARGEST / max;
    let factor = isa.splat(if factor.is_finite() { factor } else { 0.0 });
    let d = max / LARGEST;
    let spans = quants.chunks_exact_mut(PARTS * height).zip(metas.chunks_exact_mut(2 * height));
    for (i, (quants, metas)) in spans.enumerate() {
        let x = x.get((first + i) * SPAN..).unwrap_or_default();
        let (hi, lo) = quants.split_at_mut(height);
        let (hi, lo) = (hi[row].sixteens_mut(), lo[row].sixteens_mut());
        let (first, second) = metas.split_at_mut(height);
        let metas = [&mut first[row], &mut second[row]];
        match x.first_chunk() {
            Some(x) => span(isa, x, (factor, d), hi, lo, metas),
            None => span(isa, &padded(x), (factor, d), hi, lo, metas),
        }
    }
}

/// `max |x|`; what is no number does not count.
#[inline(always)]
fn largest<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let zero = isa.splat(0.0);
    let (whole, rest) = x.as_chunks::<SPAN>();
    // Several chains: one would wait for itself. The largest and the least are less work than what is positive of each.
    let (mut most, mut least) = ([zero; VECTORS], [zero; VECTORS]);
    for x in whole {
        extremes(isa, x, &mut most, &mut least);
    }
    if !rest.is_empty() {
        extremes(isa, &padded(rest), &mut most, &mut least);
    }
    for (most, least) in most.iter_mut().zip(least) {
        *most = isa.max(*most, isa.sub(zero, least));
    }
    isa.max_lane(isa.max(isa.max(most[0], most[1]), isa.max(most[2], most[3])))
}

#[inline(always)]
fn extremes<I: Isa>(isa: I, x: &[f32; SPAN], most: &mut [I::F; VECTORS], least: &mut [I::F; VECTORS]) {
    for ((x, most), least) in x.as_chunks().0.iter().zip(most).zip(least) {
        let x = isa.load(x);
        (*most, *least) = (isa.max(x, *most), isa.min(x, *least));
    }
}

/// A span that begins with these values.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; SPAN] {
    let mut values = [0.0; SPAN];
    values[..x.len()].copy_from_slice(x);
    values
}

/// Writes the parts of a span, and what belongs to its two blocks.
#[inline(always)]
fn span<I: Isa>(
    isa: I,
    x: &[f32; SPAN],
    (factor, d): (I::F, f32),
    hi: &mut [[i8; LANES]; VECTORS],
    lo: &mut [[i8; LANES]; VECTORS],
    metas: [&mut ActMeta; 2],
) {
    let mut integers = [isa.isplat(0); VECTORS];
    for (q, x) in integers.iter_mut().zip(x.as_chunks().0) {
        // In range by construction, but a NaN among the activations, or what infinity makes one, counts as the largest.
        *q = isa.to_i32(isa.min(isa.mul(isa.load(x), factor), isa.splat(LARGEST)));
    }
    let [first, second] = metas;
    (first.d, second.d) = (d, d);
    isa.cut(integers, hi, lo, [&mut first.sums, &mut second.sums]);
}
const _: () = assert!(VECTORS == 4);
