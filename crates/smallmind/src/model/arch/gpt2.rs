//! GPT-2: learned positions, LayerNorm, biases everywhere, one matrix for Q, K and V.

use super::llama::LLAMA;
use super::{Activation, Arch, Hf, Mlp, Naming, Norm, Position, Qkv};

/// GPT-2.
pub(super) const GPT2: Arch = Arch {
    name: "gpt2",
    norm: Norm::Layer,
    position: Position::Learned,
    qkv: Qkv::Fused,
    activation: Activation::Gelu,
    mlp: Mlp::Plain,
    chat_family: None,
    hf: Hf { classes: &["GPT2LMHeadModel"], naming: Naming::Blocks, transposed: true, ..LLAMA.hf },
    ..LLAMA
};
