//! What training needs beside the forward pass's operations: softmax over whole rows, and the derivatives of the
//! activations, of softmax and of the norms. Sums over rows are the caller's, in its order.

use super::exp::exp;
use super::{map, reduce, zip};
use crate::isa::{Isa, LANES};

/// Σ x·y, 16 partial sums folded by the fixed tree. Both of one length.
#[inline(always)]
fn dot<I: Isa>(isa: I, x: &[f32], y: &[f32]) -> f32 {
    let (xs, xt) = x.as_chunks::<LANES>();
    let (ys, yt) = y.as_chunks::<LANES>();
    let mut acc = isa.splat(0.0);
    for (x, y) in xs.iter().zip(ys) {
        acc = isa.fma(isa.load(x), isa.load(y), acc);
    }
    if !xt.is_empty() {
        let (mut x, mut y) = ([0.0; LANES], [0.0; LANES]);
        x[..xt.len()].copy_from_slice(xt);
        y[..yt.len()].copy_from_slice(yt);
        acc = isa.fma(isa.load(&x), isa.load(&y), acc);
    }
    isa.sum(acc)
}

/// `x = softmax(scale · x)`; `log_sum` becomes ln Σ exp(scale · x).
#[inline(always)]
pub(crate) fn softmax<I: Isa>(isa: I, x: &mut [f32], scale: f32, log_sum: &mut f32) {
    let (whole, tail) = x.as_chunks::<LANES>();
    let mut top = isa.splat(f32::NEG_INFINITY);
    for lanes in whole {
        top = isa.max(isa.load(lanes), top);
    }
    let mut most = isa.max_lane(top);
    for v in tail {
        most = if *v > most { *v } else { most };
    }
    let (s, m) = (isa.splat(scale), isa.splat(-most * scale));
    map!(isa, x, |v| exp(isa, isa.fma(v, s, m)));
    let total = reduce!(isa, x, 0.0, |v, acc| isa.add(v, acc));
    let inverse = isa.splat(1.0 / total);
    map!(isa, x, |v| isa.mul(v, inverse));
    *log_sum = f64::from(total).ln() as f32 + most * scale;
}

/// For each lane: `inside` for it and those before it, `outside` behind it.
const fn up_to(inside: f32, outside: f32) -> [[f32; LANES]; LANES] {
    let mut rows = [[outside; LANES]; LANES];
    let mut i = 0;
    while i < LANES * LANES {
        if i % LANES <= i / LANES {
            rows[i / LANES][i % LANES] = inside;
        }
        i += 1;
    }
    rows
}

/// Added to a vector: takes away what is behind a lane.
const TAKE_AWAY: [[f32; LANES]; LANES] = up_to(0.0, f32::NEG_INFINITY);
/// Multiplied by one: the same for powers, of which the least is not 0.
const KEEP: [[f32; LANES]; LANES] = up_to(1.0, 0.0);

/// Row `i` of `x`, rows `stride` values apart: `softmax(scale · x)` of the first `from + i + 1` values, then zeros to the
/// end of the vector and of the next one. Values up to the end of the last vector that counts are numbers.
#[inline(always)]
pub(crate) fn causal_softmax<I: Isa>(isa: I, x: &mut [f32], stride: usize, from: usize, scale: f32) {
    for (i, row) in x.chunks_exact_mut(stride).enumerate() {
        let (last, lane) = ((from + i) / LANES, (from + i) % LANES);
        let (row, _) = row.as_chunks_mut::<LANES>();
        let (row, behind) = row.split_at_mut(last + 1);
        let end = isa.add(isa.load(&row[last]), isa.load(&TAKE_AWAY[lane]));
        let mut top = end;
        for lanes in &row[..last] {
            top = isa.max(isa.load(lanes), top);
        }
        let (s, m) = (isa.splat(scale), isa.splat(-isa.max_lane(top) * scale));
        let mut total = isa.splat(0.0);
        for lanes in &mut row[..last] {
            let power = exp(isa, isa.fma(isa.load(lanes), s, m));
            total = isa.add(power, total);
            isa.store(power, lanes);
        }
        let power = isa.mul(exp(isa, isa.fma(end, s, m)), isa.load(&KEEP[lane]));
        isa.store(power, &mut row[last]);
        let inverse = isa.splat(1.0 / isa.sum(isa.add(power, total)));
        for lanes in row {
            isa.store(isa.mul(isa.load(lanes), inverse), lanes);
        }
        if let Some(next) = behind.first_mut() {
            *next = [0.0; LANES];
        }
    }
}

/// The derivative of `p = softmax(scale · x)` as [`causal_softmax`] makes it: `dp = p · (dp − Σ p·dp) · scale`, which is
/// that of `x`, and the same zeros.
#[inline(always)]
pub(crate) fn causal_softmax_back<I: Isa>(
    isa: I,
    p: &[f32],
    dp: &mut [f32],
    stride: usize,
    from: usize,
    scale: f32,
) {
    let s = isa.splat(scale);
    for (i, (p, dp)) in p.chunks_exact(stride).zip(dp.chunks_exact_mut(stride)).enumerate() {
        let vectors = (from + i) / LANES + 1;
        let (p, _) = p[..vectors * LANES].as_chunks::<LANES>();
        let (dp, _) = dp.as_chunks_mut::<LANES>();
        let (dp, behind) = dp.split_at_mut(vectors);
        let mut mean = isa.splat(0.0);
        for (p, dp) in p.iter().zip(&*dp) {
            mean = isa.fma(isa.load(p), isa.load(dp), mean);
        }
        let mean = isa.splat(isa.sum(mean));
        for (p, dp) in p.iter().zip(dp) {
            isa.store(isa.mul(isa.mul(isa.load(p), isa.sub(isa.load(dp), mean)), s), dp);
        }
        if let Some(next) = behind.first_mut() {
            *next = [0.0; LANES];
        }
    }
}

/// `dy = dy · gelu'(x)`: with σ = σ(2u) of the tanh form, σ + x · σ (1 − σ) · 2u'.
#[inline(always)]
pub(crate) fn gelu_back<I: Isa>(isa: I, x: &[f32], dy: &mut [f32]) {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    zip!(isa, dy, x, |d, x| {
        let x2 = isa.mul(x, x);
        let one = isa.splat(1.0);
        let inner = isa.fma(isa.splat(0.044_715), x2, one);
        let u2 = isa.mul(isa.mul(x, isa.splat(-TWO_SQRT_2_OVER_PI)), inner);
        let s = isa.div(one, isa.add(one, exp(isa, u2)));
        let slope = isa.mul(isa.fma(isa.splat(3.0 * 0.044_715), x2, one), isa.splat(TWO_SQRT_2_OVER_PI));
        let rest = isa.mul(isa.mul(x, s), isa.mul(isa.sub(one, s), slope));
        isa.mul(d, isa.add(s, rest))
    });
}

/// `dy = dy · silu'(x)`: σ (1 + x (1 − σ)).
#[inline(always)]
pub(crate) fn silu_back<I: Isa>(isa: I, x: &[f32], dy: &mut [f32]) {
    zip!(isa, dy, x, |d, x| {
        let one = isa.splat(1.0);
        let s = isa.div(one, isa.add(one, exp(isa, isa.sub(isa.splat(0.0), x))));
        isa.mul(d, isa.mul(s, isa.fma(x, isa.sub(one, s), one)))
    });
}

/// `sum[j] += Σ x[i · stride + j]`, rows ascending.
#[inline(always)]
pub(crate) fn column_sums<I: Isa>(isa: I, x: &[f32], stride: usize, sum: &mut [f32]) {
    let (fours, rest) = sum.as_chunks_mut::<{ 4 * LANES }>();
    let done = fours.len() * 4 * LANES;
    for (i, four) in fours.iter_mut().enumerate() {
        let (lanes, _) = four.as_chunks_mut::<LANES>();
        let mut acc = [isa.load(&lanes[0]), isa.load(&lanes[1]), isa.load(&lanes[2]), isa.load(&lanes[3])];
        for row in x.chunks(stride) {
            let (row, _) = row[i * 4 * LANES..][..4 * LANES].as_chunks::<LANES>();
            for v in 0..4 {
                acc[v] = isa.add(acc[v], isa.load(&row[v]));
            }
        }
        for v in 0..4 {
            isa.store(acc[v], &mut lanes[v]);
        }
    }
    for row in x.chunks(stride) {
        rest.iter_mut().zip(&row[done..]).for_each(|(s, v)| *s += v);
    }
}

/// The numbers of one step of AdamW (Loshchilov and Hutter 2019) as PyTorch computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Gradients are multiplied by it first.
    pub scale: f32,
    /// 1 − β₁.
    pub one_b1: f32,
    /// β₂, and 1 − β₂.
    pub b2: f32,
    /// See above.
    pub one_b2: f32,
    /// What a weight keeps of itself.
    pub keep: f32,
    /// The learning rate by the bias correction of the first mean.
    pub size: f32,
    /// 1 by the root of the bias correction of the second.
    pub root: f32,
    /// Added to the root of the mean square.
    pub eps: f32,
}

/// `m += (g − m)(1 − β₁)`, `v = β₂ v + (1 − β₂) g²`, `w = keep · w − size · m / (√v · root + eps)`, with `g` scaled.
#[inline(always)]
pub(crate) fn adamw<I: Isa>(_isa: I, s: &AdamStep, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    // Plain operations in their own order, which the compiler takes side by side.
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
        let g = g * s.scale;
        *m += (g - *m) * s.one_b1;
        *v = *v * s.b2 + g * g * s.one_b2;
        *w = *w * s.keep - s.size * (*m / (v.sqrt() * s.root + s.eps));
    }
}

/// RMSNorm's derivative: with r = 1/√(mean(x²) + eps) and g = dy · weight, `dx += r (g − x r² mean(g·x))`, and
/// `dweight += dy · x · r`.
#[inline(always)]
pub(crate) fn rms_norm_back<I: Isa>(
    isa: I,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
) {
    let n = x.len() as f32;
    let r = 1.0 / (dot(isa, x, x) / n + eps).sqrt();
    let mut product = isa.splat(0.0);
    let mut parts = [[0.0f32; LANES]; 3];
    for at in (0..x.len()).step_by(LANES) {
        let [x, w, d] = lanes3(isa, [x, weight, dy], at, &mut parts);
        product = isa.fma(isa.mul(d, w), x, product);
    }
    let back = isa.splat(isa.sum(product) / n * r * r);
    let r = isa.splat(r);
    for at in (0..x.len()).step_by(LANES) {
        let [x, w, d] = lanes3(isa, [x, weight, dy], at, &mut parts);
        let of_x = isa.mul(r, isa.sub(isa.mul(d, w), isa.mul(x, back)));
        add_lanes(isa, dx, at, of_x);
        add_lanes(isa, dweight, at, isa.mul(d, isa.mul(x, r)));
    }
}

/// LayerNorm's derivative: with x̂ = (x − mean) r and g = dy · weight, `dx += r (g − mean(g) − x̂ mean(g·x̂))`,
/// `dweight += dy · x̂` and `dbias += dy`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a norm has that many sides")]
pub(crate) fn layer_norm_back<I: Isa>(
    isa: I,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let n = x.len() as f32;
    let mean = reduce!(isa, x, 0.0, |v, acc| isa.add(v, acc)) / n;
    let m = isa.splat(mean);
    let spread = reduce!(isa, x, mean, |v, acc| {
        let d = isa.sub(v, m);
        isa.fma(d, d, acc)
    });
    let r = isa.splat(1.0 / (spread / n + eps).sqrt());
    let (mut g_sum, mut gx_sum) = (isa.splat(0.0), isa.splat(0.0));
    let mut parts = [[0.0f32; LANES]; 3];
    for at in (0..x.len()).step_by(LANES) {
        // Beyond the end `dy` is 0, so nothing is added there.
        let [x, w, d] = lanes3(isa, [x, weight, dy], at, &mut parts);
        let g = isa.mul(d, w);
        g_sum = isa.add(g_sum, g);
        gx_sum = isa.fma(g, isa.mul(isa.sub(x, m), r), gx_sum);
    }
    let (g_mean, gx_mean) = (isa.splat(isa.sum(g_sum) / n), isa.splat(isa.sum(gx_sum) / n));
    for at in (0..x.len()).step_by(LANES) {
        let [x, w, d] = lanes3(isa, [x, weight, dy], at, &mut parts);
        let unit = isa.mul(isa.sub(x, m), r);
        let of_x = isa.mul(r, isa.sub(isa.sub(isa.mul(d, w), g_mean), isa.mul(unit, gx_mean)));
        add_lanes(isa, dx, at, of_x);
        add_lanes(isa, dweight, at, isa.mul(d, unit));
        add_lanes(isa, dbias, at, d);
    }
}

/// 16 values of each of three slices from `at` on, zeros beyond their end.
#[inline(always)]
fn lanes3<I: Isa>(isa: I, slices: [&[f32]; 3], at: usize, room: &mut [[f32; LANES]; 3]) -> [I::F; 3] {
    let mut out = [isa.splat(0.0); 3];
    for i in 0..3 {
        let rest = &slices[i][at..];
        out[i] = match rest.first_chunk::<LANES>() {
            Some(whole) => isa.load(whole),
            None => {
                room[i] = [0.0; LANES];
                room[i][..rest.len()].copy_from_slice(rest);
                isa.load(&room[i])
            }
        };
    }
    out
}

/// `out[at..at + 16] += v`, as far as there is room.
#[inline(always)]
fn add_lanes<I: Isa>(isa: I, out: &mut [f32], at: usize, v: I::F) {
    let rest = &mut out[at..];
    if let Some(whole) = rest.first_chunk_mut::<LANES>() {
        let added = isa.add(isa.load(whole), v);
        return isa.store(added, whole);
    }
    let mut lanes = [0.0; LANES];
    isa.store(v, &mut lanes);
    for (o, v) in rest.iter_mut().zip(lanes) {
        *o += v;
    }
}
