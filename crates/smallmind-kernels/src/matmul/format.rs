//! The packed layouts: 16 rows interleaved, so that one vector of bytes holds 4 consecutive `k` of 16 rows.
//!
//! A *unit* is what one row group stores for one or more 32-value blocks of `k`: quants first, then scales, in one
//! sequential stream; 64-byte aligned and, but for widened K-quant scales and a few pad bytes, no larger than GGUF.
//! Byte vector `j` of a block holds, for row `r` and `i < 4`, the weight `k = 4j + i` at byte `4r + i`: the operand
//! of `vpdpbusd` and, in groups of 8 vectors, the B tile of AMX. Nibble planes hold vectors `j` and `j + 4` in the low
//! and high half of a byte.
//!
//! A row group begins with a bound of each row's weights. With it a scale becomes an integer, so that a weight is
//! `w' · bound / LARGEST` with an integer `w' = s · (q − offset) + m`, and a product is one exact sum of integers over the
//! whole row: the contract of the sums (docs/determinism.md). One format is one `Format` impl: what its quants and its
//! scales are.

use super::acts::BLOCK;
use crate::aligned::{cast, cast_mut};
use crate::isa::scalar::Scalar;
use crate::isa::{Isa, LANES};

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

/// What the quants of a format are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quants {
    /// Signed bytes; or else unsigned of at most 7 bits.
    pub(crate) signed: bool,
    /// What a stored quant of zero value is.
    pub(crate) offset: u8,
    /// The least and the largest value.
    pub(crate) least: i8,
    pub(crate) largest: i8,
}

impl Quants {
    /// Unsigned, of so many bits; `offset` stands for zero.
    pub(super) const fn unsigned(bits: u32, offset: u8) -> Quants {
        let largest = (1 << bits) - 1 - offset.cast_signed();
        Quants { signed: false, offset, least: -offset.cast_signed(), largest }
    }
}

/// Scales of a block of 16 rows: `w = s · (q − offset) + m`, of the first and of the last 16 values.
#[derive(Clone, Copy)]
pub(crate) struct Scales<V> {
    pub(crate) s: [V; 2],
    pub(crate) m: [V; 2],
}

impl<V: Copy> Scales<V> {
    /// Of a block that has one.
    #[inline(always)]
    pub(super) fn one(s: V, m: V) -> Self {
        Scales { s: [s; 2], m: [m; 2] }
    }
}

impl<V: Copy> Scales<V> {
    /// The minima less what the offset makes of the scales: `w = s · q + less`.
    #[inline(always)]
    pub(crate) fn less<I: Isa<I = V>, F: Format>(self, isa: I) -> [V; 2] {
        match F::QUANTS.offset {
            0 => self.m,
            offset => {
                let less = isa.isplat(-i32::from(offset));
                [isa.imac(self.m[0], self.s[0], less), isa.imac(self.m[1], self.s[1], less)]
            }
        }
    }
}

/// One packed layout of quantized weights.
pub(crate) trait Format {
    /// What a row group stores per [`Format::BLOCKS`] blocks.
    type Unit: Pod;
    /// Activation blocks per unit.
    const BLOCKS: usize;
    /// Its quants.
    const QUANTS: Quants;
    /// Whether 16 values have a scale, and not 32.
    const HALVES: bool = false;
    /// Whether there are minima: `m` of [`Scales`].
    const MINIMA: bool = false;
    /// Whether quants are nibbles: of 4 bits at most.
    const NARROW: bool =
        Self::QUANTS.largest.cast_unsigned() + Self::QUANTS.offset <= 15 && !Self::QUANTS.signed;

    /// Whether one token's reading is followed by prefetchers that do ([`Stream::Followed`]): units are read in the order of
    /// their bytes and with little to be done for each. Measured.
    ///
    /// [`Stream::Followed`]: crate::isa::stream::Stream::Followed
    const FOLLOWED: bool = false;

    /// The 8 byte vectors of block `b`.
    fn unpack<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> [I::B; 8];
    /// Whether there is a [`Format::unpack_in_place`].
    const IN_PLACE: bool = false;
    /// [`Format::unpack`], but the last four vectors times 16, where that is less work.
    #[inline(always)]
    fn unpack_in_place<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> [I::B; 8] {
        Self::unpack(isa, u, b)
    }
    /// The scales of block `b`, exact.
    fn scales<I: Isa>(isa: I, u: &Self::Unit, b: usize) -> Scales<I::F>;
    /// Writes block bytes of one row (GGUF layout, `BLOCKS` · 32 values) into lane `lane` of the unit.
    fn pack(u: &mut Self::Unit, lane: usize, row: &[u8]);
}

/// The integer that a row's bound stands for: what is left of 16 bits when the integer scales' rounding, of half a unit for
/// each step of a quant, is taken off.
pub(crate) const LARGEST_WEIGHT: f32 = 32_640.0;

/// Integer scales of a block: its scales times `factor`, [`LARGEST_WEIGHT`] over the bound, to nearest even.
#[inline(always)]
pub(crate) fn integer_scales<I: Isa, F: Format>(isa: I, u: &F::Unit, b: usize, factor: I::F) -> Scales<I::I> {
    let f = F::scales(isa, u, b);
    let integer = |x: I::F| isa.to_i32(isa.mul(x, factor));
    let s0 = integer(f.s[0]);
    let m0 = if F::MINIMA { integer(f.m[0]) } else { isa.isplat(0) };
    if !F::HALVES {
        return Scales::one(s0, m0);
    }
    Scales { s: [s0, integer(f.s[1])], m: [m0, if F::MINIMA { integer(f.m[1]) } else { m0 }] }
}

/// Bytes before a group's units: the bounds of its rows.
pub(super) const HEAD: usize = GROUP * size_of::<f32>();

/// Units of one row group of `k` values a row.
pub(crate) fn units<F: Format>(k: usize) -> usize {
    k.div_ceil(F::BLOCKS * BLOCK)
}

/// Bytes of one row group of so many units.
pub(crate) fn group_len<F: Format>(units: usize) -> usize {
    HEAD + units * size_of::<F::Unit>()
}

/// One row group as it lies in memory.
pub(crate) struct RowGroup<'a, U> {
    /// Of each row: no weight is larger, and it is not zero. NaN where one is no number.
    pub(crate) bounds: &'a [f32; GROUP],
    pub(crate) units: &'a [U],
}

impl<'a, U: Pod> RowGroup<'a, U> {
    /// Group `g` of groups of `len` bytes each.
    #[inline(always)]
    pub(crate) fn of(bytes: &'a [u8], len: usize, g: usize) -> Self {
        Self::view(&bytes[g * len..(g + 1) * len])
    }

    /// The group that these bytes are.
    #[inline(always)]
    pub(crate) fn view(bytes: &'a [u8]) -> Self {
        let (head, units) = bytes.split_at(HEAD);
        match (cast::<[f32; GROUP]>(head), cast(units)) {
            (Some([bounds]), Some(units)) => RowGroup { bounds, units },
            _ => unreachable!("a view of packed bytes is aligned and whole"),
        }
    }
}

/// A group's units, to be written, and its bounds.
pub(super) fn row_group_mut<U: Pod>(bytes: &mut [u8]) -> (&mut [f32; GROUP], &mut [U]) {
    let (head, units) = bytes.split_at_mut(HEAD);
    match (cast_mut::<[f32; GROUP]>(head), cast_mut(units)) {
        (Some([bounds]), Some(units)) => (bounds, units),
        _ => unreachable!("the arena is aligned, and groups are whole"),
    }
}

/// The bounds of a group's rows, from its scales.
pub(super) fn bounds<F: Format>(units: &[F::Unit]) -> [f32; GROUP] {
    let isa = Scalar::assume();
    let mut bounds = [0.0_f32; GROUP];
    let mut finite = [true; GROUP];
    for (u, b) in units.iter().flat_map(|u| (0..F::BLOCKS).map(move |b| (u, b))) {
        let Scales { s, m } = F::scales(isa, u, b);
        for (s, m) in s.iter().zip(&m).take(if F::HALVES { 2 } else { 1 }) {
            for lane in 0..LANES {
                let at = |q: i8| (s[lane] * f32::from(q) + m[lane]).abs();
                let size = at(F::QUANTS.least).max(at(F::QUANTS.largest));
                finite[lane] &= size.is_finite();
                bounds[lane] = bounds[lane].max(size);
            }
        }
    }
    std::array::from_fn(|l| match (finite[l], bounds[l] > 0.0) {
        (true, true) => bounds[l],
        (true, false) => 1.0,
        (false, _) => f32::NAN,
    })
}

// SAFETY: floats take any bits.
#[allow(unsafe_code, reason = "floats only")]
unsafe impl Pod for [f32; GROUP] {}

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

/// [`nibbles`] where the last four are 16 times as large.
#[inline(always)]
pub(super) fn nibbles_in_place<I: Isa>(isa: I, q: &[Bytes; 4]) -> [I::B; 8] {
    let (low, high) = (isa.bsplat(0x0f), isa.bsplat(0xf0));
    let v = [isa.bload(&q[0]), isa.bload(&q[1]), isa.bload(&q[2]), isa.bload(&q[3])];
    [
        isa.band(v[0], low),
        isa.band(v[1], low),
        isa.band(v[2], low),
        isa.band(v[3], low),
        isa.band(v[0], high),
        isa.band(v[1], high),
        isa.band(v[2], high),
        isa.band(v[3], high),
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

/// Q8_0.
pub(crate) struct Q8;
impl Format for Q8 {
    type Unit = Q8Unit;
    const BLOCKS: usize = 2;
    const QUANTS: Quants = Quants { signed: true, offset: 0, least: -128, largest: 127 };
    const FOLLOWED: bool = true;

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
    fn scales<I: Isa>(isa: I, u: &Q8Unit, b: usize) -> Scales<I::F> {
        Scales::one(isa.load_f16(&u.d[b]), isa.splat(0.0))
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
    const QUANTS: Quants = Quants::unsigned(4, 8);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q[b])
    }
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn unpack_in_place<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> [I::B; 8] {
        nibbles_in_place(isa, &u.q[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q40Unit, b: usize) -> Scales<I::F> {
        Scales::one(isa.load_f16(&u.d[b]), isa.splat(0.0))
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
    const QUANTS: Quants = Quants::unsigned(4, 0);
    const MINIMA: bool = true;
    const FOLLOWED: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> [I::B; 8] {
        nibbles(isa, &u.q)
    }
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn unpack_in_place<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> [I::B; 8] {
        nibbles_in_place(isa, &u.q)
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q41Unit, _b: usize) -> Scales<I::F> {
        Scales::one(isa.load_f16(&u.d), isa.load_f16(&u.m))
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
    const QUANTS: Quants = Quants::unsigned(5, 16);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q50Unit, b: usize) -> [I::B; 8] {
        fives(isa, &u.q[b], &u.h[b])
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q50Unit, b: usize) -> Scales<I::F> {
        Scales::one(isa.load_f16(&u.d[b]), isa.splat(0.0))
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
    const QUANTS: Quants = Quants::unsigned(5, 0);
    const MINIMA: bool = true;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, u: &Q51Unit, _b: usize) -> [I::B; 8] {
        fives(isa, &u.q, &u.h)
    }
    #[inline(always)]
    fn scales<I: Isa>(isa: I, u: &Q51Unit, _b: usize) -> Scales<I::F> {
        Scales::one(isa.load_f16(&u.d), isa.load_f16(&u.m))
    }
    fn pack(u: &mut Q51Unit, lane: usize, row: &[u8]) {
        u.d[lane] = u16::from_le_bytes([row[0], row[1]]);
        u.m[lane] = u16::from_le_bytes([row[2], row[3]]);
        pack_fifth(&mut u.h, lane, u32::from_le_bytes([row[4], row[5], row[6], row[7]]));
        pack_nibbles(&mut u.q, lane, &row[8..24]);
    }
}
