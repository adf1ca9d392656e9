//! Q4_1: 32 values in 20 bytes. Packing only; the arithmetic is the module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | `d`, F16 |
//! | 2..4 | `m`, F16 |
//! | 4..20 | quants, byte `i` = value `i` in the low, `i + 16` in the high nibble |
//!
//! `value = d * q + m`. Source: `block_q4_1` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, legacy, planes};
use crate::DType;

/// The type Q4_1.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q4_1;

impl Block for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const FORM: Form = Form {
        len: 32,
        group: 32,
        bits: 4,
        zero: 0,
        signed: false,
        offset: Offset::AddM,
        scale_range: (1, 1),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 0);
        out.m = planes::u16_at(block, 2);
        out.scales[0] = 1;
        out.mins[0] = 0;
        out.q[..32].fill(0);
        planes::read::<4, 16, 0>(&block[4..20], &mut out.q[..32]);
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 0, from.d);
        planes::put_u16(block, 2, from.m);
        planes::write::<4, 16, 0>(&from.q[..32], &mut block[4..20]);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        legacy::from_minimum(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
