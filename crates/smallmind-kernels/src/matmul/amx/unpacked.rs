//! Unpacking, one block at a time, and the memory of a thread that it goes to.
#![allow(unsafe_code, reason = "unpacked weights lie in memory that is not initialized before")]

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::blocks::Blocks;
use super::{MOST_TILES, Step, UNPACKED};
use crate::isa::amx::{ROWS, Sums, TileBytes, TileIsa};
use crate::isa::{Isa, LANES};
use crate::matmul::acts::SCALED;
use crate::matmul::format::{Format, Tiling};
use crate::matmul::tile::PANEL;

/// How far ahead of unpacking weights are asked for, in bytes.
const PREFETCH_BYTES: usize = 4096;

/// The sums of the blocks that share a scale.
pub(super) type GroupSums = [[Sums; SCALED]; 2];

/// What a thread computes a piece in, kept from one to the next: on the stack every call would touch each of its pages.
#[repr(C, align(4096))]
pub(super) struct Scratch {
    sums: [GroupSums; 2],
    memory: MaybeUninit<Memory<[Lanes; MOST_SCALES], Lanes>>,
}

/// As large and as aligned as a vector of any instruction set with tiles.
type Lanes = [f32; LANES];
/// Vectors that a block's scales take, of the format that has most.
const MOST_SCALES: usize = 6;

/// A piece's memory: scales `S`, vectors `V`.
#[repr(C, align(4096))]
pub(super) struct Memory<S, V> {
    /// Of the step that is multiplied and of the one after.
    pub(super) unpacked: [Unpacked<S>; 2],
    /// The chains of a panel, between one part of `k` and the next.
    pub(super) chains: [MaybeUninit<[V; ROWS]>; MOST_TILES * PANEL],
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

    /// The memory, with whatever is in it, for any scales and vectors; and the sums.
    #[inline(always)]
    pub(super) fn parts<S: Copy, V: Copy>(&mut self) -> (&mut Memory<S, V>, &mut [GroupSums; 2]) {
        const {
            assert!(size_of::<Memory<S, V>>() <= size_of::<Memory<[Lanes; MOST_SCALES], Lanes>>());
            assert!(align_of::<Memory<S, V>>() <= align_of::<Scratch>());
        }
        // SAFETY: large and aligned enough, and all of it is memory that needs no value.
        (unsafe { &mut *self.memory.as_mut_ptr().cast() }, &mut self.sums)
    }
}

/// Unpacked weights of one step: tiles and scales, block after block of one row group after the other, each group from a
/// multiple of 4 KB on.
///
/// A load waits for a store to the same place modulo 4 KB. Four blocks of activations, of weights and of sums begin
/// there, so the sums of a block, stored two blocks later, lie in the way of no load that follows soon.
#[repr(C, align(4096))]
pub(super) struct Unpacked<S> {
    tiles: [MaybeUninit<TileBytes>; UNPACKED],
    scales: [MaybeUninit<S>; UNPACKED],
}

impl<S: Copy> Unpacked<S> {
    /// Where group `g` of a step lies: its tiles and its scales.
    #[inline(always)]
    fn place(step: &Step, g: usize, tiles_a_block: usize) -> [Range<usize>; 2] {
        let at = g * step.blocks.next_multiple_of(SCALED);
        [at * tiles_a_block..(at + step.blocks) * tiles_a_block, at..at + step.blocks]
    }

    /// # Safety
    /// A [`Filling`] has written this group of the step.
    #[inline(always)]
    pub(super) unsafe fn group(&self, step: &Step, g: usize, tiles_a_block: usize) -> (&[TileBytes], &[S]) {
        let [tiles, scales] = Self::place(step, g, tiles_a_block);
        // SAFETY: written, by the caller's promise.
        unsafe { (self.tiles[tiles].assume_init_ref(), self.scales[scales].assume_init_ref()) }
    }
}

/// A row group that is being unpacked, one block at a time.
pub(super) struct Filling<'a, I: Isa, F: Format> {
    units: &'a [F::Unit],
    /// The next block's number in the group.
    block: usize,
    tiles: std::slice::ChunksExactMut<'a, MaybeUninit<TileBytes>>,
    scales: std::slice::IterMut<'a, MaybeUninit<F::Scales<I>>>,
}

impl<'a, I: TileIsa, F: Format> Filling<'a, I, F> {
    #[inline(always)]
    pub(super) fn new<T: Blocks<F>>(
        units: &'a [F::Unit],
        step: &Step,
        g: usize,
        out: &'a mut Unpacked<F::Scales<I>>,
    ) -> Self {
        let [tiles, scales] = Unpacked::<F::Scales<I>>::place(step, g, T::TILES);
        Filling {
            units,
            block: step.first_block,
            tiles: out.tiles[tiles].chunks_exact_mut(T::TILES.max(1)),
            scales: out.scales[scales].iter_mut(),
        }
    }

    /// With nothing to do.
    #[inline(always)]
    pub(super) fn nothing() -> Self {
        Filling { units: &[], block: 0, tiles: [].chunks_exact_mut(1), scales: [].iter_mut() }
    }

    /// Unpacks one more block; `false` where none is left.
    #[inline(always)]
    pub(super) fn advance(&mut self, isa: I) -> bool {
        let Some(scale) = self.scales.next() else { return false };
        let (unit, b) = (&self.units[self.block / F::BLOCKS], self.block % F::BLOCKS);
        self.block += 1;
        if b == 0 {
            let here = std::ptr::from_ref(unit).cast::<u8>();
            let mut line = 0;
            while line < size_of::<F::Unit>() {
                isa.prefetch(here.wrapping_add(PREFETCH_BYTES + line));
                line += 64;
            }
        }
        scale.write(F::scales(isa, unit, b));
        if let Some(tiles) = self.tiles.next() {
            fill::<I, F>(isa, &F::unpack(isa, unit, b), tiles);
        }
        true
    }
}

/// Writes a block's vectors as the tiles of its type.
#[inline(always)]
fn fill<I: TileIsa, F: Format>(isa: I, v: &[I::B; 8], tiles: &mut [MaybeUninit<TileBytes>]) {
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
        // Multiplied as they are.
        Tiling::Parts => {}
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
