//! Q4_0: 32 values in 18 bytes. Packing only; the arithmetic is the module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | `d`, F16 |
//! | 2..18 | quants, byte `i` = value `i` in the low, `i + 16` in the high nibble |
//!
//! `value = d * (q - 8)`. Source: `block_q4_0` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, legacy, planes};
use crate::DType;

/// The type Q4_0.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q4_0;

impl Block for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const FORM: Form = Form {
        len: 32,
        group: 32,
        bits: 4,
        zero: 8,
        signed: false,
        offset: Offset::None,
        scale_range: (1, 1),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 0);
        out.m = 0;
        out.scales[0] = 1;
        out.mins[0] = 0;
        out.q[..32].fill(0);
        planes::read::<4, 16, 0>(&block[2..18], &mut out.q[..32]);
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 0, from.d);
        planes::write::<4, 16, 0>(&from.q[..32], &mut block[2..18]);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        legacy::centred(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
