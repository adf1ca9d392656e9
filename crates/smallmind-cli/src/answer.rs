//! The answer of `run` as it comes: streamed, or kept for the JSON document. Allocates before decoding, not during it.

use anyhow::Result;
use smallmind::{Generation, Model, TokenLogprob};

use smallmind::profile::Allocated;

use crate::alloc;
use crate::output::LogprobDocument;
use crate::terminal::Pieces;

/// Memory set aside before decoding for what `--json` reports, at most.
const RESERVE_BYTES: usize = 64 << 20;

/// What was generated. Its memory is set aside before decoding, so that storing a token allocates nothing.
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    logprobs: Vec<TokenLogprob>,
    /// Where each token's share of `logprobs` ends.
    ends: Vec<usize>,
    pieces: Option<Pieces>,
    /// Heap allocations from the first token on.
    pub(crate) counted: Allocated,
}

impl Answer {
    /// Room for `limit` tokens with `logprobs` of the most likely each; streams unless `json`.
    pub(crate) fn new(limit: usize, logprobs: usize, json: bool) -> Answer {
        let bounded = |count: usize, bytes: usize| count.min(RESERVE_BYTES / bytes);
        let watched = if logprobs > 0 { limit } else { 0 };
        Answer {
            tokens: Vec::with_capacity(bounded(limit, 4)),
            text: String::with_capacity(if json { bounded(limit.saturating_mul(16), 1) + 4096 } else { 0 }),
            logprobs: Vec::with_capacity(bounded(watched.saturating_mul(logprobs), 8)),
            ends: Vec::with_capacity(bounded(watched, 8)),
            pieces: (!json).then(Pieces::new),
            counted: Allocated::default(),
        }
    }

    /// The most likely tokens of each step.
    pub(crate) fn logprob_documents(&self, model: &Model) -> Vec<Vec<LogprobDocument>> {
        let token = |id| String::from_utf8_lossy(model.tokenizer().piece_special(id)).into_owned();
        let document =
            |t: &TokenLogprob| LogprobDocument { id: t.id, token: token(t.id), logprob: t.logprob };
        let mut start = 0;
        let share = |end: &usize| {
            let of_token = self.logprobs[start..*end].iter().map(document).collect();
            start = *end;
            of_token
        };
        self.ends.iter().map(share).collect()
    }

    /// Generates to the end; counts allocations from the first token on.
    ///
    /// # Errors
    /// What the generation reports, and a stdout that is closed.
    pub(crate) fn receive(&mut self, generation: &mut Generation<'_>) -> Result<()> {
        let result = self.tokens(generation);
        self.counted = alloc::unwatch();
        result
    }

    fn tokens(&mut self, generation: &mut Generation<'_>) -> Result<()> {
        while let Some(piece) = generation.next_piece()? {
            self.tokens.push(piece.id);
            match &mut self.pieces {
                Some(pieces) => pieces.write(piece.text)?,
                None => self.text.push_str(piece.text),
            }
            if self.ends.capacity() > 0 {
                self.logprobs.extend_from_slice(piece.logprobs);
                self.ends.push(self.logprobs.len());
            }
            if self.tokens.len() == 1 {
                alloc::watch();
            }
        }
        match self.pieces.take() {
            Some(pieces) => Ok(pieces.finish()?),
            None => Ok(()),
        }
    }
}
