//! Training of small models on CPUs: reverse-mode differentiation of the engine's gpt2- and llama-style families, AdamW,
//! tokenizers made from text, checkpoints that survive a kill, and low-rank adapters.
//!
//! Deterministic: the same weights to the bit, whatever the number of threads. Prints nothing and opens no socket; what a
//! person sees comes through [`Watch`].

#![allow(
    clippy::needless_range_loop,
    reason = "rows of several matrices are walked side by side by one index"
)]

mod adamw;
mod bpe;
mod checkpoint;
mod compute;
mod config;
mod curve;
mod data;
mod error;
mod export;
mod lora;
mod model;
mod ops;
mod param;
mod rng;
mod schedule;
mod tape;
mod train;

pub use adamw::{AdamW, Moments, grad_norm};
pub use bpe::train_bpe;
pub use checkpoint::checkpoint_path;
pub use compute::Compute;
pub use config::{ModelConfig, Precision, TokenizerKind, TrainConfig};
pub use data::{Corpus, END_OF_TEXT};
pub use error::{Result, TrainError};
pub use export::gguf_of;
pub use lora::{Adapter, LoraConfig, LoraTrainer, merge};
pub use model::{NewModel, Pass, TrainModel};
pub use param::{Param, ParamId};
pub use schedule::{Course, Schedule};
pub use train::{Outcome, Progress, RunOptions, Trainer, Watch, write_file};
