//! The activation functions of the MLP.

use super::exp::exp;
use super::{map, zip};
use crate::isa::Isa;

/// SiLU: x · σ(x) (Elfwing et al. 2017).
#[inline(always)]
fn silu<I: Isa>(isa: I, x: I::F) -> I::F {
    let e = exp(isa, isa.sub(isa.splat(0.0), x));
    isa.div(x, isa.add(isa.splat(1.0), e))
}

/// GELU in its tanh form (Hendrycks and Gimpel 2016): 0.5 x (1 + tanh u) = x · σ(2u), u = √(2/π)(x + 0.044715 x³).
#[inline(always)]
fn gelu<I: Isa>(isa: I, x: I::F) -> I::F {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let x2 = isa.mul(x, x);
    let inner = isa.fma(isa.splat(0.044_715), x2, isa.splat(1.0));
    let u2 = isa.mul(isa.mul(x, isa.splat(-TWO_SQRT_2_OVER_PI)), inner);
    isa.div(x, isa.add(isa.splat(1.0), exp(isa, u2)))
}

/// `gate = silu(gate) · up`.
#[inline(always)]
pub(crate) fn silu_mul<I: Isa>(isa: I, gate: &mut [f32], up: &[f32]) {
    zip!(isa, gate, up, |g, u| isa.mul(silu(isa, g), u));
}

/// `gate = gelu(gate) · up`.
#[inline(always)]
pub(crate) fn gelu_mul<I: Isa>(isa: I, gate: &mut [f32], up: &[f32]) {
    zip!(isa, gate, up, |g, u| isa.mul(gelu(isa, g), u));
}

/// `x = silu(x)`.
#[inline(always)]
pub(crate) fn silu_in_place<I: Isa>(isa: I, x: &mut [f32]) {
    map!(isa, x, |v| silu(isa, v));
}

/// `x = gelu(x)`.
#[inline(always)]
pub(crate) fn gelu_in_place<I: Isa>(isa: I, x: &mut [f32]) {
    map!(isa, x, |v| gelu(isa, v));
}
