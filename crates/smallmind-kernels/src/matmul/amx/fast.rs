//! The fast class of prefill: weights and activations rounded to bfloat16, multiplied by matrix units that keep their
//! sums in F32 over all of `k`. Its bits do not depend on threads, batch or chunk, but they are not those of the exact
//! class; which class a token is computed in follows from its role. (docs/determinism.md)
//!
//! Sums go from the tiles to the output; where a bias or a residual is added to them, or tiles are not whole, they are
//! stored while the next are made, a little after each block of `k`. Weights are not unpacked then, as
//! in the exact class: a second buffer of them costs more of the cache than the time it hides. (docs/performance.md)
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::planes::{PREFETCH_BYTES, SUMS, Scratch, UNPACKED, store_row};
use super::{STAY_NEAR, Steps, at_once, fill};
use crate::aligned::cast;
use crate::isa::amx::{BfTiles, ROWS, Sums, TileBytes, TileIsa};
use crate::isa::avx512::Avx512;
use crate::isa::stream::Stream;
use crate::isa::{Isa, LANES};
use crate::matmul::acts::{ActQuants, BLOCK, TILE};
use crate::matmul::float::{FloatFormat, FloatUnit, UNIT_K};
use crate::matmul::format::{Format, RowGroup, group_len, units};
use crate::matmul::tile::{Piece, ask_ahead};

/// Bytes of the activations of one block of a tile of tokens.
const BLOCK_OF_A_TILE: usize = TILE * size_of::<ActQuants>();
/// Fewest tiles of tokens that meet an unpacked panel.
const LEAST_TILES: usize = 8;

/// Rounds one row to bfloat16 and writes it into row `row` of a tile of `height` rows; blocks past the row become zero.
#[inline(always)]
pub(crate) fn round<T: BfTiles>(isa: Avx512, x: &[f32], height: usize, row: usize, out: &mut [ActQuants]) {
    let mut blocks = out.chunks_exact_mut(height);
    let (whole, rest) = x.as_chunks::<BLOCK>();
    let mut last = [0.0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    let last = if rest.is_empty() { &[][..] } else { std::slice::from_ref(&last) };
    for (x, block) in whole.iter().chain(last).zip(&mut blocks) {
        let (lanes, _) = x.as_chunks::<LANES>();
        let mut bytes = [0; 2 * BLOCK];
        isa.bstore(T::rounded(isa.load(&lanes[0]), isa.load(&lanes[1])), &mut bytes);
        block[row] = ActQuants::of_bytes(bytes);
    }
    for block in blocks {
        block[row] = ActQuants::ZERO;
    }
}

/// Computes a piece.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
pub(crate) unsafe fn piece<T: BfTiles>(isa: Avx512, p: &Piece<'_>) {
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    by_format!(p.w.dtype(),
    F => {
        let per_group = units::<F>(p.w.k());
        let len = group_len::<F>(per_group);
        rows(isa, &mut tiles, p, &Quantized::<F> { bytes: p.w.bytes(), len, per_group, format: PhantomData });
    },
    G => {
        let Some(units) = cast(p.w.bytes()) else { return };
        rows(isa, &mut tiles, p, &Floats::<G> { units, k: p.w.k() });
    });
}

/// Packed weights that can be unpacked to bfloat16.
trait Source {
    /// Blocks of a row group.
    fn blocks(&self) -> usize;
    /// Unpacks a block: 16 rows of pairs.
    fn fill<T: BfTiles>(&self, isa: Avx512, group: usize, block: usize, out: &mut MaybeUninit<TileBytes>);
}

/// All row groups of a piece.
#[inline(always)]
fn rows<T: BfTiles, S: Source>(isa: Avx512, tiles: &mut T, p: &Piece<'_>, weights: &S) {
    let (blocks, all_tiles) = (weights.blocks(), p.tokens.div_ceil(TILE));
    let most = UNPACKED / 2;
    // An even number of groups, as many as fit; longer rows go part by part.
    let (panel, part) = match blocks > most {
        true => (2, blocks.div_ceil(blocks.div_ceil(most))),
        false => ((UNPACKED / blocks) & !1, blocks),
    };
    let at_once = at_once(all_tiles, blocks * BLOCK_OF_A_TILE, LEAST_TILES).next_multiple_of(2);
    let steps = Steps { groups: p.groups.clone(), tiles: all_tiles, spans: blocks, panel, at_once, part };
    let Some(mut step) = steps.at(p.groups.start, 0, 0) else { return };

    let mut scratch = Scratch::take();
    let Scratch { sums: [now, before], unpacked: [unpacked, _], waiting, .. } = &mut *scratch;
    let (mut now, mut before) = (now, before);
    let mut storing = Storing { group: 0, columns: 0, token: 0, tokens: 0, next: (0, 0) };
    loop {
        let mut out = unpacked.memory(step.groups * step.spans).iter_mut();
        for group in step.first_group..step.first_group + step.groups {
            for (block, tile) in (step.first_span..step.first_span + step.spans).zip(&mut out) {
                weights.fill::<T>(isa, group, block, tile);
            }
        }
        // SAFETY: written above.
        let w = unsafe { unpacked.tiles(step.groups * step.spans) };
        let rows = (4 * TILE).div_ceil(step.spans);
        let last = step.first_span + step.spans == blocks;
        // Of two tiles of tokens.
        let passing = 2 * step.spans * BLOCK_OF_A_TILE > STAY_NEAR;
        for t in (0..step.tiles).step_by(2) {
            let tile = step.first_tile + t;
            let two = t + 1 < step.tiles;
            let acts = [p.acts.tile(tile), p.acts.tile(tile + usize::from(two))];
            let x = acts.map(|a| &a.quants.as_chunks::<TILE>().0[step.first_span..][..step.spans]);
            for g in (0..step.groups).step_by(2) {
                // A group without another is multiplied with itself.
                let columns = 2.min(step.groups - g);
                let w = [g, g + columns - 1].map(|g| &w[g * step.spans..][..step.spans]);
                let waiting = &mut waiting[t / 2];
                if step.first_span == 0 {
                    registers!(|R| tiles.zero::<R>());
                } else {
                    registers!(|R| tiles.load::<R>((&waiting[R]).into()));
                }
                match two {
                    true => multiply::<T, true>(isa, tiles, (p, &mut storing, before, rows), (x, passing), w),
                    false => {
                        multiply::<T, false>(isa, tiles, (p, &mut storing, before, rows), (x, passing), w)
                    }
                }
                while storing.advance(isa, p, before) {}
                if !last {
                    registers!(|R| tiles.store::<R>((&mut waiting[R]).into()));
                    continue;
                }
                let (group, token) = (step.first_group + g, tile * TILE);
                // All four tiles are whole where the last one is.
                if two && columns == 2 && p.output_tile(group + 1, token + TILE).is_some() {
                    registers!(|R| {
                        if let Some(out) = p.output_tile(group + R % 2, token + R / 2 * TILE) {
                            tiles.store::<R>(out);
                        }
                    });
                } else {
                    registers!(|R| tiles.store::<R>((&mut now[R]).into()));
                    std::mem::swap(&mut now, &mut before);
                    let tokens = (if two { 2 * TILE } else { TILE }).min(p.tokens - token);
                    storing = Storing { group, columns, token, tokens, next: (0, 0) };
                }
            }
        }
        match steps.after(&step) {
            Some(next) => step = next,
            None => break,
        }
    }
    while storing.advance(isa, p, before) {}
    scratch.keep();
}
const _: () = assert!(SUMS >= 4, "sums of two tiles of tokens wait side by side");

/// Adds the products of one or two tiles of tokens with two groups, and stores `rows` rows of sums after each block. (No
/// closure does it: one that is called at two places loses the instruction set.)
#[inline(always)]
fn multiply<T: BfTiles, const TWO: bool>(
    isa: Avx512,
    tiles: &mut T,
    (p, storing, before, rows): (&Piece<'_>, &mut Storing, &[Sums; SUMS], usize),
    (x, passing): ([&[[ActQuants; TILE]]; 2], bool),
    w: [&[TileBytes]; 2],
) {
    for (((x0, x1), w0), w1) in x[0].iter().zip(x[1]).zip(w[0]).zip(w[1]) {
        fill::<T, 4>(tiles, x0, passing);
        tiles.load_passing::<6>(w0.into());
        tiles.dot_bf16::<0, 4, 6>();
        tiles.load_passing::<7>(w1.into());
        tiles.dot_bf16::<1, 4, 7>();
        if TWO {
            fill::<T, 5>(tiles, x1, passing);
        }
        for _ in 0..rows {
            storing.advance(isa, p, before);
        }
        if TWO {
            tiles.dot_bf16::<2, 5, 6>();
            tiles.dot_bf16::<3, 5, 7>();
        }
    }
}

/// Sums of up to two tiles of tokens and two groups that have left the tiles, on their way to the output.
struct Storing {
    group: usize,
    columns: usize,
    token: usize,
    tokens: usize,
    /// The next column and token.
    next: (usize, usize),
}

impl Storing {
    /// Stores one more token's; `false` where none is left.
    #[inline(always)]
    fn advance(&mut self, isa: Avx512, p: &Piece<'_>, from: &[Sums; SUMS]) -> bool {
        let (column, t) = self.next;
        if column == self.columns {
            return false;
        }
        self.next = if t + 1 == self.tokens { (column + 1, 0) } else { (column, t + 1) };
        let row = &from[2 * (t / TILE) + column].0[t % TILE];
        p.store(isa, self.group + column, self.token + t, isa.floats(isa.iload(row)));
        true
    }
}

/// Weights of a quantized type.
struct Quantized<'a, F> {
    bytes: &'a [u8],
    /// Bytes and units of a row group.
    len: usize,
    per_group: usize,
    format: PhantomData<F>,
}

impl<F: Format> Source for Quantized<'_, F> {
    #[inline(always)]
    fn blocks(&self) -> usize {
        self.per_group * F::BLOCKS
    }

    #[inline(always)]
    fn fill<T: BfTiles>(&self, isa: Avx512, group: usize, block: usize, out: &mut MaybeUninit<TileBytes>) {
        let units = RowGroup::<F::Unit>::of(self.bytes, self.len, group).units;
        let (unit, b) = (&units[block / F::BLOCKS], block % F::BLOCKS);
        ask_ahead::<F, PREFETCH_BYTES>(isa, Stream::Asked, unit, b);
        let scales = F::scales(isa, unit, b);
        let bytes = F::unpack(isa, unit, b);
        macro_rules! value {
            ($bytes:expr, $i:literal, $half:expr) => {
                isa.fma(isa.to_f32(isa.byte::<$i>($bytes)), scales.s[$half], scales.m[$half])
            };
        }
        for (j, bytes) in bytes.into_iter().enumerate() {
            let half = j / 4;
            let v = isa.bsub(bytes, isa.bsplat(F::QUANTS.offset));
            store_row(isa, T::pairs(value!(v, 0, half), value!(v, 1, half)), out, 2 * j);
            store_row(isa, T::pairs(value!(v, 2, half), value!(v, 3, half)), out, 2 * j + 1);
        }
    }
}

/// Weights that are floats; values past the end of a row are zero.
struct Floats<'a, G: FloatFormat> {
    units: &'a [FloatUnit<G::Item>],
    k: usize,
}

impl<G: FloatFormat> Source for Floats<'_, G> {
    #[inline(always)]
    fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    #[inline(always)]
    fn fill<T: BfTiles>(&self, isa: Avx512, group: usize, block: usize, out: &mut MaybeUninit<TileBytes>) {
        let per_group = self.k.div_ceil(UNIT_K);
        let units = &self.units[group * per_group..(group + 1) * per_group];
        for half in 0..2 {
            match units.get(2 * block + half) {
                Some(unit) => {
                    for (j, pair) in unit.w.as_chunks::<2>().0.iter().enumerate() {
                        let pair = T::pairs(G::load(isa, &pair[0]), G::load(isa, &pair[1]));
                        store_row(isa, pair, out, 8 * half + j);
                    }
                }
                None => {
                    for j in 0..8 {
                        store_row(isa, isa.bsplat(0), out, 8 * half + j);
                    }
                }
            }
        }
    }
}
const _: () = assert!(ROWS == 16 && UNIT_K == 16);
