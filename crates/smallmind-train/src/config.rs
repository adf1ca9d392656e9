//! Settings of a run, as a JSON file has them: everything that the trained weights depend on, and nothing else.

use serde::{Deserialize, Serialize};
use smallmind::model::arch::{self, Norm, Position};
use smallmind::model::{Config, Rope, RopeScaling};
use smallmind::preset::Preset;

use crate::adamw::AdamW;
use crate::error::{Result, TrainError};
use crate::model::NewModel;
use crate::schedule::{Course, Schedule};

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    /// One token a byte.
    Bytes,
    /// Byte-level BPE, trained on the data.
    Bpe,
}

/// In what the products of matrices are computed. Weights, gradients, the optimizer and all else are F32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// F32 throughout.
    #[default]
    F32,
    /// Factors rounded to bfloat16, sums in F32: faster where the CPU has matrix units for it, and needs one that has.
    Bf16,
}

impl Precision {
    /// Whether it is what settings mean that do not speak of it.
    fn is_default(&self) -> bool {
        *self == Precision::default()
    }
}

/// The shape of a new model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The family: `gpt2` or `llama`.
    pub arch: String,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions.
    pub context: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; 0 is as many as query heads.
    pub kv_heads: usize,
    /// Width of the MLP; 0 is four times `hidden`.
    pub ffn: usize,
    /// The embedding serves as the output matrix, too.
    pub tied: bool,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Base of the rotary positions.
    pub rope_base: f32,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            arch: "gpt2".to_owned(),
            vocab: 256,
            context: 64,
            hidden: 128,
            layers: 2,
            heads: 4,
            kv_heads: 0,
            ffn: 0,
            tied: false,
            norm_eps: 1e-5,
            rope_base: 10_000.0,
        }
    }
}

impl From<&Preset> for ModelConfig {
    fn from(p: &Preset) -> Self {
        let Preset { vocab, context, hidden, layers, heads, .. } = *p;
        ModelConfig { vocab, context, hidden, layers, heads, ..ModelConfig::default() }
    }
}

/// Everything that a run's weights depend on beside the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// What the model is called in its file.
    pub name: String,
    /// The licence of the model, for its file.
    pub license: String,
    /// The shape.
    pub model: ModelConfig,
    /// The tokenizer; without it, bytes for a vocabulary of at most 256, else BPE.
    pub tokenizer: Option<TokenizerKind>,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Sequences of one pass.
    pub batch: usize,
    /// Tokens of a sequence; 0 is the model's context.
    pub seq: usize,
    /// Passes whose gradients make one step.
    pub accumulate: usize,
    /// The learning rate at its peak.
    pub lr: f64,
    /// Its course.
    pub schedule: Schedule,
    /// Steps of linear warmup.
    pub warmup: u64,
    /// Where cosine and exponential schedules end, as a part of the peak.
    pub floor: f64,
    /// Steps between two decays of the step schedule.
    pub decay_every: u64,
    /// The factor of one such decay.
    pub decay: f64,
    /// AdamW's decay of matrices.
    pub weight_decay: f64,
    /// AdamW's memory of gradients.
    pub beta1: f64,
    /// AdamW's memory of their squares.
    pub beta2: f64,
    /// The largest norm of the gradient; 0 does not clip.
    pub clip: f64,
    /// The part of activations that is dropped.
    pub dropout: f64,
    /// Start of all random numbers.
    pub seed: u64,
    /// The part of the documents that is held back to validate.
    pub valid: f64,
    /// Keep only the layers' inputs in memory and compute the rest again: slower, for large models. Changes no bit.
    pub recompute: bool,
    /// In what products are computed.
    #[serde(skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            name: String::new(),
            license: String::new(),
            model: ModelConfig::default(),
            tokenizer: None,
            steps: 1000,
            batch: 16,
            seq: 0,
            accumulate: 1,
            lr: 1e-3,
            schedule: Schedule::Cosine,
            warmup: 50,
            floor: 0.1,
            decay_every: 1000,
            decay: 0.5,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            dropout: 0.0,
            seed: 1,
            valid: 0.05,
            recompute: false,
            precision: Precision::F32,
        }
    }
}

impl TrainConfig {
    /// The defaults with a preset's shape.
    pub fn preset(preset: &Preset) -> TrainConfig {
        TrainConfig { name: preset.name.to_owned(), model: preset.into(), ..TrainConfig::default() }
    }

    /// Settings from JSON.
    ///
    /// # Errors
    /// Where it is not JSON, or a name or value is not one of ours; the sentence says where.
    pub fn from_json(text: &str) -> Result<TrainConfig> {
        serde_json::from_str(text).map_err(|e| TrainError::config(e.to_string()))
    }

    /// The settings as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Tokens of one sequence.
    pub fn seq(&self) -> usize {
        if self.seq == 0 { self.model.context } else { self.seq }
    }

    /// The tokenizer's kind.
    pub fn tokenizer(&self) -> TokenizerKind {
        let small = if self.model.vocab <= 256 { TokenizerKind::Bytes } else { TokenizerKind::Bpe };
        self.tokenizer.unwrap_or(small)
    }

    pub(crate) fn course(&self) -> Course {
        Course {
            schedule: self.schedule,
            lr: self.lr,
            floor: self.floor,
            warmup: self.warmup.min(self.steps),
            steps: self.steps,
            every: self.decay_every,
            decay: self.decay,
        }
    }

    pub(crate) fn adamw(&self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, weight_decay: self.weight_decay, ..AdamW::default() }
    }

    pub(crate) fn new_model(&self) -> NewModel {
        // Families with LayerNorm came with biases everywhere, those with RMSNorm without.
        let biases = arch::find(&self.model.arch).is_some_and(|a| a.norm == Norm::Layer);
        NewModel { tied: self.model.tied, biases }
    }

    /// The engine's numbers, with everything checked.
    ///
    /// # Errors
    /// One sentence on the first setting that is out of range or does not fit another.
    pub fn check(&self) -> Result<Config> {
        let m = &self.model;
        let whole = [
            ("steps", self.steps as usize, 1, u32::MAX as usize),
            ("batch", self.batch, 1, 65_536),
            ("accumulate", self.accumulate, 1, 65_536),
            ("model.vocab", m.vocab, 256, 1 << 20),
            ("model.context", m.context, 2, 1 << 20),
            ("model.hidden", m.hidden, 1, 1 << 16),
            ("model.layers", m.layers, 1, 1024),
            ("model.heads", m.heads, 1, 1024),
            ("model.kv_heads", m.kv_heads, 0, 1024),
            ("model.ffn", m.ffn, 0, 1 << 18),
            ("decay_every", self.decay_every as usize, 1, usize::MAX),
        ];
        for (name, value, low, high) in whole {
            if !(low..=high).contains(&value) {
                return Err(TrainError::config(format!(
                    "{name} is {value}, and must be between {low} and {high}"
                )));
            }
        }
        let real = [
            ("lr", self.lr, 0.0, 1e3),
            ("floor", self.floor, 0.0, 1.0),
            ("decay", self.decay, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 100.0),
            ("beta1", self.beta1, 0.0, 0.999_999),
            ("beta2", self.beta2, 0.0, 0.999_999),
            ("clip", self.clip, 0.0, 1e9),
            ("dropout", self.dropout, 0.0, 0.95),
            ("valid", self.valid, 0.0, 0.9),
            ("model.norm_eps", f64::from(m.norm_eps), 1e-12, 1.0),
            ("model.rope_base", f64::from(m.rope_base), 1.0, 1e12),
        ];
        for (name, value, low, high) in real {
            if !(low..=high).contains(&value) {
                return Err(TrainError::config(format!(
                    "{name} is {value}, and must be between {low} and {high}"
                )));
            }
        }
        let Some(arch) = arch::find(&m.arch) else {
            let known: Vec<&str> = arch::FAMILIES.iter().map(|a| a.name).collect();
            return Err(TrainError::config(format!(
                "model.arch is `{}`, and must be one of {}",
                m.arch,
                known.join(", ")
            )));
        };
        if !m.hidden.is_multiple_of(m.heads) {
            return Err(TrainError::config(format!(
                "model.heads is {}, which does not divide model.hidden, {}",
                m.heads, m.hidden
            )));
        }
        let kv_heads = if m.kv_heads == 0 { m.heads } else { m.kv_heads };
        if !m.heads.is_multiple_of(kv_heads) {
            return Err(TrainError::config(format!(
                "model.kv_heads is {kv_heads}, which does not divide model.heads, {}",
                m.heads
            )));
        }
        if arch.position == Position::Learned && kv_heads != m.heads {
            return Err(TrainError::config(format!(
                "{} models have as many key/value heads as query heads: leave model.kv_heads out",
                m.arch
            )));
        }
        let head_dim = m.hidden / m.heads;
        if arch.position != Position::Learned && !head_dim.is_multiple_of(2) {
            return Err(TrainError::config(format!(
                "heads of {head_dim} values cannot be turned in pairs: change model.hidden or model.heads"
            )));
        }
        if self.seq() > m.context || self.seq() < 2 {
            return Err(TrainError::config(format!(
                "seq is {}, and must be between 2 and model.context, {}",
                self.seq, m.context
            )));
        }
        if self.tokenizer() == TokenizerKind::Bpe && m.vocab < 258 {
            return Err(TrainError::config(format!(
                "model.vocab is {}, and a BPE vocabulary has 256 bytes, an end of text and at least one merge",
                m.vocab
            )));
        }
        let learned = arch.position == Position::Learned;
        Ok(Config {
            arch,
            name: self.name.clone(),
            layers: m.layers,
            hidden: m.hidden,
            heads: m.heads,
            kv_heads,
            head_dim,
            ffn: if m.ffn == 0 { 4 * m.hidden } else { m.ffn },
            vocab: m.vocab,
            context: m.context,
            norm_eps: m.norm_eps,
            rope: Rope {
                dim: if learned { 0 } else { head_dim },
                base: m.rope_base,
                scaling: RopeScaling::None,
            },
            window: None,
            window_period: 1,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_does_not_add_up_is_told_in_one_sentence() {
        let refused =
            |json: &str| TrainConfig::from_json(json).and_then(|c| c.check()).unwrap_err().to_string();
        for (json, words) in [
            (r#"{"model": {"heads": 3}}"#, "model.heads is 3"),
            (r#"{"model": {"arch": "llama", "heads": 4, "kv_heads": 3}}"#, "model.kv_heads is 3"),
            (r#"{"model": {"arch": "llama", "hidden": 12, "heads": 4}}"#, "heads of 3 values"),
            (r#"{"seq": 100}"#, "seq is 100"),
            (r#"{"lr": -1}"#, "lr is -1"),
            (r#"{"model": {"arch": "transformer"}}"#, "transformer"),
            (r#"{"stepz": 1}"#, "stepz"),
            (r#"{"tokenizer": "bpe"}"#, "model.vocab is 256"),
        ] {
            assert!(refused(json).contains(words), "{json}: {}", refused(json));
        }
        assert!(TrainConfig::default().check().is_ok());
    }
}
