//! WebAssembly: four 128-bit values are the virtual vector. A module that uses them is refused by an engine without them,
//! so there is nothing to detect: they are there where the crate is compiled for them (`-C target-feature=+simd128`).
//!
//! WebAssembly has no `a · b + c` that surely rounds once (its relaxed instruction may round once or twice, as the host
//! likes), so `fma` goes through f64.
#![allow(unsafe_code, reason = "loads and stores; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::wasm32::*;

use super::{Isa, both};

/// 128-bit SIMD, where the crate is compiled for it.
#[derive(Clone, Copy)]
pub(crate) struct Simd128(());

impl Simd128 {
    /// As for the other ISAs; that the module runs is the proof.
    #[inline(always)]
    pub(crate) fn assume() -> Self {
        Self(())
    }

    pub(crate) fn detect() -> Option<Self> {
        Some(Self(()))
    }
}

/// 16 × 32 bits, or 64 bytes.
type V = [v128; 4];

/// `[body; 4]`, with `$q` from 0 to 3.
macro_rules! four {
    (|$q:ident| $body:expr) => {{
        macro_rules! one {
            ($n:literal) => {{
                let $q: usize = $n;
                $body
            }};
        }
        [one!(0), one!(1), one!(2), one!(3)]
    }};
}

impl Isa for Simd128 {
    type F = V;
    type I = V;
    type B = V;
    type W = [v128; 8];

    const NAME: &'static str = "simd128";
    const BIAS: i32 = 0;
    const TOKENS: usize = 4;
    const WIDE_TOKENS: usize = 2;
    const QUERIES: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [f32x4_splat(x); 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> V {
        four!(|q| load(x, q))
    }
    #[inline(always)]
    fn store(self, a: V, out: &mut [f32; 16]) {
        four!(|q| store(&mut out[4 * q..4 * q + 4], a[q]));
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        four!(|q| f32x4_add(a[q], b[q]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        four!(|q| f32x4_sub(a[q], b[q]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        four!(|q| f32x4_mul(a[q], b[q]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        four!(|q| f32x4_div(a[q], b[q]))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        four!(|q| fma(a[q], b[q], c[q]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        // `b < a ? a : b`, so a NaN gives the second operand.
        four!(|q| f32x4_pmax(b[q], a[q]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        four!(|q| f32x4_pmin(b[q], a[q]))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> V {
        let (lo, hi) = (load(x, 0), load(x, 1));
        [
            f16_to_f32(u32x4_extend_low_u16x8(lo)),
            f16_to_f32(u32x4_extend_high_u16x8(lo)),
            f16_to_f32(u32x4_extend_low_u16x8(hi)),
            f16_to_f32(u32x4_extend_high_u16x8(hi)),
        ]
    }
    #[inline(always)]
    fn store_f16(self, a: V, out: &mut [u16; 16]) {
        let half = four!(|q| f32_to_f16(a[q]));
        store(&mut out[..8], u16x8_narrow_i32x4(half[0], half[1]));
        store(&mut out[8..], u16x8_narrow_i32x4(half[2], half[3]));
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> V {
        let (lo, hi) = (load(x, 0), load(x, 1));
        [
            i32x4_shl(u32x4_extend_low_u16x8(lo), 16),
            i32x4_shl(u32x4_extend_high_u16x8(lo), 16),
            i32x4_shl(u32x4_extend_low_u16x8(hi), 16),
            i32x4_shl(u32x4_extend_high_u16x8(hi), 16),
        ]
    }
    #[inline(always)]
    fn to_f32(self, a: V) -> V {
        four!(|q| f32x4_convert_i32x4(a[q]))
    }
    #[inline(always)]
    fn to_i32(self, a: V) -> V {
        four!(|q| i32x4_trunc_sat_f32x4(f32x4_nearest(a[q])))
    }
    #[inline(always)]
    fn bits(self, a: V) -> V {
        a
    }
    #[inline(always)]
    fn bits_to_f32(self, a: V) -> V {
        a
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> V {
        [i32x4_splat(x); 4]
    }
    #[inline(always)]
    fn istore(self, a: V, out: &mut [i32; 16]) {
        four!(|q| store(&mut out[4 * q..4 * q + 4], a[q]));
    }
    #[inline(always)]
    fn iadd(self, a: V, b: V) -> V {
        four!(|q| i32x4_add(a[q], b[q]))
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: V) -> V {
        four!(|q| i32x4_shl(a[q], N))
    }
    #[inline(always)]
    fn imac(self, acc: V, a: V, b: V) -> V {
        four!(|q| i32x4_add(acc[q], i32x4_mul(a[q], b[q])))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> V {
        let x = load(x, 0);
        let (lo, hi) = (i16x8_extend_low_i8x16(x), i16x8_extend_high_i8x16(x));
        [
            i32x4_extend_low_i16x8(lo),
            i32x4_extend_high_i16x8(lo),
            i32x4_extend_low_i16x8(hi),
            i32x4_extend_high_i16x8(hi),
        ]
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> V {
        let x = load(x, 0);
        let (lo, hi) = (u16x8_extend_low_u8x16(x), u16x8_extend_high_u8x16(x));
        [
            u32x4_extend_low_u16x8(lo),
            u32x4_extend_high_u16x8(lo),
            u32x4_extend_low_u16x8(hi),
            u32x4_extend_high_u16x8(hi),
        ]
    }
    #[inline(always)]
    fn bload(self, x: &[u8; 64]) -> V {
        four!(|q| load(x, q))
    }
    #[inline(always)]
    fn bsplat(self, x: u8) -> V {
        [u8x16_splat(x); 4]
    }
    #[inline(always)]
    fn band(self, a: V, b: V) -> V {
        four!(|q| v128_and(a[q], b[q]))
    }
    #[inline(always)]
    fn bor(self, a: V, b: V) -> V {
        four!(|q| v128_or(a[q], b[q]))
    }
    #[inline(always)]
    fn bxor(self, a: V, b: V) -> V {
        four!(|q| v128_xor(a[q], b[q]))
    }
    #[inline(always)]
    fn bshl<const N: u32>(self, a: V) -> V {
        four!(|q| i16x8_shl(a[q], N))
    }
    #[inline(always)]
    fn bshr<const N: u32>(self, a: V) -> V {
        four!(|q| u16x8_shr(a[q], N))
    }
    #[inline(always)]
    fn dot_u7(self, acc: V, w: V, x: &[i8; 4]) -> V {
        // Bytes up to 127 read the same signed.
        self.dot_i8(acc, w, x)
    }
    #[inline(always)]
    fn dot_i8(self, acc: V, w: V, x: &[i8; 4]) -> V {
        let [even, odd] = evens_and_odds(i32x4_splat(i32::from_le_bytes(x.map(i8::cast_unsigned))));
        four!(|q| {
            // Taken apart once for all tokens of a tile and both parts of their activations.
            let [w_even, w_odd] = evens_and_odds(w[q]);
            i32x4_add(i32x4_add(acc[q], i32x4_dot_i16x8(w_even, even)), i32x4_dot_i16x8(w_odd, odd))
        })
    }
    #[inline(always)]
    fn load_words(self, x: &[[i16; 2]; 16]) -> V {
        four!(|q| load(x, q))
    }
    #[inline(always)]
    fn dot_words(self, acc: V, w: V, x: [i16; 2]) -> V {
        let x = i32x4_splat(both(x));
        four!(|q| i32x4_add(acc[q], i32x4_dot_i16x8(w[q], x)))
    }
    #[inline(always)]
    fn wzero(self) -> [v128; 8] {
        [i64x2_splat(0); 8]
    }
    #[inline(always)]
    fn wmac(self, acc: [v128; 8], a: V, b: V) -> [v128; 8] {
        let mut acc = acc;
        for ((acc, a), b) in acc.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b) {
            acc[0] = i64x2_add(acc[0], i64x2_extmul_low_i32x4(a, b));
            acc[1] = i64x2_add(acc[1], i64x2_extmul_high_i32x4(a, b));
        }
        acc
    }
    #[inline(always)]
    fn wmac_all(self, acc: [v128; 8], a: V, x: i32) -> [v128; 8] {
        self.wmac(acc, a, self.isplat(x))
    }
    #[inline(always)]
    fn wstore(self, a: [v128; 8], out: &mut [i64; 16]) {
        for (a, out) in a.into_iter().zip(out.as_chunks_mut::<2>().0) {
            store(out, a);
        }
    }
    /// Does nothing: WebAssembly has no such hint.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}

/// The 16 bytes from byte `16 · at` on.
#[inline(always)]
fn load<T: Copy, const N: usize>(x: &[T; N], at: usize) -> v128 {
    assert!(16 * (at + 1) <= size_of_val(x));
    // SAFETY: the array has these bytes, as was just checked (of constants, so nothing is left of it); `v128_load` takes
    // any alignment.
    unsafe { v128_load(x.as_ptr().cast::<v128>().add(at)) }
}

/// Writes 16 bytes.
#[inline(always)]
fn store<T: Copy>(out: &mut [T], a: v128) {
    assert!(size_of_val(out) == 16);
    // SAFETY: the slice has 16 bytes, as was just checked; `v128_store` takes any alignment.
    unsafe { v128_store(out.as_mut_ptr().cast(), a) }
}

/// The bytes 0, 2, 4 … and 1, 3, 5 …, as 16-bit integers.
#[inline(always)]
fn evens_and_odds(a: v128) -> [v128; 2] {
    [i16x8_shr(i16x8_shl(a, 8), 8), i16x8_shr(a, 8)]
}

/// `a · b + c`, rounded once.
#[inline(always)]
fn fma(a: v128, b: v128, c: v128) -> v128 {
    let upper = |v: v128| f64x2_promote_low_f32x4(i64x2_shuffle::<1, 1>(v, v));
    let lower = f64x2_promote_low_f32x4;
    let lo = f32x4_demote_f64x2_zero(to_odd(f64x2_mul(lower(a), lower(b)), lower(c)));
    let hi = f32x4_demote_f64x2_zero(to_odd(f64x2_mul(upper(a), upper(b)), upper(c)));
    i64x2_shuffle::<0, 2>(lo, hi)
}

/// `p + c`, rounded to odd: where it is no f64, to that neighbour whose last bit is 1. An f64 has more than two bits more
/// than an f32, so that rounding it once more gives what rounding the exact sum once gives (Boldo and Melquiond, "When
/// double rounding is odd"). Products of two f32 are exact in f64, and sums of the two neither overflow nor lose bits to
/// denormals.
#[inline(always)]
fn to_odd(p: v128, c: v128) -> v128 {
    let sum = f64x2_add(p, c);
    // What the sum's rounding has left out, exactly (Knuth's two-sum); no number where the sum is none.
    let c_part = f64x2_sub(sum, p);
    let p_part = f64x2_sub(sum, c_part);
    let rest = f64x2_add(f64x2_sub(p, p_part), f64x2_sub(c, c_part));
    let inexact = f64x2_gt(f64x2_abs(rest), f64x2_splat(0.0));
    let even = i64x2_sub(v128_and(sum, i64x2_splat(1)), i64x2_splat(1));
    // One bit away from zero where the rest has the sum's sign, else one towards it.
    let step = v128_or(i64x2_shr(v128_xor(sum, rest), 63), i64x2_splat(1));
    i64x2_add(sum, v128_and(step, v128_and(inexact, even)))
}

/// Four halves, each in the lower 16 bits of a lane, as f32.
#[inline(always)]
fn f16_to_f32(half: v128) -> v128 {
    // As the bits of an f32 they are 2^-112 of the value, denormals too.
    let magnitude = i32x4_shl(v128_and(half, i32x4_splat(0x7fff)), 13);
    let value = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((127 + 112) << 23)));
    // Infinity and NaN keep the largest exponent.
    let special = v128_and(i32x4_gt(magnitude, i32x4_splat(0x0f7f_ffff)), i32x4_splat(0x7f80_0000));
    v128_or(v128_or(value, special), i32x4_shl(v128_and(half, i32x4_splat(0x8000)), 16))
}

/// Four f32 as halves in the lower 16 bits of their lanes: the cases of [`crate::half::f32_to_f16`].
#[inline(always)]
fn f32_to_f16(value: v128) -> v128 {
    let magnitude = v128_and(value, i32x4_splat(0x7fff_ffff));
    let above = |bound: i32| i32x4_gt(magnitude, i32x4_splat(bound));
    let shifted = u32x4_shr(magnitude, 13);
    let ties_to_even = i32x4_add(v128_and(shifted, i32x4_splat(1)), i32x4_splat(0xfff - (112 << 23)));
    let normal = u32x4_shr(i32x4_add(magnitude, ties_to_even), 13);
    // In [0.5, 1) the last bit of an f32 is worth 2^-24, so the sum is rounded where a subnormal half is.
    let one_half = f32x4_splat(0.5);
    let subnormal = i32x4_sub(f32x4_add(magnitude, one_half), one_half);
    let nan = v128_or(v128_and(shifted, i32x4_splat(0x3ff)), i32x4_splat(0x7e00));
    let half = v128_bitselect(normal, subnormal, above(0x3880_0000 - 1));
    let half = v128_bitselect(i32x4_splat(0x7c00), half, above(0x477f_f000 - 1));
    let half = v128_bitselect(nan, half, above(0x7f80_0000));
    v128_or(half, v128_and(u32x4_shr(value, 16), i32x4_splat(0x8000)))
}
