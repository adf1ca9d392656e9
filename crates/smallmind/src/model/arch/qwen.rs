//! The Qwen family.

use super::llama::LLAMA;
use super::{Arch, Hf, Position};

/// Qwen 2 and 2.5: biases on Q, K and V, which the loader takes wherever a file has them.
pub(super) const QWEN2: Arch = Arch {
    name: "qwen2",
    position: Position::RopeHalves,
    chat_family: Some("chatml"),
    hf: Hf { classes: &["Qwen2ForCausalLM"], ..LLAMA.hf },
    ..LLAMA
};

/// Qwen 3: norms on the heads of Q and K.
pub(super) const QWEN3: Arch = Arch {
    name: "qwen3",
    qk_norm: true,
    hf: Hf { classes: &["Qwen3ForCausalLM"], head_dim: Some(128), ..LLAMA.hf },
    ..QWEN2
};
