//! The search behind the K types' quantizers: weighted least squares, first for the scale (and minimum) of each
//! sub-block, then for the F16 scale (and minimum) of the super-block given the rounded ones. Knows no packing.
//!
//! A value's weight is `sqrt(mean square of its sub-block + x²)`: large weights of a model matter more, without
//! letting them decide alone. Where the importance of each column is known (the mean square of what it is multiplied
//! by), it multiplies that weight, with the mean square of the whole block: sub-blocks then count as they matter. Everything is plain `f32` arithmetic in a fixed order, so results do not depend on
//! the machine.

use super::{Form, MAX_BLOCK_LEN, MAX_GROUPS, Offset, Unpacked};
use crate::half::{F16_MAX, f16_to_f32, f32_to_f16};

/// Beyond what any type can hold, yet small enough for sums of products of 256 values to stay finite.
const BEYOND: f32 = 1e9;
/// Spans below this vanish against the smallest F16 scale; dividing by them could overflow.
const NOTHING: f32 = 1e-20;
/// How often the super-block's scale is fitted again to the quants that it led to.
const ROUNDS: usize = 4;

/// `x` as quantizers see it: NaN is 0, and infinities are numbers.
pub(super) fn finite(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(-BEYOND, BEYOND) }
}

/// `d` clamped to the range of F16 (not rounded to it).
pub(super) fn f16_scale(d: f32) -> f32 {
    d.clamp(-F16_MAX, F16_MAX)
}

/// The nearest integer of `low..=high` (both below 2^22 in magnitude): adding 1.5 * 2^23 leaves no fraction bits.
#[inline]
pub(super) fn nearest(v: f32, low: f32, high: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (v.clamp(low, high) + NO_FRACTION) - NO_FRACTION
}

/// Values of a super-block and the weights of their errors.
struct Weighted {
    x: [f32; MAX_BLOCK_LEN],
    w: [f32; MAX_BLOCK_LEN],
}

impl Weighted {
    fn new(form: &Form, x: &[f32], importance: Option<&[f32]>) -> Weighted {
        let mut v = Weighted { x: [0.0; MAX_BLOCK_LEN], w: [0.0; MAX_BLOCK_LEN] };
        v.x.iter_mut().zip(x).for_each(|(to, &from)| *to = finite(from));
        if let Some(importance) = importance {
            let mean_square = v.x.iter().map(|x| x * x).sum::<f32>() / form.len as f32;
            for ((w, x), importance) in v.w.iter_mut().zip(&v.x).zip(importance) {
                *w = importance * (mean_square + x * x).sqrt();
            }
            return v;
        }
        for (x, w) in v.x.chunks_exact(form.group).zip(v.w.chunks_exact_mut(form.group)) {
            let mean_square = x.iter().map(|x| x * x).sum::<f32>() / form.group as f32;
            x.iter().zip(w).for_each(|(x, w)| *w = (mean_square + x * x).sqrt());
        }
        v
    }

    fn groups(&self, form: &Form) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.x.chunks_exact(form.group).zip(self.w.chunks_exact(form.group))
    }
}

/// Sums of a weighted least-squares fit `x ≈ a * p + b * r`.
#[derive(Default)]
struct Sums {
    pp: f32,
    pr: f32,
    rr: f32,
    px: f32,
    rx: f32,
}

impl Sums {
    #[inline]
    fn add(&mut self, w: f32, p: f32, r: f32, x: f32) {
        self.pp += w * p * p;
        self.pr += w * p * r;
        self.rr += w * r * r;
        self.px += w * p * x;
        self.rx += w * r * x;
    }

    /// `(a, b)` with `b <= 0`, or `None` where `p` does not determine `a`.
    fn solve(&self) -> Option<(f32, f32)> {
        let determinant = self.pp * self.rr - self.pr * self.pr;
        if determinant > 1e-6 * self.pp * self.rr {
            let b = (self.pp * self.rx - self.pr * self.px) / determinant;
            if b <= 0.0 {
                return Some(((self.rr * self.px - self.pr * self.rx) / determinant, b));
            }
        }
        (self.pp > 0.0).then(|| (self.px / self.pp, 0.0))
    }
}

/// Scale and minimum of one sub-block: `x ≈ scale * q - min` with `q` in `0..=last`, both results `>= 0`.
fn fit_affine(x: &[f32], w: &[f32], last: f32) -> (f32, f32) {
    let low = x.iter().fold(0.0_f32, |a, &v| a.min(v));
    let high = x.iter().fold(f32::MIN, |a, &v| a.max(v));
    let span = high - low;
    if span < NOTHING {
        return (0.0, -low);
    }
    let mut best = (span / last, -low);
    let mut least = f32::INFINITY;
    for step in -10..=10_i32 {
        let inverse = (last + 0.1 * step as f32) / span;
        let mut sums = Sums::default();
        for (&x, &w) in x.iter().zip(w) {
            sums.add(w, nearest((x - low) * inverse, 0.0, last), 1.0, x);
        }
        let Some((scale, offset)) = sums.solve() else { continue };
        let error: f32 = x
            .iter()
            .zip(w)
            .map(|(&x, &w)| {
                let e = scale * nearest((x - low) * inverse, 0.0, last) + offset - x;
                w * e * e
            })
            .sum();
        if scale > 0.0 && error < least {
            (least, best) = (error, (scale, -offset));
        }
    }
    best
}

/// Scale of one sub-block: `x ≈ scale * i` with `i` in `-half..half`; negative where the extreme value is positive.
fn fit_symmetric(x: &[f32], w: &[f32], half: f32) -> f32 {
    let extreme = x.iter().fold(0.0_f32, |a, &v| if v.abs() > a.abs() { v } else { a });
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let mut scale = -extreme / half;
    let mut most = 0.0;
    for step in -10..=10_i32 {
        let inverse = -(half + 0.1 * step as f32) / extreme;
        let (mut ii, mut ix) = (0.0, 0.0);
        for (&x, &w) in x.iter().zip(w) {
            let i = nearest(x * inverse, -half, half - 1.0);
            ii += w * i * i;
            ix += w * i * x;
        }
        // The squared error is Σwx² - (Σwix)²/Σwi² at the best scale for these integers.
        let gain = ix * ix;
        if ii > 0.0 && gain > most * ii {
            (most, scale) = (gain / ii, ix / ii);
        }
    }
    scale
}

/// Scale of one block without sub-blocks, `x ≈ scale * (q - zero)` (Q4_0, Q5_0).
pub(super) fn scale(form: &Form, x: &[f32], importance: &[f32]) -> f32 {
    let values = Weighted::new(form, x, Some(importance));
    fit_symmetric(&values.x[..form.len], &values.w[..form.len], f32::from(form.zero))
}

/// Scale and minimum of one block without sub-blocks, `x ≈ scale * q - min` (Q4_1, Q5_1).
pub(super) fn scale_and_min(form: &Form, x: &[f32], importance: &[f32]) -> (f32, f32) {
    let values = Weighted::new(form, x, Some(importance));
    fit_affine(&values.x[..form.len], &values.w[..form.len], ((1_u32 << form.bits) - 1) as f32)
}

/// Quantizes a super-block of `x ≈ (d * scales) * q - m * mins` (Q2_K, Q4_K, Q5_K).
pub(super) fn affine(form: &Form, x: &[f32], importance: Option<&[f32]>, to: &mut Unpacked) {
    debug_assert_eq!(form.offset, Offset::SubMinTimesM);
    let last = ((1_u32 << form.bits) - 1) as f32;
    let top = form.scale_range.1 as f32;
    let values = Weighted::new(form, x, importance);
    let (mut scales, mut mins) = ([0.0_f32; MAX_GROUPS], [0.0_f32; MAX_GROUPS]);
    for ((scale, min), (x, w)) in scales.iter_mut().zip(&mut mins).zip(values.groups(form)) {
        (*scale, *min) = fit_affine(x, w, last);
    }
    let mut d = scales.iter().fold(0.0_f32, |a, &s| a.max(s)) / top;
    let mut m = mins.iter().fold(0.0_f32, |a, &s| a.max(s)) / top;
    let mut least = f32::INFINITY;
    let mut tried = Unpacked::default();
    for _ in 0..ROUNDS {
        (tried.d, tried.m) = (f32_to_f16(f16_scale(d)), f32_to_f16(f16_scale(m)));
        (d, m) = (f16_to_f32(tried.d), f16_to_f32(tried.m));
        let mut error = 0.0;
        let mut sums = Sums::default();
        for (g, (x, w)) in values.groups(form).enumerate() {
            let scale = if d > 0.0 { nearest(scales[g] / d, 0.0, top) } else { 0.0 };
            let min = if m > 0.0 { nearest(mins[g] / m, 0.0, top) } else { 0.0 };
            (tried.scales[g], tried.mins[g]) = (scale as i8, min as u8);
            let (step, offset) = (d * scale, m * min);
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            let quants = &mut tried.q[g * form.group..][..form.group];
            for ((q, &x), &w) in quants.iter_mut().zip(x).zip(w) {
                let i = nearest((x + offset) * inverse, 0.0, last);
                *q = i as u8;
                let e = step * i - offset - x;
                error += w * e * e;
                sums.add(w, scale * i, min, x);
            }
        }
        if error < least {
            least = error;
            to.clone_from(&tried);
        }
        let Some((scale, offset)) = sums.solve() else { return };
        if scale <= 0.0 {
            return;
        }
        (d, m) = (scale, -offset);
    }
}

/// Quantizes a super-block of `x ≈ (d * scales) * (q - zero)` (Q3_K, Q6_K).
pub(super) fn symmetric(form: &Form, x: &[f32], importance: Option<&[f32]>, to: &mut Unpacked) {
    debug_assert_eq!(form.offset, Offset::None);
    let half = f32::from(form.zero);
    let (low, high) = (form.scale_range.0 as f32, form.scale_range.1 as f32);
    let values = Weighted::new(form, x, importance);
    let mut scales = [0.0_f32; MAX_GROUPS];
    for (scale, (x, w)) in scales.iter_mut().zip(values.groups(form)) {
        *scale = fit_symmetric(x, w, half);
    }
    // The scale of largest magnitude takes the integer range's larger end, the negative one.
    let mut d = scales.iter().fold(0.0_f32, |a, &s| if s.abs() > a.abs() { s } else { a }) / low;
    let mut least = f32::INFINITY;
    let mut tried = Unpacked::default();
    for _ in 0..ROUNDS {
        tried.d = f32_to_f16(f16_scale(d));
        d = f16_to_f32(tried.d);
        let mut error = 0.0;
        let (mut ii, mut ix) = (0.0, 0.0);
        for (g, (x, w)) in values.groups(form).enumerate() {
            let scale = if d == 0.0 { 0.0 } else { nearest(scales[g] / d, low, high) };
            tried.scales[g] = scale as i8;
            let step = d * scale;
            let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
            let quants = &mut tried.q[g * form.group..][..form.group];
            for ((q, &x), &w) in quants.iter_mut().zip(x).zip(w) {
                let i = nearest(x * inverse, -half, half - 1.0);
                *q = (i + half) as u8;
                let e = step * i - x;
                error += w * e * e;
                let unit = scale * i;
                ii += w * unit * unit;
                ix += w * unit * x;
            }
        }
        if error < least {
            least = error;
            to.clone_from(&tried);
        }
        if ii <= 0.0 || ix == 0.0 {
            return;
        }
        d = ix / ii;
    }
}
