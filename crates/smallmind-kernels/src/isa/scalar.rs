//! Plain Rust: the reference that every other ISA is compared with, and the path of every machine without one.

use super::Isa;
use crate::half;

/// Always there.
#[derive(Clone, Copy)]
pub(crate) struct Scalar(());

impl Scalar {
    /// As for the other ISAs; plain Rust needs no proof.
    #[inline(always)]
    pub(crate) fn assume() -> Self {
        Self(())
    }

    pub(crate) fn detect() -> Option<Self> {
        Some(Self(()))
    }
}

#[inline(always)]
fn zip<T: Copy, U>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> U) -> [U; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn lanes16(a: [u8; 64], f: impl Fn(u16) -> u16) -> [u8; 64] {
    let mut out = [0; 64];
    for (o, i) in out.as_chunks_mut::<2>().0.iter_mut().zip(a.as_chunks::<2>().0) {
        *o = f(u16::from_le_bytes(*i)).to_le_bytes();
    }
    out
}

impl Isa for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    type W = [i64; 16];

    const NAME: &'static str = "scalar";
    const BIAS: i32 = 0;
    const TOKENS: usize = 2;
    const WIDE_TOKENS: usize = 2;
    const QUERIES: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, a: [f32; 16], out: &mut [f32; 16]) {
        *out = a;
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| a / b)
    }
    // Without the instruction these are calls, one for each lane: together they are in one place.
    #[inline(never)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> [f32; 16] {
        x.map(half::f16_to_f32)
    }
    #[inline(always)]
    fn store_f16(self, a: [f32; 16], out: &mut [u16; 16]) {
        *out = a.map(half::f32_to_f16);
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> [f32; 16] {
        x.map(half::bf16_to_f32)
    }
    #[inline(always)]
    fn to_f32(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|x| x as f32)
    }
    #[inline(never)]
    fn to_i32(self, a: [f32; 16]) -> [i32; 16] {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn bits(self, a: [f32; 16]) -> [i32; 16] {
        a.map(|x| x.to_bits().cast_signed())
    }
    #[inline(always)]
    fn bits_to_f32(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|x| f32::from_bits(x.cast_unsigned()))
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn istore(self, a: [i32; 16], out: &mut [i32; 16]) {
        *out = a;
    }
    #[inline(always)]
    fn iadd(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: [i32; 16]) -> [i32; 16] {
        a.map(|x| x << N)
    }
    #[inline(always)]
    fn imac(self, acc: [i32; 16], a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| acc[i].wrapping_add(a[i].wrapping_mul(b[i])))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> [i32; 16] {
        x.map(i32::from)
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> [i32; 16] {
        x.map(i32::from)
    }
    #[inline(always)]
    fn bload(self, x: &[u8; 64]) -> [u8; 64] {
        *x
    }
    #[inline(always)]
    fn bsplat(self, x: u8) -> [u8; 64] {
        [x; 64]
    }
    #[inline(always)]
    fn band(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn bor(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn bxor(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn bshl<const N: u32>(self, a: [u8; 64]) -> [u8; 64] {
        lanes16(a, |x| x << N)
    }
    #[inline(always)]
    fn bshr<const N: u32>(self, a: [u8; 64]) -> [u8; 64] {
        lanes16(a, |x| x >> N)
    }
    // Products are not inlined: unrolled in every loop of every format they were half a megabyte, and slower.
    #[inline(never)]
    fn dot_u7(self, acc: [i32; 16], w: [u8; 64], x: &[i8; 4]) -> [i32; 16] {
        let mut acc = acc;
        for (a, w) in acc.iter_mut().zip(w.as_chunks::<4>().0) {
            for (w, x) in w.iter().zip(x) {
                *a = a.wrapping_add(i32::from(*w) * i32::from(*x));
            }
        }
        acc
    }
    #[inline(never)]
    fn dot_i8(self, acc: [i32; 16], w: [u8; 64], x: &[i8; 4]) -> [i32; 16] {
        let mut acc = acc;
        for (a, w) in acc.iter_mut().zip(w.as_chunks::<4>().0) {
            for (w, x) in w.iter().zip(x) {
                *a = a.wrapping_add(i32::from(w.cast_signed()) * i32::from(*x));
            }
        }
        acc
    }
    #[inline(always)]
    fn load_words(self, x: &[[i16; 2]; 16]) -> [u8; 64] {
        let mut out = [0; 64];
        for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x.as_flattened()) {
            *out = x.to_le_bytes();
        }
        out
    }
    #[inline(always)]
    fn dot_words(self, acc: [i32; 16], w: [u8; 64], x: [i16; 2]) -> [i32; 16] {
        let mut acc = acc;
        for (acc, w) in acc.iter_mut().zip(w.as_chunks::<2>().0.as_chunks::<2>().0) {
            for (w, x) in w.iter().zip(x) {
                *acc = acc.wrapping_add(i32::from(i16::from_le_bytes(*w)) * i32::from(x));
            }
        }
        acc
    }
    #[inline(always)]
    fn wzero(self) -> [i64; 16] {
        [0; 16]
    }
    #[inline(always)]
    fn wmac(self, acc: [i64; 16], a: [i32; 16], b: [i32; 16]) -> [i64; 16] {
        std::array::from_fn(|i| acc[i].wrapping_add(i64::from(a[i]) * i64::from(b[i])))
    }
    #[inline(always)]
    fn wmac_all(self, acc: [i64; 16], a: [i32; 16], x: i32) -> [i64; 16] {
        self.wmac(acc, a, [x; 16])
    }
    #[inline(always)]
    fn wstore(self, a: [i64; 16], out: &mut [i64; 16]) {
        *out = a;
    }
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}
