//! A language-model runtime for CPUs: load a model, prefill a prompt, decode tokens, sample.
//!
//! This library opens no socket, prints nothing and never exits.

pub mod convert;
pub mod cpus;
mod error;
pub mod imatrix;
mod kv;
pub mod model;
mod perplexity;
pub mod preset;
pub mod profile;
pub mod quantize;
pub mod sample;
mod session;

pub use error::{Error, Result};
pub use kv::{KvCache, KvPrecision};
pub use model::weights::stored_rows;
pub use model::{Config, LoadOptions, Model};
pub use perplexity::{Perplexity, perplexity};
pub use sample::{SamplingParams, TokenLogprob};
pub use session::{
    Batch, CancelToken, Finish, GenerateOptions, Generation, Piece, PrefillClass, Session, SessionOptions,
    Timings, Token, TokenStream,
};
pub use smallmind_formats::{FormatError, Gguf, Value, escaped};
pub use smallmind_kernels::{DType, FastPrecision};
pub use smallmind_text::{ChatTemplate, Encode, Message, RenderOptions, TextError, Tokenizer};
