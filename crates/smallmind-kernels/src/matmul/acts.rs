//! Quantized activations, as every product with quantized weights takes them: integers of 15 bits, cut into two bytes, in
//! tiles of up to 16 tokens.
//!
//! A token's values share a scale, `d = max|x| / 16,256`; a value is `d · Q`, `Q = 128 · hi + lo`. No scale stands within
//! `k`, so the products of a whole row are one sum of integers. (docs/determinism.md)
//!
//! `[tile][span][part][token of the tile]`: what a matrix unit loads lies side by side.

use super::Class;

/// Tokens of one tile: the rows of a matrix unit.
pub const TILE: usize = 16;
/// Values of one block.
pub const BLOCK: usize = 32;
/// Values of one token that lie side by side.
pub const SPAN: usize = 2 * BLOCK;
/// The parts of an integer: the upper and the lower.
pub(crate) const PARTS: usize = 2;
/// The upper part counts this many of the lower.
pub(crate) const RADIX: i32 = 128;
/// The largest `Q`: the upper part is a signed byte, and -128 is no multiple that all instruction sets can multiply.
pub(crate) const LARGEST: f32 = (127 * RADIX) as f32;
/// Fewer tokens than these make one tile of their own height, in the exact class; from here on tiles have 16, the last
/// ones of them unused.
const LEAST_OF_A_TILE: usize = 7;

/// One part of 64 activations of one token, each within ±127; of the fast class 32 activations, in bfloat16 or as 32 bytes
/// with what belongs to them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct ActQuants {
    pub(crate) q: [[i8; 4]; SPAN / 4],
}

impl ActQuants {
    /// Zeros.
    pub const ZERO: ActQuants = ActQuants { q: [[0; 4]; SPAN / 4] };

    /// By sixteens.
    #[inline(always)]
    pub(crate) fn sixteens_mut(&mut self) -> &mut [[i8; 16]; SPAN / 16] {
        match self.q.as_flattened_mut().as_chunks_mut().0.try_into() {
            Ok(sixteens) => sixteens,
            Err(_) => unreachable!("the bytes of a span"),
        }
    }

    /// 64 bytes of activations in another form.
    #[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", test)))]
    #[inline(always)]
    pub(crate) fn of_bytes(bytes: [u8; SPAN]) -> ActQuants {
        let (fours, _) = bytes.as_chunks::<4>();
        ActQuants { q: std::array::from_fn(|i| fours[i].map(u8::cast_signed)) }
    }
}

/// The two parts of the 32 activations of one token that meet a block of weights.
#[derive(Clone, Copy, Debug)]
pub struct ActBlock<'a> {
    pub(crate) hi: &'a [[i8; 4]; 8],
    pub(crate) lo: &'a [[i8; 4]; 8],
}

impl<'a> ActBlock<'a> {
    /// The first or second half of a span.
    #[inline(always)]
    pub(crate) fn of(hi: &'a ActQuants, lo: &'a ActQuants, second: usize) -> Self {
        let half = |x: &'a ActQuants| &x.q.as_chunks::<8>().0[second % 2];
        ActBlock { hi: half(hi), lo: half(lo) }
    }

    /// The upper and the lower parts.
    pub fn parts(self) -> impl Iterator<Item = i8> + use<'a> {
        [*self.hi, *self.lo].into_iter().flatten().flatten()
    }

    /// The 32 integers `Q`.
    pub fn integers(&self) -> [i32; BLOCK] {
        let (hi, lo) = (self.hi.as_flattened(), self.lo.as_flattened());
        std::array::from_fn(|i| RADIX * i32::from(hi[i]) + i32::from(lo[i]))
    }
}

/// What belongs to 32 activations of one token besides.
#[derive(Clone, Copy, Debug)]
pub struct ActMeta {
    pub(crate) d: f32,
    pub(crate) sums: BlockSums,
}

/// Sums of 32 activations, of the first and of the last 16.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct BlockSums {
    pub(crate) halves: [i32; 2],
    /// Of the upper and of the lower parts: at most 16 · 127.
    pub(crate) parts: [[i16; 2]; PARTS],
    /// Of the upper and of the lower parts of this block and of the other one of its span, in their order.
    pub(crate) span: [[i16; 2]; PARTS],
}

const _: () = assert!(size_of::<BlockSums>() == 24);

impl BlockSums {
    /// Of the blocks of a span, from the sums of 16 values of either part.
    #[inline(always)]
    pub(crate) fn of_span(of_parts: [[[i16; 2]; PARTS]; 2]) -> [BlockSums; 2] {
        let span = std::array::from_fn(|part| of_parts.map(|parts| parts[part][0] + parts[part][1]));
        of_parts.map(|parts| {
            let half = |i: usize| RADIX * i32::from(parts[0][i]) + i32::from(parts[1][i]);
            BlockSums { halves: [half(0), half(1)], parts, span }
        })
    }
}

impl ActMeta {
    /// Of zeros.
    pub const ZERO: ActMeta =
        ActMeta { d: 0.0, sums: BlockSums { halves: [0; 2], parts: [[0; 2]; PARTS], span: [[0; 2]; PARTS] } };

    /// What a `Q` of 1 is worth: the same for all blocks of a token.
    pub fn scale(&self) -> f32 {
        self.d
    }
    /// `ΣQ` of the first and last 16.
    pub fn sums(&self) -> [i32; 2] {
        self.sums.halves
    }
    #[inline(always)]
    pub(crate) fn total(&self) -> i32 {
        self.sums.halves[0] + self.sums.halves[1]
    }
}

/// Blocks that one token of `k` values takes: whole spans, whose parts are as many.
pub fn act_blocks(k: usize) -> usize {
    k.div_ceil(SPAN) * PARTS
}

/// Rows that `tokens` tokens take, unused ones of the last tile included.
pub fn act_rows(tokens: usize, class: Class) -> usize {
    if tokens < LEAST_OF_A_TILE && class == Class::Exact { tokens } else { tokens.next_multiple_of(TILE) }
}

/// Blocks that `tokens` tokens of `k` values take; of one tile where `tokens <= 16`.
pub fn act_len(tokens: usize, k: usize, class: Class) -> usize {
    act_rows(tokens, class) * act_blocks(k)
}

/// One tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    pub(crate) height: usize,
    pub(crate) quants: &'a [ActQuants],
    pub(crate) metas: &'a [ActMeta],
}

impl<'a> Tile<'a> {
    /// Block `b` of token `t` of the tile.
    #[inline(always)]
    pub(crate) fn block(&self, t: usize, b: usize) -> (ActBlock<'a>, &'a ActMeta) {
        let span = b / 2 * PARTS * self.height + t;
        let (hi, lo) = (&self.quants[span], &self.quants[span + self.height]);
        (ActBlock::of(hi, lo, b), &self.metas[b * self.height + t])
    }
}

/// Quantized activations of one or more tokens of `k` values.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedActs<'a> {
    /// Of a tile.
    pub(crate) height: usize,
    pub(crate) blocks: usize,
    pub(crate) quants: &'a [ActQuants],
    pub(crate) metas: &'a [ActMeta],
}

impl<'a> QuantizedActs<'a> {
    /// A view; `None` where the slices are not [`act_len`] long.
    pub fn new(
        (tokens, k, class): (usize, usize, Class),
        quants: &'a [ActQuants],
        metas: &'a [ActMeta],
    ) -> Option<Self> {
        let fits = quants.len() == act_len(tokens, k, class) && metas.len() == quants.len();
        let height = act_rows(tokens, class).min(TILE);
        fits.then_some(QuantizedActs { height, blocks: act_blocks(k), quants, metas })
    }

    /// Block `b` of a token.
    pub fn block(&self, token: usize, b: usize) -> (ActBlock<'a>, &'a ActMeta) {
        let tile = self.tile(token / TILE);
        tile.block(token % TILE, b)
    }

    /// Tile `i`.
    #[inline(always)]
    pub(crate) fn tile(&self, i: usize) -> Tile<'a> {
        let height = self.height;
        let at = i * TILE * self.blocks..i * TILE * self.blocks + height * self.blocks;
        Tile { height, quants: &self.quants[at.clone()], metas: &self.metas[at] }
    }
}
