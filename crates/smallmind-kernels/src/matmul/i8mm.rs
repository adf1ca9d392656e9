//! A block and a token by the matrix multiplication of bytes of AArch64: the integer sums of the formats' own products,
//! so the bits are the same.

use super::acts::{ActMeta, ActQuants};
use super::format::{Format, Tiling};
use super::tile::Multiply;
use crate::isa::Isa;
use crate::isa::i8mm::I8mm;
use crate::isa::neon::NeonDotprod;

type I = <NeonDotprod as Isa>::I;
type B = <NeonDotprod as Isa>::B;

impl Multiply<NeonDotprod> for I8mm {
    #[inline(always)]
    fn dot<F: Format>(
        self,
        isa: NeonDotprod,
        w: &[B; 8],
        s: F::Scales<NeonDotprod>,
        x: &ActQuants,
        meta: &ActMeta,
    ) -> <NeonDotprod as Isa>::F {
        let less = |sum: I, offset: u8, of: i32| isa.iadd(sum, isa.isplat(-i32::from(offset) * of));
        let sums = match F::TILING {
            Tiling::Joined { offset } => [less(self.joined(w, x, 0..4), offset, meta.total()), isa.isplat(0)],
            Tiling::Parts => self.parts(w, x),
            Tiling::Halves { offset, .. } => [
                less(self.joined(w, x, 0..2), offset, meta.halves[0]),
                less(self.joined(w, x, 2..4), offset, meta.halves[1]),
            ],
        };
        F::dot_of_sums(isa, sums, s)
    }
}
