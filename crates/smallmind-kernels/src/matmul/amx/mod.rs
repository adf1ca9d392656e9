//! The inner loop of matrix units: 16 tokens × 16 rows. Weights become integers of two bytes, and the bytes of each
//! place a tile of their own; a tile of sums for each pair of places then takes up all of `k`, and what leaves it is
//! the exact sum that [`super::tile`] has, so the bits are the same.
//!
//! Weights are unpacked once for all tokens of a step, while the step before is multiplied; sums that have left the tiles
//! are scaled while the next ones are made. (docs/performance.md)
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

/// Does one thing with each of the registers that hold sums.
macro_rules! registers {
    (|$r:ident| $body:expr) => {
        registers!($r, $body; 0 1 2 3)
    };
    ($r:ident, $body:expr; $($n:literal)*) => {{
        $({
            const $r: usize = $n;
            $body;
        })*
    }};
}

pub(crate) mod fast;
mod planes;

use std::arch::x86_64::__m512d;
use std::ops::Range;

use super::acts::{ActQuants, BLOCK, PARTS, RADIX, SPAN, TILE};
use super::format::{Format, RowGroup, group_len, units};
use super::tile::{PANEL, Piece, unit_of};
use crate::isa::amx::{ROWS, Sums, TileIsa, TileRef, Tiles};
use planes::{Filling, PLANES, SUMS, Scratch, Span, UNPACKED};

/// Bytes of the activations of one span of a tile of tokens.
const SPAN_OF_A_TILE: usize = PARTS * TILE * size_of::<ActQuants>();
/// Spans of a step where one tile of tokens is all: little of the first-level cache.
const SPANS_FOR_ONE: usize = 3;
/// Tiles of tokens that meet one unpacked panel, at least where there are as many, and at most.
const LEAST_TILES: usize = 4;
const MOST_TILES: usize = 32;
/// Bytes of activations that stay in the second-level cache, of 2 MB, while panels pass by.
const STAY: usize = 1 << 20;
/// Bytes of activations that stay in the first-level cache, of 48 KB, while weights pass by.
const STAY_NEAR: usize = 36 << 10;
/// The longest `k` whose sums fit 32 bits, whatever the bytes: 127 · 255 · 65,536 < 2³¹.
const LONGEST: usize = 1 << 16;

/// Computes a piece; `vectors` is the same CPU's vector loop, for what does not fill tiles.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
pub(crate) unsafe fn piece<I: TileIsa, T: Tiles>(isa: I, p: &Piece<'_>, vectors: fn(&Piece<'_>)) {
    let quantized = by_format!(p.w.dtype(), F => F::BLOCKS > 0, G => false);
    if !quantized || p.acts.height != TILE || p.w.k() > LONGEST {
        return vectors(p);
    }
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    by_format!(p.w.dtype(), F => rows::<I, F, T>(isa, &mut tiles, p), G => {});
}

/// What one unpacked buffer serves: a part of `k` of a panel of row groups, for some tiles of tokens.
#[derive(Clone, Copy)]
struct Step {
    first_group: usize,
    groups: usize,
    first_tile: usize,
    tiles: usize,
    first_span: usize,
    spans: usize,
}

/// All steps of a piece: parts of `k` within panels within tiles of tokens, so that activations stay in the cache.
struct Steps {
    groups: Range<usize>,
    tiles: usize,
    spans: usize,
    /// Groups, tiles of tokens and spans of a step, where there are as many.
    panel: usize,
    at_once: usize,
    part: usize,
}

impl Steps {
    fn at(&self, first_group: usize, first_tile: usize, first_span: usize) -> Option<Step> {
        (first_tile < self.tiles).then(|| Step {
            first_group,
            groups: self.panel.min(self.groups.end - first_group),
            first_tile,
            tiles: self.at_once.min(self.tiles - first_tile),
            first_span,
            spans: self.part.min(self.spans - first_span),
        })
    }

    fn after(&self, s: &Step) -> Option<Step> {
        if s.first_span + s.spans < self.spans {
            self.at(s.first_group, s.first_tile, s.first_span + s.spans)
        } else if s.first_group + s.groups < self.groups.end {
            self.at(s.first_group + s.groups, s.first_tile, 0)
        } else {
            self.at(self.groups.start, s.first_tile + s.tiles, 0)
        }
    }
}

/// Tiles of tokens that one step takes, of `tiles` that have `bytes` each: their activations stay in the cache, if these
/// are no fewer than `least`.
fn at_once(tiles: usize, bytes: usize, least: usize) -> usize {
    let most = (STAY / bytes.max(1)).clamp(least, MOST_TILES);
    tiles.div_ceil(tiles.div_ceil(most).max(1))
}

/// What each tile of sums counts: by the byte of the weights, the upper one first, and by the part of the activations.
const WEIGHTS: [f64; SUMS] = [256.0 * RADIX as f64, 256.0, RADIX as f64, 1.0];

#[inline(always)]
fn rows<I: TileIsa, F: Format, T: Tiles>(isa: I, tiles: &mut T, p: &Piece<'_>) {
    let units = units::<F>(p.w.k());
    let len = group_len::<F>(units);
    let group_at = |g: usize| RowGroup::<F::Unit>::of(p.w.bytes(), len, g);
    let (spans, all_tiles) = ((units * F::BLOCKS).div_ceil(SPAN / BLOCK), p.tokens.div_ceil(TILE));
    let most = UNPACKED / PLANES;
    let (panel, part) = match all_tiles {
        1 => (1, SPANS_FOR_ONE),
        _ if spans > most => (1, spans.div_ceil(spans.div_ceil(most))),
        _ => ((most / spans).min(2 * PANEL), spans),
    };
    let at_once = at_once(all_tiles, spans * SPAN_OF_A_TILE, LEAST_TILES);
    let steps = Steps { groups: p.groups.clone(), tiles: all_tiles, spans, panel, at_once, part };
    let Some(mut step) = steps.at(p.groups.start, 0, 0) else { return };

    let mut scratch = Scratch::take();
    let Scratch { sums: [now, before], unpacked, waiting, units } = &mut *scratch;
    let (mut now, mut before) = (now, before);
    let [mut unpacked, mut spare] = unpacked.each_mut();
    let mut filling = Filling::<I, F>::new(isa, &step, len, p.w.bytes(), unpacked);
    while filling.advance(isa) {}

    let mut scaling = Scaling { bounds: isa.doubles(isa.splat(0.0)), group: 0, tile: 0, next: 0, tokens: 0 };
    let mut tiles_of_units = 0..0;
    loop {
        if tiles_of_units != (step.first_tile..step.first_tile + step.tiles) {
            // What is on its way goes by those of before.
            while scaling.advance(isa, p, before, units) {}
            tiles_of_units = step.first_tile..step.first_tile + step.tiles;
            for tile in tiles_of_units.clone() {
                for (unit, meta) in units[tile % MOST_TILES].iter_mut().zip(p.acts.tile(tile).metas) {
                    *unit = unit_of::<F>(meta.d);
                }
            }
        }
        let next = steps.after(&step);
        let mut filling = match &next {
            Some(next) => Filling::<I, F>::new(isa, next, len, p.w.bytes(), spare),
            None => Filling::nothing(isa),
        };
        // SAFETY: written before the first step, or during the step before.
        let w = unsafe { unpacked.tiles(step.groups * step.spans * PLANES) }.as_chunks::<PLANES>().0;
        let last = step.first_span + step.spans == spans;
        // Where there is one tile of tokens, weights are multiplied soon after they were written.
        let passing = Passing { w: all_tiles > 1, x: step.spans * SPAN_OF_A_TILE > STAY_NEAR };
        // A product that is alone stays in the tiles from one part of `k` to the next.
        let alone = step.tiles * step.groups == 1;
        for t in 0..step.tiles {
            let tile = step.first_tile + t;
            let acts = p.acts.tile(tile);
            let (lines, _) = acts.quants.as_chunks::<TILE>();
            let lines = &lines[step.first_span * PARTS..(step.first_span + step.spans) * PARTS];
            for g in 0..step.groups {
                let group = step.first_group + g;
                if step.first_span == 0 {
                    zero(tiles);
                } else if !alone {
                    load(tiles, &waiting[t]);
                }
                let at_once = ROWS.div_ceil(step.spans);
                for (w, x) in w[g * step.spans..(g + 1) * step.spans].iter().zip(lines.as_chunks().0) {
                    multiply(tiles, w, x, passing, || {
                        for _ in 0..at_once {
                            scaling.advance(isa, p, before, units);
                        }
                        filling.advance(isa);
                    });
                }
                while scaling.advance(isa, p, before, units) {}
                if last {
                    store(tiles, now);
                    std::mem::swap(&mut now, &mut before);
                    scaling = Scaling {
                        bounds: isa.doubles(isa.load(group_at(group).bounds)),
                        group,
                        tile,
                        next: 0,
                        tokens: TILE.min(p.tokens - tile * TILE),
                    };
                } else if !alone {
                    store(tiles, &mut waiting[t]);
                }
            }
        }
        while filling.advance(isa) {}
        match next {
            Some(next) => step = next,
            None => break,
        }
        std::mem::swap(&mut unpacked, &mut spare);
    }
    while scaling.advance(isa, p, before, units) {}
    scratch.keep();
}

/// What the first-level cache need not keep.
#[derive(Clone, Copy)]
struct Passing {
    w: bool,
    x: bool,
}

/// Fills a register with what passes by or stays.
#[inline(always)]
fn fill<'a, T: Tiles, const R: usize>(tiles: &mut T, from: impl Into<TileRef<'a>>, passing: bool) {
    match passing {
        true => tiles.load_passing::<R>(from.into()),
        false => tiles.load::<R>(from.into()),
    }
}

/// Adds the products of one span to the sums; `meanwhile` is done between them.
#[inline(always)]
fn multiply<T: Tiles>(
    tiles: &mut T,
    w: &Span,
    x: &[[ActQuants; TILE]; PARTS],
    passing: Passing,
    meanwhile: impl FnOnce(),
) {
    fill::<T, 4>(tiles, &x[0], passing.x);
    fill::<T, 6>(tiles, &w[0], passing.w);
    tiles.dot::<0, 4, 6>(true);
    fill::<T, 5>(tiles, &x[1], passing.x);
    tiles.dot::<1, 5, 6>(true);
    meanwhile();
    fill::<T, 7>(tiles, &w[1], passing.w);
    tiles.dot::<2, 4, 7>(false);
    tiles.dot::<3, 5, 7>(false);
}

#[inline(always)]
fn zero<T: Tiles>(tiles: &mut T) {
    registers!(|R| tiles.zero::<R>());
}

#[inline(always)]
fn load<T: Tiles>(tiles: &mut T, sums: &[Sums; SUMS]) {
    registers!(|R| tiles.load::<R>((&sums[R]).into()));
}

#[inline(always)]
fn store<T: Tiles>(tiles: &mut T, sums: &mut [Sums; SUMS]) {
    registers!(|R| tiles.store::<R>((&mut sums[R]).into()));
}

/// Sums of 16 tokens and 16 rows that have left the tiles, on their way to the output, one token at a time.
struct Scaling<D> {
    bounds: D,
    group: usize,
    tile: usize,
    /// The next token, and how many there are.
    next: usize,
    tokens: usize,
}

impl Scaling<[__m512d; 2]> {
    /// Scales and stores one more token's; `false` where none is left.
    #[inline(always)]
    fn advance<I: TileIsa>(
        &mut self,
        isa: I,
        p: &Piece<'_>,
        from: &[Sums; SUMS],
        units: &[[f64; TILE]; MOST_TILES],
    ) -> bool {
        let t = self.next;
        if t == self.tokens {
            return false;
        }
        self.next += 1;
        let sums: [&[i32; 16]; SUMS] = std::array::from_fn(|i| &from[i].0[t % ROWS]);
        let unit = units[self.tile % MOST_TILES][t % TILE];
        let value = isa.scaled_sums(sums, WEIGHTS, self.bounds, unit);
        p.store(isa, self.group, self.tile * TILE + t, value);
        true
    }
}
const _: () = assert!(ROWS == TILE);
