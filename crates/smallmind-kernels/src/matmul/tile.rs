//! The inner loops over packed quantized weights: one row group × one to eight tokens, the same sums for one token as
//! for many.
#![allow(unsafe_code, reason = "threads write disjoint rows of one output through a raw pointer")]

use std::ops::Range;

use super::PackedRef;
use super::acts::{ActBlock, ActMeta, ActQuants, PARTS, QuantizedActs, RADIX, TILE, Tile};
use super::format::{Format, GROUP, LARGEST_WEIGHT, RowGroup, Scales, group_len, integer_scales, units};
use super::many::{self, MANY, Room};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::amx::TileMut;
use crate::isa::stream::Stream;

/// Groups whose weights stay in the first-level cache while all tokens pass by.
pub(super) const PANEL: usize = 4;
/// How far ahead of the multiplication weights are asked for, in bytes: measured best of 1 to 32 KB.
pub(super) const PREFETCH_BYTES: usize = 8192;

/// The output as threads see it: each writes only the rows of its own groups.
#[derive(Clone, Copy)]
pub(crate) struct OutPtr(pub(crate) *mut f32);
// SAFETY: a piece writes only `out[token][rows of its groups]`, and the pieces of one run have disjoint groups.
unsafe impl Send for OutPtr {}
// SAFETY: as above.
unsafe impl Sync for OutPtr {}

impl OutPtr {
    /// What begins `values` behind it.
    ///
    /// # Safety
    /// The output has as many.
    #[inline(always)]
    pub(super) unsafe fn from(self, values: usize) -> OutPtr {
        // SAFETY: the caller's promise.
        OutPtr(unsafe { self.0.add(values) })
    }
}

/// What one thread computes of one matrix product: some row groups, all tokens.
pub(crate) struct Piece<'a> {
    pub(crate) w: PackedRef<'a>,
    pub(crate) groups: Range<usize>,
    pub(crate) tokens: usize,
    /// `[tokens, k]` for quantized weights; for others unused.
    pub(crate) acts: QuantizedActs<'a>,
    /// `[tokens, k]`; empty for quantized weights.
    pub(crate) x: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// Adds to what the output holds.
    pub(crate) accumulate: bool,
    /// `[tokens, out_stride]`, from row group `first` of the matrix.
    pub(crate) out: OutPtr,
    pub(crate) out_stride: usize,
    pub(crate) first: usize,
    /// How weights come in time.
    pub(crate) stream: Stream,
}

impl Piece<'_> {
    /// The activations of one token, unquantized.
    #[inline(always)]
    pub(crate) fn floats(&self, token: usize) -> &[f32] {
        &self.x[token * self.w.k()..(token + 1) * self.w.k()]
    }

    /// The output of 16 rows of 16 tokens, where sums need nothing but to be written there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn output_tile(&self, group: usize, token: usize) -> Option<TileMut<'_>> {
        let whole = (group + 1) * GROUP <= self.w.rows() && token + TILE <= self.tokens;
        (whole && self.bias.is_none() && !self.accumulate).then(|| {
            let first = token * self.out_stride + (group - self.first) * GROUP;
            // SAFETY: as in `store`, which writes these rows otherwise, and nobody writes others of their group.
            unsafe { TileMut::of_rows(self.out.from(first).0, self.out_stride) }
        })
    }

    /// Writes 16 rows of one token, with bias and residual.
    #[inline(always)]
    pub(crate) fn store<I: Isa>(&self, isa: I, group: usize, token: usize, value: I::F) {
        let row = group * GROUP;
        let rows = GROUP.min(self.w.rows() - row);
        let column = (group - self.first) * GROUP;
        // SAFETY: the driver checked that the output holds `tokens × out_stride` values and that the rows from `first`
        // on fit its stride; `group` is one of this piece's groups, which no other thread writes.
        let out = unsafe {
            std::slice::from_raw_parts_mut(self.out.from(token * self.out_stride + column).0, rows)
        };
        let bias = self.bias.map(|bias| &bias[row..row + rows]);
        let Ok(out) = <&mut [f32; GROUP]>::try_from(&mut *out) else {
            let mut lanes = [0.0; GROUP];
            isa.store(value, &mut lanes);
            return store_some(&lanes, bias, self.accumulate, out);
        };
        let mut value = value;
        if let Some(bias) = bias.and_then(<[f32]>::first_chunk) {
            value = isa.add(value, isa.load(bias));
        }
        if self.accumulate {
            value = isa.add(isa.load(out), value);
        }
        isa.store(value, out);
    }
}

/// Writes the last rows of a matrix, as [`Piece::store`] does: seldom, and so apart from the loops.
#[cold]
#[inline(never)]
fn store_some(values: &[f32; GROUP], bias: Option<&[f32]>, accumulate: bool, out: &mut [f32]) {
    for (i, (out, value)) in out.iter_mut().zip(values).enumerate() {
        let value = bias.map_or(*value, |bias| value + bias[i]);
        *out = if accumulate { *out + value } else { value };
    }
}

/// How the vectors of a block are multiplied with the activations of one token of a tile.
pub(crate) trait Multiply<I: Isa>: Copy {
    /// `Σ (q − offset) · Q`, exact, of the first and of the last 16 values where these have scales of their own, or else
    /// of all of them in the first: at most 32 · 255 · 16,320. 16 times that where the last four vectors are 16 times as
    /// large, `IN_PLACE`.
    fn sums<F: Format, const IN_PLACE: bool>(
        self,
        isa: I,
        w: &[I::B; 8],
        x: ActBlock<'_>,
        meta: &ActMeta,
    ) -> [I::I; 2];
}

/// By the leaves of the instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Leaves;

/// `a + b + Σ w · x` over some vectors by a leaf: two chains, so that the additions overlap; integers, so the order is
/// free.
macro_rules! chains {
    ($isa:ident . $dot:ident, $a:expr, $b:expr, $w:ident, $x:expr, $($even:literal $odd:literal)*) => {{
        let (mut a, mut b) = ($a, $b);
        $(
            a = $isa.$dot(a, $w[$even], &$x[$even]);
            b = $isa.$dot(b, $w[$odd], &$x[$odd]);
        )*
        $isa.iadd(a, b)
    }};
}

/// The sum over both parts, the upper one's times the radix: chains of their own, for one that goes on from the other is
/// longer than all that is computed besides.
macro_rules! parts {
    ($isa:ident . $dot:ident, $w:ident, $x:ident, $less:expr, $($pairs:tt)*) => {{
        let zero = $isa.isplat(0);
        let upper = chains!($isa.$dot, zero, zero, $w, $x.hi, $($pairs)*);
        let lower = chains!($isa.$dot, $isa.isplat($less), zero, $w, $x.lo, $($pairs)*);
        $isa.iadd($isa.ishl::<7>(upper), lower)
    }};
}
const _: () = assert!(RADIX == 1 << 7);

impl<I: Isa> Multiply<I> for Leaves {
    #[inline(always)]
    fn sums<F: Format, const IN_PLACE: bool>(
        self,
        isa: I,
        w: &[I::B; 8],
        x: ActBlock<'_>,
        meta: &ActMeta,
    ) -> [I::I; 2] {
        let offset = i32::from(F::QUANTS.offset);
        if IN_PLACE {
            // Four chains: two would be longer than what is computed besides.
            let zero = isa.isplat(0);
            let [mut a, mut b] = [[zero, isa.isplat(-offset * meta.total())], [zero, zero]];
            for j in 0..4 {
                for (part, x) in [x.hi, x.lo].into_iter().enumerate() {
                    a[part] = isa.dot_u7(a[part], w[j], &x[j]);
                    b[part] = isa.dot_u7(b[part], w[4 + j], &x[4 + j]);
                }
            }
            let a = isa.iadd(isa.ishl::<7>(a[0]), a[1]);
            let b = isa.iadd(isa.ishl::<7>(b[0]), b[1]);
            let all = isa.iadd(isa.ishl::<4>(a), b);
            return [all, all];
        }
        match (F::QUANTS.signed, F::HALVES) {
            (true, _) => {
                let all = parts!(isa.dot_i8, w, x, -I::BIAS * meta.total(), 0 1 2 3 4 5 6 7);
                [all, all]
            }
            (false, false) => {
                let all = parts!(isa.dot_u7, w, x, -offset * meta.total(), 0 1 2 3 4 5 6 7);
                [all, all]
            }
            (false, true) => [
                parts!(isa.dot_u7, w, x, -offset * meta.sums.halves[0], 0 1 2 3),
                parts!(isa.dot_u7, w, x, -offset * meta.sums.halves[1], 4 5 6 7),
            ],
        }
    }
}

/// Computes a piece of quantized weights; `several` multiplies where a tile has more than one token.
#[inline(always)]
pub(crate) fn rows<I: Isa, F: Format>(isa: I, several: impl Multiply<I>, p: &Piece<'_>) {
    let len = group_len::<F>(units::<F>(p.w.k()));
    let mut room = Room::new();
    let many = const { many::from::<I, F>() };
    let mut waiting = (many < usize::MAX && p.tokens >= many).then(|| room.waiting(isa, p.tokens.min(MANY)));
    let mut first = p.groups.start;
    while first < p.groups.end {
        let last = p.groups.end.min(first + PANEL);
        let mut t = 0;
        while t < p.tokens {
            if let Some(waiting) = &mut waiting {
                let tokens = MANY.min(p.tokens - t);
                for g in first..last {
                    let group = &RowGroup::of(p.w.bytes(), len, g);
                    many::group::<I, F>(isa, p, (group, g), (t, tokens), waiting);
                }
                t += tokens;
                continue;
            }
            // The widest tile that the ISA and the tokens left allow; a power of two, so that it ends within a tile of
            // activations.
            let most = if F::NARROW && I::NARROW_FROM <= I::TOKENS { I::TOKENS } else { I::WIDE_TOKENS };
            let width = most.min(1 << (p.tokens - t).ilog2());
            for g in first..last {
                let group = &RowGroup::of(p.w.bytes(), len, g);
                match width {
                    8 if I::TOKENS >= 8 && many > 8 => tile::<I, F, _, 8>(isa, several, p, group, g, t),
                    4 if I::TOKENS >= 4 && many > 4 => tile::<I, F, _, 4>(isa, several, p, group, g, t),
                    2 => tile::<I, F, _, 2>(isa, several, p, group, g, t),
                    _ => tile::<I, F, _, 1>(isa, Leaves, p, group, g, t),
                }
            }
            t += width;
        }
        first = last;
    }
}

#[inline(always)]
fn tile<I: Isa, F: Format, M: Multiply<I>, const T: usize>(
    isa: I,
    by: M,
    p: &Piece<'_>,
    group: &RowGroup<'_, F::Unit>,
    g: usize,
    first_token: usize,
) {
    let acts = p.acts.tile(first_token / TILE);
    let at = first_token % TILE;
    let bound = isa.load(group.bounds);
    let factor = isa.div(isa.splat(LARGEST_WEIGHT), bound);
    let narrow = F::NARROW && T >= I::NARROW_FROM;
    let stream = p.stream.read_by::<I>(T == 1);
    let mut wide = Wide { isa, sums: [isa.wzero(); T] };
    let mut of_parts = Narrow { isa, sums: [[isa.isplat(0); T]; 2] };
    for (u, unit) in group.units.iter().enumerate() {
        for b in 0..F::BLOCKS {
            ask_ahead::<F, PREFETCH_BYTES>(isa, stream, unit, b);
            let block = u * F::BLOCKS + b;
            let x = Inputs::of(&acts, at, block);
            let scales = integer_scales::<I, F>(isa, unit, b, factor);
            if !narrow {
                wide.add::<F>(by, (unit, b), scales, x);
                continue;
            }
            of_parts.add::<F>((unit, b), scales, x);
            if block % NARROW_BLOCKS == NARROW_BLOCKS - 1 {
                of_parts.widen(&mut wide.sums);
            }
        }
    }
    if narrow {
        of_parts.widen(&mut wide.sums);
    }
    for (t, sums) in wide.sums.iter().enumerate() {
        let unit = unit_of::<F>(acts.metas[at + t].d) / f64::from(times::<I, F, T>());
        p.store(isa, g, first_token + t, isa.wscaled(*sums, bound, unit));
    }
}

/// Asks for what comes some way behind block `b` of a unit: a part at a time, for a CPU has only so many misses on their way,
/// and waits with what asks for one more.
#[inline(always)]
pub(super) fn ask_ahead<F: Format, const BYTES: usize>(
    isa: impl Isa,
    stream: Stream,
    unit: &F::Unit,
    b: usize,
) {
    let here = std::ptr::from_ref(unit).cast::<u8>();
    let lines = size_of::<F::Unit>() / 64;
    let first = lines * b / F::BLOCKS;
    for line in first..first + lines.div_ceil(F::BLOCKS) {
        stream.ask(isa, here.wrapping_add(64 * line), BYTES, F::FOLLOWED);
    }
}

/// Whether one token's weights are left where they lie in their bytes ([`Format::unpack_in_place`]).
const fn in_place<I: Isa, F: Format, const T: usize>() -> bool {
    F::IN_PLACE && I::UNSIGNED && T == 1 && I::NARROW_FROM > 1
}

/// How many times what they stand for the sums are.
const fn times<I: Isa, F: Format, const T: usize>() -> i32 {
    if in_place::<I, F, T>() { 16 } else { 1 }
}

/// The activations of some tokens that meet a block.
#[derive(Clone, Copy)]
struct Inputs<'a, const T: usize> {
    hi: &'a [ActQuants; T],
    lo: &'a [ActQuants; T],
    metas: &'a [ActMeta; T],
    block: usize,
}

impl<'a, const T: usize> Inputs<'a, T> {
    /// Of a tile's tokens from `first` on.
    #[inline(always)]
    fn of(tile: &Tile<'a>, first: usize, block: usize) -> Self {
        let span = block / 2 * PARTS * tile.height + first;
        let hi = some(&tile.quants[span..]);
        let lo = some(&tile.quants[span + tile.height..]);
        Inputs { hi, lo, metas: some(&tile.metas[block * tile.height + first..]), block }
    }

    #[inline(always)]
    fn token(&self, t: usize) -> (ActBlock<'a>, &'a ActMeta) {
        (ActBlock::of(&self.hi[t], &self.lo[t], self.block), &self.metas[t])
    }
}

/// The first T of these, checked once for all of them.
#[inline(always)]
fn some<A, const T: usize>(all: &[A]) -> &[A; T] {
    match all.first_chunk() {
        Some(some) => some,
        None => unreachable!("tiles hold all of their tokens"),
    }
}

/// Sums in 64 bits, a block at a time.
struct Wide<I: Isa, const T: usize> {
    isa: I,
    sums: [I::W; T],
}

impl<I: Isa, const T: usize> Wide<I, T> {
    /// Adds block `b` of a unit.
    #[inline(always)]
    fn add<F: Format>(
        &mut self,
        by: impl Multiply<I>,
        (unit, b): (&F::Unit, usize),
        scales: Scales<I::I>,
        inputs: Inputs<'_, T>,
    ) {
        let isa = self.isa;
        let w =
            if in_place::<I, F, T>() { F::unpack_in_place(isa, unit, b) } else { F::unpack(isa, unit, b) };
        for (t, acc) in self.sums.iter_mut().enumerate() {
            let (x, meta) = inputs.token(t);
            let sums = if in_place::<I, F, T>() {
                by.sums::<F, true>(isa, &w, x, meta)
            } else {
                by.sums::<F, false>(isa, &w, x, meta)
            };
            *acc = add_wide::<I, F>(isa, *acc, scales, sums, meta, times::<I, F, T>());
        }
    }
}

/// Adds what the sums of a block's products with one token are worth, and its minima: all of them `times` as much.
#[inline(always)]
pub(super) fn add_wide<I: Isa, F: Format>(
    isa: I,
    acc: I::W,
    scales: Scales<I::I>,
    sums: [I::I; 2],
    meta: &ActMeta,
    times: i32,
) -> I::W {
    let mut acc = isa.wmac(acc, scales.s[0], sums[0]);
    if F::HALVES {
        acc = isa.wmac(acc, scales.s[1], sums[1]);
    }
    match (F::MINIMA, F::HALVES) {
        (true, false) => acc = isa.wmac_all(acc, scales.m[0], times * meta.total()),
        (true, true) => {
            acc = isa.wmac_all(acc, scales.m[0], meta.sums.halves[0]);
            acc = isa.wmac_all(acc, scales.m[1], meta.sums.halves[1]);
        }
        (false, _) => {}
    }
    acc
}

/// Blocks whose sums of one part, of weights of 16 bits, fit 32 bits: 16 · 32 · 32,657 · 127 < 2³¹. In between they may
/// wrap.
pub(super) const NARROW_BLOCKS: usize = 16;

/// Sums of the upper and of the lower parts in 32 bits, of quants of 4 bits.
struct Narrow<I: Isa, const T: usize> {
    isa: I,
    sums: [[I::I; T]; PARTS],
}

impl<I: Isa, const T: usize> Narrow<I, T> {
    /// Adds block `b` of a unit.
    #[inline(always)]
    fn add<F: Format>(&mut self, (unit, b): (&F::Unit, usize), scales: Scales<I::I>, inputs: Inputs<'_, T>) {
        let isa = self.isa;
        let w = F::unpack(isa, unit, b);
        let less = scales.less::<I, F>(isa);
        for t in 0..T {
            let (x, meta) = inputs.token(t);
            for (part, x) in [x.hi, x.lo].into_iter().enumerate() {
                let mut sum = self.sums[part][t];
                // First: it waits for nothing.
                if F::MINIMA || F::QUANTS.offset != 0 {
                    sum = isa.pair_mac(sum, less, meta.sums.parts[part]);
                }
                self.sums[part][t] = isa.narrow(sum, &w, x, scales.s);
            }
        }
    }

    /// Moves what is there to 64 bits.
    #[inline(always)]
    fn widen(&mut self, wide: &mut [I::W; T]) {
        let isa = self.isa;
        for (t, wide) in wide.iter_mut().enumerate() {
            *wide = widened(isa, *wide, [self.sums[0][t], self.sums[1][t]]);
        }
        self.sums = [[isa.isplat(0); T]; PARTS];
    }
}

/// Sums in 64 bits with those of the upper and of the lower parts.
#[inline(always)]
pub(super) fn widened<I: Isa>(isa: I, wide: I::W, [upper, lower]: [I::I; PARTS]) -> I::W {
    isa.wadd(isa.wmac_all(wide, upper, RADIX), lower)
}

/// What 1 is worth of the integer sums of a token whose `Q` of 1 is worth `d`, for a bound of 1.
#[inline(always)]
pub(super) fn unit_of<F: Format>(d: f32) -> f64 {
    f64::from(d) / f64::from(LARGEST_WEIGHT)
}
