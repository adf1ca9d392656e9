//! Everything of a transformer that is not a matrix product: one body per operation, generic over the ISA.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod exp;
pub(crate) mod norm;
pub(crate) mod quantize;
pub(crate) mod rope;

use crate::isa::{Isa, LANES};

/// Calls `f` on 16 values at a time, the rest padded with zeros: the same operations for the tail as for the body.
#[inline(always)]
pub(crate) fn map<I: Isa>(isa: I, x: &mut [f32], f: impl Fn(I::F) -> I::F) {
    let (body, tail) = x.as_chunks_mut::<LANES>();
    for v in body {
        let y = f(isa.load(v));
        isa.store(y, v);
    }
    if !tail.is_empty() {
        let mut v = [0.0; LANES];
        v[..tail.len()].copy_from_slice(tail);
        let y = f(isa.load(&v));
        isa.store(y, &mut v);
        tail.copy_from_slice(&v[..tail.len()]);
    }
}

/// `x[i] = f(x[i], y[i])` on the shorter of the two lengths.
#[inline(always)]
pub(crate) fn zip<I: Isa>(isa: I, x: &mut [f32], y: &[f32], f: impl Fn(I::F, I::F) -> I::F) {
    let n = x.len().min(y.len());
    let (xs, xt) = x[..n].as_chunks_mut::<LANES>();
    let (ys, yt) = y[..n].as_chunks::<LANES>();
    for (a, b) in xs.iter_mut().zip(ys) {
        let v = f(isa.load(a), isa.load(b));
        isa.store(v, a);
    }
    if !xt.is_empty() {
        let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
        a[..xt.len()].copy_from_slice(xt);
        b[..yt.len()].copy_from_slice(yt);
        let v = f(isa.load(&a), isa.load(&b));
        isa.store(v, &mut a);
        xt.copy_from_slice(&a[..xt.len()]);
    }
}
