//! Logit bias and the penalties on tokens that occurred lately. Keeps the history, draws nothing.

use super::SamplingParams;

/// The last `repeat_last_n` tokens and what they cost.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    repeat: f32,
    presence: f32,
    frequency: f32,
    /// A ring: once full, the oldest token is at `oldest`.
    recent: Vec<u32>,
    oldest: usize,
    last_n: usize,
    /// `recent` in order of id, made for each token to be sampled.
    sorted: Vec<u32>,
}

impl Penalties {
    /// No history yet. Keeps none where no penalty is on.
    pub(super) fn new(params: &SamplingParams) -> Penalties {
        let (repeat, presence, frequency) =
            (params.repeat_penalty, params.presence_penalty, params.frequency_penalty);
        let off = repeat == 1.0 && presence == 0.0 && frequency == 0.0;
        let last_n = if off { 0 } else { params.repeat_last_n };
        Penalties {
            repeat,
            presence,
            frequency,
            recent: Vec::with_capacity(last_n),
            oldest: 0,
            last_n,
            sorted: Vec::with_capacity(last_n),
        }
    }

    /// Remembers a token, forgets the oldest.
    pub(super) fn accept(&mut self, token: u32) {
        if self.recent.len() < self.last_n {
            self.recent.push(token);
        } else if let Some(oldest) = self.recent.get_mut(self.oldest) {
            *oldest = token;
            self.oldest = (self.oldest + 1) % self.last_n;
        }
    }

    /// Lowers the logits of remembered tokens. For a token that occurs `n` times: a positive logit is divided by
    /// the repeat penalty, another multiplied (CTRL, Keskar et al. 2019), then `presence + n * frequency` is taken
    /// off (OpenAI's definition, counted over the same window).
    pub(super) fn apply(&mut self, logits: &mut [f32]) {
        self.sorted.clear();
        self.sorted.extend_from_slice(&self.recent);
        self.sorted.sort_unstable();
        for same in self.sorted.chunk_by(|a, b| a == b) {
            // A token outside the vocabulary has no logit to lower.
            let Some(logit) = same.first().and_then(|id| logits.get_mut(*id as usize)) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repeat } else { *logit * self.repeat };
            *logit -= self.presence + same.len() as f32 * self.frequency;
        }
    }
}

/// Adds each bias to its token's logit; -inf bans a token.
pub(super) fn add_bias(bias: &[(u32, f32)], logits: &mut [f32]) {
    for &(id, bias) in bias {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += bias;
        }
    }
}
