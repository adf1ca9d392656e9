//! Q6_K: a super-block of 256 values in 210 bytes, sub-blocks of 16. Packing only; the arithmetic is the
//! module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..128 | low 4 bits: byte `64n + i` = value `128n + i` in the low, `128n + 64 + i` in the high nibble |
//! | 128..192 | upper 2 bits: byte `32n + i` holds values `128n + i + 32s` at bit `2s` |
//! | 192..208 | scales of the sub-blocks, `i8` |
//! | 208..210 | `d`, F16 |
//!
//! `value = (d * scale) * (q - 32)`. Source: `block_q6_K` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, planes, search};
use crate::DType;

/// The type Q6_K.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q6_K;

impl Block for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const FORM: Form = Form {
        len: 256,
        group: 16,
        bits: 6,
        zero: 32,
        signed: false,
        offset: Offset::None,
        scale_range: (-128, 127),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 208);
        out.m = 0;
        out.mins.fill(0);
        out.q.fill(0);
        planes::read::<4, 64, 0>(&block[0..128], &mut out.q);
        planes::read::<2, 32, 4>(&block[128..192], &mut out.q);
        for (scale, &byte) in out.scales.iter_mut().zip(&block[192..208]) {
            *scale = byte as i8;
        }
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 208, from.d);
        planes::write::<4, 64, 0>(&from.q, &mut block[0..128]);
        planes::write::<2, 32, 4>(&from.q, &mut block[128..192]);
        for (byte, &scale) in block[192..208].iter_mut().zip(&from.scales) {
            *byte = scale as u8;
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        search::symmetric(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
