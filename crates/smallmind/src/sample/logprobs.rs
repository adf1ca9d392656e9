//! Log probabilities of the most likely tokens, as reported to users: of the model's own distribution, before any
//! bias, penalty, filter or temperature. Changes no logit.

use super::filters::{Ranked, top_k, weight};

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// `ln p`, at most 0 and always finite.
    pub logprob: f32,
}

impl Ranked for TokenLogprob {
    fn new(id: u32, logprob: f32) -> Self {
        TokenLogprob { id, logprob }
    }
    fn id(&self) -> u32 {
        self.id
    }
    fn score(&self) -> f32 {
        self.logprob
    }
}

/// The `k` most likely tokens of `logits` (`[vocab]`), most likely first, ties by lower id.
///
/// Probabilities are the softmax of `logits` at temperature 1; the log-sum-exp is taken in `f64`. Tokens with a
/// logit of NaN or -inf count as impossible and are left out, so there can be fewer than `k`. `out` is
/// overwritten; once its capacity is `2 * k`, nothing is allocated.
pub fn top_logprobs(logits: &[f32], k: usize, out: &mut Vec<TokenLogprob>) {
    out.clear();
    if k == 0 {
        return;
    }
    // Logits first, turned into log probabilities in place.
    top_k(logits, k, out);
    out.sort_unstable_by(TokenLogprob::rank);
    let Some(max) = out.first().map(|best| best.logprob) else { return };
    let log_sum = log_sum(logits, max);
    for token in out.iter_mut() {
        token.logprob = relative(token.logprob, max, log_sum);
    }
    out.retain(|token| token.logprob > f32::NEG_INFINITY);
}

/// The natural-log probability of token `id` under the softmax of `logits`; -inf where the token is impossible or
/// `id` is outside the vocabulary.
pub fn logprob(logits: &[f32], id: u32) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &l| a.max(l));
    match logits.get(id as usize) {
        Some(&logit) if logit > f32::NEG_INFINITY => relative(logit, max, log_sum(logits, max)),
        _ => f32::NEG_INFINITY,
    }
}

/// `ln Σ exp(logit - max)` over the possible tokens.
fn log_sum(logits: &[f32], max: f32) -> f64 {
    let possible = logits.iter().filter(|l| **l > f32::NEG_INFINITY);
    possible.map(|&l| weight(l, max, 1.0)).sum::<f64>().ln()
}

/// `ln p` of a logit.
fn relative(logit: f32, max: f32, log_sum: f64) -> f32 {
    let below = if logit == max { 0.0 } else { f64::from(logit) - f64::from(max) };
    (below - log_sum) as f32
}
