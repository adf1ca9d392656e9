//! Sampling: logits of one position to the next token's id. Knows no model and no text; after a [`Sampler`] is made,
//! it allocates nothing.
//!
//! The chain, in llama.cpp's default order:
//!
//! 1. logit bias, then repeat, presence and frequency penalties over the last `repeat_last_n` tokens;
//! 2. top-k; 3. top-p (of the distribution at temperature 1 that top-k left); 4. min-p;
//! 5. temperature; 6. one draw.
//!
//! Temperature 0 is greedy: after step 1 the token of the largest logit, the lowest id among equals. A seed fixes
//! the random stream for good: see `rng.rs` for its definition. Each drawn token takes exactly one number from it,
//! and candidates are passed in order of id, so the text of a seed does not depend on how candidates were found.

mod filters;
mod logprobs;
mod penalties;
pub(crate) mod rng;

#[cfg(test)]
mod tests;

pub use logprobs::{TokenLogprob, logprob, top_logprobs};

use filters::{Candidate, weight};
use penalties::Penalties;
use rng::Rng;
use std::hash::{BuildHasher, Hasher};

/// The longest history that penalties may look at.
pub const MAX_REPEAT_LAST_N: usize = 1 << 20;

/// How to choose a token. Ranges are checked by [`SamplingParams::validate`].
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides logits before the draw: 0 is greedy, 1 the model's own distribution. 0 to 100.
    pub temperature: f32,
    /// Only the `k` most likely tokens; 0 is off.
    pub top_k: usize,
    /// Only the fewest most likely tokens whose probabilities sum to at least this; 1 is off. 0 to 1.
    pub top_p: f32,
    /// Only tokens at least this times as probable as the most likely one; 0 is off. 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies other logits of recent tokens; 1 is off. 0.01 to 100.
    pub repeat_penalty: f32,
    /// How many of the last tokens, prompt included, the three penalties look at; 0 turns them off.
    /// At most [`MAX_REPEAT_LAST_N`].
    pub repeat_last_n: usize,
    /// Taken off the logit of every recent token; 0 is off. -100 to 100.
    pub presence_penalty: f32,
    /// Taken off the logit of a recent token for each time it occurs; 0 is off. -100 to 100.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens: -1000 to 1000, or -inf, which bans the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Start of the random stream; `None` takes a different one each time.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    /// llama.cpp's defaults: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalties over 64 tokens.
    fn default() -> Self {
        SamplingParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// Why nothing can be sampled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A parameter outside its range, or NaN.
    #[error("{field} is {value}, but must be {allowed}")]
    OutOfRange {
        /// Name of the parameter, as in [`SamplingParams`].
        field: &'static str,
        /// The value given.
        value: f64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A bias for a token that does not exist.
    #[error("logit_bias names token {id}, but the vocabulary has {vocab} tokens: give an id below that")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Tokens in the vocabulary.
        vocab: usize,
    },
    /// Logits of another vocabulary than the sampler was made for.
    #[error(
        "there are {found} logits, but the vocabulary has {expected} tokens: pass the logits of one position"
    )]
    WrongLength {
        /// Tokens in the vocabulary.
        expected: usize,
        /// Logits passed.
        found: usize,
    },
    /// All logits are NaN or -inf.
    #[error(
        "no token can be sampled because all logits are NaN or -inf: check the model file, the logit bias and the \
         constraint on the output"
    )]
    NoCandidate,
}

impl SamplingParams {
    /// The most likely token each time, without penalties: deterministic.
    pub fn greedy() -> Self {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Checks every parameter.
    ///
    /// # Errors
    /// The first parameter outside its documented range or NaN, by name.
    pub fn validate(&self) -> Result<(), SampleError> {
        let check = |field, value: f32, low: f32, high: f32, allowed| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(SampleError::OutOfRange { field, value: f64::from(value), allowed })
        };
        check("temperature", self.temperature, 0.0, 100.0, "from 0 (greedy) to 100")?;
        check("top_p", self.top_p, 0.0, 1.0, "from 0 to 1 (off)")?;
        check("min_p", self.min_p, 0.0, 1.0, "from 0 (off) to 1")?;
        check("repeat_penalty", self.repeat_penalty, 0.01, 100.0, "from 0.01 to 100; 1 is off")?;
        check("presence_penalty", self.presence_penalty, -100.0, 100.0, "from -100 to 100; 0 is off")?;
        check("frequency_penalty", self.frequency_penalty, -100.0, 100.0, "from -100 to 100; 0 is off")?;
        if self.repeat_last_n > MAX_REPEAT_LAST_N {
            let (field, value) = ("repeat_last_n", self.repeat_last_n as f64);
            return Err(SampleError::OutOfRange { field, value, allowed: "at most 1048576 tokens" });
        }
        for &(_, bias) in self.logit_bias.iter().filter(|(_, bias)| *bias != f32::NEG_INFINITY) {
            check("logit_bias", bias, -1000.0, 1000.0, "from -1000 to 1000, or -inf to ban the token")?;
        }
        Ok(())
    }
}

/// Draws the tokens of one sequence: parameters, history, random stream and the buffers for them.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    vocab: usize,
    seed: u64,
    rng: Rng,
    penalties: Penalties,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for one sequence over `vocab` tokens. Without a seed in `params` it takes one from the operating
    /// system's entropy (through the standard library's hasher); [`Sampler::seed`] tells it.
    ///
    /// # Errors
    /// A parameter is out of range, or a biased token is not in the vocabulary.
    pub fn new(params: &SamplingParams, vocab: usize) -> Result<Sampler, SampleError> {
        let fresh = || std::hash::RandomState::new().build_hasher().finish();
        Sampler::with_seed(params, vocab, params.seed.unwrap_or_else(fresh))
    }

    /// As [`Sampler::new`], with this seed whatever `params` says.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn with_seed(params: &SamplingParams, vocab: usize, seed: u64) -> Result<Sampler, SampleError> {
        params.validate()?;
        if let Some(&(id, _)) = params.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(SampleError::UnknownToken { id, vocab });
        }
        let candidates =
            if params.temperature == 0.0 { 0 } else { filters::top_k_capacity(params.top_k, vocab) };
        Ok(Sampler {
            params: params.clone(),
            vocab,
            seed,
            rng: Rng::new(seed),
            penalties: Penalties::new(params),
            candidates: Vec::with_capacity(candidates),
        })
    }

    /// The seed in use: passing it in [`SamplingParams::seed`] draws the same tokens again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a token to the history that penalties look at: each of the prompt and each that was sampled.
    pub fn accept(&mut self, token: u32) {
        self.penalties.accept(token);
    }

    /// The next token by the chain of this module. Does not [`accept`](Sampler::accept) it.
    ///
    /// `logits` is `[vocab]`; bias and penalties are left in it. NaN logits are never chosen.
    ///
    /// # Errors
    /// `logits` has another length, or no logit is above -inf.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, SampleError> {
        if logits.len() != self.vocab {
            return Err(SampleError::WrongLength { expected: self.vocab, found: logits.len() });
        }
        penalties::add_bias(&self.params.logit_bias, logits);
        self.penalties.apply(logits);
        if self.params.temperature == 0.0 {
            return argmax(logits).ok_or(SampleError::NoCandidate);
        }
        self.filter(logits);
        self.draw().ok_or(SampleError::NoCandidate)
    }

    /// Steps 2 to 4: leaves the tokens that may be drawn in `candidates`, in order of id.
    fn filter(&mut self, logits: &[f32]) {
        let SamplingParams { top_k, top_p, min_p, .. } = self.params;
        filters::top_k(logits, top_k, &mut self.candidates);
        let max = filters::largest(&self.candidates);
        if top_p < 1.0 {
            filters::top_p(&mut self.candidates, top_p, max);
        }
        if min_p > 0.0 {
            filters::min_p(&mut self.candidates, min_p, max);
        }
        if top_k > 0 || top_p < 1.0 {
            filters::by_id(&mut self.candidates, logits);
        }
    }

    /// Steps 5 and 6: a candidate with the probability of its softmax at the temperature.
    fn draw(&mut self) -> Option<u32> {
        let max = filters::largest(&self.candidates);
        let weigh = |c: &Candidate| weight(c.logit, max, self.params.temperature);
        let total: f64 = self.candidates.iter().map(weigh).sum();
        let mut left = self.rng.unit() * total;
        let mut last = None;
        for candidate in &self.candidates {
            let weight = weigh(candidate);
            if weight > 0.0 {
                last = Some(candidate.id);
            }
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        // Rounding may leave a remainder; then it is the last token that has any probability.
        last
    }
}

/// Id of the largest logit, the lowest among equals; `None` where all are NaN or -inf.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut most = f32::NEG_INFINITY;
    for (i, some) in logits.chunks(ARGMAX_AT_ONCE).enumerate() {
        // Without a branch for each, which the compiler makes vectors of; seldom true.
        if !some.iter().fold(false, |any, &logit| any | (logit > most)) {
            continue;
        }
        for (j, &logit) in some.iter().enumerate() {
            if logit > most {
                (most, best) = (logit, Some((i * ARGMAX_AT_ONCE + j) as u32));
            }
        }
    }
    best
}

/// Logits that are looked at together.
const ARGMAX_AT_ONCE: usize = 64;
