//! The packed layouts of the K-quants: 256 values share a scale, 16 or 32 values an integer factor.
//!
//! GGUF layouts: `block_q2_K` to `block_q6_K` of ggml's `ggml-common.h`. The packed forms keep the integers and are
//! exact: d · s of a 6-bit s needs 17 bits of mantissa, so it is computed when it is used.

use super::format::{
    ActBlock, Format, GROUP, Q2KUnit, Q3KUnit, Q4KUnit, Q5KUnit, Q6KUnit, dot_halves, dot_u7, fives, join,
    nibbles, pack_fifth, sixes,
};
use crate::isa::Isa;

fn half_at(row: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([row[at], row[at + 1]])
}

/// Writes the low four bits of 256 values into the nibble planes of 8 blocks.
fn pack_low(planes: &mut [[[u8; 64]; 4]; 8], lane: usize, q: &[u8; 256]) {
    for (plane, q) in planes.iter_mut().zip(q.as_chunks::<32>().0) {
        for (j, vector) in plane.iter_mut().enumerate() {
            for i in 0..4 {
                vector[4 * lane + i] = (q[4 * j + i] & 15) | ((q[16 + 4 * j + i] & 15) << 4);
            }
        }
    }
}

/// The 6-bit scale and min `j < 8` of Q4_K and Q5_K from their 12 bytes.
fn scale_min(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
    }
}

/// Q2_K: `w = d · s · q − dmin · m`, s and m per 16 values.
pub(crate) struct Q2K;
impl Format for Q2K {
    type Unit = Q2KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = ([I::I; 2], [I::I; 2], I::F, I::F);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q2KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q2KUnit, b: usize) -> Self::Scales<I> {
        (
            [isa.load_u8(&u.s[b][0]), isa.load_u8(&u.s[b][1])],
            [isa.load_u8(&u.m[b][0]), isa.load_u8(&u.m[b][1])],
            isa.load_f16(&u.d),
            isa.load_f16(&u.dmin),
        )
    }
    #[inline(always)]
    fn step<I: Isa>(
        isa: I,
        w: &[I::B; 8],
        (s, m, d, dmin): Self::Scales<I>,
        x: &ActBlock,
        acc: I::F,
    ) -> I::F {
        let acc = join(isa, dot_halves(isa, 0, s, w, x), d, x, acc);
        let mins =
            isa.iadd(isa.imul(m[0], isa.isplat(-x.halves[0])), isa.imul(m[1], isa.isplat(-x.halves[1])));
        join(isa, mins, dmin, x, acc)
    }
    fn pack(u: &mut Q2KUnit, lane: usize, row: &[u8]) {
        let mut q = [0u8; 256];
        for (k, q) in q.iter_mut().enumerate() {
            let (half, j, l) = (k / 128, k / 32 % 4, k % 32);
            *q = (row[16 + 32 * half + l] >> (2 * j)) & 3;
        }
        pack_low(&mut u.q, lane, &q);
        for (i, &s) in row[..16].iter().enumerate() {
            u.s[i / 2][i % 2][lane] = s & 15;
            u.m[i / 2][i % 2][lane] = s >> 4;
        }
        u.d[lane] = half_at(row, 80);
        u.dmin[lane] = half_at(row, 82);
    }
}

/// Q3_K: `w = d · s · (q − 4)`, s signed per 16 values.
pub(crate) struct Q3K;
impl Format for Q3K {
    type Unit = Q3KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = ([I::I; 2], I::F);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q3KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q3KUnit, b: usize) -> Self::Scales<I> {
        ([isa.load_i8(&u.s[b][0]), isa.load_i8(&u.s[b][1])], isa.load_f16(&u.d))
    }
    #[inline(always)]
    fn step<I: Isa>(isa: I, w: &[I::B; 8], (s, d): Self::Scales<I>, x: &ActBlock, acc: I::F) -> I::F {
        join(isa, dot_halves(isa, 4, s, w, x), d, x, acc)
    }
    fn pack(u: &mut Q3KUnit, lane: usize, row: &[u8]) {
        let (mask, qs, s) = (&row[..32], &row[32..96], &row[96..108]);
        let mut q = [0u8; 256];
        for (k, q) in q.iter_mut().enumerate() {
            let (half, j, l) = (k / 128, k / 32 % 4, k % 32);
            *q = ((qs[32 * half + l] >> (2 * j)) & 3) | (((mask[l] >> (4 * half + j)) & 1) << 2);
        }
        pack_low(&mut u.q, lane, &q);
        for i in 0..16 {
            let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
            let high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
            u.s[i / 2][i % 2][lane] = (low | (high << 4)).cast_signed() - 32;
        }
        u.d[lane] = half_at(row, 108);
    }
}

/// The step of the types with a scale and a min per 32 values.
#[inline(always)]
fn step_min<I: Isa>(isa: I, w: &[I::B; 8], (d, m): (I::F, I::F), x: &ActBlock, acc: I::F) -> I::F {
    let acc = join(isa, dot_u7(isa, 0, w, x), d, x, acc);
    isa.fma(m, isa.splat(-x.ds), acc)
}

/// `(d · s, dmin · m)` of 16 rows, both exact.
#[inline(always)]
fn scaled<I: Isa>(
    isa: I,
    s: &[u8; GROUP],
    m: &[u8; GROUP],
    d: &[u16; GROUP],
    dmin: &[u16; GROUP],
) -> (I::F, I::F) {
    (
        isa.mul(isa.load_f16(d), isa.to_f32(isa.load_u8(s))),
        isa.mul(isa.load_f16(dmin), isa.to_f32(isa.load_u8(m))),
    )
}

/// Q4_K: `w = d · s · q − dmin · m`, s and m per 32 values.
pub(crate) struct Q4K;
impl Format for Q4K {
    type Unit = Q4KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = (I::F, I::F);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> (I::F, I::F) {
        scaled(isa, &u.s[b], &u.m[b], &u.d, &u.dmin)
    }
    #[inline(always)]
    fn step<I: Isa>(isa: I, w: &[I::B; 8], s: (I::F, I::F), x: &ActBlock, acc: I::F) -> I::F {
        step_min(isa, w, s, x, acc)
    }
    fn pack(u: &mut Q4KUnit, lane: usize, row: &[u8]) {
        let (s, qs) = (&row[4..16], &row[16..144]);
        let mut q = [0u8; 256];
        for (k, q) in q.iter_mut().enumerate() {
            let byte = qs[32 * (k / 64) + k % 32];
            *q = if k % 64 < 32 { byte & 15 } else { byte >> 4 };
        }
        pack_low(&mut u.q, lane, &q);
        for b in 0..8 {
            (u.s[b][lane], u.m[b][lane]) = scale_min(s, b);
        }
        u.d[lane] = half_at(row, 0);
        u.dmin[lane] = half_at(row, 2);
    }
}

/// Q5_K: Q4_K with a fifth bit.
pub(crate) struct Q5K;
impl Format for Q5K {
    type Unit = Q5KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = (I::F, I::F);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q5KUnit, b: usize) -> [I::B; 8] {
        fives(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q5KUnit, b: usize) -> (I::F, I::F) {
        scaled(isa, &u.s[b], &u.m[b], &u.d, &u.dmin)
    }
    #[inline(always)]
    fn step<I: Isa>(isa: I, w: &[I::B; 8], s: (I::F, I::F), x: &ActBlock, acc: I::F) -> I::F {
        step_min(isa, w, s, x, acc)
    }
    fn pack(u: &mut Q5KUnit, lane: usize, row: &[u8]) {
        let (s, qh, qs) = (&row[4..16], &row[16..48], &row[48..176]);
        let mut q = [0u8; 256];
        for (k, q) in q.iter_mut().enumerate() {
            let byte = qs[32 * (k / 64) + k % 32];
            *q = if k % 64 < 32 { byte & 15 } else { byte >> 4 };
        }
        pack_low(&mut u.q, lane, &q);
        for b in 0..8 {
            let fifth =
                qh.iter().enumerate().fold(0u32, |bits, (l, h)| bits | (u32::from((h >> b) & 1) << l));
            pack_fifth(&mut u.h[b], lane, fifth);
            (u.s[b][lane], u.m[b][lane]) = scale_min(s, b);
        }
        u.d[lane] = half_at(row, 0);
        u.dmin[lane] = half_at(row, 2);
    }
}

/// Q6_K: `w = d · s · (q − 32)`, s signed per 16 values.
pub(crate) struct Q6K;
impl Format for Q6K {
    type Unit = Q6KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = ([I::I; 2], I::F);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q6KUnit, b: usize) -> [I::B; 8] {
        sixes(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q6KUnit, b: usize) -> Self::Scales<I> {
        ([isa.load_i8(&u.s[b][0]), isa.load_i8(&u.s[b][1])], isa.load_f16(&u.d))
    }
    #[inline(always)]
    fn step<I: Isa>(isa: I, w: &[I::B; 8], (s, d): Self::Scales<I>, x: &ActBlock, acc: I::F) -> I::F {
        join(isa, dot_halves(isa, 32, s, w, x), d, x, acc)
    }
    fn pack(u: &mut Q6KUnit, lane: usize, row: &[u8]) {
        let (ql, qh, s) = (&row[..128], &row[128..192], &row[192..208]);
        let mut q = [0u8; 256];
        for (k, q) in q.iter_mut().enumerate() {
            let (half, quarter, l) = (k / 128, k / 32 % 4, k % 32);
            let low = ql[64 * half + 32 * (quarter % 2) + l];
            let low = if quarter < 2 { low & 15 } else { low >> 4 };
            *q = low | (((qh[32 * half + l] >> (2 * quarter)) & 3) << 4);
        }
        pack_low(&mut u.q, lane, &q);
        for (plane, q) in u.h.iter_mut().zip(q.as_chunks::<32>().0) {
            for (t, vector) in plane.iter_mut().enumerate() {
                for i in 0..4 {
                    vector[4 * lane + i] =
                        (0..4).fold(0, |b, j| b | ((q[16 * t + 4 * j + i] >> 4) << (2 * j)));
                }
            }
        }
        for (i, &s) in s.iter().enumerate() {
            u.s[i / 2][i % 2][lane] = s.cast_signed();
        }
        u.d[lane] = half_at(row, 208);
    }
}
