//! Attention of some query vectors over one page of the KV cache, with an online softmax (Milakov and Gimelshein 2018)
//! over pages: partial results of pages are merged in ascending order, so how pages and queries are spread over threads
//! changes no bit.
//!
//! A page holds [`PAGE`] positions of one key/value head: K as `[PAGE / 16][head_dim][16]` (16 positions side by side),
//! V as `[PAGE][padded head_dim]`.

use super::exp::exp;
use super::{map, zip};
use crate::isa::{Isa, LANES, max_lane, sum};

/// Positions of one page.
pub const PAGE: usize = 256;

/// How far ahead K and V are asked for: as for weights. What follows K in a page is V.
const PREFETCH_BYTES: usize = 8192;

/// `head_dim` rounded up to whole vectors: the row length of V in a page and of partial outputs.
pub fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Stored values of K and V of one head and page.
pub fn page_len(head_dim: usize) -> usize {
    PAGE * head_dim + PAGE * padded(head_dim)
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
    /// Half precision bits.
    F16(&'a [u16]),
    /// Single precision.
    F32(&'a [f32]),
}

/// One page of one head, to be written.
#[derive(Debug)]
pub enum PageMut<'a> {
    /// Half precision bits.
    F16(&'a mut [u16]),
    /// Single precision.
    F32(&'a mut [f32]),
}

/// The softmax over one page, or over the pages merged so far; the weighted sum of V goes with it in a row of its own.
#[derive(Clone, Copy, Debug)]
pub struct Partial {
    /// Largest score.
    pub max: f32,
    /// Σ e^(score − max).
    pub sum: f32,
}

impl Partial {
    /// Of no positions.
    pub const EMPTY: Partial = Partial { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Writes K and V of one position (`slot` within the page) of one head.
#[inline(always)]
pub(crate) fn write_kv<I: Isa>(isa: I, page: PageMut<'_>, slot: usize, k: &[f32], v: &[f32]) {
    match page {
        PageMut::F16(p) => write_as::<I, u16>(isa, p, slot, k, v),
        PageMut::F32(p) => write_as::<I, f32>(isa, p, slot, k, v),
    }
}

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

/// What one call computes: `queries` vectors against positions of one page.
#[derive(Debug)]
pub struct PageTask<'a> {
    /// The page.
    pub page: PageRef<'a>,
    /// `[queries, head_dim]`, already scaled.
    pub q: &'a [f32],
    /// Values of a query and of a key.
    pub head_dim: usize,
    /// The positions each query sees, within the page: `from..to`, possibly empty.
    pub seen: &'a [std::ops::Range<usize>],
    /// The page's softmax for each query; overwritten.
    pub state: &'a mut [Partial],
    /// `[queries, padded(head_dim)]`: Σ e^(score − max) · V; overwritten where a query sees something.
    pub out: &'a mut [f32],
}

/// Attends some queries to one page.
#[inline(always)]
pub(crate) fn attend_page<I: Isa>(isa: I, task: &mut PageTask<'_>) {
    match task.page {
        PageRef::F16(p) => attend_as::<I, u16>(isa, p, task),
        PageRef::F32(p) => attend_as::<I, f32>(isa, p, task),
    }
}

#[inline(always)]
fn attend_as<I: Isa, E: Element>(isa: I, page: &[E], t: &mut PageTask<'_>) {
    let n = t.seen.len();
    let mut first = 0;
    while first < n {
        let width = (n - first).min(I::QUERIES);
        match width {
            6 if I::QUERIES >= 6 => queries::<I, E, 6>(isa, page, t, first),
            5 if I::QUERIES >= 6 => queries::<I, E, 5>(isa, page, t, first),
            4 if I::QUERIES >= 4 => queries::<I, E, 4>(isa, page, t, first),
            3 if I::QUERIES >= 4 => queries::<I, E, 3>(isa, page, t, first),
            2 => queries::<I, E, 2>(isa, page, t, first),
            _ => queries::<I, E, 1>(isa, page, t, first),
        }
        first += width;
    }
}

/// Q queries at once: each load of K or V serves all of them. The sums of one query are the same for every Q.
#[inline(always)]
fn queries<I: Isa, E: Element, const Q: usize>(isa: I, page: &[E], t: &mut PageTask<'_>, first: usize) {
    let dim = t.head_dim;
    let dim_padded = padded(dim);
    let (keys, values) = page.split_at(PAGE * dim);
    let mut from = PAGE;
    let mut to = 0;
    for r in &t.seen[first..first + Q] {
        if !r.is_empty() {
            from = from.min(r.start);
            to = to.max(r.end);
        }
    }
    if from >= to {
        t.state[first..first + Q].fill(Partial::EMPTY);
        return;
    }
    let mut q: [&[f32]; Q] = [&[]; Q];
    for (i, q) in q.iter_mut().enumerate() {
        *q = &t.q[(first + i) * dim..][..dim];
    }

    // Scores, 16 positions at a time; as many blocks side by side as hide the latency of the chains over head_dim.
    let mut scores = [[[0.0f32; LANES]; PAGE / LANES]; Q];
    let (b0, b1) = (from / LANES, to.div_ceil(LANES));
    let mut b = b0;
    while b < b1 {
        let left = b1 - b;
        b += match Q {
            1 if left >= 8 => score_blocks::<I, E, Q, 8>(isa, keys, dim, b, &q, &mut scores),
            1..=3 if left >= 4 => score_blocks::<I, E, Q, 4>(isa, keys, dim, b, &q, &mut scores),
            _ if left >= 2 => score_blocks::<I, E, Q, 2>(isa, keys, dim, b, &q, &mut scores),
            _ => score_blocks::<I, E, Q, 1>(isa, keys, dim, b, &q, &mut scores),
        };
    }

    // Softmax over what each query sees of the page.
    for i in 0..Q {
        let seen = t.seen[first + i].clone();
        let state = &mut t.state[first + i];
        *state = Partial::EMPTY;
        let flat = scores[i].as_flattened_mut();
        if seen.is_empty() {
            flat[b0 * LANES..b1 * LANES].fill(0.0);
            continue;
        }
        flat[b0 * LANES..seen.start].fill(f32::NEG_INFINITY);
        flat[seen.end..b1 * LANES].fill(f32::NEG_INFINITY);
        let mut max = isa.splat(f32::NEG_INFINITY);
        for block in &scores[i][b0..b1] {
            max = isa.max(isa.load(block), max);
        }
        state.max = max_lane(isa, max);
        let shift = isa.splat(state.max);
        let mut total = isa.splat(0.0);
        for (b, block) in scores[i][b0..b1].iter_mut().enumerate() {
            let mut p = exp(isa, isa.sub(isa.load(block), shift));
            let at = (b0 + b) * LANES;
            if at < seen.start || at + LANES > seen.end {
                // Positions not seen weigh nothing at all.
                let mut lanes = [0.0; LANES];
                isa.store(p, &mut lanes);
                for (l, p) in lanes.iter_mut().enumerate() {
                    if !seen.contains(&(at + l)) {
                        *p = 0.0;
                    }
                }
                p = isa.load(&lanes);
            }
            isa.store(p, block);
            total = isa.add(total, p);
        }
        state.sum = sum(isa, total);
    }

    // out = Σ p · V, positions ascending.
    let out = &mut t.out[first * dim_padded..(first + Q) * dim_padded];
    let mut at = 0;
    while at < dim_padded {
        if dim_padded - at >= 4 * LANES {
            weigh_values::<I, E, Q, 4>(isa, values, dim_padded, at, from..to, &scores, out);
            at += 4 * LANES;
        } else {
            weigh_values::<I, E, Q, 1>(isa, values, dim_padded, at, from..to, &scores, out);
            at += LANES;
        }
    }
}

/// Scores of B blocks of 16 positions; returns B.
#[inline(always)]
fn score_blocks<I: Isa, E: Element, const Q: usize, const B: usize>(
    isa: I,
    keys: &[E],
    dim: usize,
    block: usize,
    q: &[&[f32]; Q],
    scores: &mut [[[f32; LANES]; PAGE / LANES]; Q],
) -> usize {
    let mut acc = [[isa.splat(0.0); B]; Q];
    // Cut to one length that the loop's bound shows, so that nothing is checked within.
    let q = q.map(|q| &q[..dim]);
    let mut k: [&[[E; LANES]]; B] = [&[]; B];
    for (j, k) in k.iter_mut().enumerate() {
        *k = &keys[(block + j) * LANES * dim..][..LANES * dim].as_chunks::<LANES>().0[..dim];
    }
    for d in 0..dim {
        let mut key = [isa.splat(0.0); B];
        for j in 0..B {
            // Where a row is half a line this asks for each line twice, which costs less than to tell the rows apart.
            isa.prefetch(std::ptr::from_ref(&k[j][d]).cast::<u8>().wrapping_add(PREFETCH_BYTES));
            key[j] = E::load(isa, &k[j][d]);
        }
        for i in 0..Q {
            let q = isa.splat(q[i][d]);
            for j in 0..B {
                acc[i][j] = isa.fma(q, key[j], acc[i][j]);
            }
        }
    }
    for i in 0..Q {
        for j in 0..B {
            isa.store(acc[i][j], &mut scores[i][block + j]);
        }
    }
    B
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one inner loop, always inlined")]
fn weigh_values<I: Isa, E: Element, const Q: usize, const V: usize>(
    isa: I,
    values: &[E],
    stride: usize,
    at: usize,
    positions: std::ops::Range<usize>,
    scores: &[[[f32; LANES]; PAGE / LANES]; Q],
    out: &mut [f32],
) {
    let mut acc = [[isa.splat(0.0); V]; Q];
    let count = positions.len();
    let mut weights: [&[f32]; Q] = [&[]; Q];
    for (weights, scores) in weights.iter_mut().zip(scores) {
        *weights = &scores.as_flattened()[positions.clone()][..count];
    }
    let rows = values[positions.start * stride..positions.end * stride].chunks_exact(stride);
    for (pos, row) in (0..count).zip(rows) {
        let row = row[at..at + V * LANES].as_chunks::<LANES>().0;
        let mut x = [isa.splat(0.0); V];
        for v in 0..V {
            if (v * size_of::<[E; LANES]>()).is_multiple_of(64) {
                isa.prefetch(std::ptr::from_ref(&row[v]).cast::<u8>().wrapping_add(PREFETCH_BYTES));
            }
            x[v] = E::load(isa, &row[v]);
        }
        for i in 0..Q {
            let p = isa.splat(weights[i][pos]);
            for v in 0..V {
                acc[i][v] = isa.fma(p, x[v], acc[i][v]);
            }
        }
    }
    for i in 0..Q {
        let row = out[i * stride + at..][..V * LANES].as_chunks_mut::<LANES>().0;
        for v in 0..V {
            isa.store(acc[i][v], &mut row[v]);
        }
    }
}

/// Merges the next page's partial result into the earlier pages': the caller goes through the pages in ascending order.
#[inline(always)]
pub(crate) fn merge<I: Isa>(isa: I, state: &mut Partial, out: &mut [f32], page: Partial, page_out: &[f32]) {
    if page.max == f32::NEG_INFINITY && page.sum == 0.0 {
        return;
    }
    if state.max == f32::NEG_INFINITY && state.sum == 0.0 {
        *state = page;
        out.copy_from_slice(page_out);
        return;
    }
    let max = if page.max > state.max { page.max } else { state.max };
    let mut e = [0.0; LANES];
    (e[0], e[1]) = (state.max - max, page.max - max);
    isa.store(exp(isa, isa.load(&e)), &mut e);
    let (a, b) = (e[0], e[1]);
    *state = Partial { max, sum: state.sum.mul_add(a, page.sum * b) };
    zip!(isa, out, page_out, |o, p| isa.fma(o, isa.splat(a), isa.mul(p, isa.splat(b))));
}

/// Divides by the sum of the softmax: the attention's output.
#[inline(always)]
pub(crate) fn finish<I: Isa>(isa: I, state: Partial, out: &mut [f32]) {
    map!(isa, out, |v| isa.div(v, isa.splat(state.sum)));
}
