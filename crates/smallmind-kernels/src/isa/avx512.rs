//! AVX-512: one 512-bit register is the whole virtual vector. The byte dot product is a parameter: VNNI, or what the
//! first CPUs with AVX-512 have.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{Isa, both};
use crate::matmul::acts::{BlockSums, PARTS};

/// How 64 bytes of weights meet 4 activations, here repeated 16 times.
pub(crate) trait Dot: Copy + 'static {
    /// [`Isa::NAME`].
    const NAME: &'static str;
    /// [`Isa::BIAS`].
    const BIAS: i32;
    /// Whether the CPU has what the dot needs beyond AVX-512 F and BW.
    fn detected() -> bool;
    /// [`Isa::dot_u7`].
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW and what [`Dot::detected`] asks for.
    unsafe fn dot_u7(acc: __m512i, w: __m512i, x: __m512i) -> __m512i;
    /// [`Isa::dot_i8`].
    ///
    /// # Safety
    /// As for [`Dot::dot_u7`].
    unsafe fn dot_i8(acc: __m512i, w: __m512i, x: __m512i) -> __m512i;
    /// `acc + a₀ · b₀ + a₁ · b₁` of the words of each lane, wrapping.
    ///
    /// # Safety
    /// As for [`Dot::dot_u7`].
    unsafe fn pairs(acc: __m512i, a: __m512i, b: __m512i) -> __m512i;
    /// The same for many sums at once, whose additions wait for nothing.
    ///
    /// # Safety
    /// As for [`Dot::dot_u7`].
    #[inline(always)]
    unsafe fn pairs_at_once(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { Self::pairs(acc, a, b) }
    }
}

/// VNNI, which multiplies unsigned by signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct Vnni;

impl Dot for Vnni {
    const NAME: &'static str = "avx512";
    const BIAS: i32 = 128;

    fn detected() -> bool {
        is_x86_feature_detected!("avx512vnni")
    }
    #[inline(always)]
    unsafe fn dot_u7(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(acc, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x) }
    }
    #[inline(always)]
    unsafe fn pairs(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn pairs_at_once(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { dpwssd(acc, a, b) }
    }
}

/// Without VNNI (Skylake-X): products of bytes are added in pairs to 16 bits, and those in pairs to 32.
#[derive(Clone, Copy)]
pub(crate) struct Pairs;

impl Dot for Pairs {
    const NAME: &'static str = "avx512bw";
    const BIAS: i32 = 0;

    fn detected() -> bool {
        true
    }
    #[inline(always)]
    unsafe fn dot_u7(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_set1_epi16(1), _mm512_maddubs_epi16(w, x))) }
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // |w| (up to 128) times x with w's sign: at most 2 * 128 * 127 = 32,512, so no 16-bit sum saturates.
        // SAFETY: the caller's promise.
        unsafe {
            let signed = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
            Self::dot_u7(acc, _mm512_abs_epi8(w), signed)
        }
    }
    #[inline(always)]
    unsafe fn pairs(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
    }
}

/// The lower words of both lanes side by side. What is the same for many tokens is computed once: it is inlined.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn words([first, last]: [__m512i; 2]) -> __m512i {
    // Not a blend: its mask would come from an integer register each time.
    const LAST_OR_FIRST_WITHIN: i32 = 0b1111_1000;
    // SAFETY: the caller's promise.
    unsafe {
        let (within, last) = (_mm512_set1_epi32(0xffff), _mm512_slli_epi32::<16>(last));
        _mm512_ternarylogic_epi32::<LAST_OR_FIRST_WITHIN>(last, first, within)
    }
}

/// The instruction itself: of the intrinsic the compiler makes two where sums are added to sums.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let mut acc = acc;
    // SAFETY: registers only; the function's features are the instruction's.
    unsafe {
        asm!(
            "vpdpwssd {acc}, {a}, {b}",
            acc = inout(zmm_reg) acc,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// From memory: the intrinsic takes a register, whose halves must be brought apart first.
#[inline]
#[target_feature(enable = "avx512f")]
fn f16_to_f32(x: &[u16; 16]) -> __m512 {
    let out;
    // SAFETY: reads the 32 bytes of the reference; the function's feature is the instruction's.
    unsafe {
        asm!(
            "vcvtph2ps {out}, ymmword ptr [{x}]",
            out = lateout(zmm_reg) out,
            x = in(reg) x,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    out
}

/// Proof of AVX-512 F, BW, VL, DQ and what the dot `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct One512<D>(PhantomData<D>);
/// AVX-512 with VNNI.
pub(crate) type Avx512 = One512<Vnni>;
/// AVX-512 without VNNI.
pub(crate) type Avx512Bw = One512<Pairs>;

impl<D: Dot> One512<D> {
    /// The value again, for a function that only a holder of the proof can reach.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(PhantomData)
    }

    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && D::detected())
        .then_some(Self(PhantomData))
    }
}

impl<D: Dot> Isa for One512<D> {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    /// Even and odd lanes.
    type W = [__m512i; 2];

    const NAME: &'static str = D::NAME;
    const BIAS: i32 = D::BIAS;
    const TOKENS: usize = 8;
    const WIDE_TOKENS: usize = 8;
    const NARROW_FROM: usize = 2;
    const MANY_FROM: usize = 3;
    // One instruction for each product of a vector, not three.
    const READS_FAST: bool = D::BIAS == 128;
    const QUERIES: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: __m512, out: &mut [f32; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { f16_to_f32(x) }
    }
    #[inline(always)]
    fn store_f16(self, a: __m512, out: &mut [u16; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<0>(a)) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
                x.as_ptr().cast(),
            ))))
        }
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn to_i32(self, a: __m512) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn bits(self, a: __m512) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    fn bits_to_f32(self, a: __m512i) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn istore(self, a: __m512i, out: &mut [i32; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), a) }
    }
    #[inline(always)]
    fn store_i8(self, a: __m512i, out: &mut [i8; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)) }
    }
    #[inline(always)]
    fn cut(self, q: [__m512i; 4], hi: &mut [[i8; 16]; 4], lo: &mut [[i8; 16]; 4], sums: [&mut BlockSums; 2]) {
        // SAFETY: `self` proves the CPU has the instructions; the array references prove the lengths, and the sums of a
        // block are 24 bytes.
        unsafe {
            // Each 128 bits hold four of every vector: as words, two vectors, and as bytes, four.
            let up = _mm512_set1_epi16(64);
            let words = [
                _mm512_add_epi16(_mm512_packs_epi32(q[0], q[1]), up),
                _mm512_add_epi16(_mm512_packs_epi32(q[2], q[3]), up),
            ];
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let upper = words.map(|w| _mm512_srai_epi16::<7>(w));
            let upper = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(upper[0], upper[1]));
            let lower = words.map(|w| _mm512_and_si512(w, _mm512_set1_epi16(127)));
            let lower = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(lower[0], lower[1]));
            let lower = _mm512_sub_epi8(lower, _mm512_set1_epi8(64));
            _mm512_storeu_si512(hi.as_mut_ptr().cast(), upper);
            _mm512_storeu_si512(lo.as_mut_ptr().cast(), lower);
            // Both sums side by side, twice in each 128 bits; as words, they are what a block stores of its parts.
            let ones = _mm512_set1_epi8(1);
            let upper = D::dot_u7(_mm512_setzero_si512(), ones, upper);
            let lower = D::dot_u7(_mm512_setzero_si512(), ones, lower);
            let pairs =
                _mm512_add_epi32(_mm512_unpacklo_epi32(upper, lower), _mm512_unpackhi_epi32(upper, lower));
            let all = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0b01_00_11_10>(pairs));
            // Of each sixteen the upper and the lower, twice; as words, they are what a block stores of its parts.
            let all = _mm512_cvtepi32_epi16(all);
            const OF_BLOCKS: [u16; 16] = [0, 1, 4, 5, 0, 4, 1, 5, 8, 9, 12, 13, 8, 12, 9, 13];
            const OF_SPAN: [u16; 16] = [0, 8, 1, 9, 4, 12, 5, 13, 0, 0, 0, 0, 0, 0, 0, 0];
            let ordered =
                |order: &[u16; 16]| _mm256_permutexvar_epi16(_mm256_loadu_si256(order.as_ptr().cast()), all);
            let (blocks, span) = (ordered(&OF_BLOCKS), _mm256_castsi256_si128(ordered(&OF_SPAN)));
            let blocks =
                _mm256_mask_madd_epi16(blocks, 0b0011_0011, blocks, _mm256_set1_epi32(1 << 16 | 128));
            let span = _mm_add_epi16(span, _mm_unpackhi_epi64(span, span));
            let of = [_mm256_castsi256_si128(blocks), _mm256_extracti128_si256::<1>(blocks)];
            for (sums, of) in sums.into_iter().zip(of) {
                let out = std::ptr::from_mut(sums).cast::<__m128i>();
                _mm_storeu_si128(out, of);
                _mm_storel_epi64(out.add(1), span);
            }
        }
    }
    #[inline(always)]
    fn iadd(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn imac(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_add_epi32(acc, _mm512_mullo_epi32(a, b)) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn bload(self, x: &[u8; 64]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn bsplat(self, x: u8) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_set1_epi8(x.cast_signed()) }
    }
    #[inline(always)]
    fn band(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn bor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn bxor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn bshl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_slli_epi16::<N>(a) }
    }
    #[inline(always)]
    fn bshr<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_srli_epi16::<N>(a) }
    }
    #[inline(always)]
    fn dot_u7(self, acc: __m512i, w: __m512i, x: &[i8; 4]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { D::dot_u7(acc, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))) }
    }
    #[inline(always)]
    fn dot_i8(self, acc: __m512i, w: __m512i, x: &[i8; 4]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { D::dot_i8(acc, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))) }
    }
    #[inline(always)]
    fn narrow(self, acc: __m512i, w: &[__m512i; 8], x: &[[i8; 4]; 8], by: [__m512i; 2]) -> __m512i {
        let mut halves = [self.isplat(0); 2];
        for j in 0..4 {
            halves[0] = self.dot_u7(halves[0], w[j], &x[j]);
            halves[1] = self.dot_u7(halves[1], w[4 + j], &x[4 + j]);
        }
        // Each fits 16 bits: 16 · 15 · 127 at most.
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { D::pairs(acc, words(halves), words(by)) }
    }
    const MIDDLE: i32 = 8;
    #[inline(always)]
    fn narrow_span(
        self,
        acc: [__m512i; PARTS],
        w: &[[__m512i; 8]; 2],
        x: [&[[i8; 4]; 16]; PARTS],
        by: [__m512i; 2],
        sums: &[[i16; 2]; PARTS],
    ) -> [__m512i; PARTS] {
        let (mut acc, mut of_blocks) = (acc, [[self.isplat(0); 2]; PARTS]);
        for j in 0..8 {
            for part in 0..PARTS {
                for b in 0..2 {
                    of_blocks[part][b] = self.dot_u7(of_blocks[part][b], w[b][j], &x[part][8 * b + j]);
                }
            }
        }
        for part in 0..PARTS {
            // Of quants less 8 they fit 16 bits: 32 · 8 · 127.
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                let eight_times = _mm512_slli_epi16::<3>(self.isplat(both(sums[part])));
                let less = _mm512_sub_epi16(words(of_blocks[part]), eight_times);
                acc[part] = D::pairs(acc[part], less, words(by));
            }
        }
        acc
    }
    #[inline(always)]
    fn pair_mac(self, acc: __m512i, by: [__m512i; 2], x: [i16; 2]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { D::pairs(acc, words(by), self.isplat(both(x))) }
    }
    #[inline(always)]
    fn load_words(self, x: &[[i16; 2]; 16]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn dot_words(self, acc: __m512i, w: __m512i, x: [i16; 2]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { D::pairs_at_once(acc, w, self.isplat(both(x))) }
    }
    #[inline(always)]
    fn wzero(self) -> [__m512i; 2] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [_mm512_setzero_si512(); 2] }
    }
    #[inline(always)]
    fn wmac(self, acc: [__m512i; 2], a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            [_mm512_add_epi64(acc[0], _mm512_mul_epi32(a, b)), _mm512_add_epi64(acc[1], odd)]
        }
    }
    #[inline(always)]
    fn wmac_all(self, acc: [__m512i; 2], a: __m512i, x: i32) -> [__m512i; 2] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let x = _mm512_set1_epi32(x);
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(a), x);
            [_mm512_add_epi64(acc[0], _mm512_mul_epi32(a, x)), _mm512_add_epi64(acc[1], odd)]
        }
    }
    #[inline(always)]
    fn wstore(self, a: [__m512i; 2], out: &mut [i64; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let (first, last) = (_mm512_unpacklo_epi64(a[0], a[1]), _mm512_unpackhi_epi64(a[0], a[1]));
            // 128-bit parts hold lanes 0 1, 4 5, 8 9, 12 13 and 2 3, 6 7, 10 11, 14 15.
            let order = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let rest = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutex2var_epi64(first, order, last));
            _mm512_storeu_si512(out.as_mut_ptr().add(8).cast(), _mm512_permutex2var_epi64(first, rest, last));
        }
    }
    #[inline(always)]
    fn wscaled(self, sums: [__m512i; 2], bound: __m512, unit: f64) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            // Even lanes in the lower half, odd ones in the upper.
            let order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            let bound = _mm512_permutexvar_ps(order, bound);
            let unit = _mm512_set1_pd(unit);
            let bounds = [
                _mm512_cvtps_pd(_mm512_castps512_ps256(bound)),
                _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(bound)),
            ];
            let even = _mm512_mul_pd(_mm512_mul_pd(_mm512_cvtepi64_pd(sums[0]), bounds[0]), unit);
            let odd = _mm512_mul_pd(_mm512_mul_pd(_mm512_cvtepi64_pd(sums[1]), bounds[1]), unit);
            let (even, odd) = (_mm512_cvtpd_ps(even), _mm512_cvtpd_ps(odd));
            let back = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            _mm512_permutexvar_ps(back, _mm512_insertf32x8::<1>(_mm512_castps256_ps512(even), odd))
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
