//! The packed layouts of the K-quants: 256 values share a scale, 16 or 32 values an integer factor.
//!
//! What a file's block means is known to `quant` alone. The packed forms keep its integers and are
//! exact: d · s of a 6-bit s needs 17 bits of mantissa, so it is computed when it is used.

use super::acts::{ActMeta, ActQuants};
use super::format::{
    Format, GROUP, Q2KUnit, Q3KUnit, Q4KUnit, Q5KUnit, Q6KUnit, Tiling, dot_halves, dot_u7, fives,
    halves_of_sums, nibbles, pack_fifth, sixes,
};
use crate::isa::Isa;
use crate::quant::{Block, Unpacked, q2_k, q3_k, q4_k, q5_k, q6_k};

/// The integers of one row's block, by the type's reference decoder.
fn integers<B: Block>(block: &[u8]) -> Unpacked {
    let mut u = Unpacked::default();
    B::unpack(block, &mut u);
    u
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

/// Q2_K: `w = d · s · q − dmin · m`, s and m per 16 values.
pub(crate) struct Q2K;
impl Format for Q2K {
    type Unit = Q2KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = ([I::F; 2], [I::F; 2], I::F, I::F);
    const TILING: Tiling = Tiling::Halves { offset: 0, narrow: true };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q2KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q2KUnit, b: usize) -> Self::Scales<I> {
        (
            [isa.to_f32(isa.load_u8(&u.s[b][0])), isa.to_f32(isa.load_u8(&u.s[b][1]))],
            [isa.to_f32(isa.load_u8(&u.m[b][0])), isa.to_f32(isa.load_u8(&u.m[b][1]))],
            isa.load_f16(&u.d),
            isa.load_f16(&u.dmin),
        )
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], (s, ..): Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        dot_halves(isa, 0, s, w, x, meta)
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, sums: [I::I; 2], (s, ..): Self::Scales<I>) -> I::F {
        halves_of_sums(isa, sums, s)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (_, m, d, dmin): Self::Scales<I>, meta: &ActMeta, part: I::F) -> I::F {
        let (h0, h1) = (isa.splat(-meta.halves[0] as f32), isa.splat(-meta.halves[1] as f32));
        isa.fma(isa.fma(m[0], h0, isa.mul(m[1], h1)), dmin, isa.fma(dot, d, part))
    }
    fn pack(u: &mut Q2KUnit, lane: usize, row: &[u8]) {
        let from = integers::<q2_k::Q2_K>(row);
        pack_low(&mut u.q, lane, &from.q);
        for (i, (s, m)) in from.scales.iter().zip(from.mins).enumerate() {
            u.s[i / 2][i % 2][lane] = s.cast_unsigned();
            u.m[i / 2][i % 2][lane] = m;
        }
        (u.d[lane], u.dmin[lane]) = (from.d, from.m);
    }
}

/// Q3_K: `w = d · s · (q − 4)`, s signed per 16 values.
pub(crate) struct Q3K;
impl Format for Q3K {
    type Unit = Q3KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = ([I::F; 2], I::F);
    const TILING: Tiling = Tiling::Halves { offset: 4, narrow: true };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q3KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q3KUnit, b: usize) -> Self::Scales<I> {
        ([isa.to_f32(isa.load_i8(&u.s[b][0])), isa.to_f32(isa.load_i8(&u.s[b][1]))], isa.load_f16(&u.d))
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], (s, _): Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        dot_halves(isa, 4, s, w, x, meta)
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, sums: [I::I; 2], (s, _): Self::Scales<I>) -> I::F {
        halves_of_sums(isa, sums, s)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (_, d): Self::Scales<I>, _meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(dot, d, part)
    }
    fn pack(u: &mut Q3KUnit, lane: usize, row: &[u8]) {
        let from = integers::<q3_k::Q3_K>(row);
        pack_low(&mut u.q, lane, &from.q);
        for (i, s) in from.scales.iter().enumerate() {
            u.s[i / 2][i % 2][lane] = *s;
        }
        u.d[lane] = from.d;
    }
}

/// [`Format::join`] for the types with a scale and a min per 32 values.
#[inline(always)]
fn join_min<I: Isa>(isa: I, dot: I::F, (d, m): (I::F, I::F), meta: &ActMeta, part: I::F) -> I::F {
    isa.fma(m, isa.splat(-meta.sum), isa.fma(dot, d, part))
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
    const TILING: Tiling = Tiling::Joined { offset: 0 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> (I::F, I::F) {
        scaled(isa, &u.s[b], &u.m[b], &u.d, &u.dmin)
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _s: (I::F, I::F), x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_u7(isa, 0, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [sum, _]: [I::I; 2], _s: Self::Scales<I>) -> I::F {
        isa.to_f32(sum)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, s: (I::F, I::F), meta: &ActMeta, part: I::F) -> I::F {
        join_min(isa, dot, s, meta, part)
    }
    fn pack(u: &mut Q4KUnit, lane: usize, row: &[u8]) {
        let from = integers::<q4_k::Q4_K>(row);
        pack_low(&mut u.q, lane, &from.q);
        for b in 0..8 {
            (u.s[b][lane], u.m[b][lane]) = (from.scales[b].cast_unsigned(), from.mins[b]);
        }
        (u.d[lane], u.dmin[lane]) = (from.d, from.m);
    }
}

/// Q5_K: Q4_K with a fifth bit.
pub(crate) struct Q5K;
impl Format for Q5K {
    type Unit = Q5KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = (I::F, I::F);
    const TILING: Tiling = Tiling::Joined { offset: 0 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q5KUnit, b: usize) -> [I::B; 8] {
        fives(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q5KUnit, b: usize) -> (I::F, I::F) {
        scaled(isa, &u.s[b], &u.m[b], &u.d, &u.dmin)
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _s: (I::F, I::F), x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_u7(isa, 0, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [sum, _]: [I::I; 2], _s: Self::Scales<I>) -> I::F {
        isa.to_f32(sum)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, s: (I::F, I::F), meta: &ActMeta, part: I::F) -> I::F {
        join_min(isa, dot, s, meta, part)
    }
    fn pack(u: &mut Q5KUnit, lane: usize, row: &[u8]) {
        let from = integers::<q5_k::Q5_K>(row);
        pack_low(&mut u.q, lane, &from.q);
        for (b, q) in from.q.as_chunks::<32>().0.iter().enumerate() {
            let fifth = q.iter().enumerate().fold(0, |bits, (k, q)| bits | (u32::from(q >> 4) << k));
            pack_fifth(&mut u.h[b], lane, fifth);
            (u.s[b][lane], u.m[b][lane]) = (from.scales[b].cast_unsigned(), from.mins[b]);
        }
        (u.d[lane], u.dmin[lane]) = (from.d, from.m);
    }
}

/// Q6_K: `w = d · s · (q − 32)`, s signed per 16 values.
pub(crate) struct Q6K;
impl Format for Q6K {
    type Unit = Q6KUnit;
    const BLOCKS: usize = 8;
    type Scales<I: Isa> = ([I::F; 2], I::F);
    const TILING: Tiling = Tiling::Halves { offset: 32, narrow: false };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q6KUnit, b: usize) -> [I::B; 8] {
        sixes(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q6KUnit, b: usize) -> Self::Scales<I> {
        ([isa.to_f32(isa.load_i8(&u.s[b][0])), isa.to_f32(isa.load_i8(&u.s[b][1]))], isa.load_f16(&u.d))
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], (s, _): Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        dot_halves(isa, 32, s, w, x, meta)
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, sums: [I::I; 2], (s, _): Self::Scales<I>) -> I::F {
        halves_of_sums(isa, sums, s)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (_, d): Self::Scales<I>, _meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(dot, d, part)
    }
    fn pack(u: &mut Q6KUnit, lane: usize, row: &[u8]) {
        let from = integers::<q6_k::Q6_K>(row);
        pack_low(&mut u.q, lane, &from.q);
        for (plane, q) in u.h.iter_mut().zip(from.q.as_chunks::<32>().0) {
            for (t, vector) in plane.iter_mut().enumerate() {
                for i in 0..4 {
                    vector[4 * lane + i] =
                        (0..4).fold(0, |b, j| b | ((q[16 * t + 4 * j + i] >> 4) << (2 * j)));
                }
            }
        }
        for (i, s) in from.scales.iter().enumerate() {
            u.s[i / 2][i % 2][lane] = *s;
        }
        u.d[lane] = from.d;
    }
}
