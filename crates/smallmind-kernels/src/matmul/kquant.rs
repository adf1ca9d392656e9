//! The packed layouts of the K-quants: 256 values share a scale, 16 or 32 values an integer factor.
//!
//! What a file's block means is known to `quant` alone. The packed forms keep its integers and are
//! exact: d · s of a 6-bit s needs 17 bits of mantissa, so it is computed when it is used.

use super::format::{
    Format, GROUP, Q2KUnit, Q3KUnit, Q4KUnit, Q5KUnit, Q6KUnit, Quants, Scales, fives, nibbles,
    nibbles_in_place, pack_fifth, sixes,
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
    const QUANTS: Quants = Quants::unsigned(2, 0);
    const HALVES: bool = true;
    const MINIMA: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q2KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q2KUnit, b: usize) -> Scales<I::F> {
        let s = times(isa, [isa.load_u8(&u.s[b][0]), isa.load_u8(&u.s[b][1])], &u.d);
        let m = times(isa, [isa.load_u8(&u.m[b][0]), isa.load_u8(&u.m[b][1])], &u.dmin);
        Scales { s, m: [negative(isa, m[0]), negative(isa, m[1])] }
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
    const QUANTS: Quants = Quants::unsigned(3, 4);
    const HALVES: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q3KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q3KUnit, b: usize) -> Scales<I::F> {
        signed(isa, &u.s[b], &u.d)
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

/// `s · f`, exact, of integers `s` and a factor in F16.
#[inline(always)]
fn times<I: Isa>(isa: I, s: [I::I; 2], f: &[u16; GROUP]) -> [I::F; 2] {
    let f = isa.load_f16(f);
    [isa.mul(isa.to_f32(s[0]), f), isa.mul(isa.to_f32(s[1]), f)]
}

/// `−x`.
#[inline(always)]
fn negative<I: Isa>(isa: I, x: I::F) -> I::F {
    isa.sub(isa.splat(0.0), x)
}

/// Of types with a scale and a minimum per 32 values.
#[inline(always)]
fn scaled<I: Isa>(
    isa: I,
    s: &[u8; GROUP],
    m: &[u8; GROUP],
    d: &[u16; GROUP],
    dmin: &[u16; GROUP],
) -> Scales<I::F> {
    Scales::one(
        isa.mul(isa.load_f16(d), isa.to_f32(isa.load_u8(s))),
        negative(isa, isa.mul(isa.load_f16(dmin), isa.to_f32(isa.load_u8(m)))),
    )
}

/// Of types with signed scales per 16 values.
#[inline(always)]
fn signed<I: Isa>(isa: I, s: &[[i8; GROUP]; 2], d: &[u16; GROUP]) -> Scales<I::F> {
    Scales { s: times(isa, [isa.load_i8(&s[0]), isa.load_i8(&s[1])], d), m: [isa.splat(0.0); 2] }
}

/// Q4_K: `w = d · s · q − dmin · m`, s and m per 32 values.
pub(crate) struct Q4K;
impl Format for Q4K {
    type Unit = Q4KUnit;
    const BLOCKS: usize = 8;
    const QUANTS: Quants = Quants::unsigned(4, 0);
    const MINIMA: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    const IN_PLACE: bool = true;
    #[inline(always)]
    fn unpack_in_place<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> [I::B; 8] {
        nibbles_in_place(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q4KUnit, b: usize) -> Scales<I::F> {
        scaled(isa, &u.s[b], &u.m[b], &u.d, &u.dmin)
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
    const QUANTS: Quants = Quants::unsigned(5, 0);
    const MINIMA: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q5KUnit, b: usize) -> [I::B; 8] {
        fives(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q5KUnit, b: usize) -> Scales<I::F> {
        scaled(isa, &u.s[b], &u.m[b], &u.d, &u.dmin)
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
    const QUANTS: Quants = Quants::unsigned(6, 32);
    const HALVES: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q6KUnit, b: usize) -> [I::B; 8] {
        sixes(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q6KUnit, b: usize) -> Scales<I::F> {
        signed(isa, &u.s[b], &u.d)
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
