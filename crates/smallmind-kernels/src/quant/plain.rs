//! F32, F16 and BF16: little-endian, one value after another, no blocks. Lengths were checked by the caller.

use crate::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

fn from_halves(bytes: &[u8], out: &mut [f32], convert: impl Fn(u16) -> f32) {
    for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = convert(u16::from_le_bytes(*b));
    }
}

fn to_halves(x: &[f32], out: &mut [u8], convert: impl Fn(f32) -> u16) {
    for (b, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
        *b = convert(value).to_le_bytes();
    }
}

pub(super) fn f32_from_bytes(bytes: &[u8], out: &mut [f32]) {
    for (value, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*b);
    }
}

pub(super) fn f32_to_bytes(x: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (b, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
        *b = value.to_le_bytes();
    }
}

pub(super) fn f16_from_bytes(bytes: &[u8], out: &mut [f32]) {
    from_halves(bytes, out, f16_to_f32);
}

pub(super) fn f16_to_bytes(x: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    to_halves(x, out, f32_to_f16);
}

pub(super) fn bf16_from_bytes(bytes: &[u8], out: &mut [f32]) {
    from_halves(bytes, out, bf16_to_f32);
}

pub(super) fn bf16_to_bytes(x: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    to_halves(x, out, f32_to_bf16);
}
