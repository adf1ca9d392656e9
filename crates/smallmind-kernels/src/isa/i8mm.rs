//! The matrix multiplication of bytes that AArch64 has since ARMv8.6: two rows of eight bytes by two, into four sums.
//!
//! The rows are outputs, two of a register of weights; the columns are the upper and the lower part of one token's
//! activations. So one token fills the instruction, and the two sums of an output lie side by side to be joined. What
//! it takes is that the weights of two vectors are brought together, eight values of a row: that is shared by the tokens
//! of a tile, so a token alone is left to the dot product instruction.
#![allow(unsafe_code, reason = "intrinsics; every block names its proof")]
#![allow(clippy::wildcard_imports, reason = "dozens of intrinsics whose names say where they come from")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

use super::Isa;
use super::neon::NeonDotprod;
use crate::matmul::acts::{ActBlock, RADIX};

type I = <NeonDotprod as Isa>::I;
type B = <NeonDotprod as Isa>::B;

/// Proof of the instruction, and of those of [`NeonDotprod`].
#[derive(Clone, Copy)]
pub(crate) struct I8mm(());

impl I8mm {
    /// The value again, for a function that only a holder of the proof can reach.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    pub(crate) fn detect() -> Option<Self> {
        (NeonDotprod::detect().is_some() && is_aarch64_feature_detected!("i8mm")).then_some(Self(()))
    }

    /// `Σ w · Q` of 16 outputs over some of the eight vectors of a block, two by two: `0..4` is all of it. Signed, exact.
    #[inline(always)]
    pub(crate) fn joined(self, w: &[B; 8], x: ActBlock<'_>, pairs: Range<usize>) -> I {
        let sums = self.multiply(w, x, pairs);
        // SAFETY: `self` proves the CPU has the instructions; the array has the 16 bytes that are loaded.
        unsafe {
            let shift = vld1q_s32([RADIX.ilog2().cast_signed(), 0, RADIX.ilog2().cast_signed(), 0].as_ptr());
            let join = |[a, b]: [int32x4_t; 2]| vpaddq_s32(vshlq_s32(a, shift), vshlq_s32(b, shift));
            [join(sums[0]), join(sums[1]), join(sums[2]), join(sums[3])]
        }
    }

    /// For each four outputs, twice two: `[Σ w₀ · hi, Σ w₀ · lo, Σ w₁ · hi, Σ w₁ · lo]`.
    #[inline(always)]
    fn multiply(self, w: &[B; 8], x: ActBlock<'_>, pairs: Range<usize>) -> [[int32x4_t; 2]; 4] {
        let (hi, lo) = (x.hi.as_flattened().as_chunks::<8>().0, x.lo.as_flattened().as_chunks::<8>().0);
        // SAFETY: `self` proves the CPU has the instructions; the arrays have the 8 bytes that are loaded.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; 4];
            for j in pairs {
                let x = vcombine_s8(vld1_s8(hi[j].as_ptr()), vld1_s8(lo[j].as_ptr()));
                for q in 0..4 {
                    let a = vreinterpretq_s32_u8(w[2 * j][q]);
                    let b = vreinterpretq_s32_u8(w[2 * j + 1][q]);
                    sums[q][0] = smmla(sums[q][0], vreinterpretq_s8_s32(vzip1q_s32(a, b)), x);
                    sums[q][1] = smmla(sums[q][1], vreinterpretq_s8_s32(vzip2q_s32(a, b)), x);
                }
            }
            sums
        }
    }
}

/// What `vmmlaq_s32` does, which Rust has not stabilized yet (rust-lang/rust#117223): `acc[2i + j] += Σ w[8i + k] ·
/// x[8j + k]`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut out = acc;
    // SAFETY: touches registers only; the function's features are the instruction's.
    unsafe {
        asm!(
            "smmla {out:v}.4s, {w:v}.16b, {x:v}.16b",
            out = inout(vreg) out,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    out
}
