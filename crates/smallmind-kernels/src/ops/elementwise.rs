//! Sums and scales of vectors.

use super::{map, zip};
use crate::isa::Isa;

/// `x += y`.
#[inline(always)]
pub(crate) fn add<I: Isa>(isa: I, x: &mut [f32], y: &[f32]) {
    zip!(isa, x, y, |a, b| isa.add(a, b));
}

/// `x *= s`.
#[inline(always)]
pub(crate) fn scale<I: Isa>(isa: I, x: &mut [f32], s: f32) {
    map!(isa, x, |a| isa.mul(a, isa.splat(s)));
}
