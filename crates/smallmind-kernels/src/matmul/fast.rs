//! The fast class of prefill: weights and activations rounded to bfloat16, multiplied by matrix units that keep their
//! sums in F32 over all of `k`. Its bits do not depend on threads, batch or chunk, but they are not those of the exact
//! class; which class a token is computed in follows from its role. (docs/determinism.md)
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::acts::{ActQuants, BLOCK, TILE};
use super::float::{FloatFormat, FloatUnit, UNIT_K};
use super::format::{Format, RowGroup, group_len, units};
use super::tile::Piece;
use crate::aligned::cast;
use crate::isa::amx::{BfTiles, ROWS, Sums, TileBytes, TileIsa};
use crate::isa::avx512::Avx512;
use crate::isa::{Isa, LANES};

/// Tiles of unpacked weights: 256 KB, an eighth of the second-level cache of CPUs with AMX.
const UNPACKED: usize = 256;
/// Blocks of `k` that are unpacked at once.
const PART: usize = 64;
/// Blocks of activations that stay in the second-level cache while panels pass by: 1 MB.
const STAY: usize = 1024;
/// Fewest tiles of tokens that meet an unpacked panel: unpacking takes as long as multiplying five.
const LEAST_TILES: usize = 16;
/// Sums that wait between one part of `k` and the next, of as many tiles and groups.
const WAITING: usize = LEAST_TILES * (UNPACKED / PART);
const _: () = assert!(STAY / PART <= LEAST_TILES, "sums wait only where k is longer than a part");

/// Rounds one row to bfloat16 and writes it into row `row` of a tile of `height` rows; blocks past the row become zero.
#[inline(always)]
pub(crate) fn round<T: BfTiles>(isa: Avx512, x: &[f32], height: usize, row: usize, out: &mut [ActQuants]) {
    let mut blocks = out.chunks_exact_mut(height);
    for x in x.chunks(BLOCK) {
        let Some(block) = blocks.next() else { return };
        let mut values = [[0.0; LANES]; 2];
        values.as_flattened_mut()[..x.len()].copy_from_slice(x);
        let rounded = T::rounded(isa.load(&values[0]), isa.load(&values[1]));
        let mut bytes = [0; 2 * BLOCK];
        isa.bstore(rounded, &mut bytes);
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
    fn fill<T: BfTiles>(&self, isa: Avx512, group: usize, block: usize, out: &mut TileBytes);
}

/// All row groups of a piece: a panel of them is unpacked once and meets a part of the tokens, whose activations stay
/// in the cache.
#[inline(always)]
fn rows<T: BfTiles, S: Source>(isa: Avx512, tiles: &mut T, p: &Piece<'_>, weights: &S) {
    let blocks = weights.blocks();
    // An even number of groups, as many as fit; longer rows go part by part.
    let part = blocks.min(PART);
    let panel = (UNPACKED / part) & !1;
    let at_once = (STAY / blocks).clamp(LEAST_TILES, 32) & !1;
    let mut unpacked = [const { MaybeUninit::<TileBytes>::uninit() }; UNPACKED];
    let mut waiting = [Sums::ZERO; WAITING];
    let all_tiles = p.tokens.div_ceil(TILE);
    let mut first_tile = 0;
    while first_tile < all_tiles {
        let tiles_here = at_once.min(all_tiles - first_tile);
        let mut first = p.groups.start;
        while first < p.groups.end {
            let groups = panel.min(p.groups.end - first);
            let mut at = 0;
            while at < blocks {
                let n = part.min(blocks - at);
                for g in 0..groups {
                    for b in 0..n {
                        let tile = unpacked[g * n + b].write(TileBytes::ZERO);
                        weights.fill::<T>(isa, first + g, at + b, tile);
                    }
                }
                // SAFETY: written above.
                let w = unsafe { unpacked[..groups * n].assume_init_ref() };
                let mut t = 0;
                while t < tiles_here {
                    let rows = 2.min(tiles_here - t);
                    let mut g = 0;
                    while g < groups {
                        let columns = 2.min(groups - g);
                        let quad = Quad {
                            p,
                            w: [&w[g * n..(g + 1) * n], &w[(g + columns - 1) * n..(g + columns) * n]],
                            group: first + g,
                            tile: first_tile + t,
                            at,
                            last: at + n == blocks,
                        };
                        let slot = if part < blocks { t * groups + g * rows } else { 0 };
                        let waiting = &mut waiting[slot..slot + rows * columns];
                        match (rows, columns) {
                            (2, 2) => quad.multiply::<T, 2, 2>(isa, tiles, waiting),
                            (2, _) => quad.multiply::<T, 2, 1>(isa, tiles, waiting),
                            (_, 2) => quad.multiply::<T, 1, 2>(isa, tiles, waiting),
                            _ => quad.multiply::<T, 1, 1>(isa, tiles, waiting),
                        }
                        g += columns;
                    }
                    t += rows;
                }
                at += n;
            }
            first += groups;
        }
        first_tile += tiles_here;
    }
}

/// Up to two tiles of tokens × two row groups, for one part of `k`.
struct Quad<'a, 'w> {
    p: &'a Piece<'a>,
    w: [&'w [TileBytes]; 2],
    group: usize,
    tile: usize,
    /// The part's first block.
    at: usize,
    /// Whether it is the last part.
    last: bool,
}

impl Quad<'_, '_> {
    #[inline(always)]
    fn multiply<T: BfTiles, const R: usize, const C: usize>(
        &self,
        isa: Avx512,
        tiles: &mut T,
        waiting: &mut [Sums],
    ) {
        let acts = [self.p.acts.tile(self.tile), self.p.acts.tile(self.tile + R - 1)];
        let x = acts.map(|a| &a.quants.as_chunks::<TILE>().0[self.at..self.at + self.w[0].len()]);
        if self.at == 0 {
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
        } else {
            tiles.load::<0>((&waiting[0]).into());
            if C == 2 {
                tiles.load::<1>((&waiting[1]).into());
            }
            if R == 2 {
                tiles.load::<2>((&waiting[C]).into());
            }
            if R == 2 && C == 2 {
                tiles.load::<3>((&waiting[3]).into());
            }
        }
        for b in 0..self.w[0].len() {
            tiles.load::<4>((&x[0][b]).into());
            tiles.load::<6>((&self.w[0][b]).into());
            tiles.dot_bf16::<0, 4, 6>();
            if C == 2 {
                tiles.load::<7>((&self.w[1][b]).into());
                tiles.dot_bf16::<1, 4, 7>();
            }
            if R == 2 {
                tiles.load::<5>((&x[1][b]).into());
                tiles.dot_bf16::<2, 5, 6>();
            }
            if R == 2 && C == 2 {
                tiles.dot_bf16::<3, 5, 7>();
            }
        }
        let mut own = [Sums::ZERO; 4];
        let sums = if self.last { &mut own[..R * C] } else { waiting };
        tiles.store::<0>(&mut sums[0]);
        if C == 2 {
            tiles.store::<1>(&mut sums[1]);
        }
        if R == 2 {
            tiles.store::<2>(&mut sums[C]);
        }
        if R == 2 && C == 2 {
            tiles.store::<3>(&mut sums[3]);
        }
        if !self.last {
            return;
        }
        for (i, sums) in own[..R * C].iter().enumerate() {
            let first = (self.tile + i / C) * TILE;
            for (t, row) in sums.0.iter().enumerate().take(self.p.tokens - first) {
                self.p.store(isa, self.group + i % C, first + t, isa.floats(isa.iload(row)));
            }
        }
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
    fn fill<T: BfTiles>(&self, isa: Avx512, group: usize, block: usize, out: &mut TileBytes) {
        let units = RowGroup::<F::Unit>::of(self.bytes, self.len, group).units;
        let (unit, b) = (&units[block / F::BLOCKS], block % F::BLOCKS);
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
            isa.bstore(T::pairs(value!(v, 0, half), value!(v, 1, half)), &mut out.0[2 * j]);
            isa.bstore(T::pairs(value!(v, 2, half), value!(v, 3, half)), &mut out.0[2 * j + 1]);
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
    fn fill<T: BfTiles>(&self, isa: Avx512, group: usize, block: usize, out: &mut TileBytes) {
        let per_group = self.k.div_ceil(UNIT_K);
        let units = &self.units[group * per_group..(group + 1) * per_group];
        for half in 0..2 {
            let Some(unit) = units.get(2 * block + half) else { return };
            for (j, pair) in unit.w.as_chunks::<2>().0.iter().enumerate() {
                let pair = T::pairs(G::load(isa, &pair[0]), G::load(isa, &pair[1]));
                isa.bstore(pair, &mut out.0[8 * half + j]);
            }
        }
    }
}
const _: () = assert!(ROWS == 16 && UNIT_K == 16);
