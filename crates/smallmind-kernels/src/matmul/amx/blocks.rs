//! How the registers multiply one block of a format: unpacked before, or as it lies in memory.

use super::Part;
use crate::isa::amx::{PartTiles, Sums, Tiles};
use crate::matmul::format::{Format, Tiling};

/// How registers multiply the blocks of a format.
pub(super) trait Blocks<F: Format> {
    /// Tiles that a block is unpacked to.
    const TILES: usize;

    /// Loads what can be loaded before the weights are needed, with register `A` of 4 and 5.
    fn load<S, const A: usize>(&mut self, part: &Part<'_, '_, F, S>, b: usize);
    /// Multiplies block `b` of a part into `C0` and, of formats with two sums, `C1`.
    fn multiply<S, const A: usize, const C0: usize, const C1: usize>(
        &mut self,
        part: &Part<'_, '_, F, S>,
        b: usize,
    );
    /// Writes a sum.
    fn store<const C: usize>(&self, out: &mut Sums);
}

/// Weights that are unpacked to whole tiles.
pub(super) struct Unpacking<T>(pub(super) T);

impl<F: Format, T: Tiles> Blocks<F> for Unpacking<T> {
    const TILES: usize = F::TILING.sums() * F::TILING.tiles_a_sum();

    #[inline(always)]
    fn load<S, const A: usize>(&mut self, part: &Part<'_, '_, F, S>, b: usize) {
        self.0.load::<A>(part.quants(b).into());
    }

    #[inline(always)]
    fn multiply<S, const A: usize, const C0: usize, const C1: usize>(
        &mut self,
        part: &Part<'_, '_, F, S>,
        b: usize,
    ) {
        let signed = !matches!(F::TILING, Tiling::Joined { offset: 0 });
        let per_sum = F::TILING.tiles_a_sum();
        let per_block = F::TILING.sums() * per_sum;
        let w = &part.w[b * per_block..(b + 1) * per_block];
        self.0.zero::<C0>();
        for w in &w[..per_sum] {
            self.0.load::<6>(w.into());
            self.0.dot::<C0, A, 6>(signed);
        }
        if F::TILING.sums() == 2 {
            self.0.zero::<C1>();
            for w in &w[per_sum..] {
                self.0.load::<7>(w.into());
                self.0.dot::<C1, A, 7>(signed);
            }
        }
    }

    #[inline(always)]
    fn store<const C: usize>(&self, out: &mut Sums) {
        self.0.store::<C>(out);
    }
}

/// Signed bytes, which meet one part of the activations after the other.
pub(super) struct AsTheyAre<T>(pub(super) T);

impl<F: Format, T: PartTiles> Blocks<F> for AsTheyAre<T> {
    const TILES: usize = 0;

    #[inline(always)]
    fn load<S, const A: usize>(&mut self, part: &Part<'_, '_, F, S>, b: usize) {
        self.0.load_part::<4>(part.quants(b), 0);
        self.0.load_part::<5>(part.quants(b), 1);
    }

    #[inline(always)]
    fn multiply<S, const A: usize, const C0: usize, const C1: usize>(
        &mut self,
        part: &Part<'_, '_, F, S>,
        b: usize,
    ) {
        let b = part.at + b;
        let Some(w) = F::bytes(&part.units[b / F::BLOCKS], b % F::BLOCKS) else { return };
        self.0.zero::<C0>();
        self.0.zero::<C1>();
        self.0.load_weights::<6>(w);
        self.0.dot::<C0, 4, 6>(true);
        self.0.dot::<C1, 5, 6>(true);
    }

    #[inline(always)]
    fn store<const C: usize>(&self, out: &mut Sums) {
        self.0.store::<C>(out);
    }
}
