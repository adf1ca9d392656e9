//! How K and V of one head are stored, and the two loops that read them.
//!
//! A page holds [`PAGE`] positions of one key/value head: K as `[PAGE / 16][head_dim][16]` (16 positions side by side),
//! V as `[PAGE][padded head_dim]`. Of bytes, 32 values of one position share a scale, as in Q8_0; scales lie as their
//! values do, `[PAGE / 16][head_dim / 32][16]` and `[PAGE][padded head_dim / 32]`.

use std::ops::Range;

use super::integer_attention;
use crate::isa::{Isa, LANES};

/// Positions of one page.
pub const PAGE: usize = 256;

/// How far ahead K and V are asked for: as for weights. What follows K in a page is V.
pub(super) const PREFETCH_BYTES: usize = 8192;

/// `head_dim` rounded up to whole vectors: the row length of V in a page and of partial outputs.
pub fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Stored values of K and V of one head and page.
pub fn page_len(head_dim: usize) -> usize {
    PAGE * head_dim + PAGE * padded(head_dim)
}

/// Values of a head that are multiplied in one step.
const STEP: usize = 4;

/// Values that share a scale, of a page of bytes.
const SCALED: usize = 32;

/// Bytes and scales of a page of bytes.
pub fn q8_page_len(head_dim: usize) -> (usize, usize) {
    (page_len(head_dim), PAGE * head_dim.div_ceil(SCALED) + PAGE * padded(head_dim).div_ceil(SCALED))
}

/// A stored element of the KV cache.
pub(crate) trait Element: Copy {
    fn load<I: Isa>(isa: I, x: &[Self; LANES]) -> I::F;
    fn store<I: Isa>(isa: I, x: I::F, out: &mut [Self; LANES]);
    fn lane(v: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32; LANES]) -> I::F {
        isa.load(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, x: I::F, out: &mut [f32; LANES]) {
        isa.store(x, out);
    }
    #[inline(always)]
    fn lane(v: f32) -> f32 {
        v
    }
}

/// IEEE half precision, as its bits.
impl Element for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[u16; LANES]) -> I::F {
        isa.load_f16(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, x: I::F, out: &mut [u16; LANES]) {
        isa.store_f16(x, out);
    }
    #[inline(always)]
    fn lane(v: f32) -> u16 {
        crate::half::f32_to_f16(v)
    }
}

/// One page of one head, as stored.
#[derive(Clone, Copy, Debug)]
pub enum PageRef<'a> {
    /// Integers of 16 bits, and for each position the units of its K and its V: [`integer_page_len`](crate::attention::integer_page_len).
    I16 {
        /// K and V.
        words: &'a [i16],
        /// Theirs.
        units: &'a [f32],
    },
    /// Half precision bits.
    F16(&'a [u16]),
    /// Single precision.
    F32(&'a [f32]),
    /// Bytes, and scales in half precision: [`q8_page_len`].
    Q8 {
        /// K and V.
        quants: &'a [i8],
        /// Theirs.
        scales: &'a [u16],
    },
}

/// One page of one head, to be written.
#[derive(Debug)]
pub enum PageMut<'a> {
    /// Integers of 16 bits and their units.
    I16 {
        /// K and V.
        words: &'a mut [i16],
        /// Theirs.
        units: &'a mut [f32],
    },
    /// Half precision bits.
    F16(&'a mut [u16]),
    /// Single precision.
    F32(&'a mut [f32]),
    /// Bytes, and scales in half precision.
    Q8 {
        /// K and V.
        quants: &'a mut [i8],
        /// Theirs.
        scales: &'a mut [u16],
    },
}

/// Writes K and V of one position (`slot` within the page) of one head.
#[inline(always)]
pub(crate) fn write_kv<I: Isa>(isa: I, page: PageMut<'_>, slot: usize, k: &[f32], v: &[f32]) {
    match page {
        PageMut::I16 { words, units } => integer_attention::write(isa, words, units, slot, k, v),
        PageMut::F16(p) => write_as::<I, u16>(isa, p, slot, k, v),
        PageMut::F32(p) => write_as::<I, f32>(isa, p, slot, k, v),
        PageMut::Q8 { quants, scales } => write_q8(quants, scales, slot, k, v),
    }
}

/// In plain Rust: a row is short, and the rounding is the same everywhere.
fn write_q8(quants: &mut [i8], scales: &mut [u16], slot: usize, k: &[f32], v: &[f32]) {
    let (dim, width) = (k.len(), padded(k.len()));
    let (keys, values) = quants.split_at_mut(PAGE * dim);
    let (key_scales, value_scales) = scales.split_at_mut(PAGE * dim.div_ceil(SCALED));
    let (block, lane) = (slot / LANES, slot % LANES);
    let keys = &mut keys[block * LANES * dim..][..LANES * dim];
    let key_scales = &mut key_scales[block * LANES * dim.div_ceil(SCALED)..];
    let groups = k.chunks(SCALED).zip(keys.chunks_mut(SCALED * LANES)).zip(key_scales.chunks_mut(LANES));
    for ((k, out), scale) in groups {
        let factor;
        (factor, scale[lane]) = scale_of(k);
        for (out, k) in out.chunks_exact_mut(LANES).zip(k) {
            out[lane] = (k * factor).round_ties_even() as i8;
        }
    }
    let values = &mut values[slot * width..][..width];
    let value_scales = &mut value_scales[slot * width.div_ceil(SCALED)..][..width.div_ceil(SCALED)];
    values.fill(0);
    value_scales.fill(0);
    for ((v, out), scale) in v.chunks(SCALED).zip(values.chunks_mut(SCALED)).zip(value_scales) {
        let factor;
        (factor, *scale) = scale_of(v);
        for (out, v) in out.iter_mut().zip(v) {
            *out = (v * factor).round_ties_even() as i8;
        }
    }
}

/// What values are multiplied by to become bytes, and in half precision what takes them back: as in Q8_0.
fn scale_of(x: &[f32]) -> (f32, u16) {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = (largest / 127.0).min(HALF_MAX);
    let factor = 1.0 / scale;
    (if factor.is_finite() { factor } else { 0.0 }, crate::half::f32_to_f16(scale))
}

/// The largest number in half precision.
const HALF_MAX: f32 = 65504.0;

#[inline(always)]
fn write_as<I: Isa, E: Element>(isa: I, page: &mut [E], slot: usize, k: &[f32], v: &[f32]) {
    let dim = k.len();
    let (keys, values) = page.split_at_mut(PAGE * dim);
    let block = &mut keys[slot / LANES * LANES * dim..][..LANES * dim];
    for (out, &k) in block.chunks_exact_mut(LANES).zip(k) {
        out[slot % LANES] = E::lane(k);
    }
    let row = &mut values[slot * padded(dim)..][..padded(dim)];
    for (out, v) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(v.chunks(LANES)) {
        let mut lanes = [0.0; LANES];
        lanes[..v.len()].copy_from_slice(v);
        E::store(isa, isa.load(&lanes), out);
    }
}

/// The scores that a query gives to some positions, `[PAGE]` in blocks.
pub(super) type Scores = [[f32; LANES]; PAGE / LANES];

/// A page as stored.
pub(super) trait Stored: Copy {
    /// Scores of B blocks of 16 positions from `block` on; returns B.
    fn score<I: Isa, const Q: usize, const B: usize>(
        self,
        isa: I,
        dim: usize,
        block: usize,
        q: &[&[f32]; Q],
        scores: &mut [Scores; Q],
    ) -> usize;

    /// `out[at..] = Σ score · V` of V vectors from value `at` on, positions ascending.
    #[allow(clippy::too_many_arguments, reason = "one inner loop, always inlined")]
    fn weigh<I: Isa, const Q: usize, const V: usize>(
        self,
        isa: I,
        dim: usize,
        at: usize,
        positions: Range<usize>,
        scores: &[Scores; Q],
        out: &mut [f32],
    );
}

impl<E: Element> Stored for &[E] {
    #[inline(always)]
    fn score<I: Isa, const Q: usize, const B: usize>(
        self,
        isa: I,
        dim: usize,
        block: usize,
        q: &[&[f32]; Q],
        scores: &mut [Scores; Q],
    ) -> usize {
        score_keys::<I, E, Q, B>(isa, &self[block * LANES * dim..], q, scores, block)
    }

    #[inline(always)]
    fn weigh<I: Isa, const Q: usize, const V: usize>(
        self,
        isa: I,
        dim: usize,
        at: usize,
        positions: Range<usize>,
        scores: &[Scores; Q],
        out: &mut [f32],
    ) {
        let width = padded(dim);
        let rows = &self[PAGE * dim..][positions.start * width..positions.end * width];
        let mut acc = [[isa.splat(0.0); V]; Q];
        weigh_values::<I, E, Q, V>(isa, (rows, width), at, &weights_of(scores, &positions), &mut acc);
        store_values(isa, &acc, width, at, out);
    }
}

/// Scores of the B blocks of 16 positions that `keys` begins with, which are those from `block` on; returns B.
#[inline(always)]
fn score_keys<I: Isa, E: Element, const Q: usize, const B: usize>(
    isa: I,
    keys: &[E],
    q: &[&[f32]; Q],
    scores: &mut [Scores; Q],
    block: usize,
) -> usize {
    let dim = q[0].len();
    // Several values at a time, so that nothing is checked within and each line is asked for once.
    let (whole, rest) = (dim / STEP, dim / STEP * STEP..dim);
    let mut k: [&[[E; LANES]]; B] = [&[]; B];
    let mut k_steps: [&[[[E; LANES]; STEP]]; B] = [&[]; B];
    for j in 0..B {
        k[j] = &keys[j * LANES * dim..][..LANES * dim].as_chunks::<LANES>().0[..dim];
        k_steps[j] = &k[j].as_chunks().0[..whole];
    }
    let mut q_steps: [&[[f32; STEP]]; Q] = [&[]; Q];
    for i in 0..Q {
        q_steps[i] = &q[i].as_chunks().0[..whole];
    }
    let mut acc = [[isa.splat(0.0); B]; Q];
    let mut key = [isa.splat(0.0); B];
    let mut factors = [0.0; Q];
    for step in 0..whole {
        for d in 0..STEP {
            for j in 0..B {
                if (d * size_of::<[E; LANES]>()).is_multiple_of(64) {
                    prefetch(isa, &k_steps[j][step][d]);
                }
                key[j] = E::load(isa, &k_steps[j][step][d]);
            }
            for i in 0..Q {
                factors[i] = q_steps[i][step][d];
            }
            add_products(isa, factors, &key, &mut acc);
        }
    }
    for d in rest {
        for j in 0..B {
            key[j] = E::load(isa, &k[j][d]);
        }
        for i in 0..Q {
            factors[i] = q[i][d];
        }
        add_products(isa, factors, &key, &mut acc);
    }
    store_scores(isa, &acc, block, scores)
}

/// `acc += Σ weight · V` of V vectors from value `at` on, of rows and their length, positions ascending.
#[inline(always)]
fn weigh_values<I: Isa, E: Element, const Q: usize, const V: usize>(
    isa: I,
    (rows, width): (&[E], usize),
    at: usize,
    weights: &[&[f32]; Q],
    acc: &mut [[I::F; V]; Q],
) {
    for (pos, row) in rows.chunks_exact(width).enumerate() {
        let row = row[at..at + V * LANES].as_chunks::<LANES>().0;
        let mut x = [isa.splat(0.0); V];
        for v in 0..V {
            if (v * size_of::<[E; LANES]>()).is_multiple_of(64) {
                prefetch(isa, &row[v]);
            }
            x[v] = E::load(isa, &row[v]);
        }
        add_products(isa, std::array::from_fn(|i| weights[i][pos]), &x, acc);
    }
}

/// A page of bytes with scales.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) quants: &'a [i8],
    pub(super) scales: &'a [u16],
}

impl Stored for Bytes<'_> {
    #[inline(always)]
    fn score<I: Isa, const Q: usize, const B: usize>(
        self,
        isa: I,
        dim: usize,
        block: usize,
        q: &[&[f32]; Q],
        scores: &mut [Scores; Q],
    ) -> usize {
        let mut acc = [[isa.splat(0.0); B]; Q];
        let groups = dim.div_ceil(SCALED);
        let q = q.map(|q| &q[..dim]);
        let mut k: [&[[i8; LANES]]; B] = [&[]; B];
        let mut scale: [&[[u16; LANES]]; B] = [&[]; B];
        for j in 0..B {
            k[j] = &self.quants[(block + j) * LANES * dim..][..LANES * dim].as_chunks::<LANES>().0[..dim];
            scale[j] = self.scales[(block + j) * LANES * groups..][..LANES * groups].as_chunks::<LANES>().0;
        }
        for g in 0..groups {
            let mut part = [[isa.splat(0.0); B]; Q];
            for d in g * SCALED..dim.min((g + 1) * SCALED) {
                let mut key = [isa.splat(0.0); B];
                for j in 0..B {
                    if d % 4 == 0 {
                        prefetch(isa, &k[j][d]);
                    }
                    key[j] = isa.to_f32(isa.load_i8(&k[j][d]));
                }
                add_products(isa, std::array::from_fn(|i| q[i][d]), &key, &mut part);
            }
            for j in 0..B {
                let scale = isa.load_f16(&scale[j][g]);
                for i in 0..Q {
                    acc[i][j] = isa.fma(part[i][j], scale, acc[i][j]);
                }
            }
        }
        store_scores(isa, &acc, block, scores)
    }

    #[inline(always)]
    fn weigh<I: Isa, const Q: usize, const V: usize>(
        self,
        isa: I,
        dim: usize,
        at: usize,
        positions: Range<usize>,
        scores: &[Scores; Q],
        out: &mut [f32],
    ) {
        let (width, groups) = (padded(dim), padded(dim).div_ceil(SCALED));
        let mut acc = [[isa.splat(0.0); V]; Q];
        let weights = weights_of(scores, &positions);
        let values = &self.quants[PAGE * dim..];
        let rows = values[positions.start * width..positions.end * width].chunks_exact(width);
        let scales = &self.scales[PAGE * dim.div_ceil(SCALED)..];
        let scales = scales[positions.start * groups..positions.end * groups].chunks_exact(groups);
        for ((pos, row), scales) in (0..positions.len()).zip(rows).zip(scales) {
            let row = row[at..at + V * LANES].as_chunks::<LANES>().0;
            prefetch(isa, &row[0]);
            let mut x = [isa.splat(0.0); V];
            for v in 0..V {
                let scale = crate::half::f16_to_f32(scales[(at + v * LANES) / SCALED]);
                x[v] = isa.mul(isa.to_f32(isa.load_i8(&row[v])), isa.splat(scale));
            }
            add_products(isa, std::array::from_fn(|i| weights[i][pos]), &x, &mut acc);
        }
        store_values(isa, &acc, width, at, out);
    }
}

/// Asks for what lies ahead of `x`.
#[inline(always)]
fn prefetch<I: Isa, X>(isa: I, x: &X) {
    isa.prefetch(std::ptr::from_ref(x).cast::<u8>().wrapping_add(PREFETCH_BYTES));
}

/// What each query weighs the positions with.
#[inline(always)]
fn weights_of<'a, const Q: usize>(scores: &'a [Scores; Q], positions: &Range<usize>) -> [&'a [f32]; Q] {
    let mut weights: [&[f32]; Q] = [&[]; Q];
    for (weights, scores) in weights.iter_mut().zip(scores) {
        *weights = &scores.as_flattened()[positions.clone()];
    }
    weights
}

/// `acc[i] += factors[i] · x`.
#[inline(always)]
fn add_products<I: Isa, const Q: usize, const N: usize>(
    isa: I,
    factors: [f32; Q],
    x: &[I::F; N],
    acc: &mut [[I::F; N]; Q],
) {
    for i in 0..Q {
        let factor = isa.splat(factors[i]);
        for j in 0..N {
            acc[i][j] = isa.fma(factor, x[j], acc[i][j]);
        }
    }
}

#[inline(always)]
fn store_scores<I: Isa, const Q: usize, const B: usize>(
    isa: I,
    acc: &[[I::F; B]; Q],
    block: usize,
    scores: &mut [Scores; Q],
) -> usize {
    for i in 0..Q {
        for j in 0..B {
            isa.store(acc[i][j], &mut scores[i][block + j]);
        }
    }
    B
}

#[inline(always)]
fn store_values<I: Isa, const Q: usize, const V: usize>(
    isa: I,
    acc: &[[I::F; V]; Q],
    width: usize,
    at: usize,
    out: &mut [f32],
) {
    for i in 0..Q {
        let row = out[i * width + at..][..V * LANES].as_chunks_mut::<LANES>().0;
        for v in 0..V {
            isa.store(acc[i][v], &mut row[v]);
        }
    }
}
