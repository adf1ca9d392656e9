//! Attention of many queries over a page in half precision: some positions at a time are converted to F32, once for all
//! queries, into memory of the thread that stays in the first-level cache. The sums are those of [`super::attention`], in
//! the same order.

use std::cell::Cell;
use std::ops::Range;

use super::attention::{PageTask, Partial, softmax};
use super::pages::{
    PAGE, Scores, load_values, padded, prefetch, score_keys, store_values, weigh_values, weights_of,
};
use crate::isa::{Isa, LANES};

/// Blocks of 16 positions that are converted at once: 16 KB of keys of 64 values.
const BLOCKS: usize = 4;

/// Groups of queries from which on a conversion pays.
pub(super) const FEWEST_GROUPS: usize = 3;

/// What a thread needs, kept from one page to the next: on the stack every call would touch each of its pages.
#[derive(Default)]
struct Scratch {
    /// The positions at hand, in F32: keys, and later values.
    chunk: Vec<f32>,
    /// Of each query.
    scores: Vec<Scores>,
    /// What each group of queries sees.
    seen: Vec<Range<usize>>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> =
        const { Cell::new(Scratch { chunk: Vec::new(), scores: Vec::new(), seen: Vec::new() }) };
}

/// The smallest range that holds what any of them sees; empty where nobody sees anything.
#[inline(always)]
fn union(seen: &[Range<usize>]) -> Range<usize> {
    let (mut from, mut to) = (PAGE, 0);
    for r in seen {
        if !r.is_empty() {
            (from, to) = (from.min(r.start), to.max(r.end));
        }
    }
    from..to
}

/// Whole blocks of `positions`.
fn blocks_of(positions: &Range<usize>) -> Range<usize> {
    positions.start / LANES..positions.end.div_ceil(LANES)
}

/// Attends as many queries as make whole groups of Q, and returns their number.
#[inline(always)]
pub(super) fn attend_groups<I: Isa, const Q: usize>(isa: I, page: &[u16], t: &mut PageTask<'_>) -> usize {
    let (dim, width) = (t.head_dim, padded(t.head_dim));
    let n = t.seen.len() / Q * Q;
    let mut scratch = SCRATCH.take();
    let Scratch { chunk, scores, seen } = &mut scratch;
    if chunk.len() < BLOCKS * LANES * width {
        chunk.resize(BLOCKS * LANES * width, 0.0);
    }
    if scores.len() < n {
        scores.resize(n, [[0.0; LANES]; PAGE / LANES]);
    }
    seen.clear();
    seen.extend(t.seen.chunks_exact(Q).map(union));
    let seen: &[Range<usize>] = seen;
    let (scores, _) = scores.as_chunks_mut::<Q>();
    let all = union(seen);
    let (all_blocks, stride) = (blocks_of(&all), BLOCKS * LANES);

    for first in all_blocks.clone().step_by(BLOCKS) {
        let here = first..all_blocks.end.min(first + BLOCKS);
        widen(isa, &page[here.start * LANES * dim..here.end * LANES * dim], chunk);
        for (g, seen) in seen.iter().enumerate() {
            let mut q: [&[f32]; Q] = [&[]; Q];
            for i in 0..Q {
                q[i] = &t.q[(g * Q + i) * dim..][..dim];
            }
            let blocks = blocks_of(seen);
            let mut block = blocks.start.max(first);
            let end = blocks.end.min(here.end);
            while block < end {
                let keys = &chunk[(block - first) * LANES * dim..];
                block += match end - block {
                    1 => score_keys::<I, f32, Q, 1, 0>(isa, keys, &q, &mut scores[g], block),
                    2 | 3 => score_keys::<I, f32, Q, 2, 0>(isa, keys, &q, &mut scores[g], block),
                    _ => score_keys::<I, f32, Q, 4, 0>(isa, keys, &q, &mut scores[g], block),
                };
            }
        }
    }

    for (g, group) in seen.iter().enumerate() {
        let queries = g * Q..(g + 1) * Q;
        if group.is_empty() {
            t.state[queries].fill(Partial::EMPTY);
        } else {
            let blocks = blocks_of(group);
            softmax(isa, &mut scores[g], blocks, &t.seen[queries.clone()], &mut t.state[queries]);
        }
    }

    // out = Σ p · V, positions ascending, one part of them after the other.
    let values = &page[PAGE * dim..];
    for first in (all.start / stride * stride..all.end).step_by(stride) {
        let here = first.max(all.start)..all.end.min(first + stride);
        widen(isa, &values[here.start * width..here.end * width], chunk);
        for (g, seen) in seen.iter().enumerate() {
            let part = seen.start.max(here.start)..seen.end.min(here.end);
            if part.is_empty() {
                continue;
            }
            let rows = &chunk[(part.start - here.start) * width..(part.end - here.start) * width];
            let weights = weights_of(&scores[g], &part);
            let out = &mut t.out[g * Q * width..(g + 1) * Q * width];
            if part.start == seen.start {
                out.fill(0.0);
            }
            let mut at = 0;
            while at < width {
                at += match width - at >= 4 * LANES {
                    true => weigh::<I, Q, 4>(isa, (rows, width), at, &weights, out),
                    false => weigh::<I, Q, 1>(isa, (rows, width), at, &weights, out),
                };
            }
        }
    }
    SCRATCH.set(scratch);
    n
}

/// Adds V vectors from value `at` on to what earlier positions gave; returns their values.
#[inline(always)]
fn weigh<I: Isa, const Q: usize, const V: usize>(
    isa: I,
    (rows, width): (&[f32], usize),
    at: usize,
    weights: &[&[f32]; Q],
    out: &mut [f32],
) -> usize {
    let mut acc = load_values::<I, Q, V>(isa, width, at, out);
    weigh_values::<I, f32, Q, V, 0>(isa, (rows, width), at, weights, &mut acc);
    store_values(isa, &acc, width, at, out);
    V * LANES
}

/// Converts to F32: whole vectors.
#[inline(always)]
fn widen<I: Isa>(isa: I, stored: &[u16], out: &mut [f32]) {
    for (i, (out, x)) in out.as_chunks_mut().0.iter_mut().zip(stored.as_chunks().0).enumerate() {
        // Two vectors are a line.
        if i % 2 == 0 {
            prefetch(isa, x);
        }
        isa.store(isa.load_f16(x), out);
    }
}
