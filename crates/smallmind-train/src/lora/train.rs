//! Training of adapters: the model's weights stand still, dequantized; only the adapters learn.

use std::path::{Path, PathBuf};
use std::time::Instant;

use smallmind::model::Config;
use smallmind::model::slots::{Shape, weights};
use smallmind::{Gguf, LoadOptions, Model, stored_rows};
use smallmind_formats::FormatError;
use smallmind_kernels::quant;

use super::adapter;
use super::examples::{self, Example};
use crate::adamw::{AdamW, Moments, grad_norm};
use crate::compute::Compute;
use crate::config::Precision;
use crate::error::{Result, TrainError};
use crate::model::{Pass, TrainModel};
use crate::param::Param;
use crate::rng::{Key, Stream};
use crate::schedule::{Course, Schedule};
use crate::train::{Progress, Watch};

/// Settings of a fine-tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank of the adapters.
    pub rank: usize,
    /// Adapters are multiplied by alpha / rank.
    pub alpha: f32,
    /// Which matrices get one, as GGUF names them: `attn_q`, `ffn_down`, …
    pub targets: Vec<String>,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Conversations of one step.
    pub batch: usize,
    /// Tokens of a conversation at most.
    pub seq: usize,
    /// The learning rate at its peak, after a tenth of the steps; then half a cosine to 0.
    pub lr: f64,
    /// The largest norm of the gradient; 0 does not clip.
    pub clip: f64,
    /// Start of all random numbers.
    pub seed: u64,
    /// Keep only the layers' inputs in memory and compute the rest again.
    pub recompute: bool,
    /// Threads.
    pub threads: usize,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 16.0,
            targets: ["attn_q", "attn_k", "attn_v", "attn_output"].map(str::to_owned).to_vec(),
            steps: 100,
            batch: 4,
            seq: 512,
            lr: 1e-3,
            clip: 1.0,
            seed: 1,
            recompute: false,
            threads: 1,
        }
    }
}

impl LoraConfig {
    fn check(&self) -> Result<()> {
        let whole =
            [("rank", self.rank, 1, 1024), ("batch", self.batch, 1, 4096), ("seq", self.seq, 2, 1 << 20)];
        for (name, value, low, high) in whole {
            if !(low..=high).contains(&value) {
                return Err(TrainError::config(format!(
                    "{name} is {value}, and must be between {low} and {high}"
                )));
            }
        }
        let positive =
            [("lr", self.lr, 1e3), ("alpha", f64::from(self.alpha), 1e6), ("clip", self.clip, 1e9)];
        for (name, value, high) in positive {
            if !(0.0..=high).contains(&value) {
                return Err(TrainError::config(format!(
                    "{name} is {value}, and must be between 0 and {high}"
                )));
            }
        }
        if self.steps == 0 {
            return Err(TrainError::config("steps is 0, and must be at least 1"));
        }
        Ok(())
    }
}

/// A fine-tuning that is ready.
#[derive(Debug)]
pub struct LoraTrainer {
    config: LoraConfig,
    compute: Compute,
    model: TrainModel,
    examples: Vec<Example>,
    adapters: usize,
    out: PathBuf,
}

impl LoraTrainer {
    /// Reads the model and the conversations (JSON lines).
    ///
    /// # Errors
    /// Where the settings do not add up, a file cannot be read, the model is of a family that training does not know, or
    /// none of its matrices is named.
    pub fn new(config: LoraConfig, gguf: Gguf, data: &Path, out: &Path) -> Result<LoraTrainer> {
        config.check()?;
        let loaded = Model::from_gguf(gguf, &LoadOptions { threads: Some(1), precise: false })?;
        let seq = config.seq.min(loaded.config().context);
        let examples = examples::read(data, &loaded, seq)?;
        let mut model = weights_of(loaded.gguf(), loaded.config())?;
        drop(loaded);
        let adapters = model.add_lora(config.rank, config.alpha, &config.targets, config.seed);
        if adapters == 0 {
            let why = format!(
                "the model has no matrix called {}: give some of attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up and \
                 ffn_down",
                config.targets.join(" or ")
            );
            return Err(TrainError::config(why));
        }
        let compute = Compute::new(config.threads.max(1), Precision::F32)?;
        Ok(LoraTrainer { config, compute, model, examples, adapters, out: out.to_owned() })
    }

    /// Adapters, numbers that are trained, and conversations.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.adapters, self.model.trained_len(), self.examples.len())
    }

    /// Trains, and writes the adapters. Returns the mean loss over all conversations before and after; `None` where who
    /// looks on stopped it, and then nothing is written.
    ///
    /// # Errors
    /// Where the loss is not a number, or the file cannot be written.
    pub fn run(&mut self, watch: &mut dyn Watch) -> Result<Option<(f64, f64)>> {
        let before = self.loss();
        let LoraConfig { steps, batch, lr, clip, seed, recompute, .. } = self.config;
        let course = Course {
            schedule: Schedule::Cosine,
            lr,
            floor: 0.0,
            warmup: (steps / 10).max(1),
            steps,
            every: 1,
            decay: 1.0,
        };
        let adamw = AdamW { weight_decay: 0.0, ..AdamW::default() };
        let mut moments = Moments::of(&self.model.params);
        let (start, mut tokens) = (Instant::now(), 0usize);
        for step in 0..steps {
            let key = Key::new(seed, Stream::Data, step);
            let (ids, targets, seq) = examples::batch(&self.examples, key, batch);
            let pass = Pass { recompute, ..Pass::default() };
            let bad = |tensor| TrainError::NotANumber { step: step + 1, tensor };
            let c = &mut self.compute;
            let loss = self.model.gradient(c, (&ids, &targets), seq, pass, 1.0).map_err(bad)?;
            let norm = grad_norm(&c.pool, &self.model.params);
            if !norm.is_finite() {
                return Err(bad("the gradient".to_owned()));
            }
            let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
            let lr = course.at(step);
            adamw.step(c, &mut self.model.params, &mut moments, step + 1, lr, scale as f32);
            tokens += ids.len();
            let progress = Progress {
                step: step + 1,
                steps,
                loss,
                valid: None,
                lr,
                grad_norm: norm,
                tokens_per_s: tokens as f64 / start.elapsed().as_secs_f64().max(1e-9),
                step_tokens: tokens / (step as usize + 1),
                saved: false,
            };
            if !watch.step(&progress) {
                return Ok(None);
            }
        }
        let after = self.loss();
        adapter::save(&self.out, &self.model, self.config.rank, self.config.alpha)?;
        Ok(Some((before, after)))
    }

    /// The logits of all positions as the adapters are now: `[tokens, vocab]`.
    pub fn logits(&mut self, ids: &[u32]) -> Vec<f32> {
        self.model.logits(&mut self.compute, ids, ids.len())
    }

    /// The mean loss of all conversations.
    fn loss(&mut self) -> f64 {
        let (model, c) = (&mut self.model, &mut self.compute);
        let losses = self.examples.iter().map(|e| model.evaluate(c, &e.ids, &e.targets, e.ids.len()));
        losses.sum::<f64>() / self.examples.len() as f64
    }
}

/// The weights of a file, dequantized.
pub(crate) fn weights_of(gguf: &Gguf, config: &Config) -> Result<TrainModel> {
    if gguf.tensor("rope_freqs.weight").is_some() {
        let what = "frequency factors of rotary positions";
        return Err(TrainError::Unsupported { family: config.arch.name.to_owned(), what });
    }
    let mut params = Vec::new();
    for w in weights(config) {
        let Some(tensor) = gguf.tensor(&w.name) else { continue };
        let mut values = vec![0.0; tensor.elements()];
        quant::dequantize(tensor.dtype, &stored_rows(gguf, tensor)?, &mut values)
            .map_err(|_| FormatError::tensor(gguf.path(), &w.name, "cannot be dequantized"))?;
        let mut param = match w.shape {
            Shape::Matrix(rows, cols) => Param::matrix(w.name, rows, cols, values),
            Shape::Vector(_) => Param::vector(w.name, values),
        };
        param.freeze();
        params.push(param);
    }
    TrainModel::of(config.clone(), params)
}
