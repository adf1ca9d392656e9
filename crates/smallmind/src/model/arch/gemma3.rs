//! Gemma 3: sandwich norms, head norms, five windowed layers to one that sees everything.

use super::llama::LLAMA;
use super::{Activation, Arch, AttentionScale, EmbedScale, Hf, Naming, Position, Window};

/// Gemma 3, text.
pub(super) const GEMMA3: Arch = Arch {
    name: "gemma3",
    position: Position::RopeHalves,
    qk_norm: true,
    post_norms: true,
    activation: Activation::Gelu,
    embed_scale: EmbedScale::SqrtHidden,
    window: Window::AllButEvery(6),
    window_rope_base: Some(10_000.0),
    attention_scale: AttentionScale::Gemma3,
    chat_family: Some("gemma"),
    hf: Hf {
        classes: &["Gemma3ForCausalLM"],
        naming: Naming::Sandwich,
        norms_less_one: true,
        rope_base: 1_000_000.0,
        head_dim: Some(256),
        ..LLAMA.hf
    },
    ..LLAMA
};
