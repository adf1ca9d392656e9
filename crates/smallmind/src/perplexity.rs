//! Perplexity of a text, by llama-perplexity's method: windows of the context side by side, the second half of each
//! scored, so that every scored token has at least half a window behind it.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::logprob;
use crate::session::{Session, SessionOptions};

/// Rows of logits computed at once: 32 rows of a vocabulary of 262,144 are 34 MB.
const ROWS: usize = 32;

/// A text's perplexity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// exp(mean negative log-likelihood).
    pub perplexity: f64,
    /// Its standard error.
    pub stderr: f64,
    /// Tokens scored.
    pub tokens: usize,
}

/// Scores `tokens` (the text's, with BOS where the tokenizer adds one) in windows of `context` tokens, in sessions of
/// these `options` but for their context. `progress` is told windows done, of how many, and the perplexity so far; it returns whether to go on.
///
/// # Errors
/// Where the text is shorter than two windows, or the context too small or too large.
pub fn perplexity(
    model: &Model,
    tokens: &[u32],
    context: usize,
    options: &SessionOptions,
    progress: &mut dyn FnMut(usize, usize, f64) -> bool,
) -> Result<Perplexity> {
    if context < 4 {
        return Err(Error::Parameter(format!(
            "a window of {context} tokens scores nothing: take at least 4"
        )));
    }
    if tokens.len() < 2 * context {
        let message = format!(
            "the text has {} tokens, and two windows of {context} are needed: take a longer text or a smaller context",
            tokens.len()
        );
        return Err(Error::Parameter(message));
    }
    let vocab = model.config().vocab;
    let options = SessionOptions { context: Some(context), ..options.clone() };
    let mut session = Session::new(model, &options)?;
    let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
    let windows = tokens.len() / context;
    let first = context / 2;
    let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0usize);
    for (done, window) in tokens.chunks_exact(context).enumerate() {
        let mut window = window.to_vec();
        if let (Some(bos), Some(start)) = (bos, window.first_mut()) {
            *start = bos;
        }
        session.truncate(0);
        session.prefill(&window[..first])?;
        let mut at = first;
        while at < context - 1 {
            let rows = ROWS.min(context - 1 - at);
            let logits = session.score(&window[at..at + rows], rows)?;
            for (row, next) in logits.chunks_exact(vocab).zip(&window[at + 1..]) {
                let nll = -f64::from(logprob(row, *next));
                sum += nll;
                squares += nll * nll;
                count += 1;
            }
            at += rows;
        }
        if !progress(done + 1, windows, (sum / count as f64).exp()) {
            break;
        }
    }
    let n = count as f64;
    let mean = sum / n;
    let perplexity = mean.exp();
    let variance = (squares / n - mean * mean).max(0.0);
    Ok(Perplexity { perplexity, stderr: perplexity * (variance / (n - 1.0)).sqrt(), tokens: count })
}
