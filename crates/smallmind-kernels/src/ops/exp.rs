//! The exponential that softmax and the activations share: our own polynomial, so that it has the same bits everywhere.

use crate::isa::Isa;

/// ln 2 in two parts: the first has few bits, so that `n · LN2_HI` is exact for |n| < 2¹⁵.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// e^x for 16 lanes, within 2 ULP for -87 <= x <= 88; clamped outside, so that -∞ gives about 1e-38 and not 0.
///
/// Cody-Waite reduction x = n · ln 2 + r, |r| <= ln 2 / 2, and the Taylor polynomial of degree 7 of e^r
/// (remainder below r⁸/8! = 5e-9 relative).
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    let x = isa.min(isa.max(x, isa.splat(-87.0)), isa.splat(88.0));
    let n = isa.to_i32(isa.mul(x, isa.splat(std::f32::consts::LOG2_E)));
    let nf = isa.to_f32(n);
    let r = isa.fma(nf, isa.splat(-LN2_HI), x);
    let r = isa.fma(nf, isa.splat(-LN2_LO), r);
    let mut p = isa.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = isa.fma(p, r, isa.splat(c));
    }
    // 2^n by its bits: -126 <= n <= 127.
    let two_n = isa.bits_to_f32(isa.ishl::<23>(isa.iadd(n, isa.isplat(127))));
    isa.mul(p, two_n)
}
