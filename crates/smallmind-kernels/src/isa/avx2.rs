//! AVX2 with FMA and F16C: two 256-bit registers are the virtual vector.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::x86_64::*;

use super::Isa;

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The value again, for a function that only a holder of the proof can reach.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

impl Isa for Avx2 {
    type F = F;
    type I = I;
    type B = I;

    const NAME: &'static str = "avx2";
    const BIAS: i32 = 0;
    const TOKENS: usize = 4;
    const QUERIES: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> F {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, a: F, out: &mut [f32; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), a[1])
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> F {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    fn store_f16(self, a: F, out: &mut [u16; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<0>(a[0]));
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<0>(a[1]))
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> F {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let (lo, hi) = (_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(x.as_ptr().add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(lo))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(hi))),
            ]
        }
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    fn to_i32(self, a: F) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
    }
    #[inline(always)]
    fn bits_to_f32(self, a: I) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    fn istore(self, a: I, out: &mut [i32; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), a[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), a[1])
        }
    }
    #[inline(always)]
    fn iadd(self, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let n = _mm_cvtsi32_si128(N.cast_signed());
            [_mm256_sll_epi32(a[0], n), _mm256_sll_epi32(a[1], n)]
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> I {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let v = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v))]
        }
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> I {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let v = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v))]
        }
    }
    #[inline(always)]
    fn bload(self, x: &[u8; 64]) -> I {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())] }
    }
    #[inline(always)]
    fn bsplat(self, x: u8) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_set1_epi8(x.cast_signed()); 2] }
    }
    #[inline(always)]
    fn band(self, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn bor(self, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn bxor(self, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn bshl<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let n = _mm_cvtsi32_si128(N.cast_signed());
            [_mm256_sll_epi16(a[0], n), _mm256_sll_epi16(a[1], n)]
        }
    }
    #[inline(always)]
    fn bshr<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let n = _mm_cvtsi32_si128(N.cast_signed());
            [_mm256_srl_epi16(a[0], n), _mm256_srl_epi16(a[1], n)]
        }
    }
    #[inline(always)]
    fn dot_u7(self, acc: I, w: I, x: &[i8; 4]) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let (x, ones) =
                (_mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned))), _mm256_set1_epi16(1));
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(ones, _mm256_maddubs_epi16(w[0], x))),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(ones, _mm256_maddubs_epi16(w[1], x))),
            ]
        }
    }
    #[inline(always)]
    fn dot_i8(self, acc: I, w: I, x: &[i8; 4]) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            // |w| (up to 128) times x with w's sign: at most 2 * 128 * 127 = 32,512, so no 16-bit sum saturates.
            let (x, ones) =
                (_mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned))), _mm256_set1_epi16(1));
            [
                _mm256_add_epi32(
                    acc[0],
                    _mm256_madd_epi16(
                        ones,
                        _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), _mm256_sign_epi8(x, w[0])),
                    ),
                ),
                _mm256_add_epi32(
                    acc[1],
                    _mm256_madd_epi16(
                        ones,
                        _mm256_maddubs_epi16(_mm256_abs_epi8(w[1]), _mm256_sign_epi8(x, w[1])),
                    ),
                ),
            ]
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch is a hint and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
