//! A trained model as a GGUF file that runs like any other: F32, the tokenizer inside.

use smallmind::model::arch::{Norm, Position};
use smallmind_formats::write::GgufWriter;
use smallmind_kernels::DType;

use crate::config::TrainConfig;
use crate::data::Vocabulary;
use crate::model::TrainModel;
use crate::param::Param;

/// What the settings are called in a file.
pub(crate) const CONFIG_KEY: &str = "smallmind.train.config";
/// What the fingerprint of the data is called in a file.
pub(crate) const DATA_KEY: &str = "smallmind.train.data";

/// The values' bytes as a file has them.
pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Adds a parameter's values, or others of its shape, under this name.
pub(crate) fn add(w: &mut GgufWriter<'_>, name: &str, p: &Param, values: &[f32]) {
    let shape = if p.vector { vec![p.cols] } else { vec![p.cols, p.rows] };
    w.add_tensor(name, DType::F32, &shape, bytes_of(values));
}

/// The model's file.
pub(crate) fn describe(
    model: &TrainModel,
    vocabulary: &Vocabulary,
    train: &TrainConfig,
) -> GgufWriter<'static> {
    let mut w = gguf_of(model);
    if !train.license.is_empty() {
        w.set_str("general.license", &train.license);
    }
    w.set_str(CONFIG_KEY, &train.to_json());
    vocabulary.describe(&mut w);
    w
}

/// The model's numbers and weights, without a tokenizer.
pub fn gguf_of(model: &TrainModel) -> GgufWriter<'static> {
    let c = &model.config;
    let arch = c.arch;
    let mut w = GgufWriter::new();
    w.set_str("general.architecture", arch.name).set_str("general.name", &c.name);
    let mut counts = vec![
        ("block_count", c.layers),
        ("context_length", c.context),
        ("embedding_length", c.hidden),
        ("feed_forward_length", c.ffn),
        ("attention.head_count", c.heads),
        ("attention.head_count_kv", c.kv_heads),
        ("vocab_size", c.vocab),
    ];
    if arch.position != Position::Learned {
        counts.push(("rope.dimension_count", c.rope.dim));
        w.set_f32(&format!("{}.rope.freq_base", arch.name), c.rope.base);
    }
    for (key, value) in counts {
        w.set_u32(&format!("{}.{key}", arch.name), u32::try_from(value).unwrap_or(u32::MAX));
    }
    let eps = match arch.norm {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    w.set_f32(&format!("{}.{eps}", arch.name), c.norm_eps);
    model.params.iter().for_each(|p| add(&mut w, &p.name, p, &p.data));
    w
}
