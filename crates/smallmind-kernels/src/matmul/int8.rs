//! The fast class of prefill where no matrix unit multiplies bfloat16: activations of 8 bits with a scale for each 32
//! values, half the products of the exact class. Its bits do not depend on threads, batch or chunk, and are the same on
//! every instruction set that has it, but they are not those of the exact class. (docs/determinism.md)
//!
//! A span of weights is unpacked once for all tokens that pass by, as in `many`; what is multiplied knows no formats, only
//! bytes, their scales and what these make of offsets and minima.

use super::acts::{ActQuants, BLOCK, TILE};
use super::format::{Format, RowGroup, Scales, group_len, units};
use super::many::{BLOCKS, MANY};
use super::tile::{PANEL, PREFETCH_BYTES, Piece, ask_ahead};
use crate::isa::stream::Stream;
use crate::isa::{Isa, LANES};

/// The largest quant: -128 is no multiple that all instruction sets can multiply.
const LARGEST: f32 = 127.0;

/// Where what belongs to the 32 quants of an [`ActQuants`] stands behind them, in words.
mod word {
    /// What a quant of 1 is worth, in f32.
    pub(super) const D: usize = 8;
    /// That times the sum of the first 16 quants, of the last 16, and of all.
    pub(super) const SUMS: [usize; 2] = [9, 10];
    pub(super) const SUM: usize = 11;
    /// What products with signed bytes that count 128 more begin with: -128 times the sum of all quants. 0 where the
    /// instruction set multiplies signed bytes.
    pub(super) const START: usize = 12;
}

/// Quantizes one row into row `row` of a tile of `height` rows: for each 32 values `d = max|x| / 127` and
/// `q = x · (127 / max|x|)` to nearest even, 0 where that factor overflows. Values past the row are zero.
#[inline(always)]
pub(crate) fn quantize<I: Isa>(isa: I, x: &[f32], height: usize, row: usize, out: &mut [ActQuants]) {
    let mut blocks = x.chunks(BLOCK);
    for out in out.chunks_exact_mut(height) {
        let x = blocks.next().unwrap_or_default();
        match x.first_chunk() {
            Some(x) => block(isa, x, &mut out[row]),
            None => {
                let mut values = [0.0; BLOCK];
                values[..x.len()].copy_from_slice(x);
                block(isa, &values, &mut out[row]);
            }
        }
    }
}

#[inline(always)]
fn block<I: Isa>(isa: I, x: &[f32; BLOCK], out: &mut ActQuants) {
    let (lanes, _) = x.as_chunks::<LANES>();
    let x = [isa.load(&lanes[0]), isa.load(&lanes[1])];
    let zero = isa.splat(0.0);
    // What is no number does not count.
    let most = isa.max(x[1], isa.max(x[0], zero));
    let least = isa.min(x[1], isa.min(x[0], zero));
    let max = isa.max_lane(isa.max(most, isa.sub(zero, least)));
    let factor = LARGEST / max;
    let factor = isa.splat(if factor.is_finite() { factor } else { 0.0 });
    let d = max / LARGEST;
    // In range by construction, but what is no number counts as the largest.
    let most = isa.splat(LARGEST);
    let first = isa.to_i32(isa.min(isa.mul(x[0], factor), most));
    let second = isa.to_i32(isa.min(isa.mul(x[1], factor), most));
    let [of_first, of_second, ..] = out.sixteens_mut();
    isa.store_i8(first, of_first);
    isa.store_i8(second, of_second);
    // Exact: integers of at most 16 · 127.
    let (first, second) = (isa.sum(isa.to_f32(first)), isa.sum(isa.to_f32(second)));
    let mut put = |at: usize, word: u32| out.q[at] = word.to_le_bytes().map(u8::cast_signed);
    put(word::D, d.to_bits());
    put(word::SUMS[0], (d * first).to_bits());
    put(word::SUMS[1], (d * second).to_bits());
    put(word::SUM, (d * (first + second)).to_bits());
    put(word::START, (-I::BIAS * (first + second) as i32).cast_unsigned());
}

/// A span of weights of 16 rows.
struct Unpacked<I: Isa> {
    q: [[I::B; 8]; BLOCKS],
    /// `w = s · q + m`: offsets are part of the minima.
    scales: [Scales<I::F>; BLOCKS],
}

/// What the bytes of a format are.
#[derive(Clone, Copy)]
enum Kind {
    /// Signed, without minima.
    Signed,
    /// Of at most 7 bits.
    Bytes,
    /// Of at most 4 bits.
    Nibbles,
    /// Of at most 7 bits, 16 of which have a scale.
    Halves,
}

impl Kind {
    const fn of<F: Format>() -> Kind {
        match (F::QUANTS.signed, F::HALVES, F::NARROW) {
            (true, _, _) => Kind::Signed,
            (_, true, _) => Kind::Halves,
            (_, _, true) => Kind::Nibbles,
            _ => Kind::Bytes,
        }
    }
}

/// Computes a piece of quantized weights.
#[inline(always)]
pub(crate) fn piece<I: Isa>(isa: I, p: &Piece<'_>) {
    let mut waiting = [isa.splat(0.0); MANY];
    for first in p.groups.clone().step_by(PANEL) {
        for token in (0..p.tokens).step_by(MANY) {
            let sums = &mut waiting[..MANY.min(p.tokens - token)];
            for g in first..p.groups.end.min(first + PANEL) {
                for span in 0..p.acts.blocks / BLOCKS {
                    let (kind, w) = by_format!(p.w.dtype(),
                        F => (Kind::of::<F>(), unpack::<I, F>(isa, p, g, span)),
                        G => return);
                    for (i, sums) in sums.chunks_mut(TILE).enumerate() {
                        let tile = p.acts.tile(token / TILE + i);
                        let (x, rest) = tile.quants[span * BLOCKS * tile.height..].split_at(tile.height);
                        let x = [x, rest];
                        match kind {
                            Kind::Signed => multiply::<I, { Kind::Signed as u8 }>(isa, &w, x, sums),
                            Kind::Bytes => multiply::<I, { Kind::Bytes as u8 }>(isa, &w, x, sums),
                            Kind::Nibbles => multiply::<I, { Kind::Nibbles as u8 }>(isa, &w, x, sums),
                            Kind::Halves => multiply::<I, { Kind::Halves as u8 }>(isa, &w, x, sums),
                        }
                    }
                }
                for (t, sum) in sums.iter_mut().enumerate() {
                    p.store(isa, g, token + t, *sum);
                    *sum = isa.splat(0.0);
                }
            }
        }
    }
}

/// Unpacks a span of group `g`; blocks past the row are zeros.
#[inline(always)]
fn unpack<I: Isa, F: Format>(isa: I, p: &Piece<'_>, g: usize, span: usize) -> Unpacked<I> {
    let units = RowGroup::<F::Unit>::of(p.w.bytes(), group_len::<F>(units::<F>(p.w.k())), g).units;
    let mut w = Unpacked {
        q: [[isa.bsplat(0); 8]; BLOCKS],
        scales: [Scales::one(isa.splat(0.0), isa.splat(0.0)); BLOCKS],
    };
    for (b, (q, scales)) in w.q.iter_mut().zip(&mut w.scales).enumerate() {
        let block = span * BLOCKS + b;
        let Some(unit) = units.get(block / F::BLOCKS) else { break };
        let b = block % F::BLOCKS;
        ask_ahead::<F, PREFETCH_BYTES>(isa, Stream::Asked, unit, b);
        *q = F::unpack(isa, unit, b);
        if F::QUANTS.signed && I::UNSIGNED {
            // As they are multiplied: 128 more.
            let flip = isa.bsplat(0x80);
            q.iter_mut().for_each(|q| *q = isa.bxor(*q, flip));
        }
        *scales = F::scales(isa, unit, b);
        if F::QUANTS.offset != 0 {
            let less = isa.splat(-f32::from(F::QUANTS.offset));
            scales.m = [0, 1].map(|half| isa.fma(less, scales.s[half], scales.m[half]));
        }
    }
    w
}

/// Adds the products of a span with some tokens of a tile: for each block, ascending, `sum += s · d · Σ w · q` and then
/// `sum += m · d · Σ q`, each rounded once; where halves of a block have scales of their own, both of either.
#[inline(always)]
fn multiply<I: Isa, const KIND: u8>(isa: I, w: &Unpacked<I>, x: [&[ActQuants]; BLOCKS], sums: &mut [I::F]) {
    let (halves, nibbles) = (KIND == Kind::Halves as u8, KIND == Kind::Nibbles as u8);
    let signed = KIND == Kind::Signed as u8;
    let Unpacked { q: w, scales } = w;
    for ((sum, first), second) in sums.iter_mut().zip(x[0]).zip(x[1]) {
        let mut acc = *sum;
        for ((x, w), scales) in [first, second].into_iter().zip(w).zip(scales) {
            let d = isa.splat(float(x, word::D));
            if halves {
                acc = isa.fma(isa.to_f32(dot::<I, KIND, 0, 4>(isa, w, x)), isa.mul(scales.s[0], d), acc);
                acc = isa.fma(isa.to_f32(dot::<I, KIND, 4, 8>(isa, w, x)), isa.mul(scales.s[1], d), acc);
                acc = isa.fma(scales.m[0], isa.splat(float(x, word::SUMS[0])), acc);
                acc = isa.fma(scales.m[1], isa.splat(float(x, word::SUMS[1])), acc);
                continue;
            }
            let all = if nibbles { isa.dot_nibbles(w, bytes(x)) } else { dot::<I, KIND, 0, 8>(isa, w, x) };
            acc = isa.fma(isa.to_f32(all), isa.mul(scales.s[0], d), acc);
            if !signed {
                acc = isa.fma(scales.m[0], isa.splat(float(x, word::SUM)), acc);
            }
        }
        *sum = acc;
    }
}

/// `Σ w · q` of some vectors, exact.
#[inline(always)]
fn dot<I: Isa, const KIND: u8, const FROM: usize, const TO: usize>(
    isa: I,
    w: &[I::B; 8],
    x: &ActQuants,
) -> I::I {
    let signed = KIND == Kind::Signed as u8;
    let mut sum = isa.isplat(if signed { word_of(x, word::START).cast_signed() } else { 0 });
    for j in FROM..TO {
        sum = match signed && !I::UNSIGNED {
            true => isa.dot_i8(sum, w[j], &x.q[j]),
            false => isa.dot_u7(sum, w[j], &x.q[j]),
        };
    }
    sum
}

/// The quants of a block.
#[inline(always)]
fn bytes(x: &ActQuants) -> &[[i8; 4]; 8] {
    &x.q.as_chunks().0[0]
}

#[inline(always)]
fn float(x: &ActQuants, at: usize) -> f32 {
    f32::from_bits(word_of(x, at))
}

/// A word of what belongs to a block.
#[inline(always)]
fn word_of(x: &ActQuants, at: usize) -> u32 {
    u32::from_le_bytes(x.q[at].map(i8::cast_unsigned))
}
