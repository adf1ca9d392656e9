//! Several tokens: the weights of a span are unpacked once, into registers, and all tokens pass by, whose sums wait in
//! memory. That is a load and a store for each sum of a span, beside its products; sums that stay in registers are those of
//! a few tokens, and unpacking for each few costs more. (docs/performance.md)
#![allow(
    unsafe_code,
    reason = "memory for the sums of all tokens that there may be is not written for those that there are not"
)]

use std::mem::MaybeUninit;

use super::acts::{ActBlock, ActMeta, ActQuants, BLOCK, PARTS, SPAN, TILE};
use super::format::{Format, LARGEST_WEIGHT, RowGroup, Scales, integer_scales};
use super::tile::{
    Leaves, Multiply, NARROW_BLOCKS, PREFETCH_BYTES, Piece, add_wide, ask_ahead, unit_of, widened,
};
use crate::isa::Isa;
use crate::isa::stream::Stream;

/// Tokens that pass by: some whole tiles.
pub(super) const MANY: usize = 4 * TILE;
/// Blocks of a span.
pub(super) const BLOCKS: usize = SPAN / BLOCK;

/// From how many tokens on this is faster.
pub(super) const fn from<I: Isa, F: Format>() -> usize {
    if sums_are_narrow::<F>() {
        return I::MANY_FROM;
    }
    // Bytes lie as they are multiplied; nibbles with two scales a block are rare. A sum in 64 bits takes two registers.
    let never = I::MANY_FROM == usize::MAX || F::QUANTS.signed || F::NARROW;
    if never { usize::MAX } else { 2 * TILE }
}

/// Whether sums of a span fit 32 bits, a while.
const fn sums_are_narrow<F: Format>() -> bool {
    F::NARROW && !F::HALVES
}

/// Memory for sums that wait.
pub(super) struct Room<I: Isa> {
    narrow: [MaybeUninit<[I::I; PARTS]>; MANY],
    wide: [MaybeUninit<I::W>; MANY],
}

/// Sums of tokens, as they wait; zero between one row group and the next.
pub(super) struct Waiting<'a, I: Isa> {
    narrow: &'a mut [[I::I; PARTS]],
    wide: &'a mut [I::W],
}

impl<I: Isa> Room<I> {
    pub(super) fn new() -> Self {
        Room {
            narrow: [const { MaybeUninit::uninit() }; MANY],
            wide: [const { MaybeUninit::uninit() }; MANY],
        }
    }

    /// For so many tokens, at most [`MANY`].
    #[inline(always)]
    pub(super) fn waiting(&mut self, isa: I, tokens: usize) -> Waiting<'_, I> {
        let (narrow, wide) = (&mut self.narrow[..tokens], &mut self.wide[..tokens]);
        for (narrow, wide) in narrow.iter_mut().zip(&mut *wide) {
            narrow.write([isa.isplat(0); PARTS]);
            wide.write(isa.wzero());
        }
        // SAFETY: as many have just been written.
        unsafe { Waiting { narrow: narrow.assume_init_mut(), wide: wide.assume_init_mut() } }
    }
}

/// A tile's activations of one span: one for each of its tokens.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    hi: &'a [ActQuants],
    lo: &'a [ActQuants],
    metas: [&'a [ActMeta]; BLOCKS],
}

impl<'a> Inputs<'a> {
    #[inline(always)]
    fn of(p: &Piece<'a>, tile: usize, span: usize) -> Self {
        let acts = p.acts.tile(tile);
        let height = acts.height;
        let (hi, lo) = acts.quants[span * PARTS * height..][..PARTS * height].split_at(height);
        let (first, last) = acts.metas[span * BLOCKS * height..][..BLOCKS * height].split_at(height);
        Inputs { hi, lo, metas: [first, last] }
    }
}

/// Multiplies row group `g` with `tokens` tokens, at most [`MANY`], from `first` on, the first of a tile.
#[inline(always)]
pub(super) fn group<I: Isa, F: Format>(
    isa: I,
    p: &Piece<'_>,
    (group, g): (&RowGroup<'_, F::Unit>, usize),
    (first, tokens): (usize, usize),
    waiting: &mut Waiting<'_, I>,
) {
    let bound = isa.load(group.bounds);
    let factor = isa.div(isa.splat(LARGEST_WEIGHT), bound);
    let spans = (group.units.len() * F::BLOCKS).div_ceil(BLOCKS);
    for span in 0..spans {
        let (mut quants, mut scales) =
            ([[isa.bsplat(0); 8]; BLOCKS], [Scales::one(isa.isplat(0), isa.isplat(0)); BLOCKS]);
        for b in 0..BLOCKS {
            let block = span * BLOCKS + b;
            if let Some(unit) = group.units.get(block / F::BLOCKS) {
                let b_of_unit = block % F::BLOCKS;
                // Between one span and the next prefetchers lose the thread.
                ask_ahead::<F, PREFETCH_BYTES>(isa, Stream::Asked, unit, b_of_unit);
                quants[b] = F::unpack(isa, unit, b_of_unit);
                scales[b] = integer_scales::<I, F>(isa, unit, b_of_unit, factor);
            }
        }
        for tile in 0..tokens.div_ceil(TILE) {
            let x = Inputs::of(p, first / TILE + tile, span);
            let of = tile * TILE..tokens.min((tile + 1) * TILE);
            if sums_are_narrow::<F>() {
                let sums = &mut waiting.narrow[of];
                narrow::<I, F>(isa, &quants, &scales, x, sums);
            } else {
                let sums = &mut waiting.wide[of];
                for b in 0..BLOCKS {
                    wide::<I, F>(isa, &quants[b], scales[b], x, b, sums);
                }
            }
        }
        if sums_are_narrow::<F>() && (span + 1 == spans || (span + 1) % (NARROW_BLOCKS / BLOCKS) == 0) {
            for (wide, narrow) in waiting.wide.iter_mut().zip(waiting.narrow.iter_mut()).take(tokens) {
                *wide = widened(isa, *wide, *narrow);
                *narrow = [isa.isplat(0); PARTS];
            }
        }
    }
    for (t, sums) in waiting.wide.iter_mut().enumerate().take(tokens) {
        let token = first + t;
        let unit = unit_of::<F>(p.acts.tile(token / TILE).metas[token % TILE].d);
        p.store(isa, g, token, isa.wscaled(*sums, bound, unit));
        *sums = isa.wzero();
    }
}

/// Adds the products of a span of nibbles to sums in 32 bits.
#[inline(always)]
fn narrow<I: Isa, F: Format>(
    isa: I,
    quants: &[[I::B; 8]; BLOCKS],
    scales: &[Scales<I::I>; BLOCKS],
    x: Inputs<'_>,
    sums: &mut [[I::I; PARTS]],
) {
    let by = [scales[0].s[0], scales[1].s[0]];
    let middle = isa.isplat(I::MIDDLE - i32::from(F::QUANTS.offset));
    let less = [isa.imac(scales[0].m[0], by[0], middle), isa.imac(scales[1].m[0], by[1], middle)];
    for (((sums, hi), lo), meta) in sums.iter_mut().zip(x.hi).zip(x.lo).zip(x.metas[0]) {
        let (mut acc, of_x) = (*sums, &meta.sums.span);
        if F::MINIMA || i32::from(F::QUANTS.offset) != I::MIDDLE {
            for part in 0..PARTS {
                acc[part] = isa.pair_mac(acc[part], less, of_x[part]);
            }
        }
        *sums = isa.narrow_span(acc, quants, [&hi.q, &lo.q], by, of_x);
    }
}

/// Adds the products of block `b` of a span to sums in 64 bits.
#[inline(always)]
fn wide<I: Isa, F: Format>(
    isa: I,
    quants: &[I::B; 8],
    scales: Scales<I::I>,
    x: Inputs<'_>,
    b: usize,
    sums: &mut [I::W],
) {
    for (((sums, hi), lo), meta) in sums.iter_mut().zip(x.hi).zip(x.lo).zip(x.metas[b]) {
        let of_block = Leaves.sums::<F, false>(isa, quants, ActBlock::of(hi, lo, b), meta);
        *sums = add_wide::<I, F>(isa, *sums, scales, of_block, meta, 1);
    }
}
