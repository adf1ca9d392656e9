//! Root-mean-square and layer normalization of one row.

use super::{reduce, zip, zip_into};
use crate::isa::Isa;

/// `out = x / √(mean(x²) + eps) · weight` (Zhang and Sennrich 2019). All of one length.
#[inline(always)]
pub(crate) fn rms_norm<I: Isa>(isa: I, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let squares = reduce!(isa, x, 0.0, |v, acc| isa.fma(v, v, acc));
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    let s = isa.splat(scale);
    zip_into!(isa, out, x, weight, |v, w| isa.mul(isa.mul(v, s), w));
}

/// `out = (x − mean) / √(variance + eps) · weight + bias` (Ba et al. 2016). All of one length.
#[inline(always)]
pub(crate) fn layer_norm<I: Isa>(isa: I, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = reduce!(isa, x, 0.0, |v, acc| isa.add(v, acc)) / n;
    let m = isa.splat(mean);
    // The padding is the mean itself, so that it adds nothing.
    let spread = reduce!(isa, x, mean, |v, acc| {
        let d = isa.sub(v, m);
        isa.fma(d, d, acc)
    });
    let s = isa.splat(1.0 / (spread / n + eps).sqrt());
    zip_into!(isa, out, x, weight, |v, w| isa.mul(isa.mul(isa.sub(v, m), s), w));
    zip!(isa, out, bias, |v, b| isa.add(v, b));
}
