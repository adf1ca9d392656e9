//! Speed by llama-bench's method: arbitrary tokens, nothing sampled, a first run that is not counted.

mod format;
mod row;

pub(crate) use format::csv;
pub use format::{Format, render};
pub use row::SpeedRow;

use std::time::{Duration, Instant};

use smallmind::{Batch, CancelToken, KvPrecision, Model, PrefillClass, Session, SessionOptions};

use crate::measure::clock::{Repeats, repeat};
use crate::{Error, Result};

/// One row: a prompt, a generation, or one after the other, behind `depth` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that are generated.
    pub generate: usize,
    /// Tokens that are there before.
    pub depth: usize,
    /// Sequences side by side, each with all of the above.
    pub batch: usize,
}

impl Test {
    /// Tokens that are measured, of all sequences.
    pub fn tokens(self) -> usize {
        (self.prompt + self.generate).saturating_mul(self.batch)
    }

    /// llama-bench's name of the row, with the sequences where there are several.
    pub fn name(self) -> String {
        let kind = match (self.prompt, self.generate) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generate) => format!("tg{generate}"),
            (prompt, generate) => format!("pp{prompt}+tg{generate}"),
        };
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        let batch = if self.batch > 1 { format!(" x{}", self.batch) } else { String::new() };
        format!("{kind}{batch}{depth}")
    }

    /// Positions of each sequence.
    pub fn context(self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.generate)
    }
}

/// What to measure: every combination, as llama-bench has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    /// Prompt lengths (`-p`); 0 is none.
    pub prompts: Vec<usize>,
    /// Generated tokens (`-n`); 0 is none.
    pub generations: Vec<usize>,
    /// Prompts followed by generations (`-pg`).
    pub pairs: Vec<(usize, usize)>,
    /// `-d`.
    pub depths: Vec<usize>,
    /// `-b`.
    pub batches: Vec<usize>,
}

impl Grid {
    /// The tests, in llama-bench's order.
    pub fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for &depth in &self.depths {
            for &batch in &self.batches {
                let test = |prompt: usize, generate: usize| Test { prompt, generate, depth, batch };
                tests.extend(self.prompts.iter().map(|n| test(*n, 0)));
                tests.extend(self.generations.iter().map(|n| test(0, *n)));
                tests.extend(self.pairs.iter().map(|(prompt, generate)| test(*prompt, *generate)));
            }
        }
        tests.retain(|test| test.tokens() > 0);
        tests
    }
}

/// How sessions are laid out and how often each test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Runs.
    pub repeats: Repeats,
    /// Tokens of one prefill pass.
    pub chunk: usize,
    /// The numeric class of prompts.
    pub prefill: PrefillClass,
    /// Storage of K and V; `None` takes the model's usual.
    pub kv: Option<KvPrecision>,
}

/// The time of each repetition; fewer where `cancel` stopped it.
///
/// # Errors
/// Where the test does not fit the model's context.
pub fn measure(model: &Model, test: Test, settings: Settings, cancel: &CancelToken) -> Result<Vec<Duration>> {
    let context = test.context();
    let options = SessionOptions {
        context: Some(context),
        chunk: settings.chunk,
        prefill: settings.prefill,
        kv: settings.kv,
    };
    let sessions: smallmind::Result<Vec<Session>> =
        (0..test.batch).map(|_| Session::new(model, &options)).collect();
    let mut sessions = sessions?;
    let mut batch = Batch::new(model, test.batch)?;
    let tokens = arbitrary_tokens(model, context);
    let (before, measured) = tokens.split_at(test.depth);
    let (prompt, generation) = measured.split_at(test.prompt);
    repeat(settings.repeats, cancel, || {
        for session in &mut sessions {
            // A window may have passed what the cut would need: then all of it is computed again.
            let left = session.truncate(before.len().min(session.tokens().len()));
            if left < before.len() {
                session.prefill(&before[left..])?;
            }
        }
        let start = Instant::now();
        if !prompt.is_empty() {
            for session in &mut sessions {
                session.prefill(prompt)?;
            }
        }
        generate(&mut sessions, &mut batch, generation)?;
        Ok::<_, Error>(start.elapsed())
    })
}

/// Appends the tokens one at a time to every session.
fn generate(sessions: &mut [Session], batch: &mut Batch, tokens: &[u32]) -> Result<()> {
    if let [session] = sessions {
        for token in tokens {
            session.decode(*token)?;
        }
        return Ok(());
    }
    let mut step = vec![0; sessions.len()];
    for token in tokens {
        step.fill(*token);
        batch.decode(sessions, &step)?;
    }
    Ok(())
}

/// Tokens all over the vocabulary, the same every time: BOS first, then a multiplicative sequence.
pub fn arbitrary_tokens(model: &Model, count: usize) -> Vec<u32> {
    let vocab = u64::try_from(model.config().vocab).unwrap_or(u64::MAX).max(1);
    let token = |i: u64| u32::try_from(((i * 2_654_435_761) >> 7) % vocab).unwrap_or(0);
    let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
    let all = bos.into_iter().chain((1u64..1 << 31).map(token));
    all.take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_as_llama_bench_names_them() {
        let name = |prompt, generate, depth, batch| Test { prompt, generate, depth, batch }.name();
        assert_eq!(name(512, 0, 0, 1), "pp512");
        assert_eq!(name(0, 128, 64, 1), "tg128 @ d64");
        assert_eq!(name(512, 128, 0, 1), "pp512+tg128");
        assert_eq!(name(0, 8, 2, 4), "tg8 x4 @ d2");
    }

    #[test]
    fn a_grid_is_every_combination_without_the_empty_ones() {
        let grid = Grid {
            prompts: vec![16, 0],
            generations: vec![4],
            pairs: vec![(8, 2)],
            depths: vec![0, 5],
            batches: vec![1, 2],
        };
        let names: Vec<String> = grid.tests().into_iter().map(Test::name).collect();
        assert_eq!(names.len(), 12);
        assert_eq!(names[..4], ["pp16", "tg4", "pp8+tg2", "pp16 x2"]);
        assert_eq!(names[11], "pp8+tg2 x2 @ d5");
        assert_eq!(Grid { prompts: vec![0], ..grid.clone() }.tests().len(), 8);
    }
}
