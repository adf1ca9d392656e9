//! A run: data, model, optimizer and checkpoints, step by step.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use smallmind_formats::write::WholeFile;
use smallmind_formats::{FormatError, Gguf};

use crate::adamw::{Moments, grad_norm};
use crate::checkpoint::{self, Point, STEP_KEY, State, checkpoint_path};
use crate::compute::Compute;
use crate::config::TrainConfig;
use crate::curve;
use crate::data::{Corpus, Tokens, Vocabulary};
use crate::error::{Result, TrainError};
use crate::export::{self, CONFIG_KEY, DATA_KEY};
use crate::model::{Pass, TrainModel};

/// Windows of one validation at most.
const VALIDATION: usize = 64;

/// How to run: what changes no weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// The model's file; the checkpoint and the curve stand beside it.
    pub out: PathBuf,
    /// Go on from the checkpoint, where there is one.
    pub resume: bool,
    /// Threads.
    pub threads: usize,
    /// Steps between validations.
    pub eval_every: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// The step after which the model is written, though the schedule would go on: for runs whose time is limited.
    pub stop_at: Option<u64>,
}

/// What a step brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// The training loss, in nats a token.
    pub loss: f64,
    /// The validation loss, where it was measured.
    pub valid: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens learned from in a second, over the whole call.
    pub tokens_per_s: f64,
    /// Tokens of one step.
    pub step_tokens: usize,
    /// Whether a checkpoint was written.
    pub saved: bool,
}

/// Who looks on.
pub trait Watch {
    /// A step was done; returns whether to go on. Where not, a checkpoint is written and the run can be resumed.
    fn step(&mut self, progress: &Progress) -> bool;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done, and the model is written.
    Done {
        /// The last validation loss.
        valid: Option<f64>,
        /// Tokens learned from in a second.
        tokens_per_s: f64,
    },
    /// The file was complete already.
    Already,
    /// Stopped by who looks on, with a checkpoint at this step.
    Stopped(u64),
}

/// A run that is ready.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    options: RunOptions,
    compute: Compute,
    model: TrainModel,
    vocabulary: Vocabulary,
    tokens: Tokens,
    fingerprint: String,
    state: State,
    complete: bool,
}

impl Trainer {
    /// Checks the settings, reads the checkpoint where it is to go on from one, and makes the data ready.
    ///
    /// # Errors
    /// Where the settings do not add up, the data is not fit, a file cannot be read, or a checkpoint is in the way or of
    /// another run. Nothing is written.
    pub fn new(config: TrainConfig, corpus: &Corpus, options: RunOptions) -> Result<Trainer> {
        let numbers = config.check()?;
        let compute = Compute::new(options.threads.max(1), config.precision)?;
        let at = checkpoint_path(&options.out);
        let begun = at.exists().then(|| Gguf::open(&at)).transpose()?;
        if begun.is_some() && !options.resume {
            let why = "is the checkpoint of a run that was not finished: go on with --resume, or delete it";
            return Err(TrainError::Checkpoint { path: at, why: why.to_owned() });
        }
        let vocabulary = corpus.vocabulary(&config)?;
        let tokens = corpus.tokens(&vocabulary, &config)?;
        let fingerprint = tokens.fingerprint();
        let mut model = TrainModel::new(numbers, config.new_model(), config.seed)?;
        let mut complete = false;
        let end = end(&config, &options);
        let state = match begun {
            Some(gguf) => checkpoint::restore(&gguf, &mut model, &config, &fingerprint)?,
            None => {
                complete = options.resume && is_of(&options.out, &config, &fingerprint, end);
                State { moments: Moments::of(&model.params), ..State::default() }
            }
        };
        Ok(Trainer { config, options, compute, model, vocabulary, tokens, fingerprint, state, complete })
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.model.trained_len()
    }

    /// Tokens of training and validation.
    pub fn tokens(&self) -> (usize, usize) {
        (self.tokens.train.len(), self.tokens.valid.len())
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Where the loss or a gradient is not a number, or a file cannot be written; the last checkpoint is left as it is.
    pub fn run(&mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        if self.complete {
            return Ok(Outcome::Already);
        }
        let (start, first) = (Instant::now(), self.state.step);
        let per_step = self.config.batch * self.config.seq() * self.config.accumulate;
        let rate =
            |step: u64| (step - first) as f64 * per_step as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let end = end(&self.config, &self.options);
        while self.state.step < end {
            let (loss, lr, grad_norm) = self.one_step()?;
            let step = self.state.step;
            let last = step == end;
            let measured = last || step.is_multiple_of(self.options.eval_every.max(1));
            let valid = if measured { self.validate() } else { None };
            let (loss32, valid32) = (loss as f32, valid.map(|v| v as f32));
            self.state.history.push(Point { step, loss: loss32, lr: lr as f32, valid: valid32 });
            let due = !last && step.is_multiple_of(self.options.save_every.max(1));
            if due {
                self.save()?;
            }
            let steps = end;
            let tokens_per_s = rate(step);
            let progress = Progress {
                step,
                steps,
                loss,
                valid,
                lr,
                grad_norm,
                tokens_per_s,
                step_tokens: per_step,
                saved: due,
            };
            if !watch.step(&progress) && !last {
                self.save()?;
                return Ok(Outcome::Stopped(step));
            }
        }
        self.finish()?;
        let valid = self.state.history.last().and_then(|p| p.valid).map(f64::from);
        Ok(Outcome::Done { valid, tokens_per_s: rate(self.state.step) })
    }

    /// One step: gradients of all passes, clipping, the optimizer. Gives the loss, the learning rate and the norm.
    fn one_step(&mut self) -> Result<(f64, f64, f64)> {
        let Trainer { config, compute: c, model, tokens, state, .. } = self;
        let step = state.step;
        let lr = config.course().at(step);
        let (passes, mut loss) = (config.accumulate as u64, 0.0);
        for pass in step * passes..(step + 1) * passes {
            let (ids, targets) = tokens.windows(config, pass);
            let how = Pass {
                dropout: config.dropout as f32,
                draw: (config.seed, pass),
                recompute: config.recompute,
            };
            let weight = 1.0 / passes as f32;
            let one = model.gradient(c, (&ids, &targets), config.seq(), how, weight);
            let bad = |tensor| TrainError::NotANumber { step: step + 1, tensor };
            loss += one.map_err(bad)? / passes as f64;
        }
        let norm = grad_norm(&c.pool, &model.params);
        if !norm.is_finite() {
            let bad = model.params.iter().find(|p| p.grad.iter().any(|g| !g.is_finite()));
            let tensor = bad.map_or("the gradient".to_owned(), |p| format!("the gradient of {}", p.name));
            return Err(TrainError::NotANumber { step: step + 1, tensor });
        }
        let scale = if config.clip > 0.0 && norm > config.clip { config.clip / norm } else { 1.0 };
        state.step += 1;
        config.adamw().step(c, &mut model.params, &mut state.moments, state.step, lr, scale as f32);
        Ok((loss, lr, norm))
    }

    /// The mean loss of the held-back windows.
    fn validate(&mut self) -> Option<f64> {
        let windows = self.tokens.validation(self.config.seq(), VALIDATION);
        let n = windows.len();
        let model = &mut self.model;
        let c = &mut self.compute;
        let sum: f64 = windows.iter().map(|(ids, targets)| model.evaluate(c, ids, targets, ids.len())).sum();
        (n > 0).then(|| sum / n as f64)
    }

    fn save(&self) -> Result<()> {
        let at = checkpoint_path(&self.options.out);
        let Trainer { model, vocabulary, config, fingerprint, state, .. } = self;
        checkpoint::save(&at, model, vocabulary, config, fingerprint, state)
    }

    /// Writes the curve and the model; only then the checkpoint goes.
    fn finish(&self) -> Result<()> {
        let out = &self.options.out;
        let name = self.config.name.as_str();
        let title = if name.is_empty() { "model" } else { name };
        write_file(&out.with_extension("csv"), curve::csv(&self.state.history).as_bytes())?;
        write_file(&out.with_extension("svg"), curve::svg(&self.state.history, title).as_bytes())?;
        let mut w = export::describe(&self.model, &self.vocabulary, &self.config);
        let step = u32::try_from(self.state.step).unwrap_or(u32::MAX);
        w.set_str(DATA_KEY, &self.fingerprint).set_u32(STEP_KEY, step).write_file(out)?;
        let at = checkpoint_path(out);
        match std::fs::remove_file(&at) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(FormatError::io(&at, "remove", e).into())
            }
            _ => Ok(()),
        }
    }
}

/// The step after which the run ends.
fn end(config: &TrainConfig, options: &RunOptions) -> u64 {
    options.stop_at.unwrap_or(u64::MAX).min(config.steps)
}

/// Whether the file at `out` is the finished model of these settings and data after this step.
fn is_of(out: &Path, config: &TrainConfig, fingerprint: &str, step: u64) -> bool {
    let Ok(gguf) = Gguf::open(out) else { return false };
    let holds = |key: &str, value: &str| matches!(gguf.metadata().str(key), Ok(Some(v)) if v == value);
    let at_end = matches!(gguf.metadata().u64(STEP_KEY), Ok(Some(s)) if s == step);
    at_end && holds(CONFIG_KEY, &config.to_json()) && holds(DATA_KEY, fingerprint)
}

/// Writes a file, which appears only whole.
///
/// # Errors
/// Where the system refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes).map_err(|e| FormatError::io(path, "write", e))?;
    Ok(file.commit()?)
}
