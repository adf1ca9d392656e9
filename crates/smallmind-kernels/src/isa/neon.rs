//! NEON: four 128-bit registers are the virtual vector. Two tables differ in one leaf, the dot product of bytes:
//! every AArch64 CPU widens and adds in pairs; those since ARMv8.2 have one instruction for it.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Isa, both};

/// Proof of NEON and of the instructions of its dot product.
#[derive(Clone, Copy)]
pub(crate) struct NeonWith<D>(D);

/// NEON as every AArch64 CPU has it.
pub(crate) type Neon = NeonWith<Widening>;
/// With the dot product instruction.
pub(crate) type NeonDotprod = NeonWith<Dotprod>;

impl<D: Dot> NeonWith<D> {
    /// The value again, for a function that only a holder of the proof can reach.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(D::PROOF)
    }

    pub(crate) fn detect() -> Option<Self> {
        (is_aarch64_feature_detected!("neon") && D::detected()).then_some(Self(D::PROOF))
    }
}

/// The dot product of bytes; a value inside [`NeonWith`] proves its instructions.
pub(crate) trait Dot: Copy + 'static {
    const NAME: &'static str;
    const PROOF: Self;

    fn detected() -> bool;

    /// `acc[r] + Σ_{i<4} w[4r+i] · x[4r+i]`, exact for `x` of at least -127.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
}

/// Products of 16 bits, added in pairs twice.
#[derive(Clone, Copy)]
pub(crate) struct Widening(());

impl Dot for Widening {
    const NAME: &'static str = "neon";
    const PROOF: Self = Self(());

    fn detected() -> bool {
        true
    }

    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller proves the instructions.
        unsafe {
            // A product is at most 128 · 127 = 16,256 in size, two are 32,512: they fit 16 bits.
            let lo = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let hi = vmull_s8(vget_high_s8(w), vget_high_s8(x));
            vpadalq_s16(acc, vpaddq_s16(lo, hi))
        }
    }
}

/// `sdot`.
#[derive(Clone, Copy)]
pub(crate) struct Dotprod(());

impl Dot for Dotprod {
    const NAME: &'static str = "neon-dotprod";
    const PROOF: Self = Self(());

    fn detected() -> bool {
        is_aarch64_feature_detected!("dotprod")
    }

    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller proves the instructions.
        unsafe { sdot(acc, w, x) }
    }
}

/// What `vdotq_s32` does, which Rust has not stabilized yet (rust-lang/rust#117224).
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut out = acc;
    // SAFETY: touches registers only; the function's features are the instruction's.
    unsafe {
        asm!(
            "sdot {out:v}.4s, {w:v}.16b, {x:v}.16b",
            out = inout(vreg) out,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    out
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

impl<D: Dot> Isa for NeonWith<D> {
    type F = F;
    type I = I;
    type B = B;
    type W = [int64x2_t; 8];

    const NAME: &'static str = D::NAME;
    const BIAS: i32 = 0;
    const TOKENS: usize = 4;
    const WIDE_TOKENS: usize = 4;
    const QUERIES: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> F {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = x.as_ptr();
            [vld1q_f32(p.add(0)), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))]
        }
    }
    #[inline(always)]
    fn store(self, a: F, out: &mut [f32; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = out.as_mut_ptr();
            vst1q_f32(p.add(0), a[0]);
            vst1q_f32(p.add(4), a[1]);
            vst1q_f32(p.add(8), a[2]);
            vst1q_f32(p.add(12), a[3]);
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])]
        }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1]), vsubq_f32(a[2], b[2]), vsubq_f32(a[3], b[3])]
        }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
        }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1]), vdivq_f32(a[2], b[2]), vdivq_f32(a[3], b[3])]
        }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                vfmaq_f32(c[0], a[0], b[0]),
                vfmaq_f32(c[1], a[1], b[1]),
                vfmaq_f32(c[2], a[2], b[2]),
                vfmaq_f32(c[3], a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // By comparison, so that a NaN gives the second operand as on the other ISAs.
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                vbslq_f32(vcgtq_f32(a[0], b[0]), a[0], b[0]),
                vbslq_f32(vcgtq_f32(a[1], b[1]), a[1], b[1]),
                vbslq_f32(vcgtq_f32(a[2], b[2]), a[2], b[2]),
                vbslq_f32(vcgtq_f32(a[3], b[3]), a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        // By comparison, so that a NaN gives the second operand as on the other ISAs.
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                vbslq_f32(vcltq_f32(a[0], b[0]), a[0], b[0]),
                vbslq_f32(vcltq_f32(a[1], b[1]), a[1], b[1]),
                vbslq_f32(vcltq_f32(a[2], b[2]), a[2], b[2]),
                vbslq_f32(vcltq_f32(a[3], b[3]), a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> F {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = x.as_ptr();
            let (lo, hi) = (vreinterpretq_f16_u16(vld1q_u16(p)), vreinterpretq_f16_u16(vld1q_u16(p.add(8))));
            [
                vcvt_f32_f16(vget_low_f16(lo)),
                vcvt_high_f32_f16(lo),
                vcvt_f32_f16(vget_low_f16(hi)),
                vcvt_high_f32_f16(hi),
            ]
        }
    }
    #[inline(always)]
    fn store_f16(self, a: F, out: &mut [u16; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = out.as_mut_ptr();
            let lo = vcvt_high_f16_f32(vcvt_f16_f32(a[0]), a[1]);
            let hi = vcvt_high_f16_f32(vcvt_f16_f32(a[2]), a[3]);
            vst1q_u16(p, vreinterpretq_u16_f16(lo));
            vst1q_u16(p.add(8), vreinterpretq_u16_f16(hi));
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> F {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let (lo, hi) = (vld1q_u16(x.as_ptr()), vld1q_u16(x.as_ptr().add(8)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(lo))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(lo)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(hi))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(hi)),
            ]
        }
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vcvtq_f32_s32(a[0]), vcvtq_f32_s32(a[1]), vcvtq_f32_s32(a[2]), vcvtq_f32_s32(a[3])] }
    }
    #[inline(always)]
    fn to_i32(self, a: F) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vcvtnq_s32_f32(a[0]), vcvtnq_s32_f32(a[1]), vcvtnq_s32_f32(a[2]), vcvtnq_s32_f32(a[3])] }
    }
    #[inline(always)]
    fn bits(self, a: F) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                vreinterpretq_s32_f32(a[0]),
                vreinterpretq_s32_f32(a[1]),
                vreinterpretq_s32_f32(a[2]),
                vreinterpretq_s32_f32(a[3]),
            ]
        }
    }
    #[inline(always)]
    fn bits_to_f32(self, a: I) -> F {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                vreinterpretq_f32_s32(a[0]),
                vreinterpretq_f32_s32(a[1]),
                vreinterpretq_f32_s32(a[2]),
                vreinterpretq_f32_s32(a[3]),
            ]
        }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vdupq_n_s32(x); 4] }
    }
    #[inline(always)]
    fn istore(self, a: I, out: &mut [i32; 16]) {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = out.as_mut_ptr();
            vst1q_s32(p.add(0), a[0]);
            vst1q_s32(p.add(4), a[1]);
            vst1q_s32(p.add(8), a[2]);
            vst1q_s32(p.add(12), a[3]);
        }
    }
    #[inline(always)]
    fn iadd(self, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [vaddq_s32(a[0], b[0]), vaddq_s32(a[1], b[1]), vaddq_s32(a[2], b[2]), vaddq_s32(a[3], b[3])]
        }
    }
    #[inline(always)]
    fn ishl<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let n = vdupq_n_s32(N.cast_signed());
            [vshlq_s32(a[0], n), vshlq_s32(a[1], n), vshlq_s32(a[2], n), vshlq_s32(a[3], n)]
        }
    }
    #[inline(always)]
    fn imac(self, acc: I, a: I, b: I) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            [
                vmlaq_s32(acc[0], a[0], b[0]),
                vmlaq_s32(acc[1], a[1], b[1]),
                vmlaq_s32(acc[2], a[2], b[2]),
                vmlaq_s32(acc[3], a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> I {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let v = vld1q_s8(x.as_ptr());
            let (lo, hi) = (vmovl_s8(vget_low_s8(v)), vmovl_s8(vget_high_s8(v)));
            [
                vmovl_s16(vget_low_s16(lo)),
                vmovl_s16(vget_high_s16(lo)),
                vmovl_s16(vget_low_s16(hi)),
                vmovl_s16(vget_high_s16(hi)),
            ]
        }
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> I {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let v = vld1q_u8(x.as_ptr());
            let (lo, hi) = (
                vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v))),
                vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(v))),
            );
            [
                vmovl_s16(vget_low_s16(lo)),
                vmovl_s16(vget_high_s16(lo)),
                vmovl_s16(vget_low_s16(hi)),
                vmovl_s16(vget_high_s16(hi)),
            ]
        }
    }
    #[inline(always)]
    fn bload(self, x: &[u8; 64]) -> B {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = x.as_ptr();
            [vld1q_u8(p.add(0)), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))]
        }
    }
    #[inline(always)]
    fn bsplat(self, x: u8) -> B {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vdupq_n_u8(x); 4] }
    }
    #[inline(always)]
    fn band(self, a: B, b: B) -> B {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vandq_u8(a[0], b[0]), vandq_u8(a[1], b[1]), vandq_u8(a[2], b[2]), vandq_u8(a[3], b[3])] }
    }
    #[inline(always)]
    fn bor(self, a: B, b: B) -> B {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1]), vorrq_u8(a[2], b[2]), vorrq_u8(a[3], b[3])] }
    }
    #[inline(always)]
    fn bxor(self, a: B, b: B) -> B {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [veorq_u8(a[0], b[0]), veorq_u8(a[1], b[1]), veorq_u8(a[2], b[2]), veorq_u8(a[3], b[3])] }
    }
    #[inline(always)]
    fn bshl<const N: u32>(self, a: B) -> B {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { shift16(a, vdupq_n_s16(N as i16)) }
    }
    #[inline(always)]
    fn bshr<const N: u32>(self, a: B) -> B {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { shift16(a, vdupq_n_s16(-(N as i16))) }
    }
    #[inline(always)]
    fn dot_u7(self, acc: I, w: B, x: &[i8; 4]) -> I {
        // Bytes up to 127 read the same signed.
        self.dot_i8(acc, w, x)
    }
    #[inline(always)]
    fn dot_i8(self, acc: I, w: B, x: &[i8; 4]) -> I {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(i8::cast_unsigned))));
            [
                D::dot(acc[0], vreinterpretq_s8_u8(w[0]), x),
                D::dot(acc[1], vreinterpretq_s8_u8(w[1]), x),
                D::dot(acc[2], vreinterpretq_s8_u8(w[2]), x),
                D::dot(acc[3], vreinterpretq_s8_u8(w[3]), x),
            ]
        }
    }
    #[inline(always)]
    fn load_words(self, x: &[[i16; 2]; 16]) -> B {
        // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
        unsafe {
            let p = x.as_ptr().cast::<u8>();
            [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))]
        }
    }
    #[inline(always)]
    fn dot_words(self, acc: I, w: B, x: [i16; 2]) -> I {
        let mut acc = acc;
        for (acc, w) in acc.iter_mut().zip(w) {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                let x = vreinterpretq_s16_s32(vdupq_n_s32(both(x)));
                let w = vreinterpretq_s16_u8(w);
                let first = vmull_s16(vget_low_s16(w), vget_low_s16(x));
                *acc = vaddq_s32(*acc, vpaddq_s32(first, vmull_high_s16(w, x)));
            }
        }
        acc
    }
    #[inline(always)]
    fn wzero(self) -> [int64x2_t; 8] {
        // SAFETY: `self` proves the CPU has the instructions.
        unsafe { [vdupq_n_s64(0); 8] }
    }
    #[inline(always)]
    fn wmac(self, acc: [int64x2_t; 8], a: I, b: I) -> [int64x2_t; 8] {
        let mut acc = acc;
        for ((acc, a), b) in acc.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b) {
            // SAFETY: `self` proves the CPU has the instructions.
            unsafe {
                acc[0] = vmlal_s32(acc[0], vget_low_s32(a), vget_low_s32(b));
                acc[1] = vmlal_high_s32(acc[1], a, b);
            }
        }
        acc
    }
    #[inline(always)]
    fn wmac_all(self, acc: [int64x2_t; 8], a: I, x: i32) -> [int64x2_t; 8] {
        self.wmac(acc, a, self.isplat(x))
    }
    #[inline(always)]
    fn wstore(self, a: [int64x2_t; 8], out: &mut [i64; 16]) {
        for (a, out) in a.into_iter().zip(out.as_chunks_mut::<2>().0) {
            // SAFETY: `self` proves the CPU has the instructions; the array reference proves the length.
            unsafe { vst1q_s64(out.as_mut_ptr(), a) }
        }
    }
    /// Does nothing: whether a hint pays has not been measured on a machine.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}

/// Shifts 16-bit lanes left by `n`, right where it is negative. A constant `n` becomes the immediate form.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn shift16(a: B, n: int16x8_t) -> B {
    // SAFETY: the caller proves the instructions.
    unsafe {
        [
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a[0]), n)),
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a[1]), n)),
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a[2]), n)),
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a[3]), n)),
        ]
    }
}
