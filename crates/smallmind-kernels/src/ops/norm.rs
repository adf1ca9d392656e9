//! Root-mean-square and layer normalization of one row.

use crate::isa::{Isa, LANES, sum};

/// Σ f(x[i]) over 16 lanes and the fixed tree.
#[inline(always)]
fn reduce<I: Isa>(isa: I, x: &[f32], f: impl Fn(I::F, I::F) -> I::F, pad: f32) -> f32 {
    let (body, tail) = x.as_chunks::<LANES>();
    let mut acc = isa.splat(0.0);
    for v in body {
        acc = f(isa.load(v), acc);
    }
    if !tail.is_empty() {
        let mut v = [pad; LANES];
        v[..tail.len()].copy_from_slice(tail);
        acc = f(isa.load(&v), acc);
    }
    sum(isa, acc)
}

/// `out = x / √(mean(x²) + eps) · weight` (Zhang and Sennrich 2019). All of one length.
#[inline(always)]
pub(crate) fn rms_norm<I: Isa>(isa: I, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let squares = reduce(isa, x, |v, acc| isa.fma(v, v, acc), 0.0);
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    let s = isa.splat(scale);
    out.copy_from_slice(x);
    super::zip(isa, out, weight, |v, w| isa.mul(isa.mul(v, s), w));
}

/// `out = (x − mean) / √(variance + eps) · weight + bias` (Ba et al. 2016). All of one length.
#[inline(always)]
pub(crate) fn layer_norm<I: Isa>(isa: I, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = reduce(isa, x, |v, acc| isa.add(v, acc), 0.0) / n;
    let m = isa.splat(mean);
    // The padding is the mean itself, so that it adds nothing.
    let spread = reduce(
        isa,
        x,
        |v, acc| {
            let d = isa.sub(v, m);
            isa.fma(d, d, acc)
        },
        mean,
    );
    let s = isa.splat(1.0 / (spread / n + eps).sqrt());
    out.copy_from_slice(x);
    super::zip(isa, out, weight, |v, w| isa.mul(isa.mul(isa.sub(v, m), s), w));
    super::zip(isa, out, bias, |v, b| isa.add(v, b));
}
