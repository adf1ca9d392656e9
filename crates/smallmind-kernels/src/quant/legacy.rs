//! Quantizers of the 32-value types: one scale from the extreme values, quants rounded to it. They give the same
//! bits as the field's own (`gguf` Python package, tested), because files are compared; only where importances are
//! given is the scale searched for. Knows no packing.

use super::search::{self, f16_scale, finite, nearest};
use super::{Form, Unpacked};
use crate::half::{f16_to_f32, f32_to_f16};

/// `1 / d`, or 0 where the stored scale is 0 and every quant would stand for the same value.
fn inverse(d: f32) -> f32 {
    if f16_to_f32(f32_to_f16(d)) == 0.0 { 0.0 } else { 1.0 / d }
}

/// `x ≈ d * q` with `q` in -127..=127: Q8_0. Halves round away from zero.
pub(super) fn signed(x: &[f32], to: &mut Unpacked) {
    let largest = x.iter().fold(0.0_f32, |a, &v| a.max(finite(v).abs()));
    let d = f16_scale(largest / 127.0);
    let inverse = inverse(d);
    to.d = f32_to_f16(d);
    for (q, &v) in to.q.iter_mut().zip(x) {
        *q = (finite(v) * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// `x ≈ d * (q - zero)`: Q4_0, Q5_0. The value of largest magnitude becomes `q = 0` exactly, whatever its sign.
pub(super) fn centred(form: &Form, x: &[f32], importance: Option<&[f32]>, to: &mut Unpacked) {
    if let Some(importance) = importance {
        return centred_by_importance(form, x, importance, to);
    }
    let extreme = x.iter().map(|&v| finite(v)).fold(0.0_f32, |a, v| if v.abs() > a.abs() { v } else { a });
    let zero = f32::from(form.zero);
    let d = f16_scale(extreme / -zero);
    let inverse = inverse(d);
    to.d = f32_to_f16(d);
    for (q, &v) in to.q.iter_mut().zip(x) {
        *q = (finite(v) * inverse + (zero + 0.5)).clamp(0.0, 2.0 * zero - 1.0) as u8;
    }
}

/// `x ≈ d * q + m`: Q4_1, Q5_1. The smallest value becomes `q = 0`, the largest the last quant.
pub(super) fn from_minimum(form: &Form, x: &[f32], importance: Option<&[f32]>, to: &mut Unpacked) {
    if let Some(importance) = importance {
        return from_minimum_by_importance(form, x, importance, to);
    }
    let first = x.first().map_or(0.0, |&v| finite(v));
    let (min, max) = x.iter().map(|&v| finite(v)).fold((first, first), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let last = ((1_u32 << form.bits) - 1) as f32;
    let min = f16_scale(min);
    let d = f16_scale((max - min) / last);
    let inverse = inverse(d);
    to.d = f32_to_f16(d);
    to.m = f32_to_f16(min);
    for (q, &v) in to.q.iter_mut().zip(x) {
        *q = ((finite(v) - min) * inverse + 0.5).clamp(0.0, last) as u8;
    }
}

fn centred_by_importance(form: &Form, x: &[f32], importance: &[f32], to: &mut Unpacked) {
    let zero = f32::from(form.zero);
    to.d = f32_to_f16(f16_scale(search::scale(form, x, importance)));
    let d = f16_to_f32(to.d);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for (q, &v) in to.q.iter_mut().zip(x) {
        *q = (nearest(finite(v) * inverse, -zero, zero - 1.0) + zero) as u8;
    }
}

fn from_minimum_by_importance(form: &Form, x: &[f32], importance: &[f32], to: &mut Unpacked) {
    let last = ((1_u32 << form.bits) - 1) as f32;
    let (d, min) = search::scale_and_min(form, x, importance);
    (to.d, to.m) = (f32_to_f16(f16_scale(d)), f32_to_f16(f16_scale(-min)));
    let (d, m) = (f16_to_f32(to.d), f16_to_f32(to.m));
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for (q, &v) in to.q.iter_mut().zip(x) {
        *q = nearest((finite(v) - m) * inverse, 0.0, last) as u8;
    }
}
