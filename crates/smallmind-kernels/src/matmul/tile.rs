//! The inner loops over packed quantized weights: one row group × one to eight tokens, the same sums for one token as
//! for many.
#![allow(unsafe_code, reason = "threads write disjoint rows of one output through a raw pointer")]

use std::ops::Range;

use super::PackedRef;
use super::acts::{ActMeta, ActQuants, BLOCK, QuantizedActs, SCALED, TILE};
use super::format::{Format, GROUP};
use crate::aligned::cast;
use crate::isa::Isa;

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
    /// `[tokens, out_stride]`, from the first row of the matrix.
    pub(crate) out: OutPtr,
    pub(crate) out_stride: usize,
}

impl Piece<'_> {
    /// The activations of one token, unquantized.
    #[inline(always)]
    pub(crate) fn floats(&self, token: usize) -> &[f32] {
        &self.x[token * self.w.k()..(token + 1) * self.w.k()]
    }

    /// Writes 16 rows of one token, with bias and residual.
    #[inline(always)]
    pub(crate) fn store<I: Isa>(&self, isa: I, group: usize, token: usize, value: I::F) {
        let row = group * GROUP;
        let rows = GROUP.min(self.w.rows() - row);
        // SAFETY: the driver checked that the output holds `tokens × out_stride` values and that the matrix's rows fit
        // its stride; `group` is one of this piece's groups, which no other thread writes.
        let out =
            unsafe { std::slice::from_raw_parts_mut(self.out.0.add(token * self.out_stride + row), rows) };
        if let (Ok(out), None, false) = (<&mut [f32; GROUP]>::try_from(&mut *out), self.bias, self.accumulate)
        {
            return isa.store(value, out);
        }
        let mut lanes = [0.0; GROUP];
        isa.store(value, &mut lanes);
        if let Some(bias) = self.bias {
            for (v, b) in lanes.iter_mut().zip(&bias[row..row + rows]) {
                *v += b;
            }
        }
        if self.accumulate {
            for (o, v) in out.iter_mut().zip(lanes) {
                *o += v;
            }
        } else {
            out.copy_from_slice(&lanes[..rows]);
        }
    }
}

/// How the vectors of a block are multiplied with one token of a tile: [`Format::dot`] by other instructions.
pub(crate) trait Multiply<I: Isa>: Copy {
    fn dot<F: Format>(self, isa: I, w: &[I::B; 8], s: F::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F;
}

/// By the leaves of the instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Leaves;

impl<I: Isa> Multiply<I> for Leaves {
    #[inline(always)]
    fn dot<F: Format>(self, isa: I, w: &[I::B; 8], s: F::Scales<I>, x: &ActQuants, meta: &ActMeta) -> I::F {
        F::dot(isa, w, s, x, meta)
    }
}

/// Computes a piece of quantized weights; `several` multiplies where a tile has more than one token.
#[inline(always)]
pub(crate) fn rows<I: Isa, F: Format>(isa: I, several: impl Multiply<I>, p: &Piece<'_>) {
    let per_group = p.w.k().div_ceil(BLOCK).div_ceil(F::BLOCKS);
    let Some(units) = cast::<F::Unit>(p.w.bytes()) else { return };
    let mut first = p.groups.start;
    while first < p.groups.end {
        let last = p.groups.end.min(first + PANEL);
        let mut t = 0;
        while t < p.tokens {
            // The widest tile that the ISA and the tokens left allow; a power of two, so that it ends within a tile of
            // activations.
            let width = I::TOKENS.min(1 << (p.tokens - t).ilog2());
            for g in first..last {
                let group = &units[g * per_group..(g + 1) * per_group];
                match width {
                    8 if I::TOKENS >= 8 => tile::<I, F, _, 8>(isa, several, p, group, g, t),
                    4 if I::TOKENS >= 4 => tile::<I, F, _, 4>(isa, several, p, group, g, t),
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
    group: &[F::Unit],
    g: usize,
    first_token: usize,
) {
    let acts = p.acts.tile(first_token / TILE);
    let blocks = group.len() * F::BLOCKS;
    let at = first_token % TILE;
    // From the first token's blocks on, so that one check serves all.
    let quants = &acts.quants[at..(blocks - 1) * acts.height + at + T];
    let metas = &acts.metas[at..(blocks - 1) * acts.height + at + T];
    let mut acc = [isa.splat(0.0); T];
    let mut part = [isa.splat(0.0); T];
    for (u, unit) in group.iter().enumerate() {
        let here = std::ptr::from_ref(unit).cast::<u8>();
        let mut line = 0;
        while line < size_of::<F::Unit>() {
            isa.prefetch(here.wrapping_add(PREFETCH_BYTES + line));
            line += 64;
        }
        for b in 0..F::BLOCKS {
            let block = u * F::BLOCKS + b;
            let (x, m): (&[ActQuants], &[ActMeta]) =
                (&quants[block * acts.height..][..T], &metas[block * acts.height..][..T]);
            let w = F::unpack(isa, unit, b);
            let s = F::scales(isa, unit, b);
            for t in 0..T {
                part[t] = F::join(isa, by.dot::<F>(isa, &w, s, &x[t], &m[t]), s, &m[t], part[t]);
            }
            if block % SCALED == SCALED - 1 || block == blocks - 1 {
                // The group's first block: the last may be one of those that fill a unit up.
                let m = &metas[(block - block % SCALED) * acts.height..][..T];
                for t in 0..T {
                    acc[t] = isa.fma(part[t], isa.splat(m[t].d), acc[t]);
                    part[t] = isa.splat(0.0);
                }
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        p.store(isa, g, first_token + t, *acc);
    }
}
