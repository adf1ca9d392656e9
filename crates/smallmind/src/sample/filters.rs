//! Which tokens may be drawn: top-k, top-p and min-p by selection, never by sorting a vocabulary. Works in the
//! buffers it is given and allocates only where their capacity is too small.
//!
//! Tokens are ranked by logit, ties by lower id. NaN and -inf are never candidates.

use std::cmp::Ordering;

/// A token with the number it is ranked by.
pub(super) trait Ranked: Copy {
    fn new(id: u32, score: f32) -> Self;
    fn id(&self) -> u32;
    fn score(&self) -> f32;

    /// Best first.
    fn rank(&self, other: &Self) -> Ordering {
        other.score().total_cmp(&self.score()).then(self.id().cmp(&other.id()))
    }
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
}

impl Ranked for Candidate {
    fn new(id: u32, logit: f32) -> Self {
        Candidate { id, logit }
    }
    fn id(&self) -> u32 {
        self.id
    }
    fn score(&self) -> f32 {
        self.logit
    }
}

/// Capacity that [`top_k`] needs so as not to grow its output.
pub(super) fn top_k_capacity(k: usize, vocab: usize) -> usize {
    if k == 0 { vocab } else { vocab.min(k.saturating_mul(2)) }
}

/// The `k` best tokens, in no particular order; `k` = 0 gives all, in order of id.
///
/// One pass: tokens above the `k`-th best so far are collected, and each time there are `2k` of them a selection
/// halves them and raises that threshold, so the work is linear in the vocabulary.
pub(super) fn top_k<T: Ranked>(logits: &[f32], k: usize, out: &mut Vec<T>) {
    out.clear();
    let full = top_k_capacity(k, usize::MAX);
    out.reserve(top_k_capacity(k, logits.len()));
    let mut threshold = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // A tie with the threshold has the higher id, so it ranks below; NaN compares false.
        if logit > threshold {
            // Adding 0 turns -0 into 0: they are the same logit, but have an order in `total_cmp`.
            out.push(T::new(id as u32, logit + 0.0));
            if out.len() == full {
                keep_best(out, k);
                threshold = out.iter().map(T::score).fold(f32::INFINITY, f32::min);
            }
        }
    }
    if k != 0 {
        keep_best(out, k);
    }
}

fn keep_best<T: Ranked>(candidates: &mut Vec<T>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, T::rank);
        candidates.truncate(k);
    }
}

/// The largest logit of the candidates; -inf where there are none.
pub(super) fn largest(candidates: &[Candidate]) -> f32 {
    candidates.iter().fold(f32::NEG_INFINITY, |a, c| a.max(c.logit))
}

/// `exp((logit - max) / temperature)`, which is 1 for the maximum even where that is infinite.
#[inline]
pub(super) fn weight(logit: f32, max: f32, temperature: f32) -> f64 {
    if logit == max { 1.0 } else { ((f64::from(logit) - f64::from(max)) / f64::from(temperature)).exp() }
}

/// Keeps the fewest best candidates whose probabilities sum to at least `p`, at least one. Disturbs their order.
///
/// A binary search for that number, in which each step partitions the range that is left: linear on average.
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f32, max: f32) {
    let mass = |c: &[Candidate]| c.iter().map(|c| weight(c.logit, max, 1.0)).sum::<f64>();
    let target = f64::from(p) * mass(candidates);
    // The answer is in `low + 1 ..= high`; the best `low` candidates come first and weigh `before < target`.
    let (mut low, mut high, mut before) = (0, candidates.len(), 0.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        candidates[low..high].select_nth_unstable_by(middle - low, Candidate::rank);
        let left = before + mass(&candidates[low..middle]);
        if left >= target {
            high = middle;
        } else {
            (low, before) = (middle, left);
        }
    }
    candidates.truncate(high);
}

/// Keeps candidates at least `min_p` times as probable as the best, in their order.
pub(super) fn min_p(candidates: &mut Vec<Candidate>, min_p: f32, max: f32) {
    let least = f64::from(min_p).ln();
    candidates.retain(|c| c.logit == max || f64::from(c.logit) - f64::from(max) >= least);
}

/// Puts candidates in order of id after a selection has mixed them, so that a draw does not depend on how.
///
/// They are all tokens down to some rank, so many of them are found faster by another look at all logits.
pub(super) fn by_id(candidates: &mut Vec<Candidate>, logits: &[f32]) {
    const FEW: usize = 4096;
    if candidates.len() <= FEW {
        candidates.sort_unstable_by_key(|c| c.id);
        return;
    }
    let Some(last) = candidates.iter().copied().max_by(Candidate::rank) else { return };
    candidates.clear();
    let ranked = logits.iter().enumerate().filter(|(_, l)| **l >= last.logit);
    let ranked = ranked.map(|(id, &logit)| Candidate::new(id as u32, logit + 0.0));
    candidates.extend(ranked.filter(|c| c.rank(&last) != Ordering::Greater));
}
