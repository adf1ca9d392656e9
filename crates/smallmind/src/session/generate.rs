//! Generation: the loop of sample, detokenize, decode, one token at a time and without allocating.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use smallmind_text::TextStream;

use super::Session;
use smallmind_kernels::matmul::Class;

use crate::error::{Error, Result};
use crate::profile::{Off, Probe, Stage};
use crate::sample::{Sampler, SamplingParams, TokenLogprob, top_logprobs};

/// Positions that are reserved ahead of a generation without a limit.
const RESERVE_AHEAD: usize = 2048;

/// Stops a generation from elsewhere: between tokens, and between the chunks of a prefill.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks the generation to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens; `None` goes on until the model ends its answer or the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer; never part of it, even when they span tokens.
    pub stop: Vec<String>,
    /// Most likely tokens reported with each token, with the log-probabilities of the unmodified distribution.
    pub logprobs: usize,
    /// Goes on after the model ends its answer.
    pub ignore_eos: bool,
    /// Keeps control tokens in the text.
    pub special: bool,
    /// Stops from elsewhere.
    pub cancel: CancelToken,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its answer, or a stop text came.
    Stop,
    /// The limit of tokens, or the end of the context.
    Length,
    /// Asked to stop.
    Cancelled,
}

impl Finish {
    /// The word of the field's interfaces.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// One generated token, borrowed from the generation.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The token; it has no text where it ends the answer.
    pub id: u32,
    /// Text that became whole with it: never half a character, nothing of a stop text.
    pub text: &'a str,
    /// The most likely tokens, where asked for.
    pub logprobs: &'a [TokenLogprob],
}

/// One generated token, owned.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// See [`Piece::id`].
    pub id: u32,
    /// See [`Piece::text`].
    pub text: String,
    /// See [`Piece::logprobs`].
    pub logprobs: Vec<TokenLogprob>,
}

/// How long the parts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// The prompt's prefill.
    pub prompt: Duration,
    /// From the prompt's arrival to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// A generation under way: an iterator of tokens. Dropping it leaves the session with what was computed.
#[derive(Debug)]
pub struct Generation<'s, P: Probe = Off> {
    session: &'s mut Session,
    options: GenerateOptions,
    probe: P,
    sampler: Sampler,
    text: TextStream,
    out: String,
    logprobs: Vec<TokenLogprob>,
    /// Sampled, and not yet computed.
    pending: Option<u32>,
    generated: usize,
    finish: Option<Finish>,
    started: Instant,
    timings: Timings,
}

impl Session {
    /// Appends a prompt and generates what follows. The prompt is prefilled before this returns.
    ///
    /// # Errors
    /// Where the prompt is empty or does not fit, or a sampling parameter is out of range.
    pub fn generate(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Generation<'_>> {
        self.generate_watched(prompt, options, Off)
    }

    /// [`Session::generate`] under a probe.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_watched<P: Probe>(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut probe: P,
    ) -> Result<Generation<'_, P>> {
        let started = Instant::now();
        let vocab = self.model.config().vocab;
        let mut sampler = Sampler::new(&options.sampling, vocab)?;
        self.check(prompt)?;
        let ahead = options.max_tokens.unwrap_or(usize::MAX).min(RESERVE_AHEAD);
        self.reserve(prompt.len().saturating_add(ahead))?;
        self.tokens.iter().chain(prompt).for_each(|t| sampler.accept(*t));
        let cancel = options.cancel.clone();
        let whole = self.prefill_watched(prompt, &mut probe, &|| cancel.is_cancelled())?;
        let mut text = TextStream::new(options.stop.clone());
        let mut out = String::with_capacity(1024);
        // Grows the stream's buffers now and not at the first long piece; to finish it makes it as new.
        let longest = options.stop.iter().map(String::len).max().unwrap_or(0);
        text.push_into(&vec![b' '; longest + 256], &mut out);
        text.finish_into(&mut out);
        out.clear();
        Ok(Generation {
            session: self,
            options: options.clone(),
            probe,
            sampler,
            text,
            out,
            logprobs: Vec::with_capacity(options.logprobs),
            pending: None,
            generated: 0,
            finish: (!whole).then_some(Finish::Cancelled),
            started,
            timings: Timings { prompt: started.elapsed(), ..Timings::default() },
        })
    }
}

impl<P: Probe> Generation<'_, P> {
    /// The next token, or `None` at the end. Allocates nothing once the first tokens are through.
    ///
    /// # Errors
    /// Where the model's output is not a number.
    pub fn next_piece(&mut self) -> Result<Option<Piece<'_>>> {
        if self.finish.is_some() {
            return Ok(None);
        }
        self.out.clear();
        if self.options.cancel.is_cancelled() {
            return Ok(self.end(Finish::Cancelled, None));
        }
        if self.options.max_tokens.is_some_and(|max| self.generated >= max) {
            return Ok(self.end(Finish::Length, None));
        }
        if let Some(token) = self.pending {
            if self.session.room() == 0 {
                return Ok(self.end(Finish::Length, None));
            }
            self.session.reserve(1)?;
            self.probe.begin(Stage::Decode.into());
            self.session.pass(Class::Exact, &[token], 1, &mut self.probe);
            self.probe.end();
            self.pending = None;
        }
        let logits = self.session.logits_mut();
        if self.options.logprobs > 0 {
            top_logprobs(logits, self.options.logprobs, &mut self.logprobs);
        }
        let sampler = &mut self.sampler;
        let id = self.probe.stage(Stage::Sample.into(), || {
            let id = sampler.sample(logits).map_err(Error::from)?;
            sampler.accept(id);
            Ok::<_, Error>(id)
        })?;
        self.generated += 1;
        let elapsed = self.started.elapsed();
        if self.generated == 1 {
            self.timings.first_token = elapsed;
        }
        self.timings.decode = elapsed.saturating_sub(self.timings.first_token);
        self.pending = Some(id);
        let tokenizer = self.session.model.tokenizer();
        if tokenizer.is_end_of_generation(id) && !self.options.ignore_eos {
            return Ok(self.end(Finish::Stop, Some(id)));
        }
        let (text, out, special) = (&mut self.text, &mut self.out, self.options.special);
        let stopped = self.probe.stage(Stage::Detokenize.into(), || match special {
            true => text.push_into(tokenizer.piece_special(id), out),
            false => text.push_into(tokenizer.piece(id), out),
        });
        if stopped {
            self.finish = Some(Finish::Stop);
        } else if self.options.max_tokens.is_some_and(|max| self.generated >= max) || self.session.room() == 0
        {
            return Ok(self.end(Finish::Length, Some(id)));
        }
        Ok(Some(Piece { id, text: &self.out, logprobs: &self.logprobs }))
    }

    /// Ends: what the text stream held back comes with the last token.
    fn end(&mut self, finish: Finish, last: Option<u32>) -> Option<Piece<'_>> {
        self.finish = Some(finish);
        self.text.finish_into(&mut self.out);
        last.map(|id| Piece { id, text: &self.out, logprobs: &self.logprobs })
    }

    /// Why it ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<Finish> {
        self.finish
    }

    /// Tokens generated so far, the one that ended the answer included.
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// How long the parts took so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The seed that the sampling used.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// The probe.
    pub fn probe(&self) -> &P {
        &self.probe
    }
}

impl<P: Probe> Drop for Generation<'_, P> {
    /// The last sampled token belongs to the conversation: the next prompt follows it, and computes it first.
    fn drop(&mut self) {
        if let Some(token) = self.pending.take()
            && self.session.room() > 0
            && self.finish != Some(Finish::Cancelled)
        {
            self.session.tokens.push(token);
        }
    }
}

impl<P: Probe> Iterator for Generation<'_, P> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        let piece = self.next_piece().transpose()?;
        Some(piece.map(|p| Token { id: p.id, text: p.text.to_owned(), logprobs: p.logprobs.to_vec() }))
    }
}
