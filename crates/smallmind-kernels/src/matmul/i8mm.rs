//! A block and a token by the matrix multiplication of bytes of AArch64: the integer sums of the formats' own products,
//! so the bits are the same.

use super::acts::{ActBlock, ActMeta};
use super::format::Format;
use super::tile::Multiply;
use crate::isa::Isa;
use crate::isa::i8mm::I8mm;
use crate::isa::neon::NeonDotprod;

type I = <NeonDotprod as Isa>::I;
type B = <NeonDotprod as Isa>::B;

impl Multiply<NeonDotprod> for I8mm {
    #[inline(always)]
    fn sums<F: Format, const IN_PLACE: bool>(
        self,
        isa: NeonDotprod,
        w: &[B; 8],
        x: ActBlock<'_>,
        meta: &ActMeta,
    ) -> [I; 2] {
        let offset = i32::from(F::QUANTS.offset);
        let less = |sum: I, of: i32| isa.iadd(sum, isa.isplat(-offset * of));
        if F::HALVES {
            let halves = [self.joined(w, x, 0..2), self.joined(w, x, 2..4)];
            return [less(halves[0], meta.sums.halves[0]), less(halves[1], meta.sums.halves[1])];
        }
        let all = less(self.joined(w, x, 0..4), meta.total());
        [all, all]
    }
}
