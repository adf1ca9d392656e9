//! Model files, mapped and checked: GGUF, safetensors and SMQ. Everything here treats a file as hostile: a size or count that a
//! file claims is compared with the bytes that are really there before memory is committed to it, and every
//! refusal is one sentence naming the file, the key or tensor at fault, and what to do about it.
//!
//! This crate may read and write files. It may not know what a model is (that is the engine's), print, or open a
//! socket. `map.rs` is the only file with `unsafe` code.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)
)]

mod bytes;
mod error;
mod escape;
pub mod fs;
mod gguf;
mod map;
mod safetensors;
mod smq;
pub mod write;

pub use error::FormatError;
pub use escape::{Escaped, escaped};
pub use gguf::{Array, ByteStrings, Gguf, Metadata, SharedBytes, TensorInfo, Text, Value, ValueType};
pub use safetensors::{SafeTensor, SafeType, Safetensors, SafetensorsFolder, Shard};
pub use smq::{PACKED_LOOKUP, Part, PartForm, PartOrder, Verified};
