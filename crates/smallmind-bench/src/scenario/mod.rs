//! Scenarios: what a user waits for, each with warm-up, iterations and the order statistics of its samples.

mod cold;
mod memory;
mod serving;

use std::process::Command;

use smallmind::profile::Allocated;
use smallmind::{
    CancelToken, GenerateOptions, Gguf, LoadOptions, Model, SamplingParams, Session, SessionOptions,
};

use crate::measure::clock::Repeats;
use crate::results::Row;
use crate::{Error, Result};

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// From the prompt's arrival to the first token, model loaded, by prompt length.
    Ttft,
    /// Tokens a second once generation is under way.
    Steady,
    /// The time from one token to the next, every one of them.
    Latency,
    /// What the process holds: loaded, with a context, at its peak.
    Memory,
    /// What is allocated on the heap: loading, prefilling, decoding.
    Allocations,
    /// Sequences decoded side by side: 1, 2, 4, 8, 16.
    Concurrency,
    /// From the start of the process to the end of its first token.
    ColdStart,
}

impl Scenario {
    /// Every one.
    pub const ALL: [Scenario; 7] = [
        Scenario::Ttft,
        Scenario::Steady,
        Scenario::Latency,
        Scenario::Memory,
        Scenario::Allocations,
        Scenario::Concurrency,
        Scenario::ColdStart,
    ];

    /// What `--scenario` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Ttft => "ttft",
            Scenario::Steady => "steady",
            Scenario::Latency => "latency",
            Scenario::Memory => "memory",
            Scenario::Allocations => "allocations",
            Scenario::Concurrency => "concurrency",
            Scenario::ColdStart => "cold-start",
        }
    }

    /// The scenario of that name.
    pub fn find(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// A program's counting allocator.
#[derive(Clone, Copy, Debug)]
pub struct AllocationCounter {
    /// Counts from zero from now on.
    pub start: fn(),
    /// Stops counting, and tells.
    pub stop: fn() -> Allocated,
}

/// What is measured, and how.
pub struct Setup<'a> {
    /// As the user named the model.
    pub name: &'a str,
    /// Opens the model anew.
    pub open: &'a dyn Fn() -> smallmind::Result<Gguf>,
    /// Runs this program with the model up to its first token.
    pub first_token: &'a dyn Fn(usize) -> Command,
    /// Threads; `None` takes what suits the machine.
    pub threads: Option<usize>,
    /// Weights and activations in F32.
    pub precise: bool,
    /// Tokens of a generation.
    pub generate: usize,
    /// Prompt lengths of `ttft`; the longest that fits counts elsewhere.
    pub prompts: Vec<usize>,
    /// Sequences of `concurrency`.
    pub sequences: Vec<usize>,
    /// Runs.
    pub repeats: Repeats,
    /// Stops between runs; what has been measured is kept.
    pub cancel: CancelToken,
    /// Where the program counts its allocations.
    pub allocations: Option<AllocationCounter>,
}

impl std::fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Setup({}, {:?})", self.name, self.repeats)
    }
}

impl Setup<'_> {
    /// Runs a scenario; every row is handed over as soon as it is measured.
    ///
    /// # Errors
    /// Where the model cannot be loaded, or the scenario cannot run with it.
    pub fn run(&self, scenario: Scenario, done: &mut dyn FnMut(Row)) -> Result<()> {
        match scenario {
            Scenario::Ttft => serving::ttft(self, &self.load()?, done),
            Scenario::Steady => serving::steady(self, &self.load()?, done),
            Scenario::Latency => serving::latency(self, &self.load()?, done),
            Scenario::Concurrency => serving::concurrency(self, &self.load()?, done),
            Scenario::Memory => memory::memory(self, done),
            Scenario::Allocations => memory::allocations(self, done),
            Scenario::ColdStart => cold::start(self, done),
        }
    }

    fn load(&self) -> Result<Model> {
        let options = LoadOptions { threads: self.threads, precise: self.precise };
        Ok(Model::from_gguf((self.open)()?, &options)?)
    }

    /// The prompt lengths that leave room for a generation, or the longest that does.
    fn fitting_prompts(&self, model: &Model, generate: usize) -> Result<Vec<usize>> {
        let room = model.config().context.saturating_sub(generate);
        if room == 0 {
            return Err(Error::Usage(format!(
                "{} has a context of {}, which leaves no prompt before {generate} generated tokens: ask for fewer (-n)",
                self.name,
                model.config().context
            )));
        }
        let mut prompts: Vec<usize> = self.prompts.iter().map(|p| (*p).clamp(1, room)).collect();
        prompts.sort_unstable();
        prompts.dedup();
        Ok(if prompts.is_empty() { vec![room.min(16)] } else { prompts })
    }

    /// Runs of what is counted and not timed: it hardly scatters.
    fn counted(&self) -> Repeats {
        Repeats::exactly(self.repeats.warmup, self.repeats.iterations)
    }

    /// Tokens to generate, as many as fit behind one token.
    fn generated(&self, model: &Model) -> usize {
        self.generate.min(model.config().context.saturating_sub(2)).max(1)
    }
}

/// Greedy, to the end.
fn greedy(tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(tokens),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn session(model: &Model) -> Result<Session> {
    Ok(Session::new(model, &SessionOptions::default())?)
}

#[cfg(test)]
mod tests;
