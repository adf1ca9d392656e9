//! Quantized activations, as every product with quantized weights takes them: integers of 11 bits, cut into two bytes, in
//! tiles of up to 16 tokens.
//!
//! 128 values of a token share a scale, `d = max|x| / 1,016`; a value is `d · Q`, `Q = 8 · hi + lo`. The radix of 8 lets
//! 8-bit matrix units multiply both parts by weights of up to 5 bits at once: `Σ hi · 8w + lo · w`. (docs/determinism.md)
//!
//! `[tile][block][token of the tile]`: what a matrix unit loads lies side by side.

use super::Class;

/// Tokens of one tile: the rows of a matrix unit.
pub const TILE: usize = 16;
/// Values of one block.
pub const BLOCK: usize = 32;
/// Blocks that share a scale.
pub const SCALED: usize = 4;
/// The upper part counts this many of the lower.
pub(crate) const RADIX: i32 = 8;
/// The largest `Q`: the upper part is a signed byte, and -128 is no multiple that all instruction sets can multiply.
pub(crate) const LARGEST: f32 = (127 * RADIX) as f32;
/// Fewer tokens than these make one tile of their own height, in the exact class; from here on tiles have 16, the last
/// ones of them unused.
const LEAST_OF_A_TILE: usize = 7;

/// The two parts of 32 activations of one token, each within ±127.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct ActQuants {
    pub(crate) hi: [[i8; 4]; 8],
    pub(crate) lo: [[i8; 4]; 8],
}

impl ActQuants {
    /// Zeros.
    pub const ZERO: ActQuants = ActQuants { hi: [[0; 4]; 8], lo: [[0; 4]; 8] };

    /// 64 bytes of activations in another form.
    #[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", test)))]
    #[inline(always)]
    pub(crate) fn of_bytes(bytes: [u8; 2 * BLOCK]) -> ActQuants {
        let (fours, _) = bytes.as_chunks::<4>();
        let part = |from: usize| std::array::from_fn(|i| fours[from + i].map(u8::cast_signed));
        ActQuants { hi: part(0), lo: part(8) }
    }

    /// The upper and the lower parts.
    pub fn parts(&self) -> impl Iterator<Item = i8> {
        [self.hi, self.lo].into_iter().flatten().flatten()
    }

    /// The 32 integers `Q`.
    pub fn integers(&self) -> [i32; BLOCK] {
        let (hi, lo) = (self.hi.as_flattened(), self.lo.as_flattened());
        std::array::from_fn(|i| RADIX * i32::from(hi[i]) + i32::from(lo[i]))
    }
}

/// What belongs to 32 activations of one token besides.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct ActMeta {
    pub(crate) d: f32,
    pub(crate) sum: f32,
    pub(crate) halves: [i32; 2],
}

impl ActMeta {
    /// Of zeros.
    pub const ZERO: ActMeta = ActMeta { d: 0.0, sum: 0.0, halves: [0; 2] };

    /// What a `Q` of 1 is worth: the same for all blocks of a group of 128 values.
    pub fn scale(&self) -> f32 {
        self.d
    }
    /// `ΣQ`, and that of the first and last 16.
    pub fn sums(&self) -> (f32, [i32; 2]) {
        (self.sum, self.halves)
    }
    #[inline(always)]
    pub(crate) fn total(&self) -> i32 {
        self.halves[0] + self.halves[1]
    }
}

/// Blocks that one token of `k` values takes: whole groups, so that every tile begins where a page of 4 KB may
/// (`amx` says why).
pub fn act_blocks(k: usize) -> usize {
    k.div_ceil(BLOCK).next_multiple_of(SCALED)
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
    pub fn block(&self, token: usize, b: usize) -> (&'a ActQuants, &'a ActMeta) {
        let tile = self.tile(token / TILE);
        let at = b * tile.height + token % TILE;
        (&tile.quants[at], &tile.metas[at])
    }

    /// Tile `i`.
    #[inline(always)]
    pub(crate) fn tile(&self, i: usize) -> Tile<'a> {
        let height = self.height;
        let at = i * TILE * self.blocks..i * TILE * self.blocks + height * self.blocks;
        Tile { height, quants: &self.quants[at.clone()], metas: &self.metas[at] }
    }
}
