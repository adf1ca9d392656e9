//! Attention of some query vectors over one page of the KV cache, with an online softmax (Milakov and Gimelshein 2018)
//! over pages: partial results of pages are merged in ascending order, so how pages and queries are spread over threads
//! changes no bit.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::exp::{exp, exp2};
use super::integer_attention::{self, Words};
use super::pages::{Bytes, PAGE, PageRef, Scores, Stored, padded};
use super::{map, zip};
use crate::isa::{Isa, LANES};

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

/// Query vectors, some of each row.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// The rows, from the first query on.
    pub rows: &'a [f32],
    /// Queries that are side by side in a row: those that share a key/value head.
    pub group: usize,
    /// Values from one row's first query to the next row's.
    pub stride: usize,
}

impl<'a> Queries<'a> {
    /// Query `i`, of `dim` values.
    #[inline(always)]
    pub(super) fn get(self, i: usize, dim: usize) -> &'a [f32] {
        &self.rows[i / self.group * self.stride + i % self.group * dim..][..dim]
    }
}

/// What one call computes: `queries` vectors against positions of one page.
#[derive(Debug)]
pub struct PageTask<'a> {
    /// The page.
    pub page: PageRef<'a>,
    /// The queries, already scaled.
    pub q: Queries<'a>,
    /// Values of a query and of a key.
    pub head_dim: usize,
    /// The positions each query sees, within the page: `from..to`, possibly empty.
    pub seen: &'a [Range<usize>],
    /// The page's softmax for each query; overwritten.
    pub state: &'a mut [Partial],
    /// `[queries, padded(head_dim)]`: Σ e^(score − max) · V; overwritten where a query sees something.
    pub out: &'a mut [f32],
}

/// Attends some queries to one page.
#[inline(always)]
pub(crate) fn attend_page<I: Isa>(isa: I, task: &mut PageTask<'_>) {
    match task.page {
        PageRef::I16 { words, units } => {
            integer_attention::attend(isa, Words::of(words, units, task.head_dim), task);
        }
        PageRef::F16(p) => attend_as(isa, p, task),
        PageRef::F32(p) => attend_as(isa, p, task),
        PageRef::Q8 { quants, scales } => attend_as(isa, Bytes { quants, scales }, task),
    }
}

/// The smallest range that holds what any query sees; empty where nobody sees anything.
#[inline(always)]
pub(super) fn seen_by(seen: &[Range<usize>]) -> Range<usize> {
    let (mut from, mut to) = (PAGE, 0);
    for r in seen {
        if !r.is_empty() {
            (from, to) = (from.min(r.start), to.max(r.end));
        }
    }
    from..to
}

#[inline(always)]
fn attend_as<I: Isa, P: Stored>(isa: I, page: P, t: &mut PageTask<'_>) {
    let (mut first, n) = (0, t.seen.len());
    while first < n {
        // As many as fit the registers, or one: these are not the usual storages, and each width is code for itself.
        first += match n - first {
            6.. if I::QUERIES == 6 => queries::<I, P, 6>(isa, page, t, first),
            4.. if I::QUERIES == 4 => queries::<I, P, 4>(isa, page, t, first),
            2.. if I::QUERIES == 2 => queries::<I, P, 2>(isa, page, t, first),
            _ => queries::<I, P, 1>(isa, page, t, first),
        };
    }
}

/// Q queries at once: each load of K or V serves all of them. The sums of one query are the same for every Q. Returns Q.
#[inline(always)]
fn queries<I: Isa, P: Stored, const Q: usize>(isa: I, page: P, t: &mut PageTask<'_>, first: usize) -> usize {
    let dim = t.head_dim;
    let dim_padded = padded(dim);
    let Range { start: from, end: to } = seen_by(&t.seen[first..first + Q]);
    if from >= to {
        t.state[first..first + Q].fill(Partial::EMPTY);
        return Q;
    }
    let mut q: [&[f32]; Q] = [&[]; Q];
    for (i, q) in q.iter_mut().enumerate() {
        *q = t.q.get(first + i, dim);
    }

    // Scores, 16 positions at a time; two blocks side by side hide the latency of the chains over head_dim.
    let mut scores: [Scores; Q] = [[[0.0; LANES]; PAGE / LANES]; Q];
    let (b0, b1) = (from / LANES, to.div_ceil(LANES));
    let mut b = b0;
    while b < b1 {
        b += match b1 - b {
            1 => page.score::<I, Q, 1>(isa, dim, b, &q, &mut scores),
            4.. if I::QUERIES == 6 => page.score::<I, Q, 4>(isa, dim, b, &q, &mut scores),
            _ => page.score::<I, Q, 2>(isa, dim, b, &q, &mut scores),
        };
    }

    let (seen, state) = (&t.seen[first..first + Q], &mut t.state[first..first + Q]);
    softmax(isa, &mut scores, &[1.0; Q], b0..b1, seen, state, None);

    // out = Σ p · V, positions ascending.
    let out = &mut t.out[first * dim_padded..(first + Q) * dim_padded];
    let mut at = 0;
    while at < dim_padded {
        if dim_padded - at >= 4 * LANES {
            page.weigh::<I, Q, 4>(isa, dim, at, from..to, &scores, out);
            at += 4 * LANES;
        } else {
            page.weigh::<I, Q, 1>(isa, dim, at, from..to, &scores, out);
            at += LANES;
        }
    }
    Q
}

/// 16 lanes of `low`, 16 of `high`, 16 of `low`: every border between them is a window of it.
const fn window(low: f32, high: f32) -> [f32; 3 * LANES] {
    let mut all = [low; 3 * LANES];
    let mut i = LANES;
    while i < 2 * LANES {
        all[i] = high;
        i += 1;
    }
    all
}

/// `high` in the lanes of what is seen of the 16 positions from `at` on, `low` in the others, as the smaller of two vectors.
#[inline(always)]
fn lanes_seen<I: Isa>(isa: I, window: &[f32; 3 * LANES], at: usize, seen: &Range<usize>) -> [I::F; 2] {
    let lane = |position: usize| position.clamp(at, at + LANES) - at;
    let (mut from, mut to) = ([0.0; LANES], [0.0; LANES]);
    from.copy_from_slice(&window[LANES - lane(seen.start)..][..LANES]);
    to.copy_from_slice(&window[2 * LANES - lane(seen.end)..][..LANES]);
    [isa.load(&from), isa.load(&to)]
}

/// Turns scores of some blocks, in units, into e^(score − max) over what each query sees, and into 0 elsewhere; these times
/// `factors`, where there are some, and then returns the sums and the largest of each query. The queries go side by side,
/// because one by itself would be a long chain.
#[inline(always)]
pub(super) fn softmax<I: Isa, const Q: usize>(
    isa: I,
    scores: &mut [Scores; Q],
    units: &[f32; Q],
    blocks: Range<usize>,
    seen: &[Range<usize>],
    state: &mut [Partial],
    factors: Option<&[[f32; LANES]]>,
) -> ([I::F; Q], [I::F; Q]) {
    const LIMITS: [f32; 3 * LANES] = window(f32::NEG_INFINITY, f32::INFINITY);
    // Blocks that all of them see whole.
    let mut whole = blocks.clone();
    for seen in &seen[..Q] {
        whole.start = whole.start.max(seen.start.div_ceil(LANES));
        whole.end = if seen.is_empty() { 0 } else { whole.end.min(seen.end / LANES) };
    }
    if whole.is_empty() {
        whole = blocks.end..blocks.end;
    }
    let (before, behind) = (blocks.start..whole.start, whole.end..blocks.end);
    for b in before.clone().chain(behind.clone()) {
        for i in 0..Q {
            let [from, to] = lanes_seen(isa, &LIMITS, b * LANES, &seen[i]);
            let score = isa.load(&scores[i][b]);
            isa.store(isa.min(isa.min(score, from), to), &mut scores[i][b]);
        }
    }
    let mut max = [isa.splat(f32::NEG_INFINITY); Q];
    for b in blocks {
        for i in 0..Q {
            max[i] = isa.max(isa.load(&scores[i][b]), max[i]);
        }
    }
    let mut exponents = [(max[0], max[0]); Q];
    for i in 0..Q {
        state[i].max = isa.max_lane(max[i]) * units[i];
        exponents[i] = (isa.splat(units[i] * LOG2_E), isa.splat(-(state[i].max * LOG2_E)));
    }
    let zero = isa.splat(0.0);
    let mut sums = Powers { total: [zero; Q], weights: [zero; Q], most: [zero; Q] };
    for (blocks, cut) in [(before, true), (whole, false), (behind, true)] {
        match cut {
            true => sums.add::<I, true>(isa, scores, &exponents, blocks, seen, factors),
            false => sums.add::<I, false>(isa, scores, &exponents, blocks, seen, factors),
        }
    }
    for i in 0..Q {
        state[i].sum = isa.sum(sums.total[i]);
    }
    (sums.weights, sums.most)
}

/// What the powers of some queries add up to, and what they and factors do.
struct Powers<F, const Q: usize> {
    total: [F; Q],
    weights: [F; Q],
    most: [F; Q],
}

impl<F: Copy, const Q: usize> Powers<F, Q> {
    /// Puts powers of 2 in place of scores; in blocks that are `CUT`, 0 for what is not seen.
    #[inline(always)]
    fn add<I: Isa<F = F>, const CUT: bool>(
        &mut self,
        isa: I,
        scores: &mut [Scores; Q],
        exponents: &[(F, F); Q],
        blocks: Range<usize>,
        seen: &[Range<usize>],
        factors: Option<&[[f32; LANES]]>,
    ) {
        const SEEN: [f32; 3 * LANES] = window(0.0, 1.0);
        const NOTHING: [f32; 3 * LANES] = window(0.0, f32::INFINITY);
        for b in blocks {
            let mut p = self.total;
            for i in 0..Q {
                let (factor, shift) = exponents[i];
                p[i] = exp2(isa, isa.fma(isa.load(&scores[i][b]), factor, shift));
            }
            if CUT {
                // Positions not seen weigh nothing at all.
                for i in 0..Q {
                    let [from, to] = lanes_seen(isa, &SEEN, b * LANES, &seen[i]);
                    p[i] = isa.mul(p[i], isa.mul(from, to));
                }
            }
            for i in 0..Q {
                self.total[i] = isa.add(self.total[i], p[i]);
            }
            if let Some(factors) = factors {
                let factors = isa.load(&factors[b]);
                for i in 0..Q {
                    p[i] = isa.mul(p[i], factors);
                    if CUT {
                        // The factor of a position that is not seen may be anything.
                        let [from, to] = lanes_seen(isa, &NOTHING, b * LANES, &seen[i]);
                        p[i] = isa.min(isa.min(p[i], from), to);
                    }
                    self.weights[i] = isa.add(self.weights[i], p[i]);
                    self.most[i] = isa.max(p[i], self.most[i]);
                }
            }
            for i in 0..Q {
                isa.store(p[i], &mut scores[i][b]);
            }
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
