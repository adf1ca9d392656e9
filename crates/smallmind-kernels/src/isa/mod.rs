//! The instruction sets, as values. `trait Isa` is a virtual vector machine of 16 `f32` lanes (and 64 bytes);
//! every kernel body is written once against it, so the order of every sum is the same on every machine.
//!
//! A value of an ISA type is the proof that this CPU has the instructions: only `detect` makes one. Leaves
//! take array references, so lengths are in the types. Nothing here knows what a model is.

pub(crate) mod scalar;
pub(crate) mod stream;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_emulated;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_proof;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2_dot;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_tiles;
#[cfg(target_arch = "aarch64")]
pub(crate) mod i8mm;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) mod wasm;

use crate::matmul::acts::{BlockSums, PARTS};

/// Lanes of the virtual vector.
pub(crate) const LANES: usize = 16;

/// The leaf operations. All float operations are IEEE 754 single precision, rounded to nearest even, and
/// `fma` rounds once: the same inputs give the same bits on every implementation (NaN payloads excepted).
pub(crate) trait Isa: Copy + 'static {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 bytes.
    type B: Copy;
    /// 16 × i64, in an order of their own.
    type W: Copy;

    /// What `SMALLMIND_ISA` calls it.
    const NAME: &'static str;
    /// [`Isa::dot_i8`] adds `Σ (w + BIAS) · x`: 128 where the hardware multiplies unsigned by signed bytes.
    const BIAS: i32;
    /// Tokens of one matmul tile: as many accumulators as fit the registers beside 8 vectors of weights. A power of two.
    const TOKENS: usize;
    /// Tokens of a tile whose accumulators are [`Isa::W`].
    const WIDE_TOKENS: usize;
    /// From how many tokens of a tile on quants of 4 bits are multiplied by [`Isa::narrow`], where that is faster.
    const NARROW_FROM: usize = usize::MAX;
    /// From how many tokens on nibbles of a span are unpacked once for all, whose sums wait in memory (`matmul::many`).
    const MANY_FROM: usize = usize::MAX;
    /// Whether one token's weights are read fast enough for prefetchers to follow ([`stream::Stream`]): where vectors are
    /// smaller, more is done for each line.
    const READS_FAST: bool = false;
    /// Whether [`Isa::dot_u7`] is exact for all unsigned bytes.
    const UNSIGNED: bool = Self::BIAS == 128;
    /// Query vectors that share each load of K and V, for the same reason; 2, 4 or 6.
    const QUERIES: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; 16]) -> Self::F;
    fn store(self, a: Self::F, out: &mut [f32; 16]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The sum of the 16 lanes in the one order that every kernel uses: halves folded onto each other.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let mut t = [0.0; LANES];
        self.store(a, &mut t);
        folded(t, |a, b| a + b)
    }
    /// The largest of the 16 lanes.
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        let mut t = [0.0; LANES];
        self.store(a, &mut t);
        folded(t, |a, b| if a > b { a } else { b })
    }
    /// IEEE half precision to f32 (exact).
    fn load_f16(self, x: &[u16; 16]) -> Self::F;
    /// f32 to IEEE half precision, to nearest even.
    fn store_f16(self, a: Self::F, out: &mut [u16; 16]);
    /// bfloat16 to f32 (exact).
    fn load_bf16(self, x: &[u16; 16]) -> Self::F;

    /// i32 to f32, to nearest even.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// f32 to i32, to nearest even. Only for |a| < 2³¹.
    fn to_i32(self, a: Self::F) -> Self::I;
    /// The bits as they are.
    fn bits(self, a: Self::F) -> Self::I;
    /// The bits as they are.
    fn bits_to_f32(self, a: Self::I) -> Self::F;

    fn isplat(self, x: i32) -> Self::I;
    fn istore(self, a: Self::I, out: &mut [i32; 16]);
    /// The lower bytes.
    #[inline(always)]
    fn store_i8(self, a: Self::I, out: &mut [i8; 16]) {
        let mut lanes = [0; LANES];
        self.istore(a, &mut lanes);
        *out = lanes.map(|lane| lane as i8);
    }
    /// Cuts 64 integers of 15 bits, `|q| <= 16,256`, into `q = 128 · hi + lo` with -64 <= lo < 64, and adds them up: both
    /// blocks.
    #[inline(always)]
    fn cut(self, q: [Self::I; 4], hi: &mut [[i8; 16]; 4], lo: &mut [[i8; 16]; 4], sums: [&mut BlockSums; 2]) {
        let mut of_parts = [[0; 2]; 4];
        for (((q, hi), lo), sums) in q.into_iter().zip(hi).zip(lo).zip(&mut of_parts) {
            let mut lanes = [0; LANES];
            self.istore(q, &mut lanes);
            for ((q, hi), lo) in lanes.into_iter().zip(&mut *hi).zip(&mut *lo) {
                (*hi, *lo) = (((q + 64) >> 7) as i8, (((q + 64) & 127) - 64) as i8);
            }
            *sums = [&*hi, &*lo].map(|part| part.iter().map(|x| i16::from(*x)).sum());
        }
        let [a, b, c, d] = of_parts;
        let by_part = |first: [i16; 2], last: [i16; 2]| [[first[0], last[0]], [first[1], last[1]]];
        for (sums, of) in sums.into_iter().zip(BlockSums::of_span([by_part(a, b), by_part(c, d)])) {
            *sums = of;
        }
    }
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    fn ishl<const N: u32>(self, a: Self::I) -> Self::I;
    /// `acc + a · b`, wrapping.
    fn imac(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    fn load_i8(self, x: &[i8; 16]) -> Self::I;
    fn load_u8(self, x: &[u8; 16]) -> Self::I;

    fn bload(self, x: &[u8; 64]) -> Self::B;
    fn bsplat(self, x: u8) -> Self::B;
    fn band(self, a: Self::B, b: Self::B) -> Self::B;
    fn bor(self, a: Self::B, b: Self::B) -> Self::B;
    fn bxor(self, a: Self::B, b: Self::B) -> Self::B;
    /// Shifts 16-bit lanes left: mask the bits that cross bytes away.
    fn bshl<const N: u32>(self, a: Self::B) -> Self::B;
    /// Shifts 16-bit lanes right: mask the bits that cross bytes away.
    fn bshr<const N: u32>(self, a: Self::B) -> Self::B;

    /// `acc[r] + Σ_{i<4} w[4r+i] · x[i]`, exact. Contract: every byte of `w` is at most 127 (unsigned) and
    /// every `x` at least -127, so that no intermediate 16-bit sum saturates on any ISA.
    fn dot_u7(self, acc: Self::I, w: Self::B, x: &[i8; 4]) -> Self::I;
    /// `acc[r] + Σ_{i<4} (w[4r+i] + BIAS) · x[i]`, exact, `w` signed. Contract: every `x` at least -127.
    fn dot_i8(self, acc: Self::I, w: Self::B, x: &[i8; 4]) -> Self::I;

    /// `Σ w · x` over the vectors of a block, exact. Contract: every byte of `w` is at most 15, every `x` at least -127.
    #[inline(always)]
    fn dot_nibbles(self, w: &[Self::B; 8], x: &[[i8; 4]; 8]) -> Self::I {
        let mut sum = self.isplat(0);
        for (w, x) in w.iter().zip(x) {
            sum = self.dot_u7(sum, *w, x);
        }
        sum
    }
    /// `acc + by₀ · Σ_{j<4} w_j · x_j + by₁ · Σ_{4≤j<8} w_j · x_j`, wrapping in 32 bits. Contract: every byte of `w` is at
    /// most 15, every `x` at least -127, and the factors have 16 bits.
    #[inline(always)]
    fn narrow(self, acc: Self::I, w: &[Self::B; 8], x: &[[i8; 4]; 8], by: [Self::I; 2]) -> Self::I {
        let mut halves = [self.isplat(0); 2];
        for (j, (w, x)) in w.iter().zip(x).enumerate() {
            halves[j / 4] = self.dot_u7(halves[j / 4], *w, x);
        }
        self.imac(self.imac(acc, halves[0], by[0]), halves[1], by[1])
    }
    /// What [`Isa::narrow_span`] takes off quants, so that what it adds up fits 16 bits.
    const MIDDLE: i32 = 0;
    /// [`Isa::narrow`] of both blocks of a span, of which each has a factor, with both parts of the activations: `acc + by₀ ·
    /// Σ (w − MIDDLE) · x + by₁ · Σ (w − MIDDLE) · x` for either. `sums` are those of `x`, by part and block.
    #[inline(always)]
    fn narrow_span(
        self,
        acc: [Self::I; PARTS],
        w: &[[Self::B; 8]; 2],
        x: [&[[i8; 4]; 16]; PARTS],
        by: [Self::I; 2],
        _sums: &[[i16; 2]; PARTS],
    ) -> [Self::I; PARTS] {
        let mut acc = acc;
        for part in 0..PARTS {
            for (b, x) in x[part].as_chunks().0.iter().enumerate() {
                acc[part] = self.narrow(acc[part], &w[b], x, [by[b]; 2]);
            }
        }
        acc
    }
    /// `acc + by₀ · x₀ + by₁ · x₁`, wrapping in 32 bits. Contract: the factors have 16 bits.
    #[inline(always)]
    fn pair_mac(self, acc: Self::I, by: [Self::I; 2], x: [i16; 2]) -> Self::I {
        let first = self.imac(acc, by[0], self.isplat(x[0].into()));
        self.imac(first, by[1], self.isplat(x[1].into()))
    }

    /// Two words for each of 16 lanes.
    fn load_words(self, x: &[[i16; 2]; 16]) -> Self::B;
    /// `acc[r] + w[r]₀ · x₀ + w[r]₁ · x₁`, wrapping in 32 bits. Contract: no word is -32,768.
    fn dot_words(self, acc: Self::I, w: Self::B, x: [i16; 2]) -> Self::I;

    fn wzero(self) -> Self::W;
    /// `acc + a`.
    #[inline(always)]
    fn wadd(self, acc: Self::W, a: Self::I) -> Self::W {
        self.wmac_all(acc, a, 1)
    }
    /// `acc + a · b` in 64 bits.
    fn wmac(self, acc: Self::W, a: Self::I, b: Self::I) -> Self::W;
    /// `acc + a · x`.
    fn wmac_all(self, acc: Self::W, a: Self::I, x: i32) -> Self::W;
    /// In the order of the lanes.
    fn wstore(self, a: Self::W, out: &mut [i64; 16]);
    /// `sums · bound · unit`, multiplied in f64 in this order and rounded to f32. Exact but for these roundings where
    /// |sums| < 2⁵³.
    #[inline(always)]
    fn wscaled(self, sums: Self::W, bound: Self::F, unit: f64) -> Self::F {
        let (mut wide, mut bounds, mut out) = ([0; LANES], [0.0; LANES], [0.0; LANES]);
        self.wstore(sums, &mut wide);
        self.store(bound, &mut bounds);
        for (out, (sum, bound)) in out.iter_mut().zip(wide.iter().zip(bounds)) {
            *out = (*sum as f64 * f64::from(bound) * unit) as f32;
        }
        self.load(&out)
    }

    /// Asks for the cache line at `p`, which may lie anywhere: a hint that never faults.
    fn prefetch(self, p: *const u8);
    /// [`Isa::prefetch`] of what is read once.
    #[inline(always)]
    fn prefetch_once(self, p: *const u8) {
        self.prefetch(p);
    }
}

/// Two words as one lane.
#[inline(always)]
fn both([low, high]: [i16; 2]) -> i32 {
    i32::from(low.cast_unsigned()) | i32::from(high) << 16
}

/// The one lane that is left when halves are folded onto each other.
#[inline(always)]
fn folded(mut t: [f32; LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            t[i] = fold(t[i], t[i + width]);
        }
        width /= 2;
    }
    t[0]
}
