//! Unpacking to planes, one span at a time, and the memory of a thread that it goes to.
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

use std::cell::Cell;
use std::mem::MaybeUninit;

use super::{MOST_TILES, Step};
use crate::isa::Isa;
use crate::isa::amx::{Sums, TileBytes, TileIsa};
use crate::isa::stream::Stream;
use crate::matmul::acts::{BLOCK, PARTS, SPAN, TILE};
use crate::matmul::format::{Format, LARGEST_WEIGHT, RowGroup, integer_scales};
use crate::matmul::tile::ask_ahead;

/// Tiles of unpacked weights of one buffer: 256 KB, of a second-level cache of 2 MB.
pub(super) const UNPACKED: usize = 256;
/// Bytes of an integer weight.
pub(super) const PLANES: usize = 2;
/// Tiles of sums of one product: of each plane with each part of the activations.
pub(super) const SUMS: usize = PLANES * PARTS;
/// How far ahead of unpacking weights are asked for, in bytes.
pub(super) const PREFETCH_BYTES: usize = 4096;
/// Blocks of a span.
const BLOCKS: usize = SPAN / BLOCK;

/// The integer weights of 64 values of 16 rows: a tile for each byte, the upper one first. The upper one is signed.
pub(super) type Span = [TileBytes; PLANES];

/// What a thread computes a piece in, kept from one to the next: on the stack every call would touch each of its pages.
#[repr(C, align(4096))]
pub(super) struct Scratch {
    /// That leave the tiles, and that are scaled meanwhile.
    pub(super) sums: [[Sums; SUMS]; 2],
    /// Of the step that is multiplied and of the one after.
    pub(super) unpacked: [Unpacked; 2],
    /// Sums between one part of `k` and the next, of each tile of tokens.
    pub(super) waiting: [[Sums; SUMS]; MOST_TILES],
    /// What 1 of a token's sums is worth, of each tile of tokens.
    pub(super) units: [[f64; TILE]; MOST_TILES],
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// This thread's; the first time it is made.
    pub(super) fn take() -> Box<Scratch> {
        SCRATCH.take().unwrap_or_else(|| {
            // SAFETY: integers, and memory that needs no value.
            unsafe { Box::new_zeroed().assume_init() }
        })
    }

    /// Gives it back to the thread.
    pub(super) fn keep(self: Box<Self>) {
        SCRATCH.set(Some(self));
    }
}

/// Unpacked weights of one step: span after span of one row group after the other.
#[repr(C, align(4096))]
pub(super) struct Unpacked([MaybeUninit<TileBytes>; UNPACKED]);

impl Unpacked {
    /// The first tiles.
    ///
    /// # Safety
    /// They have been written.
    #[inline(always)]
    pub(super) unsafe fn tiles(&self, count: usize) -> &[TileBytes] {
        // SAFETY: written, by the caller's promise.
        unsafe { self.0[..count].assume_init_ref() }
    }

    /// The same, to be written.
    #[inline(always)]
    pub(super) fn memory(&mut self, count: usize) -> &mut [MaybeUninit<TileBytes>] {
        &mut self.0[..count]
    }
}

/// A step's weights that are being unpacked, one span at a time.
pub(super) struct Filling<'a, I: Isa, F: Format> {
    out: std::slice::IterMut<'a, [MaybeUninit<TileBytes>; PLANES]>,
    /// The groups that come after this one, and the length of each.
    groups: &'a [u8],
    len: usize,
    /// Of this group.
    units: &'a [F::Unit],
    factor: I::F,
    /// The next span and block of the group, and those of a step.
    span: usize,
    first: usize,
    end: usize,
}

impl<'a, I: TileIsa, F: Format> Filling<'a, I, F> {
    #[inline(always)]
    pub(super) fn new(isa: I, step: &Step, len: usize, bytes: &'a [u8], out: &'a mut Unpacked) -> Self {
        let (out, _) = out.memory(step.groups * step.spans * PLANES).as_chunks_mut();
        let mut filling = Filling {
            out: out.iter_mut(),
            groups: &bytes[step.first_group * len..(step.first_group + step.groups) * len],
            len,
            units: &[],
            factor: isa.splat(0.0),
            span: 0,
            first: step.first_span,
            end: step.first_span + step.spans,
        };
        filling.next_group(isa);
        filling
    }

    /// With nothing to do.
    #[inline(always)]
    pub(super) fn nothing(isa: I) -> Self {
        let factor = isa.splat(0.0);
        Filling { out: [].iter_mut(), groups: &[], len: 0, units: &[], factor, span: 0, first: 0, end: 0 }
    }

    #[inline(always)]
    fn next_group(&mut self, isa: I) {
        if let Some((group, rest)) = self.groups.split_at_checked(self.len) {
            let group = RowGroup::<F::Unit>::view(group);
            self.units = group.units;
            self.factor = isa.div(isa.splat(LARGEST_WEIGHT), isa.load(group.bounds));
            self.groups = rest;
            self.span = self.first;
        }
    }

    /// Unpacks one more span; `false` where none is left.
    #[inline(always)]
    pub(super) fn advance(&mut self, isa: I) -> bool {
        let Some(tiles) = self.out.next() else { return false };
        for half in 0..BLOCKS {
            let block = self.span * BLOCKS + half;
            match self.units.get(block / F::BLOCKS) {
                Some(unit) => self.block(isa, unit, block % F::BLOCKS, half, tiles),
                None => {
                    for tile in &mut *tiles {
                        for j in 0..8 {
                            store_row(isa, isa.bsplat(0), tile, 8 * half + j);
                        }
                    }
                }
            }
        }
        self.span += 1;
        if self.span == self.end {
            self.next_group(isa);
        }
        true
    }

    /// Unpacks a block into the first or the last rows of the tiles.
    #[inline(always)]
    fn block(
        &self,
        isa: I,
        unit: &F::Unit,
        b: usize,
        half: usize,
        tiles: &mut [MaybeUninit<TileBytes>; PLANES],
    ) {
        ask_ahead::<F, PREFETCH_BYTES>(isa, Stream::Asked, unit, b);
        let q = F::unpack(isa, unit, b);
        let scales = integer_scales::<I, F>(isa, unit, b, self.factor);
        // 16 bits wrap, and what is left in the end fits them.
        let less = match F::QUANTS.signed {
            // Counted from -128 on.
            true => scales.s.map(|s| isa.imac(isa.isplat(0), s, isa.isplat(-128))),
            false => scales.less::<I, F>(isa),
        };
        let s = [isa.pairs_of(scales.s[0]), isa.pairs_of(scales.s[1])];
        let m = [isa.pairs_of(less[0]), isa.pairs_of(less[1])];
        for (j, q) in q.into_iter().enumerate() {
            let q = if F::QUANTS.signed { isa.bsub(q, isa.bsplat(128)) } else { q };
            let [upper, lower] = isa.two_planes(q, s[j / 4], m[j / 4]);
            store_row(isa, upper, &mut tiles[0], 8 * half + j);
            store_row(isa, lower, &mut tiles[1], 8 * half + j);
        }
    }
}

/// Writes one row of a tile.
#[inline(always)]
pub(super) fn store_row<I: TileIsa>(isa: I, bytes: I::B, tile: &mut MaybeUninit<TileBytes>, row: usize) {
    // SAFETY: within the tile; a byte array needs no value before it is written.
    isa.bstore(bytes, unsafe { &mut (&mut (*tile.as_mut_ptr()).0)[row] });
}
