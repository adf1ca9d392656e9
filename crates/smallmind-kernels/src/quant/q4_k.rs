//! Q4_K: a super-block of 256 values in 144 bytes, sub-blocks of 32. Packing only; the arithmetic is the
//! module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | `d`, F16 |
//! | 2..4 | `dmin`, F16 |
//! | 4..16 | scales and minima of the sub-blocks, 6 bits each |
//! | 16..144 | quants: byte `32n + i` = value `64n + i` in the low, `64n + 32 + i` in the high nibble |
//!
//! Scales: for `g < 4`, byte `g` is the scale and byte `4 + g` the minimum. For `g >= 4`, byte `4 + g` has the low
//! 4 bits of scale (low nibble) and minimum (high nibble); their upper 2 bits are bits 6 and 7 of bytes `g - 4` and
//! `g`.
//! `value = (d * scale) * q - dmin * min`. Source: `block_q4_K` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, planes, search};
use crate::DType;

/// Scale and minimum of sub-block `g` (0..8), 0..=63 each, from the 12 packed bytes of Q4_K and Q5_K.
#[inline]
pub fn scale_min(packed: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        return (packed[g] & 63, packed[g + 4] & 63);
    }
    let low = packed[g + 4];
    ((low & 15) | ((packed[g - 4] >> 6) << 4), (low >> 4) | ((packed[g] >> 6) << 4))
}

/// Packs the first 8 scales and minima (0..=63) into their 12 bytes: the inverse of [`scale_min`].
pub(super) fn pack_scale_min(scales: &[i8; 16], mins: &[u8; 16], packed: &mut [u8]) {
    for g in 0..4 {
        let (low_scale, high_scale) = (scales[g] as u8 & 63, scales[g + 4] as u8 & 63);
        let (low_min, high_min) = (mins[g] & 63, mins[g + 4] & 63);
        packed[g] = low_scale | ((high_scale >> 4) << 6);
        packed[g + 4] = low_min | ((high_min >> 4) << 6);
        packed[g + 8] = (high_scale & 15) | ((high_min & 15) << 4);
    }
}

/// The type Q4_K.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q4_K;

impl Block for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const FORM: Form = Form {
        len: 256,
        group: 32,
        bits: 4,
        zero: 0,
        signed: false,
        offset: Offset::SubMinTimesM,
        scale_range: (0, 63),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 0);
        out.m = planes::u16_at(block, 2);
        out.q.fill(0);
        planes::read::<4, 32, 0>(&block[16..144], &mut out.q);
        for g in 0..8 {
            let (scale, min) = scale_min(&block[4..16], g);
            out.scales[g] = scale as i8;
            out.mins[g] = min;
        }
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 0, from.d);
        planes::put_u16(block, 2, from.m);
        planes::write::<4, 32, 0>(&from.q, &mut block[16..144]);
        pack_scale_min(&from.scales, &from.mins, &mut block[4..16]);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        search::affine(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
