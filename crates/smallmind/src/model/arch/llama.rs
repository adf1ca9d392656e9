//! The llama family: Llama 2 and 3, Mistral, TinyLlama, SmolLM2.

use super::{Activation, Arch, AttentionScale, EmbedScale, Hf, Mlp, Naming, Norm, Position, Qkv, Window};

/// The common ground of most decoder-only models; other families are written as what differs.
pub(super) const LLAMA: Arch = Arch {
    name: "llama",
    norm: Norm::Rms,
    position: Position::RopePairs,
    qkv: Qkv::Split,
    qk_norm: false,
    post_norms: false,
    activation: Activation::Silu,
    mlp: Mlp::Gated,
    embed_scale: EmbedScale::One,
    window: Window::Full,
    window_rope_base: None,
    attention_scale: AttentionScale::HeadDim,
    chat_family: Some("llama"),
    hf: Hf {
        classes: &["LlamaForCausalLM", "MistralForCausalLM"],
        naming: Naming::Layers,
        transposed: false,
        norms_less_one: false,
        rope_base: 10_000.0,
        head_dim: None,
    },
};
