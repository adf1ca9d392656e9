//! Rotary position embedding (Su et al. 2021) of one head.

use crate::isa::{Isa, LANES};

/// Turns the pairs (x[i], x[i + half]) by the angles whose cosines and sines are given, `half = cos.len()`; values past
/// `2 · half` stay. Weights of the interleaved convention are reordered at load
/// ([`crate::matmul::RowOrder::PairsToHalves`]), so this form serves both.
#[inline(always)]
pub(crate) fn rope<I: Isa>(isa: I, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (a, rest) = x.split_at_mut(half);
    let b = &mut rest[..half];
    let (ac, at) = a.as_chunks_mut::<LANES>();
    let (bc, bt) = b.as_chunks_mut::<LANES>();
    let (cc, ct) = cos.as_chunks::<LANES>();
    let (sc, st) = sin.as_chunks::<LANES>();
    for (((a, b), c), s) in ac.iter_mut().zip(bc).zip(cc).zip(sc) {
        let (x, y, c, s) = (isa.load(a), isa.load(b), isa.load(c), isa.load(s));
        isa.store(isa.sub(isa.mul(x, c), isa.mul(y, s)), a);
        isa.store(isa.add(isa.mul(x, s), isa.mul(y, c)), b);
    }
    for (((a, b), c), s) in at.iter_mut().zip(bt).zip(ct).zip(st) {
        let (x, y) = (*a, *b);
        *a = x * c - y * s;
        *b = x * s + y * c;
    }
}
