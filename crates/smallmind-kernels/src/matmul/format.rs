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

use crate::isa::Isa;

/// Rows of one group.
pub const GROUP: usize = 16;
/// Values of one activation block.
pub(crate) const BLOCK: usize = 32;

/// 32 quantized activations of one token, or one of the two parts of 32 wider ones.
///
/// `x ≈ d · q`, `d = max|x| / 127`; `ds = d · Σq`; `halves` are the sums of the first and last 16 `q`. Of 16-bit
/// activations `Q = 256 · hi + lo` the first block holds `hi` and the scale and sums of `Q`, the second `lo` alone.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct ActBlock {
    pub(crate) q: [[i8; 4]; 8],
    pub(crate) d: f32,
    pub(crate) ds: f32,
    pub(crate) halves: [i32; 2],
}

impl ActBlock {
    /// An empty block: all zero.
    pub const ZERO: ActBlock = ActBlock { q: [[0; 4]; 8], d: 0.0, ds: 0.0, halves: [0; 2] };

    /// The 32 integers, each within ±127: activations, or the upper or lower parts of wider ones.
    pub fn quants(&self) -> &[i8] {
        self.q.as_flattened()
    }
    /// `d`: what one step of a quant is worth.
    pub fn scale(&self) -> f32 {
        self.d
    }
    /// `d · Σq`, and the sums of the first and last 16 quants.
    pub fn sums(&self) -> (f32, [i32; 2]) {
        (self.ds, self.halves)
    }
}

type Bytes = [u8; 64];
type Halves = [u16; GROUP];

/// Marks a type that is valid for any bit pattern and has no padding.
///
/// # Safety
/// Implementors are `repr(C)`, made of integers or floats only, without padding bytes.
#[allow(unsafe_code, reason = "the marker behind the one cast from bytes to units")]
pub(crate) unsafe trait Pod: Copy {}

/// What a matrix unit must know to compute the integer dot product of a block.
#[derive(Clone, Copy)]
pub(crate) enum MatrixUnit {
    /// Bytes are signed weights.
    Signed,
    /// Bytes are weights plus `offset`.
    Unsigned { offset: i32 },
    /// It cannot: scales per 16 values are part of the integer sum.
    No,
}

impl MatrixUnit {
    /// What `Σ bytes · x` lacks to be the dot product.
    #[inline(always)]
    pub(crate) fn correction(self, x: &ActBlock) -> i32 {
        if let MatrixUnit::Unsigned { offset } = self { -offset * sum(x) } else { 0 }
    }
}

/// One packed layout of quantized weights.
pub(crate) trait Format {
    /// What a row group stores per [`Format::BLOCKS`] blocks.
    type Unit: Pod;
    /// Activation blocks per unit.
    const BLOCKS: usize;
    /// The scales of one block, ready for [`Format::step`].
    type Scales<I: Isa>: Copy;
    /// How a matrix unit reads the bytes of [`Format::unpack`].
    const MATRIX_UNIT: MatrixUnit;

    /// The 8 byte vectors of block `b`.
    fn unpack<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> [I::B; 8];
    /// The scales of block `b`.
    fn scales<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> Self::Scales<I>;
    /// What [`Format::unpack`] gives, where it lies in memory so.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for matrix units"))]
    #[inline(always)]
    fn bytes(_u: &Self::Unit, _b: usize) -> Option<&[Bytes; 8]> {
        None
    }
    /// The dot products of the block's integers with one token's, of one or two parts, as f32.
    fn dot<I: Isa, const PARTS: usize>(
        isa: I,
        w: &[I::B; 8],
        s: Self::Scales<I>,
        x: &[ActBlock; PARTS],
    ) -> I::F;
    /// Adds what they stand for to the 16 accumulators; `x` is the block with scale and sums.
    fn join<I: Isa>(isa: I, dot: I::F, s: Self::Scales<I>, x: &ActBlock, acc: I::F) -> I::F;
    /// Both.
    #[inline(always)]
    fn step<I: Isa, const PARTS: usize>(
        isa: I,
        w: &[I::B; 8],
        s: Self::Scales<I>,
        x: &[ActBlock; PARTS],
        acc: I::F,
    ) -> I::F {
        Self::join(isa, Self::dot(isa, w, s, x), s, &x[0], acc)
    }
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

/// `a + b + Σ w · x` of one block by a leaf: two chains, so that the additions overlap; integers, so the order is free.
macro_rules! chains {
    ($isa:ident . $dot:ident, $a:expr, $b:expr, $w:ident, $x:expr) => {{
        let (mut a, mut b) = ($a, $b);
        a = $isa.$dot(a, $w[0], &$x.q[0]);
        b = $isa.$dot(b, $w[1], &$x.q[1]);
        a = $isa.$dot(a, $w[2], &$x.q[2]);
        b = $isa.$dot(b, $w[3], &$x.q[3]);
        a = $isa.$dot(a, $w[4], &$x.q[4]);
        b = $isa.$dot(b, $w[5], &$x.q[5]);
        a = $isa.$dot(a, $w[6], &$x.q[6]);
        b = $isa.$dot(b, $w[7], &$x.q[7]);
        $isa.iadd(a, b)
    }};
}

/// `init + Σ w · x` of one block. Of wider activations the upper parts' sum is moved up by 8 bits. At most 2²⁸: exact.
#[inline(always)]
pub(super) fn dot_u7<I: Isa, const PARTS: usize>(
    isa: I,
    init: i32,
    w: &[I::B; 8],
    x: &[ActBlock; PARTS],
) -> I::I {
    let zero = isa.isplat(0);
    let upper = if PARTS == 2 { isa.ishl::<8>(chains!(isa.dot_u7, zero, zero, w, x[0])) } else { zero };
    chains!(isa.dot_u7, isa.isplat(init), upper, w, x[PARTS - 1])
}

/// [`dot_u7`] for signed weights.
#[inline(always)]
fn dot_i8<I: Isa, const PARTS: usize>(isa: I, w: &[I::B; 8], x: &[ActBlock; PARTS]) -> I::I {
    let (init, zero) = (isa.isplat(-I::BIAS * sum(&x[0])), isa.isplat(0));
    let upper = if PARTS == 2 { isa.ishl::<8>(chains!(isa.dot_i8, zero, zero, w, x[0])) } else { zero };
    chains!(isa.dot_i8, init, upper, w, x[PARTS - 1])
}

/// `s₀ · (Σ₀ w·x − offset·Σ₀ x) + s₁ · (…)`, for integer scales per 16 values. With 8-bit activations every step is below
/// 2²⁴ and so exact; with wider ones the integers round to f32 and the sum is one fused multiply-add.
#[inline(always)]
pub(super) fn dot_halves<I: Isa, const PARTS: usize>(
    isa: I,
    offset: i32,
    s: [I::F; 2],
    w: &[I::B; 8],
    x: &[ActBlock; PARTS],
) -> I::F {
    let init = [isa.isplat(-offset * x[0].halves[0]), isa.isplat(-offset * x[0].halves[1])];
    let mut h = [isa.isplat(0); 2];
    if PARTS == 2 {
        for j in 0..4 {
            h[0] = isa.dot_u7(h[0], w[j], &x[0].q[j]);
            h[1] = isa.dot_u7(h[1], w[4 + j], &x[0].q[4 + j]);
        }
        h = [isa.ishl::<8>(h[0]), isa.ishl::<8>(h[1])];
    }
    h = [isa.iadd(h[0], init[0]), isa.iadd(h[1], init[1])];
    for j in 0..4 {
        h[0] = isa.dot_u7(h[0], w[j], &x[PARTS - 1].q[j]);
        h[1] = isa.dot_u7(h[1], w[4 + j], &x[PARTS - 1].q[4 + j]);
    }
    isa.fma(isa.to_f32(h[0]), s[0], isa.mul(isa.to_f32(h[1]), s[1]))
}

/// `acc + dot · (d · da)`: the one way a block joins its chain.
#[inline(always)]
pub(super) fn join<I: Isa>(isa: I, dot: I::F, d: I::F, x: &ActBlock, acc: I::F) -> I::F {
    isa.fma(dot, isa.mul(d, isa.splat(x.d)), acc)
}

#[inline(always)]
fn sum(x: &ActBlock) -> i32 {
    x.halves[0] + x.halves[1]
}

/// Q8_0.
pub(crate) struct Q8;
impl Format for Q8 {
    type Unit = Q8Unit;
    const BLOCKS: usize = 2;
    type Scales<I: Isa> = I::F;
    const MATRIX_UNIT: MatrixUnit = MatrixUnit::Signed;

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
    fn scales<I: Isa>(isa: I, u: &Q8Unit, b: usize) -> I::F {
        isa.load_f16(&u.d[b])
    }
    #[inline(always)]
    fn dot<I: Isa, const PARTS: usize>(isa: I, w: &[I::B; 8], _d: I::F, x: &[ActBlock; PARTS]) -> I::F {
        isa.to_f32(dot_i8(isa, w, x))
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, d: I::F, x: &ActBlock, acc: I::F) -> I::F {
        join(isa, dot, d, x, acc)
    }
    #[inline(always)]
    fn bytes(u: &Q8Unit, b: usize) -> Option<&[Bytes; 8]> {
        Some(&u.q[b])
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
    const MATRIX_UNIT: MatrixUnit = MatrixUnit::Unsigned { offset: 8 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> I::F {
        isa.load_f16(&u.d[b])
    }
    #[inline(always)]
    fn dot<I: Isa, const PARTS: usize>(
        isa: I,
        w: &[I::B; 8],
        _s: Self::Scales<I>,
        x: &[ActBlock; PARTS],
    ) -> I::F {
        isa.to_f32(dot_u7(isa, Self::MATRIX_UNIT.correction(&x[0]), w, x))
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, d: I::F, x: &ActBlock, acc: I::F) -> I::F {
        join(isa, dot, d, x, acc)
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
    const MATRIX_UNIT: MatrixUnit = MatrixUnit::Unsigned { offset: 0 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q)
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> (I::F, I::F) {
        (isa.load_f16(&u.d), isa.load_f16(&u.m))
    }
    #[inline(always)]
    fn dot<I: Isa, const PARTS: usize>(
        isa: I,
        w: &[I::B; 8],
        _s: Self::Scales<I>,
        x: &[ActBlock; PARTS],
    ) -> I::F {
        isa.to_f32(dot_u7(isa, Self::MATRIX_UNIT.correction(&x[0]), w, x))
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (d, m): (I::F, I::F), x: &ActBlock, acc: I::F) -> I::F {
        isa.fma(m, isa.splat(x.ds), join(isa, dot, d, x, acc))
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
    const MATRIX_UNIT: MatrixUnit = MatrixUnit::Unsigned { offset: 16 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q50Unit, b: usize) -> [I::B; 8] {
        fives(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q50Unit, b: usize) -> I::F {
        isa.load_f16(&u.d[b])
    }
    #[inline(always)]
    fn dot<I: Isa, const PARTS: usize>(
        isa: I,
        w: &[I::B; 8],
        _s: Self::Scales<I>,
        x: &[ActBlock; PARTS],
    ) -> I::F {
        isa.to_f32(dot_u7(isa, Self::MATRIX_UNIT.correction(&x[0]), w, x))
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, d: I::F, x: &ActBlock, acc: I::F) -> I::F {
        join(isa, dot, d, x, acc)
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
    const MATRIX_UNIT: MatrixUnit = MatrixUnit::Unsigned { offset: 0 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q51Unit, _b: usize) -> [I::B; 8] {
        fives(isa, &u.q, &u.h)
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q51Unit, _b: usize) -> (I::F, I::F) {
        (isa.load_f16(&u.d), isa.load_f16(&u.m))
    }
    #[inline(always)]
    fn dot<I: Isa, const PARTS: usize>(
        isa: I,
        w: &[I::B; 8],
        _s: Self::Scales<I>,
        x: &[ActBlock; PARTS],
    ) -> I::F {
        isa.to_f32(dot_u7(isa, Self::MATRIX_UNIT.correction(&x[0]), w, x))
    }
    #[inline(always)]
    fn join<I: Isa>(isa: I, dot: I::F, (d, m): (I::F, I::F), x: &ActBlock, acc: I::F) -> I::F {
        isa.fma(m, isa.splat(x.ds), join(isa, dot, d, x, acc))
    }
    fn pack(u: &mut Q51Unit, lane: usize, row: &[u8]) {
        u.d[lane] = u16::from_le_bytes([row[0], row[1]]);
        u.m[lane] = u16::from_le_bytes([row[2], row[3]]);
        pack_fifth(&mut u.h, lane, u32::from_le_bytes([row[4], row[5], row[6], row[7]]));
        pack_nibbles(&mut u.q, lane, &row[8..24]);
    }
}
