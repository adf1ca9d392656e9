//! Every weight there can be: its name in a file, its shape, and which families need it. One table for all families,
//! because GGUF's names are uniform.

use super::arch::{Arch, Mlp, Naming, Norm, Position, Qkv};
use super::config::Config;

/// A place for a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table below says what each is")]
pub enum Slot {
    TokenEmbd,
    PositionEmbd,
    OutputNorm,
    OutputNormBias,
    Output,
    RopeFreqs,
    AttnNorm,
    AttnNormBias,
    AttnQ,
    AttnQBias,
    AttnK,
    AttnKBias,
    AttnV,
    AttnVBias,
    AttnQkv,
    AttnQkvBias,
    AttnQNorm,
    AttnKNorm,
    AttnOut,
    AttnOutBias,
    PostAttnNorm,
    MlpNorm,
    MlpNormBias,
    MlpGate,
    MlpGateBias,
    MlpUp,
    MlpUpBias,
    MlpDown,
    MlpDownBias,
    PostMlpNorm,
}

/// Whether a family has a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The file must have it.
    Required,
    /// Used where the file has it.
    Optional,
    /// No part of the family: a file that has it is not what it says.
    Absent,
}

/// A weight's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[rows, k]`, `k` contiguous.
    Matrix(usize, usize),
    /// `[n]`.
    Vector(usize),
}

/// One row of the table.
pub(crate) struct Spec {
    pub(crate) slot: Slot,
    /// GGUF's name; `{}` is the layer.
    gguf: &'static str,
    /// The checkpoints' names, without what stands before every weight or every layer's weight: by [`Naming::Layers`]
    /// and by [`Naming::Blocks`]; empty where there is none.
    hf: [&'static str; 2],
    pub(crate) shape: fn(&Config) -> Shape,
    pub(crate) need: fn(&Arch) -> Need,
}

const REQUIRED: fn(&Arch) -> Need = |_| Need::Required;
const OPTIONAL: fn(&Arch) -> Need = |_| Need::Optional;
const SPLIT: fn(&Arch) -> Need = |a| when(a.qkv == Qkv::Split);
const SPLIT_BIAS: fn(&Arch) -> Need = |a| may(a.qkv == Qkv::Split);
const FUSED: fn(&Arch) -> Need = |a| when(a.qkv == Qkv::Fused);
const FUSED_BIAS: fn(&Arch) -> Need = |a| may(a.qkv == Qkv::Fused);
const LAYER_NORM: fn(&Arch) -> Need = |a| when(a.norm == Norm::Layer);
const QK_NORM: fn(&Arch) -> Need = |a| when(a.qk_norm);
const POST_NORM: fn(&Arch) -> Need = |a| when(a.post_norms);
const GATED: fn(&Arch) -> Need = |a| when(a.mlp == Mlp::Gated);
const GATED_BIAS: fn(&Arch) -> Need = |a| may(a.mlp == Mlp::Gated);
const LEARNED: fn(&Arch) -> Need = |a| when(a.position == Position::Learned);
const ROPE: fn(&Arch) -> Need = |a| may(a.position != Position::Learned);
const HIDDEN: fn(&Config) -> Shape = |c| Shape::Vector(c.hidden);

const fn when(needed: bool) -> Need {
    if needed { Need::Required } else { Need::Absent }
}

const fn may(allowed: bool) -> Need {
    if allowed { Need::Optional } else { Need::Absent }
}

const fn spec(
    slot: Slot,
    gguf: &'static str,
    hf: [&'static str; 2],
    shape: fn(&Config) -> Shape,
    need: fn(&Arch) -> Need,
) -> Spec {
    Spec { slot, gguf, hf, shape, need }
}

/// The table.
pub(crate) const SLOTS: &[Spec] = &[
    spec(
        Slot::TokenEmbd,
        "token_embd.weight",
        ["model.embed_tokens.weight", "wte.weight"],
        |c| Shape::Matrix(c.vocab, c.hidden),
        REQUIRED,
    ),
    spec(
        Slot::PositionEmbd,
        "position_embd.weight",
        ["", "wpe.weight"],
        |c| Shape::Matrix(c.context, c.hidden),
        LEARNED,
    ),
    spec(Slot::OutputNorm, "output_norm.weight", ["model.norm.weight", "ln_f.weight"], HIDDEN, REQUIRED),
    spec(Slot::OutputNormBias, "output_norm.bias", ["", "ln_f.bias"], HIDDEN, LAYER_NORM),
    // Where it is missing, the embedding serves (tied).
    spec(
        Slot::Output,
        "output.weight",
        ["lm_head.weight", "lm_head.weight"],
        |c| Shape::Matrix(c.vocab, c.hidden),
        OPTIONAL,
    ),
    spec(Slot::RopeFreqs, "rope_freqs.weight", ["", ""], |c| Shape::Vector(c.rope.dim / 2), ROPE),
    spec(
        Slot::AttnNorm,
        "blk.{}.attn_norm.weight",
        ["input_layernorm.weight", "ln_1.weight"],
        HIDDEN,
        REQUIRED,
    ),
    spec(Slot::AttnNormBias, "blk.{}.attn_norm.bias", ["", "ln_1.bias"], HIDDEN, LAYER_NORM),
    spec(
        Slot::AttnQ,
        "blk.{}.attn_q.weight",
        ["self_attn.q_proj.weight", ""],
        |c| Shape::Matrix(c.q_dim(), c.hidden),
        SPLIT,
    ),
    spec(
        Slot::AttnQBias,
        "blk.{}.attn_q.bias",
        ["self_attn.q_proj.bias", ""],
        |c| Shape::Vector(c.q_dim()),
        SPLIT_BIAS,
    ),
    spec(
        Slot::AttnK,
        "blk.{}.attn_k.weight",
        ["self_attn.k_proj.weight", ""],
        |c| Shape::Matrix(c.kv_dim(), c.hidden),
        SPLIT,
    ),
    spec(
        Slot::AttnKBias,
        "blk.{}.attn_k.bias",
        ["self_attn.k_proj.bias", ""],
        |c| Shape::Vector(c.kv_dim()),
        SPLIT_BIAS,
    ),
    spec(
        Slot::AttnV,
        "blk.{}.attn_v.weight",
        ["self_attn.v_proj.weight", ""],
        |c| Shape::Matrix(c.kv_dim(), c.hidden),
        SPLIT,
    ),
    spec(
        Slot::AttnVBias,
        "blk.{}.attn_v.bias",
        ["self_attn.v_proj.bias", ""],
        |c| Shape::Vector(c.kv_dim()),
        SPLIT_BIAS,
    ),
    spec(
        Slot::AttnQkv,
        "blk.{}.attn_qkv.weight",
        ["", "attn.c_attn.weight"],
        |c| Shape::Matrix(c.q_dim() + 2 * c.kv_dim(), c.hidden),
        FUSED,
    ),
    spec(
        Slot::AttnQkvBias,
        "blk.{}.attn_qkv.bias",
        ["", "attn.c_attn.bias"],
        |c| Shape::Vector(c.q_dim() + 2 * c.kv_dim()),
        FUSED_BIAS,
    ),
    spec(
        Slot::AttnQNorm,
        "blk.{}.attn_q_norm.weight",
        ["self_attn.q_norm.weight", ""],
        |c| Shape::Vector(c.head_dim),
        QK_NORM,
    ),
    spec(
        Slot::AttnKNorm,
        "blk.{}.attn_k_norm.weight",
        ["self_attn.k_norm.weight", ""],
        |c| Shape::Vector(c.head_dim),
        QK_NORM,
    ),
    spec(
        Slot::AttnOut,
        "blk.{}.attn_output.weight",
        ["self_attn.o_proj.weight", "attn.c_proj.weight"],
        |c| Shape::Matrix(c.hidden, c.q_dim()),
        REQUIRED,
    ),
    spec(
        Slot::AttnOutBias,
        "blk.{}.attn_output.bias",
        ["self_attn.o_proj.bias", "attn.c_proj.bias"],
        HIDDEN,
        OPTIONAL,
    ),
    spec(
        Slot::PostAttnNorm,
        "blk.{}.post_attention_norm.weight",
        ["post_attention_layernorm.weight", ""],
        HIDDEN,
        POST_NORM,
    ),
    spec(
        Slot::MlpNorm,
        "blk.{}.ffn_norm.weight",
        ["post_attention_layernorm.weight", "ln_2.weight"],
        HIDDEN,
        REQUIRED,
    ),
    spec(Slot::MlpNormBias, "blk.{}.ffn_norm.bias", ["", "ln_2.bias"], HIDDEN, LAYER_NORM),
    spec(
        Slot::MlpGate,
        "blk.{}.ffn_gate.weight",
        ["mlp.gate_proj.weight", ""],
        |c| Shape::Matrix(c.ffn, c.hidden),
        GATED,
    ),
    spec(
        Slot::MlpGateBias,
        "blk.{}.ffn_gate.bias",
        ["mlp.gate_proj.bias", ""],
        |c| Shape::Vector(c.ffn),
        GATED_BIAS,
    ),
    spec(
        Slot::MlpUp,
        "blk.{}.ffn_up.weight",
        ["mlp.up_proj.weight", "mlp.c_fc.weight"],
        |c| Shape::Matrix(c.ffn, c.hidden),
        REQUIRED,
    ),
    spec(
        Slot::MlpUpBias,
        "blk.{}.ffn_up.bias",
        ["mlp.up_proj.bias", "mlp.c_fc.bias"],
        |c| Shape::Vector(c.ffn),
        OPTIONAL,
    ),
    spec(
        Slot::MlpDown,
        "blk.{}.ffn_down.weight",
        ["mlp.down_proj.weight", "mlp.c_proj.weight"],
        |c| Shape::Matrix(c.hidden, c.ffn),
        REQUIRED,
    ),
    spec(
        Slot::MlpDownBias,
        "blk.{}.ffn_down.bias",
        ["mlp.down_proj.bias", "mlp.c_proj.bias"],
        HIDDEN,
        OPTIONAL,
    ),
    spec(
        Slot::PostMlpNorm,
        "blk.{}.post_ffw_norm.weight",
        ["post_feedforward_layernorm.weight", ""],
        HIDDEN,
        POST_NORM,
    ),
];

impl Spec {
    /// Whether there is one a layer.
    pub(crate) fn per_layer(&self) -> bool {
        self.gguf.starts_with("blk.")
    }

    /// GGUF's name of this weight in a layer.
    pub(crate) fn name(&self, layer: usize) -> String {
        self.gguf.replacen("{}", &layer.to_string(), 1)
    }
}

/// A weight that a model may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// What it is.
    pub slot: Slot,
    /// Its layer; 0 for what is there once.
    pub layer: usize,
    /// Its name in a GGUF file.
    pub name: String,
    /// Its shape, rows first.
    pub shape: Shape,
    /// Whether a file must have it.
    pub need: Need,
}

/// Every weight that a model of these numbers has or may have, in the order in which a token meets them.
pub fn weights(config: &Config) -> Vec<Weight> {
    let weight = |spec: &Spec, layer| Weight {
        slot: spec.slot,
        layer,
        name: spec.name(layer),
        shape: (spec.shape)(config),
        need: (spec.need)(config.arch),
    };
    let there = || SLOTS.iter().filter(|s| (s.need)(config.arch) != Need::Absent);
    let is_end = |s: &&Spec| matches!(s.slot, Slot::OutputNorm | Slot::OutputNormBias | Slot::Output);
    let mut all: Vec<Weight> =
        there().filter(|s| !s.per_layer() && !is_end(s)).map(|s| weight(s, 0)).collect();
    for layer in 0..config.layers {
        all.extend(there().filter(|s| s.per_layer()).map(|s| weight(s, layer)));
    }
    all.extend(there().filter(is_end).map(|s| weight(s, 0)));
    all
}

/// A norm that other families put at the same place under another name.
const MLP_NORM_OF_SANDWICH: &str = "pre_feedforward_layernorm.weight";

impl Spec {
    /// A checkpoint's name of this weight in a layer; `None` where checkpoints have none.
    pub(crate) fn hf_name(&self, naming: Naming, layer: usize) -> Option<String> {
        let [layers, blocks] = self.hf;
        let (name, before) = match naming {
            Naming::Sandwich if self.slot == Slot::MlpNorm => (MLP_NORM_OF_SANDWICH, "model.layers"),
            Naming::Layers | Naming::Sandwich => (layers, "model.layers"),
            Naming::Blocks => (blocks, "h"),
        };
        match name {
            "" => None,
            name if self.per_layer() => Some(format!("{before}.{layer}.{name}")),
            name => Some(name.to_owned()),
        }
    }
}

/// The row of a slot.
pub(crate) fn spec_of(slot: Slot) -> &'static Spec {
    match SLOTS.iter().find(|s| s.slot == slot) {
        Some(spec) => spec,
        None => unreachable!("every slot has a row, and a test counts them"),
    }
}

/// The row, and the layer, of GGUF's name of a weight.
pub(crate) fn find(name: &str) -> Option<(&'static Spec, usize)> {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(layer, _)| layer);
    let layer = layer.map_or(Some(0), |layer| layer.parse().ok())?;
    SLOTS.iter().find(|s| s.name(layer) == name).map(|s| (s, layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_row() {
        for (i, spec) in SLOTS.iter().enumerate() {
            assert_eq!(spec.slot as usize, i, "the table is in the order of the enum");
        }
        assert_eq!(SLOTS.last().map(|s| s.slot), Some(Slot::PostMlpNorm));
    }

    #[test]
    fn a_name_finds_its_slot_and_layer() {
        let found = |name| find(name).map(|(s, layer)| (s.slot, layer));
        assert_eq!(found("blk.31.ffn_down.weight"), Some((Slot::MlpDown, 31)));
        assert_eq!(found("output.weight"), Some((Slot::Output, 0)));
        assert_eq!(found("blk.x.ffn_down.weight"), None);
        assert_eq!(found("blk.01.ffn_down.weight"), None);
    }
}
