//! The inner loop of matrix units: 16 tokens × 16 rows of one block at a time. Their integer sums are those of
//! [`super::tile`], and join the same chain by the same operations, so the bits are the same.
//!
//! A panel of row groups is unpacked once and meets all tokens. Then the time goes into bringing sums out of the tiles
//! and adding them to the chains, so the two are interleaved: while the tiles multiply one group of blocks, the vectors
//! add the one before. (docs/performance.md)
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

use std::mem::MaybeUninit;

use super::acts::{ActMeta, ActQuants, BLOCK, SCALED, TILE, Tile};
use super::format::{Format, Tiling};
use super::tile::{PANEL, Piece};
use crate::aligned::cast;
use crate::isa::amx::{ROWS, Sums, TileBytes, TileIsa, Tiles};

/// Tiles of unpacked weights: 128 KB, of a second-level cache of 1 MB or more.
const UNPACKED: usize = 128;
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
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    by_format!(p.w.dtype(), F => rows::<I, F, T>(isa, &mut tiles, p), G => {});
}

/// A part of `k` of a panel: its tiles and scales, block after block of one row group after the other, each group from a
/// multiple of 4 KB on.
///
/// A load waits for a store to the same place modulo 4 KB. Four blocks of activations, of weights and of sums begin
/// there, so the sums of a block, stored two blocks later, lie in the way of no load that follows soon.
#[repr(C, align(4096))]
struct Unpacked<S> {
    tiles: [MaybeUninit<TileBytes>; UNPACKED],
    scales: [MaybeUninit<S>; UNPACKED],
    /// Of each row group.
    blocks: usize,
    tiles_a_block: usize,
}

impl<S: Copy> Unpacked<S> {
    /// # Safety
    /// [`fill`] has written this group's blocks.
    #[inline(always)]
    unsafe fn group(&self, group: usize) -> (&[TileBytes], &[S]) {
        let at = group * self.blocks.next_multiple_of(SCALED);
        let tiles = &self.tiles[at * self.tiles_a_block..(at + self.blocks) * self.tiles_a_block];
        // SAFETY: written, by the caller's promise.
        unsafe { (tiles.assume_init_ref(), self.scales[at..at + self.blocks].assume_init_ref()) }
    }
}

#[inline(always)]
fn rows<I: TileIsa, F: Format, T: Tiles>(isa: I, tiles: &mut T, p: &Piece<'_>) {
    let per_group = p.w.k().div_ceil(BLOCK).div_ceil(F::BLOCKS);
    let Some(units) = cast::<F::Unit>(p.w.bytes()) else { return };
    let blocks = per_group * F::BLOCKS;
    let tiles_a_block = F::TILING.sums() * F::TILING.tiles_a_sum();
    let step = UNPACKED / PANEL / tiles_a_block / SCALED * SCALED;
    let mut unpacked = Unpacked::<F::Scales<I>> {
        tiles: [const { MaybeUninit::uninit() }; UNPACKED],
        scales: [const { MaybeUninit::uninit() }; UNPACKED],
        blocks: 0,
        tiles_a_block,
    };
    // The chains of a panel, between one part of `k` and the next.
    let mut chains = [const { MaybeUninit::<[I::F; ROWS]>::uninit() }; MOST_TILES * PANEL];
    let mut sums = Pages([[[Sums::ZERO; SCALED]; 2]; 2]);
    let all_tiles = p.tokens.div_ceil(TILE);
    let mut first = p.groups.start;
    while first < p.groups.end {
        let groups = p.groups.end.min(first + PANEL) - first;
        let mut first_tile = 0;
        while first_tile < all_tiles {
            let tiles_here = MOST_TILES.min(all_tiles - first_tile);
            let mut at = 0;
            while at < blocks {
                unpacked.blocks = step.min(blocks - at);
                for g in 0..groups {
                    let units = &units[(first + g) * per_group..(first + g + 1) * per_group];
                    fill::<I, F>(isa, units, at, g, &mut unpacked);
                }
                for t in 0..tiles_here {
                    let acts = p.acts.tile(first_tile + t);
                    for g in 0..groups {
                        let chain = &mut chains[t * PANEL + g];
                        // SAFETY: `fill` has written the group.
                        let (w, s) = unsafe { unpacked.group(g) };
                        let part = Part { acts, at, blocks: unpacked.blocks, w, s };
                        let before = if at == 0 {
                            chain.write([isa.splat(0.0); ROWS])
                        } else {
                            // SAFETY: written in the part of `k` before.
                            unsafe { chain.assume_init_mut() }
                        };
                        group::<I, F, T>(isa, tiles, &part, &mut sums.0, before);
                        if at + unpacked.blocks < blocks {
                            continue;
                        }
                        let token = (first_tile + t) * TILE;
                        for (t, acc) in before.iter().enumerate().take(p.tokens - token) {
                            p.store(isa, first + g, token + t, *acc);
                        }
                    }
                }
                at += unpacked.blocks;
            }
            first_tile += tiles_here;
        }
        first += groups;
    }
}

/// Unpacks blocks `at..at + out.blocks` of a row group into place `group`.
#[inline(always)]
fn fill<I: TileIsa, F: Format>(
    isa: I,
    units: &[F::Unit],
    at: usize,
    group: usize,
    out: &mut Unpacked<F::Scales<I>>,
) {
    let here = group * out.blocks.next_multiple_of(SCALED);
    let tiles = &mut out.tiles[here * out.tiles_a_block..(here + out.blocks) * out.tiles_a_block];
    let scales = &mut out.scales[here..here + out.blocks];
    for (b, (tiles, scale)) in tiles.chunks_exact_mut(out.tiles_a_block).zip(scales).enumerate() {
        let (unit, b) = (&units[(at + b) / F::BLOCKS], (at + b) % F::BLOCKS);
        scale.write(F::scales(isa, unit, b));
        let v = F::unpack(isa, unit, b);
        let zero = isa.bsplat(0);
        macro_rules! row {
            ($tile:expr, $j:expr, $w:expr) => {{
                let w = $w;
                // SAFETY: within the tile; a byte array needs no value before it is written.
                let row = unsafe { &mut (&mut (*tiles[$tile].as_mut_ptr()).0)[$j] };
                isa.bstore(w, row);
            }};
        }
        match F::TILING {
            Tiling::Joined { offset } => {
                let (one, eight) = (isa.bsplat(offset), isa.bsplat(offset * 8));
                for j in 0..8 {
                    row!(0, j, isa.bsub(isa.bshl::<3>(v[j]), eight));
                    row!(0, 8 + j, isa.bsub(v[j], one));
                }
            }
            Tiling::Parts => {
                for j in 0..8 {
                    row!(0, j, v[j]);
                    row!(0, 8 + j, zero);
                    row!(1, j, zero);
                    row!(1, 8 + j, v[j]);
                }
            }
            Tiling::Halves { offset, narrow } => {
                let one = isa.bsplat(offset);
                let upper = isa.bsplat(if narrow { offset * 8 } else { offset.wrapping_mul(4) });
                for j in 0..8 {
                    let low = isa.bsub(v[j], one);
                    let high = if narrow { isa.bshl::<3>(v[j]) } else { isa.bshl::<2>(v[j]) };
                    let high = isa.bsub(high, upper);
                    for half in 0..2 {
                        let (low, high) = if j / 4 == half { (low, high) } else { (zero, zero) };
                        if narrow {
                            row!(half, j, high);
                            row!(half, 8 + j, low);
                        } else {
                            row!(2 * half, j, high);
                            row!(2 * half, 8 + j, low);
                            row!(2 * half + 1, j, high);
                            row!(2 * half + 1, 8 + j, zero);
                        }
                    }
                }
            }
        }
    }
}

/// What one row group × 16 tokens has to do with one part of `k`.
struct Part<'a, S> {
    acts: Tile<'a>,
    /// The first block.
    at: usize,
    blocks: usize,
    w: &'a [TileBytes],
    s: &'a [S],
}

impl<'a, S> Part<'a, S> {
    #[inline(always)]
    fn quants(&self, block: usize) -> &'a [ActQuants; TILE] {
        &self.acts.quants.as_chunks().0[self.at + block]
    }
    #[inline(always)]
    fn metas(&self, block: usize) -> &'a [ActMeta; TILE] {
        &self.acts.metas.as_chunks().0[self.at + block]
    }
}

/// The sums of the blocks that share a scale.
type GroupSums = [[Sums; SCALED]; 2];

/// From a multiple of 4 KB on.
#[repr(C, align(4096))]
struct Pages([GroupSums; 2]);

/// How much of the group before is there to be added to the chains.
const NOTHING: usize = 0;
const WHOLE: usize = 1;
const SOME: usize = 2;

/// Adds a part to the chains.
#[inline(always)]
fn group<I: TileIsa, F: Format, T: Tiles>(
    isa: I,
    tiles: &mut T,
    part: &Part<'_, F::Scales<I>>,
    sums: &mut [GroupSums; 2],
    chain: &mut [I::F; ROWS],
) {
    let [mut now, mut before] = sums.each_mut();
    // A copy of the chains, indexed by constants only, so that it lies in registers.
    let mut own = [chain[0]; ROWS];
    macro_rules! each {
        ($($t:literal)*) => {
            $(own[$t] = chain[$t];)*
        };
    }
    each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    let acc = &mut own;
    stage::<I, F, T, true, NOTHING>(isa, tiles, part, 0, now, before, acc);
    let mut b = SCALED;
    while b < part.blocks {
        std::mem::swap(&mut now, &mut before);
        stage::<I, F, T, true, WHOLE>(isa, tiles, part, b, now, before, acc);
        b += SCALED;
    }
    if b == part.blocks {
        stage::<I, F, T, false, WHOLE>(isa, tiles, part, b, before, now, acc);
    } else {
        stage::<I, F, T, false, SOME>(isa, tiles, part, b, before, now, acc);
    }
    macro_rules! back {
        ($($t:literal)*) => {
            $(chain[$t] = own[$t];)*
        };
    }
    back!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Multiplies the group of blocks from `b` on into `now`, and adds `before`, the group before it, to the chains.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one inner loop, always inlined")]
fn stage<I: TileIsa, F: Format, T: Tiles, const MULTIPLY: bool, const ADD: usize>(
    isa: I,
    tiles: &mut T,
    part: &Part<'_, F::Scales<I>>,
    b: usize,
    now: &mut GroupSums,
    before: &GroupSums,
    acc: &mut [I::F; ROWS],
) {
    let done = if ADD == NOTHING { 0 } else { b - SCALED };
    let left = part.blocks - done;
    let mut s = [part.s[done]; SCALED];
    for i in 1..SCALED {
        if ADD == WHOLE || i < left {
            s[i] = part.s[done + i];
        }
    }
    // Of fewer than four blocks the first stands for those that are not there.
    let mut metas = [part.metas(done); SCALED];
    for i in 1..SCALED {
        metas[i] = part.metas(if ADD == WHOLE || i < left { done + i } else { done });
    }
    let count = if MULTIPLY { (part.blocks - b).min(SCALED) } else { 0 };
    let signed = !matches!(F::TILING, Tiling::Joined { offset: 0 });
    let per_sum = F::TILING.tiles_a_sum();
    let per_block = F::TILING.sums() * per_sum;

    macro_rules! add {
        ($($t:literal)*) => {$(
            if ADD != NOTHING {
                let mut sum = isa.splat(0.0);
                for i in 0..SCALED {
                    if ADD == WHOLE || i < left {
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
                tiles.load::<$a>(part.quants(b + $i).into());
            }
            add!($($t)*);
            if $i < count {
                let w = &part.w[(b + $i) * per_block..(b + $i + 1) * per_block];
                tiles.zero::<$c0>();
                for w in &w[..per_sum] {
                    tiles.load::<6>(w.into());
                    tiles.dot::<$c0, $a, 6>(signed);
                }
                if F::TILING.sums() == 2 {
                    tiles.zero::<$c1>();
                    for w in &w[per_sum..] {
                        tiles.load::<7>(w.into());
                        tiles.dot::<$c1, $a, 7>(signed);
                    }
                }
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
