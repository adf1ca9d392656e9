//! A screened matrix: Q8_0 rows cut into their upper six and lower two bits, so that the largest few outputs can be
//! found exactly while most rows' lower bits stay unread. Meant for the output matrix, whose many rows compete for one
//! token.
//!
//! For an output `L = Σ w·x` of row weights `w = w₆ + e` with `w₆` the middle of what the upper bits allow,
//! `|L − Σ w₆·x| ≤ ‖e‖·‖x‖` (Cauchy and Schwarz). Every row's `‖e‖`, enlarged by what rounding can add to either sum, is
//! kept with it. A row whose upper bound lies below the `top`-th largest lower bound cannot be among the `top` largest;
//! the others are computed by the contract's chain, with the bits that a full product gives.
//!
//! A row group stores the 16 bounds, then the upper planes of all its blocks, then the lower planes: as many bytes as the
//! plain layout and 64 more.
#![allow(unsafe_code, reason = "marks units as plain bytes; threads write disjoint rows of one output")]

use std::ops::Range;

use super::format::{self, ActBlock, Bytes, GROUP, Halves, Pod, sixes, sum, unit};
use super::tile::{OutPtr, PREFETCH_BYTES, Piece};
use super::{FileRows, PackedRef, act_blocks};
use crate::aligned::{cast, cast_mut};
use crate::dtype::DType;
use crate::half::f16_to_f32;
use crate::isa::{Isa, LANES, max_lane};

unit!(
    /// `‖e‖` of each row, as a bound.
    Bounds { e: [f32; GROUP] } = 64
);
unit!(
    /// The upper six bits of two blocks, as Q6_K stores its quants, and their scales.
    UpperUnit { q: [[Bytes; 4]; 2], h: [[Bytes; 2]; 2], d: [Halves; 2] } = 832
);
unit!(
    /// The lower two bits of two blocks.
    LowerUnit { e: [[Bytes; 2]; 2] } = 256
);

/// Values of `k` a unit.
const UNIT_K: usize = 2 * format::BLOCK;
/// Most outputs that a search is asked for.
pub const MAX_TOP: usize = 64;

/// Bytes of one row group; `None` on overflow.
pub(super) fn group_bytes(k: usize) -> Option<usize> {
    k.div_ceil(UNIT_K).checked_mul(size_of::<UpperUnit>() + size_of::<LowerUnit>())?.checked_add(64)
}

/// One row group, taken apart.
#[derive(Clone, Copy)]
struct Group<'a> {
    bounds: &'a [f32; GROUP],
    upper: &'a [UpperUnit],
    lower: &'a [LowerUnit],
}

#[inline(always)]
fn group(w: PackedRef<'_>, g: usize) -> Group<'_> {
    let units = w.k().div_ceil(UNIT_K);
    let len = 64 + units * (size_of::<UpperUnit>() + size_of::<LowerUnit>());
    let (bounds, planes) = w.bytes()[g * len..(g + 1) * len].split_at(64);
    let (upper, lower) = planes.split_at(units * size_of::<UpperUnit>());
    match (cast::<Bounds>(bounds), cast(upper), cast(lower)) {
        (Some([bounds]), Some(upper), Some(lower)) => Group { bounds: &bounds.e, upper, lower },
        _ => unreachable!("the view was made for this layout"),
    }
}

/// The 8 vectors of weights of block `b`: both planes joined.
#[inline(always)]
fn whole<I: Isa>(isa: I, upper: &UpperUnit, lower: &LowerUnit, b: usize) -> [I::B; 8] {
    let mut w = sixes(isa, &upper.q[b], &upper.h[b]);
    let three = isa.bsplat(3);
    let sign = isa.bsplat(0x80);
    for half in 0..2 {
        let e = isa.bload(&lower.e[b][half]);
        let e = [e, isa.bshr::<2>(e), isa.bshr::<4>(e), isa.bshr::<6>(e)];
        for j in 0..4 {
            let v = &mut w[4 * half + j];
            // 4 · p + e counts from -128: the sign bit turns that into the byte of the signed weight.
            *v = isa.bxor(isa.bor(isa.bshl::<2>(*v), isa.band(e[j], three)), sign);
        }
    }
    w
}

/// All rows of a piece for all its tokens: the plain layout's outputs.
#[inline(always)]
pub(super) fn rows<I: Isa>(isa: I, p: &Piece<'_>) {
    if p.parts() == 2 { rows_of::<I, 2>(isa, p) } else { rows_of::<I, 1>(isa, p) }
}

#[inline(always)]
fn rows_of<I: Isa, const PARTS: usize>(isa: I, p: &Piece<'_>) {
    for g in p.groups.clone() {
        let from = group(p.w, g);
        let mut t = 0;
        while t < p.tokens {
            match p.tokens - t {
                4.. => {
                    let acc = exact::<I, 4, PARTS>(isa, from, [0, 1, 2, 3].map(|i| p.quants(t + i)));
                    for (i, acc) in acc.iter().enumerate() {
                        p.store(isa, g, t + i, *acc);
                    }
                    t += 4;
                }
                _ => {
                    p.store(isa, g, t, exact::<I, 1, PARTS>(isa, from, [p.quants(t)])[0]);
                    t += 1;
                }
            }
        }
    }
}

/// 16 outputs of T tokens by the contract of Q8_0.
#[inline(always)]
fn exact<I: Isa, const T: usize, const PARTS: usize>(
    isa: I,
    from: Group<'_>,
    blocks: [&[ActBlock]; T],
) -> [I::F; T] {
    let mut x: [&[[ActBlock; PARTS]]; T] = [&[]; T];
    for t in 0..T {
        x[t] = &blocks[t].as_chunks::<PARTS>().0[..2 * from.upper.len()];
    }
    let mut acc = [isa.splat(0.0); T];
    for (u, (upper, lower)) in from.upper.iter().zip(from.lower).enumerate() {
        prefetch(isa, upper, PREFETCH_BYTES);
        prefetch(isa, lower, PREFETCH_BYTES);
        for b in 0..2 {
            let w = whole(isa, upper, lower, b);
            let d = isa.load_f16(&upper.d[b]);
            for t in 0..T {
                let x = &x[t][2 * u + b];
                acc[t] = format::join(isa, isa.to_f32(format::dot_i8(isa, &w, x)), d, &x[0], acc[t]);
            }
        }
    }
    acc
}

#[inline(always)]
fn prefetch<I: Isa, T>(isa: I, unit: &T, ahead: usize) {
    let here = std::ptr::from_ref(unit).cast::<u8>();
    let mut line = 0;
    while line < size_of::<T>() {
        isa.prefetch(here.wrapping_add(ahead + line));
        line += 64;
    }
}

/// One thread's part of a search for the largest outputs of one token.
pub(crate) struct Search<'a> {
    pub(crate) w: PackedRef<'a>,
    pub(crate) groups: Range<usize>,
    /// `[act_blocks(k), parts]` of one token.
    pub(crate) blocks: &'a [ActBlock],
    /// At least the Euclidean norm of the activations as quantized.
    pub(crate) norm: f32,
    /// `[rows]`; a search writes its own groups' rows.
    pub(crate) out: OutPtr,
    /// The largest lower bounds so far, in no order, -inf at first.
    pub(crate) best: &'a mut [f32],
    /// Of a refinement: outputs that may reach this are computed.
    pub(crate) threshold: f32,
}

impl Search<'_> {
    #[inline(always)]
    fn out(&mut self, g: usize) -> &mut [f32] {
        let row = g * GROUP;
        let rows = GROUP.min(self.w.rows() - row);
        // SAFETY: the driver checked that the output holds all rows; `g` is one of this thread's own groups.
        unsafe { std::slice::from_raw_parts_mut(self.out.0.add(row), rows) }
    }

    /// Keeps the largest of what it has seen.
    #[inline(always)]
    fn keep(&mut self, bound: f32) {
        let mut least = 0;
        for i in 1..self.best.len() {
            if self.best[i] < self.best[least] {
                least = i;
            }
        }
        if bound > self.best[least] {
            self.best[least] = bound;
        }
    }
}

/// First pass: upper bounds into `out`, the largest lower bounds into `best`.
#[inline(always)]
pub(crate) fn screen<I: Isa>(isa: I, s: &mut Search<'_>) {
    if s.blocks.len() == 2 * act_blocks(s.w.k()) {
        screen_of::<I, 2>(isa, s);
    } else {
        screen_of::<I, 1>(isa, s);
    }
}

#[inline(always)]
fn screen_of<I: Isa, const PARTS: usize>(isa: I, s: &mut Search<'_>) {
    let x = s.blocks.as_chunks::<PARTS>().0;
    let norm = isa.splat(s.norm);
    // What underflow can add to sums too small to matter otherwise.
    let least = isa.splat(1e-30);
    for g in s.groups.clone() {
        let from = group(s.w, g);
        let mut acc = isa.splat(0.0);
        for (u, unit) in from.upper.iter().enumerate() {
            // Ahead in the stream of upper planes: past this group's lower planes and the next one's bounds.
            let left = (from.upper.len() - u) * size_of::<UpperUnit>();
            let gap = if left > PREFETCH_BYTES { 0 } else { size_of_val(from.lower) + 64 };
            prefetch(isa, unit, PREFETCH_BYTES + gap);
            for b in 0..2 {
                let w = sixes(isa, &unit.q[b], &unit.h[b]);
                let x = &x[2 * u + b];
                let p = format::dot_u7(isa, 0, &w, x);
                // Twice the sum of 4 · p + 1.5 − 128.
                let twice = isa.iadd(isa.ishl::<3>(p), isa.isplat(-253 * sum(&x[0])));
                let d = isa.mul(isa.load_f16(&unit.d[b]), isa.splat(0.5));
                acc = format::join(isa, isa.to_f32(twice), d, &x[0], acc);
            }
        }
        let bound = isa.fma(isa.load(from.bounds), norm, least);
        let (mut high, mut low) = ([0.0; LANES], [0.0; LANES]);
        isa.store(isa.add(acc, bound), &mut high);
        let lower = isa.sub(acc, bound);
        isa.store(lower, &mut low);
        let out = s.out(g);
        out.copy_from_slice(&high[..out.len()]);
        let rows = out.len();
        if s.best.len() == 1 && rows == GROUP {
            // NaN loses every comparison, and its row is computed anyway.
            let most = max_lane(isa, lower);
            if most > s.best[0] {
                s.best[0] = most;
            }
        } else {
            let mut least = f32::INFINITY;
            for b in s.best.iter() {
                least = if *b < least { *b } else { least };
            }
            for v in &low[..rows] {
                if *v > least {
                    s.keep(*v);
                }
            }
        }
    }
}

/// Second pass: the outputs that may reach the threshold, exactly, with their groups; -inf for all others.
#[inline(always)]
pub(crate) fn refine<I: Isa>(isa: I, s: &mut Search<'_>) {
    if s.blocks.len() == 2 * act_blocks(s.w.k()) {
        refine_of::<I, 2>(isa, s);
    } else {
        refine_of::<I, 1>(isa, s);
    }
}

#[inline(always)]
fn refine_of<I: Isa, const PARTS: usize>(isa: I, s: &mut Search<'_>) {
    let threshold = s.threshold;
    for g in s.groups.clone() {
        let out = s.out(g);
        let mut below = true;
        for v in out.iter() {
            below &= *v < threshold;
        }
        if below {
            out.fill(f32::NEG_INFINITY);
            continue;
        }
        let mut lanes = [0.0; LANES];
        isa.store(exact::<I, 1, PARTS>(isa, group(s.w, g), [s.blocks])[0], &mut lanes);
        let out = s.out(g);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

/// At least the Euclidean norm of one token's quantized activations.
pub(super) fn norm(blocks: &[ActBlock], parts: usize) -> f32 {
    let mut squares = 0.0f64;
    for block in blocks.chunks_exact(parts) {
        let mut of_block = 0i64;
        for (i, q) in block[0].quants().iter().enumerate() {
            let q = match parts {
                2 => 256 * i64::from(*q) + i64::from(block[1].quants()[i]),
                _ => i64::from(*q),
            };
            of_block += q * q;
        }
        squares += f64::from(block[0].scale()).powi(2) * of_block as f64;
    }
    (squares.sqrt() * (1.0 + 1e-6)) as f32
}

/// The bytes of a word that stand for four consecutive `k`, each masked.
const fn each(byte: u32) -> u32 {
    byte * 0x0101_0101
}

/// Packs Q8_0 rows from `first_group` on into `out`, whole groups.
///
/// # Panics
/// Where the slices are not of the shape's size: the loader proved them before.
pub fn pack_screened(from: FileRows<'_>, first_group: usize, out: &mut [u8]) {
    let FileRows { dtype, bytes, rows, k, order } = from;
    let (Some(row_bytes), Some(step)) = (dtype.bytes_of(k), group_bytes(k)) else {
        unreachable!("the loader checked that rows are whole blocks")
    };
    assert!(dtype == DType::Q8_0 && bytes.len() == row_bytes * rows, "pack: sizes");
    let units = k.div_ceil(UNIT_K);
    for (g, out) in out.chunks_exact_mut(step).enumerate() {
        out.fill(0);
        let (bounds, planes) = out.split_at_mut(64);
        let (upper, lower) = planes.split_at_mut(units * size_of::<UpperUnit>());
        let (Some([bounds]), Some(upper), Some(lower)) =
            (cast_mut::<Bounds>(bounds), cast_mut::<UpperUnit>(upper), cast_mut::<LowerUnit>(lower))
        else {
            unreachable!("the arena is aligned")
        };
        for lane in 0..GROUP {
            let row = (first_group + g) * GROUP + lane;
            if row < rows {
                let row = &bytes[order.source(row) * row_bytes..][..row_bytes];
                bounds.e[lane] = pack_row(row, lane, upper, lower);
            }
        }
    }
}

/// Packs one row and returns its bound: `‖e‖`, and what rounding may add to a chain of as many steps, twice over.
fn pack_row(row: &[u8], lane: usize, upper: &mut [UpperUnit], lower: &mut [LowerUnit]) -> f32 {
    let (mut e2, mut w2) = (0.0f64, 0.0f64);
    let mut steps = 0;
    for (i, block) in row.chunks_exact(34).enumerate() {
        let (up, low, b) = (&mut upper[i / 2], &mut lower[i / 2], i % 2);
        let d = u16::from_le_bytes([block[0], block[1]]);
        up.d[b][lane] = d;
        let (mut of_e, mut of_w) = (0i32, 0i32);
        let mut words = [0u32; 8];
        for (word, four) in words.iter_mut().zip(block[2..].as_chunks::<4>().0) {
            for byte in four {
                let q = i32::from(byte.cast_signed());
                let twice_e = 2 * (q & 3) - 3;
                of_e += twice_e * twice_e;
                of_w += q * q;
            }
            *word = u32::from_le_bytes(*four) ^ each(0x80);
        }
        let at = 4 * lane..4 * lane + 4;
        for v in 0..4 {
            let p = (words[v] >> 2) & each(15) | ((words[v + 4] >> 2) & each(15)) << 4;
            up.q[b][v][at.clone()].copy_from_slice(&p.to_le_bytes());
        }
        for half in 0..2 {
            let (mut h, mut e) = (0, 0);
            for j in 0..4 {
                h |= ((words[4 * half + j] >> 6) & each(3)) << (2 * j);
                e |= (words[4 * half + j] & each(3)) << (2 * j);
            }
            up.h[b][half][at.clone()].copy_from_slice(&h.to_le_bytes());
            low.e[b][half][at.clone()].copy_from_slice(&e.to_le_bytes());
        }
        let d2 = f64::from(f16_to_f32(d)).powi(2);
        e2 += d2 * f64::from(of_e) * 0.25;
        w2 += d2 * f64::from(of_w);
        steps += 1;
    }
    let rounding = 4.0 * f64::from(steps + 4) * f64::from(f32::EPSILON) / 2.0 * (w2.sqrt() + e2.sqrt());
    ((e2.sqrt() + rounding) * (1.0 + 1e-6)) as f32
}
