//! Several conversations decoded together: weights are read once for all of them. Each gets the bits that it would get
//! alone.

use smallmind_kernels::matmul::Class;

use super::Session;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::forward::forward;
use crate::model::pass::Span;
use crate::model::scratch::Scratch;
use crate::profile::{Off, Probe, Stage};

/// Working memory for decoding up to so many sessions of one model together.
#[derive(Debug)]
pub struct Batch {
    model: Model,
    scratch: Scratch,
    size: usize,
}

impl Batch {
    /// For up to `size` sessions at once.
    ///
    /// # Errors
    /// Where `size` is zero.
    pub fn new(model: &Model, size: usize) -> Result<Batch> {
        if size == 0 {
            return Err(Error::Parameter("a batch holds at least one session".into()));
        }
        Ok(Batch {
            model: model.clone(),
            scratch: Scratch::new(model.config(), model.plan(), size, model.threads()),
            size,
        })
    }

    /// Appends one token to each session, `tokens[i]` to `sessions[i]`, and returns their logits: `[sessions, vocab]`.
    ///
    /// # Errors
    /// Where there are no sessions or more than the batch holds, one is of another model, a context is full, or a token
    /// is not in the vocabulary; nothing is changed then.
    pub fn decode(&mut self, sessions: &mut [Session], tokens: &[u32]) -> Result<&mut [f32]> {
        self.decode_watched(sessions, tokens, &mut Off)
    }

    /// [`Batch::decode`] under a probe.
    ///
    /// # Errors
    /// As [`Batch::decode`].
    pub fn decode_watched<P: Probe>(
        &mut self,
        sessions: &mut [Session],
        tokens: &[u32],
        probe: &mut P,
    ) -> Result<&mut [f32]> {
        if sessions.is_empty() || sessions.len() > self.size || sessions.len() != tokens.len() {
            let message = format!(
                "{} tokens for {} sessions in a batch of {}",
                tokens.len(),
                sessions.len(),
                self.size
            );
            return Err(Error::Parameter(message));
        }
        if sessions.iter().any(|s| !s.model.is(&self.model)) {
            return Err(Error::Parameter("a session of another model is in the batch".into()));
        }
        for (session, token) in sessions.iter().zip(tokens) {
            session.check(std::slice::from_ref(token))?;
        }
        let longest = sessions.iter().map(|s| s.tokens.len()).max().unwrap_or(0) + 1;
        self.scratch.reserve(self.model.config(), sessions.len(), longest, sessions.len());
        for session in sessions.iter_mut() {
            session.catch_up()?;
            session.kv.reserve(session.tokens.len() + 1)?;
        }
        let mut spans: Vec<Span<'_>> = sessions
            .iter_mut()
            .zip(tokens)
            .map(|(s, token)| Span { tokens: std::slice::from_ref(token), kv: &mut s.kv, logits: 1 })
            .collect();
        probe.begin(Stage::Decode.into());
        let logits = forward(self.model.pass(Class::Exact), &mut self.scratch, &mut spans, probe);
        probe.end();
        for (session, token) in sessions.iter_mut().zip(tokens) {
            session.tokens.push(*token);
            session.logit_rows = 0;
        }
        Ok(logits)
    }
}
