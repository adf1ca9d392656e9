//! A row with llama-bench's fields.

use std::time::Duration;

use serde::Serialize;
use smallmind::{KvPrecision, Model};

use super::{Settings, Test};
use crate::measure::clock::now_utc;
use crate::measure::machine::{Build, cpu};
use crate::measure::stats::mean_and_deviation;
use crate::results::{Row, Unit};

/// A row, its fields named and ordered as llama-bench's, with some of ours between.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "llama-bench's names")]
pub struct SpeedRow {
    pub build_version: String,
    pub build_commit: String,
    pub cpu_info: String,
    pub gpu_info: &'static str,
    pub backends: &'static str,
    /// The instruction set in use.
    pub isa: String,
    pub model_filename: String,
    pub model_type: String,
    pub model_size: u64,
    pub model_n_params: u64,
    /// Sequences side by side (`-b`).
    pub n_batch: usize,
    /// Tokens of one prefill pass.
    pub n_ubatch: usize,
    pub n_threads: usize,
    pub type_k: &'static str,
    pub type_v: &'static str,
    pub n_gpu_layers: usize,
    pub use_mmap: bool,
    /// llama-bench's name of the row.
    pub test: String,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
    pub test_time: String,
    pub avg_ns: u64,
    pub stddev_ns: u64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
}

impl SpeedRow {
    /// The row of a test's times.
    pub fn new(model: &Model, test: Test, settings: Settings, samples: &[Duration]) -> SpeedRow {
        let samples_ns: Vec<u64> =
            samples.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).collect();
        let rate = |time: &Duration| test.tokens() as f64 / time.as_secs_f64().max(1e-9);
        let samples_ts: Vec<f64> = samples.iter().map(rate).collect();
        let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
        let (avg_ns, stddev_ns) =
            mean_and_deviation(&samples_ns.iter().map(|ns| *ns as f64).collect::<Vec<_>>());
        let tensors = model.gguf().tensors();
        let usual = if model.is_precise() { KvPrecision::F32 } else { KvPrecision::I16 };
        let kv = settings.kv.unwrap_or(usual).name();
        let name = smallmind::escaped(model.config().name.as_bytes(), 60).to_string();
        let build = Build::this();
        SpeedRow {
            build_version: build.version,
            build_commit: build.commit,
            cpu_info: cpu(),
            gpu_info: "",
            backends: "CPU",
            isa: model.isa().to_owned(),
            model_filename: model.gguf().path().display().to_string(),
            model_type: format!("{} {name}", model.config().arch.name),
            model_size: tensors.iter().map(|t| t.bytes() as u64).sum(),
            model_n_params: tensors.iter().map(|t| t.elements() as u64).sum(),
            n_batch: test.batch,
            n_ubatch: settings.chunk,
            n_threads: model.threads(),
            type_k: kv,
            type_v: kv,
            n_gpu_layers: 0,
            use_mmap: true,
            test: test.name(),
            n_prompt: test.prompt,
            n_gen: test.generate,
            n_depth: test.depth,
            test_time: now_utc(),
            avg_ns: avg_ns as u64,
            stddev_ns: stddev_ns as u64,
            avg_ts,
            stddev_ts,
            samples_ns,
            samples_ts,
        }
    }

    /// As a row of saved results; `model` is what the user called it.
    pub fn result(&self, model: &str) -> Row {
        let figures = self.samples_ts.iter().copied();
        Row::ours("bench", model, self.n_threads, &self.test, Unit::TokensPerSecond, figures)
    }
}
