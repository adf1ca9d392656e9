//! What bodies that multiply by tiles need of AVX-512 besides: bytes on their way into the tiles, and sums out of them.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::x86_64::*;

use super::Isa;
use super::amx::TileIsa;
use super::avx512::{Dot, One512, words};

impl<D: Dot> TileIsa for One512<D> {
    #[inline(always)]
    fn iload(self, x: &[i32; 16]) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn doubles(self, x: __m512) -> [__m512d; 2] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(x))]
        }
    }
    #[inline(always)]
    fn scaled_sums<const N: usize>(
        self,
        sums: [&[i32; 16]; N],
        weights: [f64; N],
        bounds: [__m512d; 2],
        unit: f64,
    ) -> __m512 {
        // SAFETY: `self` proves the CPU has the instructions; a half of 16 integers is a register of 256 bits.
        unsafe {
            let unit = _mm512_set1_pd(unit);
            let mut scaled = [unit; 2];
            for half in 0..2 {
                let mut sum = _mm512_setzero_pd();
                for i in (0..N).rev() {
                    let part = _mm512_cvtepi32_pd(_mm256_loadu_si256(sums[i].as_ptr().add(8 * half).cast()));
                    sum = if i == N - 1 {
                        part
                    } else {
                        _mm512_fmadd_pd(part, _mm512_set1_pd(weights[i]), sum)
                    };
                }
                scaled[half] = _mm512_mul_pd(_mm512_mul_pd(sum, bounds[half]), unit);
            }
            _mm512_insertf32x8::<1>(
                _mm512_castps256_ps512(_mm512_cvtpd_ps(scaled[0])),
                _mm512_cvtpd_ps(scaled[1]),
            )
        }
    }
    #[inline(always)]
    fn pairs_of(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { words([a; 2]) }
    }
    #[inline(always)]
    fn two_planes(self, q: __m512i, s: __m512i, m: __m512i) -> [__m512i; 2] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let even = _mm512_and_si512(q, _mm512_set1_epi16(0xff));
            let odd = _mm512_srli_epi16::<8>(q);
            let even = _mm512_add_epi16(_mm512_mullo_epi16(even, s), m);
            let odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, s), m);
            const ODD: __mmask64 = 0xaaaa_aaaa_aaaa_aaaa;
            [
                _mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(even), odd),
                _mm512_mask_blend_epi8(ODD, even, _mm512_slli_epi16::<8>(odd)),
            ]
        }
    }
    #[inline(always)]
    fn bsub(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { _mm512_sub_epi8(a, b) }
    }
    #[inline(always)]
    fn byte_planes(self, first: __m512i, last: __m512i) -> [__m512i; 2] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            // Of each lane the lower bytes of both words, then the upper ones.
            let order = _mm512_set4_epi32(0x0f0d_0e0c, 0x0b09_0a08, 0x0705_0604, 0x0301_0200);
            let [first, last] = [first, last].map(|words| _mm512_shuffle_epi8(words, order));
            const ODD: __mmask32 = 0xaaaa_aaaa;
            [
                _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(first), last),
                _mm512_mask_blend_epi16(ODD, first, _mm512_slli_epi32::<16>(last)),
            ]
        }
    }
    #[inline(always)]
    fn store_bytes(self, q: [__m512i; 4], hi: &mut [u8; 64], lo: &mut [u8; 64]) {
        // SAFETY: `self` proves the CPU has the instructions; the array references prove the lengths.
        unsafe {
            // Each 128 bits hold four of every vector: as words, two vectors, and as bytes, four.
            let words = [_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3])];
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let upper = words.map(|w| _mm512_srai_epi16::<8>(_mm512_add_epi16(w, _mm512_set1_epi16(128))));
            let upper = _mm512_packs_epi16(upper[0], upper[1]);
            let lower = words.map(|w| _mm512_and_si512(w, _mm512_set1_epi16(255)));
            let lower = _mm512_packus_epi16(lower[0], lower[1]);
            _mm512_storeu_si512(hi.as_mut_ptr().cast(), _mm512_permutexvar_epi32(order, upper));
            _mm512_storeu_si512(lo.as_mut_ptr().cast(), _mm512_permutexvar_epi32(order, lower));
        }
    }
    #[inline(always)]
    fn byte<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let up = match N {
                0 => _mm512_slli_epi32::<24>(a),
                1 => _mm512_slli_epi32::<16>(a),
                2 => _mm512_slli_epi32::<8>(a),
                _ => a,
            };
            _mm512_srai_epi32::<24>(up)
        }
    }
    #[inline(always)]
    fn floats(self, a: __m512i) -> __m512 {
        self.bits_to_f32(a)
    }
    #[inline(always)]
    fn bstore(self, a: __m512i, out: &mut [u8; 64]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), a) }
    }
}
