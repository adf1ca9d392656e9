//! Q5_K: a super-block of 256 values in 176 bytes, sub-blocks of 32. Packing only; the arithmetic is the
//! module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | `d`, F16 |
//! | 2..4 | `dmin`, F16 |
//! | 4..16 | scales and minima of the sub-blocks, 6 bits each, as in [`super::q4_k`] |
//! | 16..48 | bit 4 of the quants: byte `i` holds values `i + 32s` at bit `s` |
//! | 48..176 | low 4 bits: byte `32n + i` = value `64n + i` in the low, `64n + 32 + i` in the high nibble |
//!
//! `value = (d * scale) * q - dmin * min`. Source: `block_q5_K` in ggml's `ggml-common.h`.

use super::{
    Block, Form, Offset, Unpacked, planes,
    q4_k::{pack_scale_min, scale_min},
    search,
};
use crate::DType;

/// The type Q5_K.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q5_K;

impl Block for Q5_K {
    const DTYPE: DType = DType::Q5_K;
    const FORM: Form = Form {
        len: 256,
        group: 32,
        bits: 5,
        zero: 0,
        signed: false,
        offset: Offset::SubMinTimesM,
        scale_range: (0, 63),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 0);
        out.m = planes::u16_at(block, 2);
        out.q.fill(0);
        planes::read::<4, 32, 0>(&block[48..176], &mut out.q);
        planes::read::<1, 32, 4>(&block[16..48], &mut out.q);
        for g in 0..8 {
            let (scale, min) = scale_min(&block[4..16], g);
            out.scales[g] = scale as i8;
            out.mins[g] = min;
        }
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 0, from.d);
        planes::put_u16(block, 2, from.m);
        planes::write::<4, 32, 0>(&from.q, &mut block[48..176]);
        planes::write::<1, 32, 4>(&from.q, &mut block[16..48]);
        pack_scale_min(&from.scales, &from.mins, &mut block[4..16]);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        search::affine(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
