//! Architectures as data: the vocabulary in which a family is described, and the families.
//!
//! An [`Arch`] says what a family *is*, in closed enums; the numbers of one model are its [`super::config::Config`].
//! Adding a family is one `const` here; nothing else in the engine tests a family's name.

mod gemma3;
mod gpt2;
mod llama;
mod qwen;

/// What a family of models is.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    /// `general.architecture` in GGUF.
    pub name: &'static str,
    /// The normalization before attention, before the MLP and before the output.
    pub norm: Norm,
    /// How a token's position enters.
    pub position: Position,
    /// How Q, K and V are stored.
    pub qkv: Qkv,
    /// RMSNorm of every head of Q and K before RoPE.
    pub qk_norm: bool,
    /// Norms of the outputs of attention and MLP before they join the residual stream.
    pub post_norms: bool,
    /// The MLP's activation.
    pub activation: Activation,
    /// The MLP's shape.
    pub mlp: Mlp,
    /// What embeddings are multiplied by.
    pub embed_scale: EmbedScale,
    /// Which layers see only the last positions.
    pub window: Window,
    /// RoPE's base on windowed layers, where it differs from the file's.
    pub window_rope_base: Option<f32>,
    /// What attention scores are multiplied by.
    pub attention_scale: AttentionScale,
    /// Which built-in chat template speaks for models whose file has none.
    pub chat_family: Option<&'static str>,
    /// How the field's checkpoints (config.json, safetensors) store it.
    pub hf: Hf,
}

/// A family in the field's checkpoints: what differs from GGUF there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hf {
    /// `architectures` in config.json.
    pub classes: &'static [&'static str],
    /// What weights are called.
    pub naming: Naming,
    /// Matrices are stored `[inputs, outputs]`.
    pub transposed: bool,
    /// Norm weights are stored less 1.
    pub norms_less_one: bool,
    /// `rope_theta` where config.json has none.
    pub rope_base: f32,
    /// `head_dim` where config.json has none; `None` divides the width by the heads.
    pub head_dim: Option<usize>,
}

/// Names of weights in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `model.layers.0.self_attn.q_proj`.
    Layers,
    /// The same with four norms a layer.
    Sandwich,
    /// `transformer.h.0.attn.c_attn`, the prefix optional.
    Blocks,
}

/// Normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Root mean square, with a weight.
    Rms,
    /// Mean and variance, with a weight and a bias.
    Layer,
}

/// Position encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// RoPE on neighbouring pairs (2i, 2i + 1).
    RopePairs,
    /// RoPE on the two halves (i, i + d/2).
    RopeHalves,
    /// A learned vector per position, added to the embedding.
    Learned,
}

/// Storage of Q, K and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qkv {
    /// Three matrices.
    Split,
    /// One matrix, Q's rows first.
    Fused,
}

/// Activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// The tanh form.
    Gelu,
}

/// Shape of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// down(act(gate(x)) · up(x)).
    Gated,
    /// down(act(up(x))).
    Plain,
}

/// Scale of embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedScale {
    /// As stored.
    One,
    /// √hidden.
    SqrtHidden,
}

/// Attention windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Every layer sees everything.
    Full,
    /// All but every n-th layer see the window.
    AllButEvery(usize),
}

/// Scale of attention scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionScale {
    /// 1/√head_dim.
    HeadDim,
    /// Gemma 3: as above, but for the model of 62 layers 1/√(hidden / heads).
    Gemma3,
}

/// Every family, in the order that messages list them.
pub const FAMILIES: &[&Arch] = &[&llama::LLAMA, &qwen::QWEN2, &qwen::QWEN3, &gemma3::GEMMA3, &gpt2::GPT2];

/// The family of a class in config.json's `architectures`.
pub fn find_class(class: &str) -> Option<&'static Arch> {
    FAMILIES.iter().find(|a| a.hf.classes.contains(&class)).copied()
}

/// The family of that GGUF name.
pub fn find(name: &str) -> Option<&'static Arch> {
    FAMILIES.iter().find(|a| a.name == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_found_by_its_own_name() {
        for arch in FAMILIES {
            assert_eq!(find(arch.name).map(|a| a.name), Some(arch.name));
        }
        assert!(find("teleport").is_none());
    }
}
