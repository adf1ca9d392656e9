//! The byte dot products of 256 bits: AVX2's own, and VNNI's.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::x86_64::*;

/// How 32 bytes of weights meet 4 activations, here repeated 8 times.
pub(crate) trait Dot: Copy + 'static {
    /// [`Isa::NAME`].
    const NAME: &'static str;
    /// [`Isa::BIAS`].
    const BIAS: i32;
    /// [`Isa::NARROW_FROM`].
    const NARROW_FROM: usize;
    /// Whether the CPU has what the dot needs beyond AVX2.
    fn detected() -> bool;
    /// [`Isa::dot_u7`] of one register.
    ///
    /// # Safety
    /// The CPU has AVX2 and what [`Dot::detected`] asks for.
    unsafe fn dot_u7(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// [`Isa::dot_i8`] of one register.
    ///
    /// # Safety
    /// As for [`Dot::dot_u7`].
    unsafe fn dot_i8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// One of up to eight steps of [`Isa::dot_nibbles`], in lanes of its own, and their end.
    ///
    /// # Safety
    /// As for [`Dot::dot_u7`].
    unsafe fn nibbles(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// # Safety
    /// As for [`Dot::dot_u7`].
    unsafe fn nibbles_end(acc: __m256i) -> __m256i;
    /// [`Isa::dot_words`] of one register.
    ///
    /// # Safety
    /// As for [`Dot::dot_u7`].
    unsafe fn pairs(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// AVX2's own: products of bytes are added in pairs to 16 bits, and those in pairs to 32.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

impl Dot for Pairs {
    const NAME: &'static str = "avx2";
    const BIAS: i32 = 0;
    const NARROW_FROM: usize = 1;

    fn detected() -> bool {
        true
    }
    #[inline(always)]
    unsafe fn dot_u7(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_set1_epi16(1), _mm256_maddubs_epi16(w, x))) }
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // |w| (up to 128) times x with w's sign: at most 2 * 128 * 127 = 32,512, so no 16-bit sum saturates.
        // SAFETY: the caller's promise.
        unsafe { Self::dot_u7(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) }
    }
    #[inline(always)]
    unsafe fn nibbles(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // Two sums a lane, in 16 bits: 8 · 2 · 15 · 127 at most.
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x)) }
    }
    #[inline(always)]
    unsafe fn nibbles_end(acc: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_madd_epi16(acc, _mm256_set1_epi16(1)) }
    }
    #[inline(always)]
    unsafe fn pairs(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(w, x)) }
    }
}

/// 256-bit VNNI, which multiplies unsigned by signed bytes, in either of its two encodings.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $isa:literal, [$($feature:tt),+], $dpbusd:ident, $dpwssd:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Dot for $name {
            const NAME: &'static str = $isa;
            const BIAS: i32 = 128;
            const NARROW_FROM: usize = 2;

            fn detected() -> bool {
                $(is_x86_feature_detected!($feature))&&+
            }
            #[inline(always)]
            unsafe fn dot_u7(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { $dpbusd(acc, w, x) }
            }
            #[inline(always)]
            unsafe fn dot_i8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { $dpbusd(acc, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), x) }
            }
            #[inline(always)]
            unsafe fn nibbles(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { Self::dot_u7(acc, w, x) }
            }
            #[inline(always)]
            unsafe fn nibbles_end(acc: __m256i) -> __m256i {
                acc
            }
            #[inline(always)]
            unsafe fn pairs(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the caller's promise.
                unsafe { $dpwssd(acc, w, x) }
            }
        }
    };
}

vnni!(
    /// AVX-VNNI: CPUs from Alder Lake and Zen 5 on.
    Vex, "avxvnni", ["avxvnni"], _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32
);
#[cfg(debug_assertions)]
vnni!(
    /// The same instruction in the encoding of AVX-512, on CPUs where the full width is faster: it is there to prove
    /// the leaves of AVX-VNNI on machines without it.
    Evex, "avx512vl", ["avx512f", "avx512vl", "avx512vnni"], _mm256_dpbusd_epi32, _mm256_dpwssd_epi32
);
