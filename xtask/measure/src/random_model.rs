//! A llama-shaped model of random weights, larger than any cache: its text is noise, its speed is that of a real model of
//! the shape. The vocabulary comes from a given file, so that any program can load it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use smallmind::{DType, Gguf};
use smallmind_formats::write::GgufWriter;

const SEED: u64 = 20_261_123;

/// Numbers of the model.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    ffn: usize,
    context: usize,
}

/// The shape of a model of a thousand million parameters: 1.14 GB in Q8_0 with 49,152 tokens, output and embedding tied.
const LARGE: Shape = Shape { layers: 16, hidden: 2048, heads: 32, kv_heads: 8, ffn: 8192, context: 8192 };

/// The model in `folder`, written there where it is not yet.
pub(crate) fn file(folder: &Path, vocabulary: &Path) -> Result<PathBuf> {
    let gguf = Gguf::open(vocabulary).with_context(|| vocabulary.display().to_string())?;
    let tokens = tokens(&gguf)?;
    let path = folder.join(format!("random-1b-{tokens}-Q8_0.gguf"));
    if !path.exists() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        write(&path, LARGE, &gguf)?;
    }
    Ok(path)
}

fn tokens(vocabulary: &Gguf) -> Result<usize> {
    let tokens = vocabulary.metadata().byte_strings("tokenizer.ggml.tokens")?;
    Ok(tokens.context("the file that gives the vocabulary has no tokens")?.len())
}

/// Writes a model of that shape in Q8_0 with the vocabulary of `vocabulary`.
fn write(path: &Path, shape: Shape, vocabulary: &Gguf) -> Result<()> {
    let Shape { layers, hidden, heads, kv_heads, ffn, context } = shape;
    let mut w = GgufWriter::new();
    w.set_str("general.architecture", "llama").set_str("general.name", "random weights");
    for (key, value) in [
        ("block_count", layers),
        ("context_length", context),
        ("embedding_length", hidden),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("rope.dimension_count", hidden / heads),
    ] {
        w.set_u32(&format!("llama.{key}"), u32::try_from(value)?);
    }
    w.set_f32("llama.attention.layer_norm_rms_epsilon", 1e-5).set_f32("llama.rope.freq_base", 10_000.0);
    for (key, value) in vocabulary.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        w.set_value(key, value);
    }
    let mut random = Random(SEED);
    let mut matrix = |w: &mut GgufWriter<'_>, name: &str, k: usize, rows: usize| {
        w.add_tensor(name, DType::Q8_0, &[k, rows], random.q8_0(k * rows));
    };
    let norm = |w: &mut GgufWriter<'_>, name: &str| {
        w.add_tensor(name, DType::F32, &[hidden], 1f32.to_le_bytes().repeat(hidden));
    };
    let kv = hidden / heads * kv_heads;
    matrix(&mut w, "token_embd.weight", hidden, tokens(vocabulary)?);
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        norm(&mut w, &name("attn_norm"));
        for (part, k, rows) in [
            ("attn_q", hidden, hidden),
            ("attn_k", hidden, kv),
            ("attn_v", hidden, kv),
            ("attn_output", hidden, hidden),
        ] {
            matrix(&mut w, &name(part), k, rows);
        }
        norm(&mut w, &name("ffn_norm"));
        for (part, k, rows) in [("ffn_gate", hidden, ffn), ("ffn_up", hidden, ffn), ("ffn_down", ffn, hidden)]
        {
            matrix(&mut w, &name(part), k, rows);
        }
    }
    norm(&mut w, "output_norm.weight");
    w.write_file(path).with_context(|| path.display().to_string())
}

/// A linear congruential generator with the middle bits mixed: quick, and good enough for noise.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ (self.0 >> 29)
    }

    /// Blocks of 32: a scale that gives weights the standard deviation 0.02, then uniform quants.
    fn q8_0(&mut self, values: usize) -> Vec<u8> {
        // Half precision of 0.02 / 73.9, the deviation of a uniform byte.
        const SCALE: [u8; 2] = 0x0C6F_u16.to_le_bytes();
        let mut bytes = Vec::with_capacity(values / 32 * 34);
        for _ in 0..values / 32 {
            bytes.extend(SCALE);
            for _ in 0..4 {
                bytes.extend(self.next().to_le_bytes());
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::preset::Preset;
    use smallmind::{LoadOptions, Model, Session, SessionOptions};

    #[test]
    fn a_random_model_loads_and_computes_finite_logits_and_is_the_same_every_time() {
        let vocabulary = Preset::find("small").unwrap().build(DType::F32, 1).unwrap();
        let shape = Shape { layers: 2, hidden: 64, heads: 4, kv_heads: 2, ffn: 128, context: 64 };
        let folder = std::env::temp_dir().join(format!("xtask-random-model-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [a, b] = ["a.gguf", "b.gguf"].map(|name| folder.join(name));
        write(&a, shape, &vocabulary).unwrap();
        write(&b, shape, &vocabulary).unwrap();
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
        let model = Model::load(&a, &LoadOptions { threads: Some(1), precise: false }).unwrap();
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let logits = session.prefill(&[1, 2, 3]).unwrap();
        assert!(logits.len() == 256 && logits.iter().all(|l| l.is_finite()));
        assert!(logits.iter().any(|l| *l != logits[0]));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn weights_have_the_deviation_of_a_trained_model() {
        let bytes = Random(1).q8_0(32 * 1000);
        let scale = f64::from(0x06Fu16 | 0x400) * 2f64.powi(3 - 25);
        let quants: Vec<f64> =
            bytes.chunks(34).flat_map(|b| b[2..].iter().map(|q| f64::from(q.cast_signed()))).collect();
        let deviation = scale * (quants.iter().map(|q| q * q).sum::<f64>() / quants.len() as f64).sqrt();
        assert!((deviation - 0.02).abs() < 0.001, "{deviation}");
    }
}
