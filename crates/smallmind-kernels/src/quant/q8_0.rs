//! Q8_0: 32 values in 34 bytes. Packing only; the arithmetic is the module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | `d`, F16 |
//! | 2..34 | quants, `i8` |
//!
//! `value = d * q`. Source: `block_q8_0` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, legacy, planes};
use crate::DType;

/// The type Q8_0.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q8_0;

impl Block for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const FORM: Form = Form {
        len: 32,
        group: 32,
        bits: 8,
        zero: 0,
        signed: true,
        offset: Offset::None,
        scale_range: (1, 1),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 0);
        out.m = 0;
        out.scales[0] = 1;
        out.mins[0] = 0;
        out.q[..32].copy_from_slice(&block[2..34]);
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 0, from.d);
        block[2..34].copy_from_slice(&from.q[..32]);
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        legacy::signed(x, &mut to);
        Self::pack(&to, block);
    }
}
