//! AVX2 with FMA and F16C: two 256-bit registers are the virtual vector. The byte dot product is a parameter
//! (`avx2_dot`), so that CPUs with 256-bit VNNI share all the rest.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::x86_64::*;
use std::marker::PhantomData;

#[cfg(debug_assertions)]
use super::avx2_dot::Evex;
use super::avx2_dot::{Dot, Pairs, Vex};
use super::{Isa, both};
use crate::matmul::acts::{BlockSums, PARTS};

/// Proof of AVX2, FMA, F16C and what the dot `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Two256<D>(PhantomData<D>);
/// AVX2 with its own dot.
pub(crate) type Avx2 = Two256<Pairs>;
/// AVX2 with AVX-VNNI.
pub(crate) type AvxVnni = Two256<Vex>;
/// AVX2 with the VNNI of AVX-512 VL.
#[cfg(debug_assertions)]
pub(crate) type Avx512Vl = Two256<Evex>;

impl<D: Dot> Two256<D> {
    /// The value again, for a function that only a holder of the proof can reach.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(PhantomData)
    }

    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && D::detected())
        .then_some(Self(PhantomData))
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// The lower word of each lane, twice. What is the same for many tokens is computed once: it is inlined.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn twice(a: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_blend_epi16::<0xaa>(a, _mm256_slli_epi32::<16>(a)) }
}

impl<D: Dot> Isa for Two256<D> {
    type F = F;
    type I = I;
    type B = I;
    /// Even and odd lanes of either register.
    type W = [[__m256i; 2]; 2];

    const NAME: &'static str = D::NAME;
    const BIAS: i32 = D::BIAS;
    const TOKENS: usize = 4;
    const WIDE_TOKENS: usize = 4;
    const NARROW_FROM: usize = D::NARROW_FROM;
    const MANY_FROM: usize = 3;
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
    fn sum(self, a: F) -> f32 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn max_lane(self, a: F) -> f32 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
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
    fn bits(self, a: F) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])] }
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
    fn cut(self, q: [I; 4], hi: &mut [[i8; 16]; 4], lo: &mut [[i8; 16]; 4], sums: [&mut BlockSums; 2]) {
        let mut byte_sums = [self.isplat(0); 2];
        for (half, q) in q.as_chunks::<2>().0.iter().enumerate() {
            // SAFETY: `self` proves the CPU has the instructions; two rows of 16 bytes have the size of a register.
            unsafe {
                // Each 128 bits hold half of both vectors, by fours.
                let up = _mm256_set1_epi16(64);
                let words = q.map(|q| _mm256_add_epi16(_mm256_packs_epi32(q[0], q[1]), up));
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let upper = words.map(|w| _mm256_srai_epi16::<7>(w));
                let upper = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(upper[0], upper[1]), order);
                let lower = words.map(|w| _mm256_and_si256(w, _mm256_set1_epi16(127)));
                let lower = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lower[0], lower[1]), order);
                let lower = _mm256_sub_epi8(lower, _mm256_set1_epi8(64));
                _mm256_storeu_si256(hi[2 * half..].as_mut_ptr().cast(), upper);
                _mm256_storeu_si256(lo[2 * half..].as_mut_ptr().cast(), lower);
                let ones = _mm256_set1_epi8(1);
                byte_sums[half] = [upper, lower].map(|x| D::dot_u7(_mm256_setzero_si256(), ones, x));
            }
        }
        // SAFETY: `self` proves the CPU has the instructions; the sums of a block are 24 bytes.
        unsafe {
            // Of either part, of the first and third 16 and of the second and fourth; as words, they are what a block
            // stores of its parts.
            let [first, last] = byte_sums.map(|[upper, lower]| _mm256_hadd_epi32(upper, lower));
            let all = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(first, last));
            let all = _mm256_packs_epi32(all, all);
            let order =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 4, 5, 2, 3, 6, 7));
            let parts = _mm256_shuffle_epi8(all, order);
            let halves = _mm256_madd_epi16(parts, _mm256_set1_epi32(1 << 16 | 128));
            let all = _mm256_blend_epi32::<0b1100_1100>(halves, parts);
            // Both sixteens of a block: the upper words of what the other block has go between.
            let whole = _mm256_madd_epi16(parts, _mm256_set1_epi16(1));
            let other = _mm_slli_epi32::<16>(_mm256_extracti128_si256::<1>(whole));
            let span = _mm_blend_epi16::<0b1010_1010>(_mm256_castsi256_si128(whole), other);
            let span = _mm_unpackhi_epi64(span, span);
            let of = [_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all)];
            for (sums, of) in sums.into_iter().zip(of) {
                let out = std::ptr::from_mut(sums).cast::<__m128i>();
                _mm_storeu_si128(out, of);
                _mm_storel_epi64(out.add(1), span);
            }
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
    fn imac(self, acc: I, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                _mm256_add_epi32(acc[0], _mm256_mullo_epi32(a[0], b[0])),
                _mm256_add_epi32(acc[1], _mm256_mullo_epi32(a[1], b[1])),
            ]
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
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            [D::dot_u7(acc[0], w[0], x), D::dot_u7(acc[1], w[1], x)]
        }
    }
    #[inline(always)]
    fn dot_i8(self, acc: I, w: I, x: &[i8; 4]) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            [D::dot_i8(acc[0], w[0], x), D::dot_i8(acc[1], w[1], x)]
        }
    }
    #[inline(always)]
    fn dot_nibbles(self, w: &[I; 8], x: &[[i8; 4]; 8]) -> I {
        let mut sums = self.isplat(0);
        for (w, x) in w.iter().zip(x) {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
                for (sum, w) in sums.iter_mut().zip(*w) {
                    *sum = D::nibbles(*sum, w, x);
                }
            }
        }
        // SAFETY: as above.
        unsafe { [D::nibbles_end(sums[0]), D::nibbles_end(sums[1])] }
    }
    #[inline(always)]
    fn narrow(self, acc: I, w: &[I; 8], x: &[[i8; 4]; 8], by: [I; 2]) -> I {
        let mut acc = acc;
        for half in 0..2 {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                // Two sums a lane, in 16 bits: 4 · 2 · 15 · 127 at most.
                let mut sums = [_mm256_setzero_si256(); 2];
                for (j, x) in x.iter().enumerate() {
                    let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
                    sums[j / 4] = _mm256_add_epi16(sums[j / 4], _mm256_maddubs_epi16(w[j][half], x));
                }
                let first = _mm256_madd_epi16(sums[0], twice(by[0][half]));
                let last = _mm256_madd_epi16(sums[1], twice(by[1][half]));
                acc[half] = _mm256_add_epi32(acc[half], _mm256_add_epi32(first, last));
            }
        }
        acc
    }
    #[inline(always)]
    fn narrow_span(
        self,
        acc: [I; PARTS],
        w: &[[I; 8]; 2],
        x: [&[[i8; 4]; 16]; PARTS],
        by: [I; 2],
        _sums: &[[i16; 2]; PARTS],
    ) -> [I; PARTS] {
        let mut acc = acc;
        for b in 0..2 {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                // Two sums a lane, in 16 bits: 8 · 2 · 15 · 127 at most. The weights lie in memory: one load for both parts.
                let mut sums = [[_mm256_setzero_si256(); 2]; PARTS];
                for j in 0..8 {
                    for part in 0..PARTS {
                        let x = x[part][8 * b + j].map(i8::cast_unsigned);
                        let x = _mm256_set1_epi32(i32::from_le_bytes(x));
                        for half in 0..2 {
                            let products = _mm256_maddubs_epi16(w[b][j][half], x);
                            sums[part][half] = _mm256_add_epi16(sums[part][half], products);
                        }
                    }
                }
                for half in 0..2 {
                    let by = twice(by[b][half]);
                    for part in 0..PARTS {
                        acc[part][half] = D::pairs(acc[part][half], sums[part][half], by);
                    }
                }
            }
        }
        acc
    }
    #[inline(always)]
    fn pair_mac(self, acc: I, by: [I; 2], x: [i16; 2]) -> I {
        let mut acc = acc;
        for half in 0..2 {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                let last = _mm256_slli_epi32::<16>(by[1][half]);
                let by = _mm256_blend_epi16::<0b1010_1010>(by[0][half], last);
                acc[half] = D::pairs(acc[half], by, _mm256_set1_epi32(both(x)));
            }
        }
        acc
    }
    #[inline(always)]
    fn load_words(self, x: &[[i16; 2]; 16]) -> I {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())] }
    }
    #[inline(always)]
    fn dot_words(self, acc: I, w: I, x: [i16; 2]) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let x = _mm256_set1_epi32(both(x));
            [D::pairs(acc[0], w[0], x), D::pairs(acc[1], w[1], x)]
        }
    }
    #[inline(always)]
    fn wzero(self) -> Self::W {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [[_mm256_setzero_si256(); 2]; 2] }
    }
    #[inline(always)]
    fn wmac(self, acc: Self::W, a: I, b: I) -> Self::W {
        let mut acc = acc;
        for ((acc, a), b) in acc.iter_mut().zip(a).zip(b) {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                let (a_odd, b_odd) = (_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
                acc[0] = _mm256_add_epi64(acc[0], _mm256_mul_epi32(a, b));
                acc[1] = _mm256_add_epi64(acc[1], _mm256_mul_epi32(a_odd, b_odd));
            }
        }
        acc
    }
    #[inline(always)]
    fn wmac_all(self, acc: Self::W, a: I, x: i32) -> Self::W {
        let mut acc = acc;
        for (acc, a) in acc.iter_mut().zip(a) {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                let x = _mm256_set1_epi32(x);
                acc[0] = _mm256_add_epi64(acc[0], _mm256_mul_epi32(a, x));
                acc[1] = _mm256_add_epi64(acc[1], _mm256_mul_epi32(_mm256_srli_epi64::<32>(a), x));
            }
        }
        acc
    }
    #[inline(always)]
    fn wstore(self, a: Self::W, out: &mut [i64; 16]) {
        for (to, [even, odd]) in out.as_chunks_mut::<8>().0.iter_mut().zip(a) {
            let mut lanes = [[0_i64; 4]; 2];
            // SAFETY: `self` proves the CPU has the instructions; the arrays have the size of a register.
            unsafe {
                _mm256_storeu_si256(lanes[0].as_mut_ptr().cast(), even);
                _mm256_storeu_si256(lanes[1].as_mut_ptr().cast(), odd);
            }
            for (i, to) in to.iter_mut().enumerate() {
                *to = lanes[i % 2][i / 2];
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch is a hint and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_once(self, p: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(p.cast()) }
    }
}
