//! The inner loop of matrix units: 16 tokens × 16 rows of one block at a time. Their integer sums are those of
//! [`super::tile`], and join the same chain by the same operations, so the bits are the same.
//!
//! Weights are unpacked once for all tokens of a step. The time goes into bringing sums out of the tiles and adding them
//! to the chains, and into unpacking, so the three overlap: while the tiles multiply one group of blocks, the vectors add
//! the one before, of whichever rows and tokens it was, and unpack a block of the next step. (docs/performance.md)
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

mod blocks;
mod unpacked;

use std::mem::MaybeUninit;
use std::ops::Range;

use super::acts::{ActMeta, ActQuants, BLOCK, SCALED, TILE, Tile};
use super::format::{Format, Tiling};
use super::tile::{PANEL, Piece};
use crate::aligned::cast;
use crate::isa::Isa;
use crate::isa::amx::{ROWS, Registers, TileBytes, TileIsa, Tiles};
use blocks::{AsTheyAre, Blocks, Unpacking};
use unpacked::{Filling, GroupSums, Memory, Scratch};

/// Tiles of unpacked weights of one buffer: 128 KB, of a second-level cache of 1 MB or more.
const UNPACKED: usize = 128;
/// Blocks of a step where one tile of tokens is all: as fast as more of them, and little of the first-level cache.
const BLOCKS_FOR_ONE: usize = 2 * SCALED;
/// Tiles of tokens that meet one unpacked panel.
const MOST_TILES: usize = 32;
/// Computes a piece; `vectors` is the same CPU's vector loop, for what does not fill tiles.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
pub(crate) unsafe fn piece<I: TileIsa, T: Tiles>(isa: I, p: &Piece<'_>, vectors: fn(&Piece<'_>)) {
    let quantized = by_format!(p.w.dtype(), F => F::BLOCKS > 0, G => false);
    if !quantized || p.acts.height != TILE {
        return vectors(p);
    }
    if by_format!(p.w.dtype(), F => F::TILING == Tiling::Parts, G => false) {
        // SAFETY: the caller's promise.
        let mut tiles = AsTheyAre(unsafe { T::Parts::configure() });
        by_format!(p.w.dtype(), F => if F::TILING == Tiling::Parts { rows::<I, F, _>(isa, &mut tiles, p) }, G => {});
    } else {
        // SAFETY: the caller's promise.
        let mut tiles = Unpacking(unsafe { T::configure() });
        by_format!(p.w.dtype(), F => if F::TILING != Tiling::Parts { rows::<I, F, _>(isa, &mut tiles, p) }, G => {});
    }
}

/// What one unpacked buffer serves: a part of `k` of a panel of row groups, for some tiles of tokens.
#[derive(Clone, Copy)]
struct Step {
    first_group: usize,
    groups: usize,
    first_tile: usize,
    tiles: usize,
    first_block: usize,
    blocks: usize,
}

/// All steps of a piece: parts of `k` within tiles of tokens within panels.
struct Steps {
    groups: Range<usize>,
    tiles: usize,
    blocks: usize,
    /// Groups and blocks of a step, where there are as many.
    panel: usize,
    part: usize,
}

impl Steps {
    fn at(&self, first_group: usize, first_tile: usize, first_block: usize) -> Option<Step> {
        (first_group < self.groups.end).then(|| Step {
            first_group,
            groups: self.panel.min(self.groups.end - first_group),
            first_tile,
            tiles: MOST_TILES.min(self.tiles - first_tile),
            first_block,
            blocks: self.part.min(self.blocks - first_block),
        })
    }

    fn after(&self, s: &Step) -> Option<Step> {
        if s.first_block + s.blocks < self.blocks {
            self.at(s.first_group, s.first_tile, s.first_block + s.blocks)
        } else if s.first_tile + s.tiles < self.tiles {
            self.at(s.first_group, s.first_tile + s.tiles, 0)
        } else {
            self.at(s.first_group + s.groups, 0, 0)
        }
    }
}

/// Where a chain goes when a part of `k` has been added to it.
#[derive(Clone, Copy)]
struct Place {
    group: usize,
    tile: usize,
    /// Its number among the panel's chains.
    chain: usize,
    /// Whether `k` ends with this part.
    last: bool,
}

#[inline(always)]
fn rows<I: TileIsa, F: Format, T: Blocks<F>>(isa: I, tiles: &mut T, p: &Piece<'_>) {
    let per_group = p.w.k().div_ceil(BLOCK).div_ceil(F::BLOCKS);
    let Some(units) = cast::<F::Unit>(p.w.bytes()) else { return };
    let (blocks, all_tiles) = (per_group * F::BLOCKS, p.tokens.div_ceil(TILE));
    let (panel, most) =
        if all_tiles == 1 { (1, BLOCKS_FOR_ONE) } else { (PANEL, UNPACKED / PANEL / T::TILES.max(1)) };
    // Parts of about one length: the next is unpacked while one is multiplied.
    let part = blocks.div_ceil(blocks.div_ceil(most)).next_multiple_of(SCALED);
    let steps = Steps { groups: p.groups.clone(), tiles: all_tiles, blocks, panel, part };
    let units_of = |step: &Step, g: usize| &units[(step.first_group + g) * per_group..][..per_group];

    let Some(mut step) = steps.at(p.groups.start, 0, 0) else { return };
    let mut scratch = Scratch::take();
    let (memory, sums): (&mut Memory<F::Scales<I>, I::F>, _) = scratch.parts();
    let [mut unpacked, mut spare] = memory.unpacked.each_mut();
    let chains = &mut memory.chains;
    let [mut now, mut before] = sums.each_mut();

    for g in 0..step.groups {
        let mut filling = Filling::<I, F>::new::<T>(units_of(&step, g), &step, g, unpacked);
        while filling.advance(isa) {}
    }
    let mut acc = [isa.splat(0.0); ROWS];
    let mut pending: Option<(Pending<'_, F::Scales<I>>, Place)> = None;
    loop {
        let next = steps.after(&step);
        for t in 0..step.tiles {
            for g in 0..step.groups {
                let mut filling = match next {
                    // A later step has no more groups than an earlier one.
                    Some(next) if t == 0 && g < next.groups => {
                        Filling::<I, F>::new::<T>(units_of(&next, g), &next, g, spare)
                    }
                    _ => Filling::nothing(),
                };
                // SAFETY: written before the first step, or during the step before.
                let (w, s) = unsafe { unpacked.group(&step, g, T::TILES) };
                let part = Part {
                    acts: p.acts.tile(step.first_tile + t),
                    units: units_of(&step, g),
                    at: step.first_block,
                    w,
                    s,
                };
                // The last sums of what was multiplied before leave the tiles meanwhile.
                std::mem::swap(&mut now, &mut before);
                let (sums, place) = match pending.take() {
                    Some((sums, place)) => (sums, Some(place)),
                    None => (Pending::of(&part, 0, 0), None),
                };
                stage::<I, F, T, true, SOME>(
                    isa,
                    tiles,
                    &part,
                    0,
                    now,
                    before,
                    &sums,
                    &mut acc,
                    &mut filling,
                );
                let chain = t * PANEL + g;
                // A chain that is alone goes on where the part of `k` before has left it.
                if step.first_block == 0 || step.tiles * step.groups > 1 {
                    if let Some(place) = place {
                        finish(isa, p, place, &acc, &mut chains[place.chain]);
                    }
                    acc = if step.first_block == 0 {
                        [isa.splat(0.0); ROWS]
                    } else {
                        // SAFETY: written when the part of `k` before was finished.
                        unsafe { chains[chain].assume_init() }
                    };
                }
                let mut b = SCALED;
                while b < step.blocks {
                    std::mem::swap(&mut now, &mut before);
                    let sums = Pending::of(&part, b - SCALED, SCALED);
                    stage::<I, F, T, true, WHOLE>(
                        isa,
                        tiles,
                        &part,
                        b,
                        now,
                        before,
                        &sums,
                        &mut acc,
                        &mut filling,
                    );
                    b += SCALED;
                }
                while filling.advance(isa) {}
                let place = Place {
                    group: step.first_group + g,
                    tile: step.first_tile + t,
                    chain,
                    last: step.first_block + step.blocks == blocks,
                };
                pending = Some((Pending::of(&part, b - SCALED, step.blocks + SCALED - b), place));
            }
        }
        match next {
            Some(next) => step = next,
            None => break,
        }
        std::mem::swap(&mut unpacked, &mut spare);
    }
    if let Some((sums, place)) = pending {
        // Nothing is left to multiply.
        let part = Part { acts: p.acts.tile(place.tile), units: &[], at: 0, w: &[], s: &[] };
        let mut filling = Filling::nothing();
        stage::<I, F, T, false, SOME>(isa, tiles, &part, 0, before, now, &sums, &mut acc, &mut filling);
        finish(isa, p, place, &acc, &mut chains[place.chain]);
    }
    scratch.keep();
}

/// Keeps a chain for the next part of `k`, or writes it to the output.
#[inline(always)]
fn finish<I: Isa>(
    isa: I,
    p: &Piece<'_>,
    place: Place,
    acc: &[I::F; ROWS],
    chain: &mut MaybeUninit<[I::F; ROWS]>,
) {
    let chain = chain.write(*acc);
    if place.last {
        let token = place.tile * TILE;
        for (t, acc) in chain.iter().enumerate().take(p.tokens - token) {
            p.store(isa, place.group, token + t, *acc);
        }
    }
}

/// A part of `k` of one row group and 16 tokens.
struct Part<'a, 'w, F: Format, S> {
    acts: Tile<'a>,
    /// Of the whole row group.
    units: &'w [F::Unit],
    /// The first block.
    at: usize,
    /// Unpacked.
    w: &'w [TileBytes],
    /// Of each block.
    s: &'w [S],
}

impl<'a, F: Format, S> Part<'a, '_, F, S> {
    #[inline(always)]
    fn quants(&self, block: usize) -> &'a [ActQuants; TILE] {
        &self.acts.quants.as_chunks().0[self.at + block]
    }
    #[inline(always)]
    fn metas(&self, block: usize) -> &'a [ActMeta; TILE] {
        &self.acts.metas.as_chunks().0[self.at + block]
    }
}

/// Whether all blocks of the group before are there to be added to the chains.
const SOME: bool = false;
const WHOLE: bool = true;

/// Sums that are to be added to the chains: what belongs to them besides.
struct Pending<'a, S> {
    s: [S; SCALED],
    metas: [&'a [ActMeta; TILE]; SCALED],
    /// Blocks: all four or fewer.
    count: usize,
}

impl<'a, S: Copy> Pending<'a, S> {
    /// Of blocks `b..b + count` of a part; block `b` stands for those that are not there.
    #[inline(always)]
    fn of<F: Format>(part: &Part<'a, '_, F, S>, b: usize, count: usize) -> Self {
        let mut pending = Pending { s: [part.s[b]; SCALED], metas: [part.metas(b); SCALED], count };
        for i in 1..SCALED {
            if i < count {
                (pending.s[i], pending.metas[i]) = (part.s[b + i], part.metas(b + i));
            }
        }
        pending
    }
}

/// Multiplies four blocks of a part from `b` on into `now`, adds `before`, the group of blocks before them, to its
/// chains, and unpacks up to four blocks of the next step.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one inner loop, always inlined")]
fn stage<I: TileIsa, F: Format, T: Blocks<F>, const MULTIPLY: bool, const ALL: bool>(
    isa: I,
    tiles: &mut T,
    part: &Part<'_, '_, F, F::Scales<I>>,
    b: usize,
    now: &mut GroupSums,
    before: &GroupSums,
    pending: &Pending<'_, F::Scales<I>>,
    acc: &mut [I::F; ROWS],
    filling: &mut Filling<'_, I, F>,
) {
    let (s, metas) = (pending.s, pending.metas);
    let count = if MULTIPLY { (part.s.len() - b).min(SCALED) } else { 0 };

    macro_rules! add {
        ($($t:literal)*) => {$(
            if ALL || pending.count > 0 {
                let mut sum = isa.splat(0.0);
                for i in 0..SCALED {
                    if ALL || i < pending.count {
                        let second = if F::TILING.sums() == 2 { 1 } else { 0 };
                        let sums = [isa.iload(&before[0][i].0[$t]), isa.iload(&before[second][i].0[$t])];
                        let dot = F::dot_of_sums(isa, sums, s[i]);
                        sum = F::join(isa, dot, s[i], &metas[i][$t], sum);
                    }
                }
                acc[$t] = isa.fma(sum, isa.splat(metas[0][$t].d), acc[$t]);
            }
        )*};
    }
    macro_rules! multiply {
        ($i:literal, $a:literal, $c0:literal, $c1:literal; $($t:literal)*) => {
            if $i < count {
                tiles.load::<_, $a>(part, b + $i);
            }
            add!($($t)*);
            if $i < count {
                tiles.multiply::<_, $a, $c0, $c1>(part, b + $i);
                filling.advance(isa);
            }
        };
    }
    macro_rules! store {
        ($i:literal, $c0:literal, $c1:literal) => {
            if $i < count {
                tiles.store::<$c0>(&mut now[0][$i]);
                if F::TILING.sums() == 2 {
                    tiles.store::<$c1>(&mut now[1][$i]);
                }
            }
        };
    }
    multiply!(0, 4, 0, 1; 0 1);
    add!(2 3);
    multiply!(1, 5, 2, 3; 4 5);
    add!(6);
    store!(0, 0, 1);
    add!(7);
    multiply!(2, 4, 0, 1; 8 9);
    add!(10);
    store!(1, 2, 3);
    add!(11);
    multiply!(3, 5, 2, 3; 12 13);
    add!(14);
    store!(2, 0, 1);
    add!(15);
    store!(3, 2, 3);
}
