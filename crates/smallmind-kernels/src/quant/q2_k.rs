//! Q2_K: a super-block of 256 values in 84 bytes, sub-blocks of 16. Packing only; the arithmetic is the
//! module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..16 | sub-block `g`: scale in the low, minimum in the high nibble of byte `g` |
//! | 16..80 | quants: byte `32n + i` holds values `128n + i + 32s` at bit `2s` |
//! | 80..82 | `d`, F16 |
//! | 82..84 | `dmin`, F16 |
//!
//! `value = (d * scale) * q - dmin * min`. Source: `block_q2_K` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, planes, search};
use crate::DType;

/// The type Q2_K.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q2_K;

impl Block for Q2_K {
    const DTYPE: DType = DType::Q2_K;
    const FORM: Form = Form {
        len: 256,
        group: 16,
        bits: 2,
        zero: 0,
        signed: false,
        offset: Offset::SubMinTimesM,
        scale_range: (0, 15),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 80);
        out.m = planes::u16_at(block, 82);
        out.q.fill(0);
        planes::read::<2, 32, 0>(&block[16..80], &mut out.q);
        for (j, &byte) in block[..16].iter().enumerate() {
            out.scales[j] = (byte & 15) as i8;
            out.mins[j] = byte >> 4;
        }
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 80, from.d);
        planes::put_u16(block, 82, from.m);
        planes::write::<2, 32, 0>(&from.q, &mut block[16..80]);
        for (j, byte) in block[..16].iter_mut().enumerate() {
            *byte = (from.scales[j] as u8 & 15) | (from.mins[j] << 4);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        search::affine(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
