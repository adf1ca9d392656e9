//! Q3_K: a super-block of 256 values in 110 bytes, sub-blocks of 16. Packing only; the arithmetic is the
//! module's.
//!
//! | bytes | content |
//! |---|---|
//! | 0..32 | bit 2 of the quants: byte `i` holds values `i + 32s` at bit `s` |
//! | 32..96 | low 2 bits: byte `32n + i` holds values `128n + i + 32s` at bit `2s` |
//! | 96..108 | scales + 32 of the sub-blocks, 6 bits each |
//! | 108..110 | `d`, F16 |
//!
//! Scales: sub-block `g` has its low 4 bits in byte `g % 8` (the high nibble for `g >= 8`) and its upper 2 bits in
//! byte `8 + g % 4` at bit `2 (g / 4)`.
//! `value = (d * scale) * (q - 4)`. Source: `block_q3_K` in ggml's `ggml-common.h`.

use super::{Block, Form, Offset, Unpacked, planes, search};
use crate::DType;

/// Where the packed scales start in a block.
const SCALES: usize = 96;

/// Scale of sub-block `g` (0..16), -32..=31, from the 12 bytes of packed scales.
#[inline]
pub fn sub_block_scale(packed: &[u8], g: usize) -> i8 {
    let low = (packed[g % 8] >> (4 * (g / 8))) & 15;
    let high = (packed[8 + g % 4] >> (2 * (g / 4))) & 3;
    ((high << 4) | low) as i8 - 32
}

/// Packs 16 scales of -32..=31 into their 12 bytes.
fn pack_scales(scales: &[i8; 16], packed: &mut [u8]) {
    packed.fill(0);
    for (g, &scale) in scales.iter().enumerate() {
        let scale = scale.wrapping_add(32) as u8;
        packed[g % 8] |= (scale & 15) << (4 * (g / 8));
        packed[8 + g % 4] |= ((scale >> 4) & 3) << (2 * (g / 4));
    }
}

/// The type Q3_K.
#[allow(non_camel_case_types, reason = "the field's own name")]
#[derive(Debug)]
pub struct Q3_K;

impl Block for Q3_K {
    const DTYPE: DType = DType::Q3_K;
    const FORM: Form = Form {
        len: 256,
        group: 16,
        bits: 3,
        zero: 4,
        signed: false,
        offset: Offset::None,
        scale_range: (-32, 31),
    };

    fn unpack(block: &[u8], out: &mut Unpacked) {
        out.d = planes::u16_at(block, 108);
        out.m = 0;
        out.mins.fill(0);
        out.q.fill(0);
        planes::read::<2, 32, 0>(&block[32..96], &mut out.q);
        planes::read::<1, 32, 2>(&block[0..32], &mut out.q);
        for (g, scale) in out.scales.iter_mut().enumerate() {
            *scale = sub_block_scale(&block[SCALES..SCALES + 12], g);
        }
    }

    fn pack(from: &Unpacked, block: &mut [u8]) {
        planes::put_u16(block, 108, from.d);
        planes::write::<2, 32, 0>(&from.q, &mut block[32..96]);
        planes::write::<1, 32, 2>(&from.q, &mut block[0..32]);
        pack_scales(&from.scales, &mut block[SCALES..SCALES + 12]);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let mut to = Unpacked::default();
        search::symmetric(&Self::FORM, x, importance, &mut to);
        Self::pack(&to, block);
    }
}
