//! One conversation with a model: its tokens, its KV cache and its working memory.

mod batch;
mod generate;
mod stream;

pub use batch::Batch;
pub use generate::{CancelToken, Finish, GenerateOptions, Generation, Piece, Timings, Token};
pub use stream::TokenStream;

use smallmind_kernels::matmul::Class;

use crate::error::{Error, Result};
use crate::kv::{KvCache, KvPrecision};
use crate::model::Model;
use crate::model::forward::forward;
use crate::model::pass::Span;
use crate::model::scratch::Scratch;
use crate::profile::{Off, Probe, Stage};

/// The numeric class of a prompt's tokens. Generated tokens are always of the exact one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PrefillClass {
    /// The bits that a token has when it is generated, on every machine.
    #[default]
    Exact,
    /// Products of fewer bits, as [`Model::fast_prefill`] says: faster, deterministic in itself, other bits than the exact
    /// class. Where it says none, the exact class is used.
    Fast,
}

/// How a session is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Positions that the conversation may fill; `None` takes all the model was made for.
    pub context: Option<usize>,
    /// Tokens of one prefill pass: more is faster, and takes more working memory. Changes no bit of any result.
    pub chunk: usize,
    /// The class of prompts.
    pub prefill: PrefillClass,
    /// Storage of K and V; `None` takes F16, or F32 for a model loaded as precise.
    pub kv: Option<KvPrecision>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { context: None, chunk: 512, prefill: PrefillClass::Exact, kv: None }
    }
}

/// A conversation. Not shared: one session per conversation, any number of sessions per model.
#[derive(Debug)]
pub struct Session {
    model: Model,
    kv: KvCache,
    scratch: Scratch,
    /// All tokens; the last one may not be computed yet ([`Session::catch_up`]).
    tokens: Vec<u32>,
    context: usize,
    /// Rows of logits that the last pass left.
    logit_rows: usize,
    chunk: usize,
    /// Of prompts: it never changes, so K and V of a prefix are those of this session's other prompts.
    prompts: Class,
}

impl Session {
    /// An empty conversation. Memory for K and V is taken as the conversation grows.
    ///
    /// # Errors
    /// Where the context asked for is more than the model was made for, or a number is zero.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Session> {
        let trained = model.config().context;
        let context = options.context.unwrap_or(trained);
        if context > trained {
            return Err(Error::ContextTooLarge { asked: context, trained });
        }
        if context == 0 || options.chunk == 0 {
            return Err(Error::Parameter("the context and the prefill chunk hold at least one token".into()));
        }
        let chunk = options.chunk.min(context);
        let precision = options.kv.unwrap_or(match model.is_precise() {
            true => KvPrecision::F32,
            false => KvPrecision::I16,
        });
        Ok(Session {
            model: model.clone(),
            kv: KvCache::new(model.config(), precision, chunk),
            scratch: Scratch::new(model.config(), model.plan(), chunk, model.threads()),
            tokens: Vec::new(),
            context,
            logit_rows: 0,
            chunk,
            prompts: match options.prefill {
                PrefillClass::Fast if model.fast_prefill().is_some() => Class::Fast,
                _ => Class::Exact,
            },
        })
    }

    /// The model that the session talks to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// All tokens so far, prompt and generated.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions that the conversation may fill.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Positions still free.
    pub fn room(&self) -> usize {
        self.context - self.tokens.len()
    }

    /// Bytes of the KV cache that are taken so far.
    pub fn kv_bytes(&self) -> usize {
        self.kv.bytes()
    }

    /// Bytes of working memory that are taken so far; what no pass has touched yet is not resident.
    pub fn workspace_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    /// Makes room for `positions` more positions, so that decoding them allocates nothing.
    ///
    /// # Errors
    /// Where the system grants no more memory.
    pub(crate) fn reserve(&mut self, positions: usize) -> Result<()> {
        let total = (self.tokens.len() + positions).min(self.context);
        self.kv.reserve(total)?;
        self.scratch.reserve(self.model.config(), self.chunk.min(positions.max(1)), total, 1);
        self.tokens.reserve(total.saturating_sub(self.tokens.len()));
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.config().vocab;
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::UnknownToken { id: *id, vocab });
        }
        if tokens.len() > self.room() {
            let (tokens, context) = (self.tokens.len() + tokens.len(), self.context);
            return Err(Error::PromptTooLong { tokens, context });
        }
        Ok(())
    }

    /// Appends tokens to the conversation and computes the logits of the last one.
    ///
    /// # Errors
    /// Where there is no token, one is not in the vocabulary, they do not fit the context, or the system grants no memory
    /// for them; nothing is changed then.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        self.prefill_watched(tokens, &mut Off, &|| false)?;
        Ok(self.logits_mut())
    }

    /// [`Session::prefill`] with a probe, and given up between chunks where `cancelled` says so. Returns whether all
    /// tokens were computed.
    pub(crate) fn prefill_watched<P: Probe>(
        &mut self,
        tokens: &[u32],
        probe: &mut P,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<bool> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check(tokens)?;
        self.reserve(tokens.len())?;
        self.catch_up()?;
        let chunks = tokens.len().div_ceil(self.chunk);
        probe.begin(Stage::Prefill.into());
        let mut whole = true;
        for (i, chunk) in tokens.chunks(self.chunk).enumerate() {
            whole = !cancelled();
            if !whole {
                break;
            }
            self.pass(self.prompts, chunk, usize::from(i + 1 == chunks), probe);
        }
        probe.end();
        Ok(whole)
    }

    /// Computes the last token of a generation, which was sampled and never needed until now.
    fn catch_up(&mut self) -> Result<()> {
        if self.kv.len() < self.tokens.len()
            && let Some(token) = self.tokens.pop()
        {
            self.reserve(1)?;
            self.pass(Class::Exact, &[token], 0, &mut Off);
        }
        Ok(())
    }

    /// One forward pass over tokens that were checked and have room.
    pub(crate) fn pass<P: Probe>(&mut self, class: Class, tokens: &[u32], logits: usize, probe: &mut P) {
        let mut spans = [Span { tokens, kv: &mut self.kv, logits }];
        forward(self.model.pass(class), &mut self.scratch, &mut spans, probe);
        self.logit_rows = logits;
        self.tokens.extend_from_slice(tokens);
    }

    /// Appends a token that was generated and computes the logits behind it.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<&mut [f32]> {
        self.check(&[token])?;
        self.reserve(1)?;
        self.catch_up()?;
        self.pass(Class::Exact, &[token], 1, &mut Off);
        Ok(self.logits_mut())
    }

    /// Appends tokens and computes the logits of each of the last `rows` of them: `[rows, vocab]`.
    ///
    /// # Errors
    /// As [`Session::prefill`], and where `rows` is more than the tokens or than one prefill chunk.
    pub fn score(&mut self, tokens: &[u32], rows: usize) -> Result<&mut [f32]> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check(tokens)?;
        if rows > tokens.len().min(self.chunk) {
            return Err(Error::Parameter(format!(
                "logits of {rows} rows, and one pass has {}",
                tokens.len().min(self.chunk)
            )));
        }
        let (ahead, last) = tokens.split_at(tokens.len() - rows);
        if !ahead.is_empty() {
            self.prefill(ahead)?;
        }
        if last.is_empty() {
            self.logit_rows = 0;
            return Ok(self.logits_mut());
        }
        self.reserve(last.len())?;
        self.catch_up()?;
        self.scratch.reserve(self.model.config(), last.len(), self.tokens.len() + last.len(), rows);
        self.pass(self.prompts, last, rows, &mut Off);
        Ok(self.logits_mut())
    }

    /// The logits that the last pass left, `[rows, vocab]`; empty before the first.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        let n = self.logit_rows * self.model.config().vocab;
        &mut self.scratch.logits[..n]
    }

    /// Forgets the conversation from token `len` on (or all of it, where windowed layers no longer hold the past that
    /// the rest would need). Returns how many tokens are left; the caller prefills the others again.
    pub fn truncate(&mut self, len: usize) -> usize {
        if len < self.tokens.len() {
            let left = self.kv.truncate(len);
            self.tokens.truncate(left);
        }
        self.logit_rows = 0;
        self.tokens.len()
    }
}
