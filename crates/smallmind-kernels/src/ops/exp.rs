//! The exponential that softmax and the activations share: our own polynomial, so that it has the same bits everywhere.

use crate::isa::Isa;

/// ln 2 in two parts: the first has few bits, so that `n · LN2_HI` is exact for |n| < 2¹⁵.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// What moves whole numbers of magnitudes below 2²² into the lowest bits.
const SHIFT: f32 = 12_582_912.0;

/// e^x for 16 lanes, within 2 ULP for -87 <= x <= 88; clamped outside, so that -∞ gives about 1e-38 and not 0.
///
/// Cody-Waite reduction x = n · ln 2 + r, |r| <= ln 2 / 2, and a polynomial of degree 6 for e^r that begins with 1 + r and
/// whose other coefficients make the largest relative error least: 3.1e-9 (least squares, reweighted by Lawson's
/// algorithm).
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    const C: [f32; 6] = [1.0, 0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_446_7];
    let x = isa.min(isa.max(x, isa.splat(-87.0)), isa.splat(88.0));
    let shifted = isa.fma(x, isa.splat(std::f32::consts::LOG2_E), isa.splat(SHIFT));
    let n = isa.sub(shifted, isa.splat(SHIFT));
    let r = isa.fma(n, isa.splat(-LN2_HI), x);
    power(isa, isa.fma(n, isa.splat(-LN2_LO), r), shifted, C)
}

/// 2^x for 16 lanes, within 2 ULP for -125 <= x <= 127; clamped below, so that -∞ gives about 2e-38 and not 0. More is not
/// allowed. The polynomial is made as that of [`exp`].
#[inline(always)]
pub(crate) fn exp2<I: Isa>(isa: I, x: I::F) -> I::F {
    const C: [f32; 6] = [
        std::f32::consts::LN_2,
        0.240_226_48,
        0.055_503_596,
        0.009_618_518,
        0.001_339_095_9,
        0.000_153_243_15,
    ];
    let x = isa.max(x, isa.splat(-125.0));
    let shifted = isa.add(x, isa.splat(SHIFT));
    power(isa, isa.sub(x, isa.sub(shifted, isa.splat(SHIFT))), shifted, C)
}

/// `(1 + c₀ r + c₁ r² + … + c₅ r⁶) · 2ⁿ`, where `shifted = SHIFT + n`: as few steps after each other as the degree allows.
/// The result is a normal number.
#[inline(always)]
fn power<I: Isa>(isa: I, r: I::F, shifted: I::F, c: [f32; 6]) -> I::F {
    let c = c.map(|c| isa.splat(c));
    let r2 = isa.mul(r, r);
    let (low, middle) = (isa.fma(c[0], r, isa.splat(1.0)), isa.fma(c[2], r, c[1]));
    let high = isa.fma(c[5], r2, isa.fma(c[4], r, c[3]));
    let p = isa.fma(isa.fma(high, r2, middle), r2, low);
    // To the exponent.
    isa.bits_to_f32(isa.iadd(isa.bits(p), isa.ishl::<23>(isa.bits(shifted))))
}
