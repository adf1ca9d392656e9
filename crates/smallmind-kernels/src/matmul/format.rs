//! The packed layouts: 16 rows interleaved, so that one vector of bytes holds 4 consecutive `k` of 16 rows.
//!
//! A *unit* is what one row group stores for one or more 32-value blocks of `k`: quants first, then scales, in one
//! sequential stream; 64-byte aligned and, but for widened K-quant scales and a few pad bytes, no larger than GGUF.
//! Byte vector `j` of a block holds, for row `r` and `i < 4`, the weight `k = 4j + i` at byte `4r + i`: the operand
//! of `vpdpbusd` and, in groups of 8 vectors, the B tile of AMX. Nibble planes hold vectors `j` and `j + 4` in the low
//! and high half of a byte.
//!
//! One format is one `Format` impl: how to unpack a block and how to add its dot product to the accumulator. The
//! contract of the sums (docs/determinism.md): per block an exact integer dot product, then one multiply and one fused
//! multiply-add into a single chain per output, blocks ascending.

use super::acts::{ActMeta, ActQuants, RADIX};
use crate::isa::Isa;

/// Rows of one group.
pub const GROUP: usize = 16;
type Bytes = [u8; 64];
type Halves = [u16; GROUP];

/// Marks a type that is valid for any bit pattern and has no padding.
///
/// # Safety
/// Implementors are `repr(C)`, made of integers or floats only, without padding bytes.
#[allow(unsafe_code, reason = "the marker behind the one cast from bytes to units")]
pub(crate) unsafe trait Pod: Copy {}

/// How a matrix unit computes a block: which tiles of weights it multiplies with the 64 bytes of the activations' two
/// parts, into one or two integer sums an output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiling {
    /// Weights of up to 5 bits, minus `offset`: one tile holds `8w` and `w`, and one sum is `Σ w · Q`.
    Joined {
        /// What a stored quant of zero value is.
        offset: u8,
    },
    /// Signed bytes, multiplied where they lie: a sum a part of the activations.
    Parts,
    /// Weights of up to 6 bits, minus `offset`, with scales per 16: a sum a half of the block. Where `8w` fits no byte,
    /// two tiles of `4w` do.
    Halves {
        /// What a stored quant of zero value is.
        offset: u8,
        /// Whether `8w` fits a byte.
        narrow: bool,
    },
}

impl Tiling {
    /// Sums of a block.
    pub(crate) const fn sums(self) -> usize {
        if let Tiling::Joined { .. } = self { 1 } else { 2 }
    }
    /// Tiles of weights that make one sum.
    pub(crate) const fn tiles_a_sum(self) -> usize {
        if let Tiling::Halves { narrow: false, .. } = self { 2 } else { 1 }
    }
}

/// One packed layout of quantized weights.
pub(crate) trait Format {
    /// What a row group stores per [`Format::BLOCKS`] blocks.
    type Unit: Pod;
    /// Activation blocks per unit.
    const BLOCKS: usize;
    /// The scales of one block, ready for [`Format::join`].
    type Scales<I: Isa>: Copy;
    /// How a matrix unit computes a block.
    const TILING: Tiling;

    /// The 8 byte vectors of block `b`.
    fn unpack<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> [I::B; 8];
    /// Those vectors where they lie, of a format that stores them unpacked.
    fn bytes(_u: &Self::Unit, _b: usize) -> Option<&[Bytes; 8]> {
        None
    }
    /// The scales of block `b`.
    fn scales<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> Self::Scales<I>;
    /// The dot products of the block's integers with one token's, as f32.
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], s: Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F;
    /// [`Format::dot`] from what a matrix unit has summed.
    fn dot_of_sums<I: Isa>(isa: I, sums: [I::I; 2], s: Self::Scales<I>) -> I::F;
    /// Adds what they stand for to the sums of the block's group: `part + dot · d`, and the minima.
    fn join<I: Isa>(isa: I, dot: I::F, s: Self::Scales<I>, meta: &ActMeta, part: I::F) -> I::F;
    /// Writes block bytes of one row (GGUF layout, `BLOCKS` · 32 values) into lane `lane` of the unit.
    fn pack(u: &mut Self::Unit, lane: usize, row: &[u8]);
}

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? } = $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C, align(64))]
        pub(crate) struct $name { $(pub(crate) $field: $ty),* }
        // SAFETY: integers only, and the size below is the sum of the fields, so there is no padding.
        #[allow(unsafe_code, reason = "the fields are integers only")]
        unsafe impl Pod for $name {}
        const _: () = assert!(size_of::<$name>() == $bytes $(- 0 * size_of::<$ty>())*);
        const _: () = assert!(0 $(+ size_of::<$ty>())* == $bytes);
    };
}

unit!(
    /// Two blocks of Q8_0.
    Q8Unit { q: [[Bytes; 8]; 2], d: [Halves; 2] } = 1088
);
unit!(
    /// Two blocks of Q4_0.
    Q40Unit { q: [[Bytes; 4]; 2], d: [Halves; 2] } = 576
);
unit!(
    /// One block of Q4_1.
    Q41Unit { q: [Bytes; 4], d: Halves, m: Halves } = 320
);
unit!(
    /// Two blocks of Q5_0: bit `j` of byte `4r + i` of `h` is the fifth bit of vector `j`.
    Q50Unit { q: [[Bytes; 4]; 2], h: [Bytes; 2], d: [Halves; 2] } = 704
);
unit!(
    /// One block of Q5_1.
    Q51Unit { q: [Bytes; 4], h: Bytes, d: Halves, m: Halves } = 384
);
unit!(
    /// 256 values of Q2_K: quants as nibbles, scales and mins per 16 values.
    Q2KUnit { q: [[Bytes; 4]; 8], s: [[[u8; GROUP]; 2]; 8], m: [[[u8; GROUP]; 2]; 8], d: Halves, dmin: Halves } = 2624
);
unit!(
    /// 256 values of Q3_K: quants plus 4 as nibbles, signed scales per 16 values.
    Q3KUnit { q: [[Bytes; 4]; 8], s: [[[i8; GROUP]; 2]; 8], d: Halves, pad: [u8; 32] } = 2368
);
unit!(
    /// 256 values of Q4_K: scales and mins per 32 values, widened to bytes.
    Q4KUnit { q: [[Bytes; 4]; 8], s: [[u8; GROUP]; 8], m: [[u8; GROUP]; 8], d: Halves, dmin: Halves } = 2368
);
unit!(
    /// 256 values of Q5_K.
    Q5KUnit {
        q: [[Bytes; 4]; 8],
        h: [Bytes; 8],
        s: [[u8; GROUP]; 8],
        m: [[u8; GROUP]; 8],
        d: Halves,
        dmin: Halves,
    } = 2880
);
unit!(
    /// 256 values of Q6_K: `h` holds the upper two bits of four vectors a byte; signed scales per 16 values.
    Q6KUnit { q: [[Bytes; 4]; 8], h: [[Bytes; 2]; 8], s: [[[i8; GROUP]; 2]; 8], d: Halves, pad: [u8; 32] } = 3392
);

/// The 8 vectors of a nibble plane.
#[inline(always)]
pub(super) fn nibbles<I: Isa>(isa: I, q: &[Bytes; 4]) -> [I::B; 8] {
    let low = isa.bsplat(15);
    let v = [isa.bload(&q[0]), isa.bload(&q[1]), isa.bload(&q[2]), isa.bload(&q[3])];
    [
        isa.band(v[0], low),
        isa.band(v[1], low),
        isa.band(v[2], low),
        isa.band(v[3], low),
        isa.band(isa.bshr::<4>(v[0]), low),
        isa.band(isa.bshr::<4>(v[1]), low),
        isa.band(isa.bshr::<4>(v[2]), low),
        isa.band(isa.bshr::<4>(v[3]), low),
    ]
}

/// The 8 vectors of a nibble plane with a fifth bit each.
#[inline(always)]
pub(super) fn fives<I: Isa>(isa: I, q: &[Bytes; 4], h: &Bytes) -> [I::B; 8] {
    let bit = isa.bsplat(16);
    let h = isa.bload(h);
    let n = nibbles(isa, q);
    [
        isa.bor(n[0], isa.band(isa.bshl::<4>(h), bit)),
        isa.bor(n[1], isa.band(isa.bshl::<3>(h), bit)),
        isa.bor(n[2], isa.band(isa.bshl::<2>(h), bit)),
        isa.bor(n[3], isa.band(isa.bshl::<1>(h), bit)),
        isa.bor(n[4], isa.band(h, bit)),
        isa.bor(n[5], isa.band(isa.bshr::<1>(h), bit)),
        isa.bor(n[6], isa.band(isa.bshr::<2>(h), bit)),
        isa.bor(n[7], isa.band(isa.bshr::<3>(h), bit)),
    ]
}

/// The 8 vectors of a nibble plane with two more bits each.
#[inline(always)]
pub(super) fn sixes<I: Isa>(isa: I, q: &[Bytes; 4], h: &[Bytes; 2]) -> [I::B; 8] {
    let bits = isa.bsplat(48);
    let h = [isa.bload(&h[0]), isa.bload(&h[1])];
    let n = nibbles(isa, q);
    [
        isa.bor(n[0], isa.band(isa.bshl::<4>(h[0]), bits)),
        isa.bor(n[1], isa.band(isa.bshl::<2>(h[0]), bits)),
        isa.bor(n[2], isa.band(h[0], bits)),
        isa.bor(n[3], isa.band(isa.bshr::<2>(h[0]), bits)),
        isa.bor(n[4], isa.band(isa.bshl::<4>(h[1]), bits)),
        isa.bor(n[5], isa.band(isa.bshl::<2>(h[1]), bits)),
        isa.bor(n[6], isa.band(h[1], bits)),
        isa.bor(n[7], isa.band(isa.bshr::<2>(h[1]), bits)),
    ]
}

/// `a + b + Σ w · x` of one block and part by a leaf: two chains, so that the additions overlap; integers, so the order
/// is free.
macro_rules! chains {
    ($isa:ident . $dot:ident, $a:expr, $b:expr, $w:ident, $x:expr) => {{
        let (mut a, mut b) = ($a, $b);
        a = $isa.$dot(a, $w[0], &$x[0]);
        b = $isa.$dot(b, $w[1], &$x[1]);
        a = $isa.$dot(a, $w[2], &$x[2]);
        b = $isa.$dot(b, $w[3], &$x[3]);
        a = $isa.$dot(a, $w[4], &$x[4]);
        b = $isa.$dot(b, $w[5], &$x[5]);
        a = $isa.$dot(a, $w[6], &$x[6]);
        b = $isa.$dot(b, $w[7], &$x[7]);
        $isa.iadd(a, b)
    }};
}

/// `Σ (w − offset) · Q` of one block, exact: at most 32 · 255 · 1,020.
#[inline(always)]
pub(super) fn dot_u7<I: Isa>(isa: I, offset: i32, w: &[I::B; 8], x: &ActQuants, meta: &ActMeta) -> I::I {
    let zero = isa.isplat(0);
    let upper = isa.ishl::<3>(chains!(isa.dot_u7, zero, zero, w, x.hi));
    chains!(isa.dot_u7, isa.isplat(-offset * meta.total()), upper, w, x.lo)
}
const _: () = assert!(RADIX == 1 << 3);

/// [`dot_u7`] for signed weights.
#[inline(always)]
fn dot_i8<I: Isa>(isa: I, w: &[I::B; 8], x: &ActQuants, meta: &ActMeta) -> I::I {
    let zero = isa.isplat(0);
    let upper = isa.ishl::<3>(chains!(isa.dot_i8, zero, zero, w, x.hi));
    chains!(isa.dot_i8, isa.isplat(-I::BIAS * meta.total()), upper, w, x.lo)
}

/// `s₀ · (Σ₀ w·Q − offset·Σ₀ Q) + s₁ · (…)`, for integer scales per 16 values: the integers are exact in f32, the sum is
/// one fused multiply-add.
#[inline(always)]
pub(super) fn dot_halves<I: Isa>(
    isa: I,
    offset: i32,
    s: [I::F; 2],
    w: &[I::B; 8],
    x: &ActQuants,
    meta: &ActMeta,
) -> I::F {
    let mut h = [isa.isplat(0); 2];
    for j in 0..4 {
        h[0] = isa.dot_u7(h[0], w[j], &x.hi[j]);
        h[1] = isa.dot_u7(h[1], w[4 + j], &x.hi[4 + j]);
    }
    let init = [isa.isplat(-offset * meta.halves[0]), isa.isplat(-offset * meta.halves[1])];
    h = [isa.iadd(isa.ishl::<3>(h[0]), init[0]), isa.iadd(isa.ishl::<3>(h[1]), init[1])];
    for j in 0..4 {
        h[0] = isa.dot_u7(h[0], w[j], &x.lo[j]);
        h[1] = isa.dot_u7(h[1], w[4 + j], &x.lo[4 + j]);
    }
    halves_of_sums(isa, h, s)
}

/// The two halves' integers, scaled and joined.
#[inline(always)]
pub(super) fn halves_of_sums<I: Isa>(isa: I, h: [I::I; 2], s: [I::F; 2]) -> I::F {
    isa.fma(isa.to_f32(h[0]), s[0], isa.mul(isa.to_f32(h[1]), s[1]))
}

/// Q8_0.
pub(crate) struct Q8;
impl Format for Q8 {
    type Unit = Q8Unit;
    const BLOCKS: usize = 2;
    type Scales<I: Isa> = I::F;
    const TILING: Tiling = Tiling::Parts;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q8Unit, b: usize) -> [I::B; 8] {
        let q = &u.q[b];
        [
            isa.bload(&q[0]),
            isa.bload(&q[1]),
            isa.bload(&q[2]),
            isa.bload(&q[3]),
            isa.bload(&q[4]),
            isa.bload(&q[5]),
            isa.bload(&q[6]),
            isa.bload(&q[7]),
        ]
    }
    #[inline(always)]
    fn bytes(u: &Q8Unit, b: usize) -> Option<&[Bytes; 8]> {
        Some(&u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q8Unit, b: usize) -> I::F {
        isa.load_f16(&u.d[b])
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _d: I::F, x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_i8(isa, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [hi, lo]: [I::I; 2], _d: I::F) -> I::F {
        isa.fma(isa.to_f32(hi), isa.splat(RADIX as f32), isa.to_f32(lo))
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, d: I::F, _meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(dot, d, part)
    }
    fn pack(u: &mut Q8Unit, lane: usize, row: &[u8]) {
        for (b, block) in row.chunks_exact(34).enumerate() {
            u.d[b][lane] = u16::from_le_bytes([block[0], block[1]]);
            for (j, four) in block[2..].chunks_exact(4).enumerate() {
                u.q[b][j][4 * lane..4 * lane + 4].copy_from_slice(four);
            }
        }
    }
}

/// Writes 16 bytes of nibbles (GGUF order: `k` and `k + 16` share a byte) into a nibble plane.
#[inline(always)]
fn pack_nibbles(q: &mut [Bytes; 4], lane: usize, qs: &[u8]) {
    for (plane, four) in q.iter_mut().zip(qs.chunks_exact(4)) {
        plane[4 * lane..4 * lane + 4].copy_from_slice(four);
    }
}

/// Writes the 32 fifth bits of a block (bit `k` of `qh`) into the bit plane.
#[inline(always)]
pub(super) fn pack_fifth(h: &mut Bytes, lane: usize, qh: u32) {
    for i in 0..4 {
        let mut byte = 0u32;
        for j in 0..8 {
            byte |= ((qh >> (4 * j + i)) & 1) << j;
        }
        h[4 * lane + i] = byte as u8;
    }
}

/// Q4_0: quants 0..=15 stand for -8..=7.
pub(crate) struct Q40;
impl Format for Q40 {
    type Unit = Q40Unit;
    const BLOCKS: usize = 2;
    type Scales<I: Isa> = I::F;
    const TILING: Tiling = Tiling::Joined { offset: 8 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> I::F {
        isa.load_f16(&u.d[b])
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _s: Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_u7(isa, 8, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [sum, _]: [I::I; 2], _s: Self::Scales<I>) -> I::F {
        isa.to_f32(sum)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, d: I::F, _meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(dot, d, part)
    }
    fn pack(u: &mut Q40Unit, lane: usize, row: &[u8]) {
        for (b, block) in row.chunks_exact(18).enumerate() {
            u.d[b][lane] = u16::from_le_bytes([block[0], block[1]]);
            pack_nibbles(&mut u.q[b], lane, &block[2..]);
        }
    }
}

/// Q4_1: `w = d · q + m`.
pub(crate) struct Q41;
impl Format for Q41 {
    type Unit = Q41Unit;
    const BLOCKS: usize = 1;
    type Scales<I: Isa> = (I::F, I::F);
    const TILING: Tiling = Tiling::Joined { offset: 0 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q)
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> (I::F, I::F) {
        (isa.load_f16(&u.d), isa.load_f16(&u.m))
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _s: Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_u7(isa, 0, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [sum, _]: [I::I; 2], _s: Self::Scales<I>) -> I::F {
        isa.to_f32(sum)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (d, m): (I::F, I::F), meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(m, isa.splat(meta.sum), isa.fma(dot, d, part))
    }
    fn pack(u: &mut Q41Unit, lane: usize, row: &[u8]) {
        u.d[lane] = u16::from_le_bytes([row[0], row[1]]);
        u.m[lane] = u16::from_le_bytes([row[2], row[3]]);
        pack_nibbles(&mut u.q, lane, &row[4..20]);
    }
}

/// Q5_0: quants 0..=31 stand for -16..=15.
pub(crate) struct Q50;
impl Format for Q50 {
    type Unit = Q50Unit;
    const BLOCKS: usize = 2;
    type Scales<I: Isa> = I::F;
    const TILING: Tiling = Tiling::Joined { offset: 16 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q50Unit, b: usize) -> [I::B; 8] {
        fives(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q50Unit, b: usize) -> I::F {
        isa.load_f16(&u.d[b])
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _s: Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_u7(isa, 16, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [sum, _]: [I::I; 2], _s: Self::Scales<I>) -> I::F {
        isa.to_f32(sum)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, d: I::F, _meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(dot, d, part)
    }
    fn pack(u: &mut Q50Unit, lane: usize, row: &[u8]) {
        for (b, block) in row.chunks_exact(22).enumerate() {
            u.d[b][lane] = u16::from_le_bytes([block[0], block[1]]);
            pack_fifth(&mut u.h[b], lane, u32::from_le_bytes([block[2], block[3], block[4], block[5]]));
            pack_nibbles(&mut u.q[b], lane, &block[6..]);
        }
    }
}

/// Q5_1: `w = d · q + m`.
pub(crate) struct Q51;
impl Format for Q51 {
    type Unit = Q51Unit;
    const BLOCKS: usize = 1;
    type Scales<I: Isa> = (I::F, I::F);
    const TILING: Tiling = Tiling::Joined { offset: 0 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q51Unit, _b: usize) -> [I::B; 8] {
        fives(isa, &u.q, &u.h)
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q51Unit, _b: usize) -> (I::F, I::F) {
        (isa.load_f16(&u.d), isa.load_f16(&u.m))
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, w: &[I::B; 8], _s: Self::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        isa.to_f32(dot_u7(isa, 0, w, x, meta))
    }
    #[inline(always)]
    fn dot_of_sums<I: Isa>(isa: I, [sum, _]: [I::I; 2], _s: Self::Scales<I>) -> I::F {
        isa.to_f32(sum)
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (d, m): (I::F, I::F), meta: &ActMeta, part: I::F) -> I::F {
        isa.fma(m, isa.splat(meta.sum), isa.fma(dot, d, part))
    }
    fn pack(u: &mut Q51Unit, lane: usize, row: &[u8]) {
        u.d[lane] = u16::from_le_bytes([row[0], row[1]]);
        u.m[lane] = u16::from_le_bytes([row[2], row[3]]);
        pack_fifth(&mut u.h, lane, u32::from_le_bytes([row[4], row[5], row[6], row[7]]));
        pack_nibbles(&mut u.q, lane, &row[8..24]);
    }
}
