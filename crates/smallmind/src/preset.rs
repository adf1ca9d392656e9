//! Small models made from a seed in milliseconds: the two GPT-2 shapes that the runtime this one took its idea from was
//! measured on. Their text is noise; their speed and size are real.

use smallmind_formats::Gguf;
use smallmind_formats::write::GgufWriter;
use smallmind_kernels::{DType, quant};

use crate::error::{Error, Result};
use crate::sample::rng::Rng;

/// Numbers of a preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: &'static str,
    /// Tokens: the 256 bytes, then unused places.
    pub vocab: usize,
    /// Positions.
    pub context: usize,
    /// Width of the residual stream; the MLP is four times as wide.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// 470,528 parameters in 29 tensors, and 3,454,464 in 53.
pub const PRESETS: [Preset; 2] = [
    Preset { name: "small", vocab: 256, context: 64, hidden: 128, layers: 2, heads: 4 },
    Preset { name: "medium", vocab: 512, context: 128, hidden: 256, layers: 4, heads: 8 },
];

impl Preset {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|p| p.name == name)
    }

    /// The model as a GGUF file in memory: matrices in `dtype` (F32 or Q8_0), the rest in F32, weights uniform with
    /// GPT-2's standard deviation of 0.02, norms 1 and biases drawn like weights.
    ///
    /// # Errors
    /// Where `dtype` is another type.
    pub fn build(&self, dtype: DType, seed: u64) -> Result<Gguf> {
        if !matches!(dtype, DType::F32 | DType::Q8_0) {
            return Err(Error::Parameter(format!("presets come in F32 and Q8_0, not in {dtype}")));
        }
        let mut rng = Rng::new(seed);
        let (d, ffn) = (self.hidden, 4 * self.hidden);
        let mut w = GgufWriter::new();
        w.set_str("general.architecture", "gpt2").set_str("general.name", &format!("preset {}", self.name));
        for (key, value) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", d),
            ("feed_forward_length", ffn),
            ("attention.head_count", self.heads),
        ] {
            w.set_u32(&format!("gpt2.{key}"), u32::try_from(value).unwrap_or(u32::MAX));
        }
        w.set_f32("gpt2.attention.layer_norm_epsilon", 1e-5);
        bytes_vocabulary(&mut w, self.vocab);

        matrix(&mut w, &mut rng, dtype, "token_embd.weight", [d, self.vocab])?;
        matrix(&mut w, &mut rng, dtype, "position_embd.weight", [d, self.context])?;
        for i in 0..self.layers {
            let name = |part: &str| format!("blk.{i}.{part}");
            norm(&mut w, &mut rng, &name("attn_norm"), d);
            matrix(&mut w, &mut rng, dtype, &name("attn_qkv.weight"), [d, 3 * d])?;
            vector(&mut w, &mut rng, &name("attn_qkv.bias"), 3 * d);
            matrix(&mut w, &mut rng, dtype, &name("attn_output.weight"), [d, d])?;
            vector(&mut w, &mut rng, &name("attn_output.bias"), d);
            norm(&mut w, &mut rng, &name("ffn_norm"), d);
            matrix(&mut w, &mut rng, dtype, &name("ffn_up.weight"), [d, ffn])?;
            vector(&mut w, &mut rng, &name("ffn_up.bias"), ffn);
            matrix(&mut w, &mut rng, dtype, &name("ffn_down.weight"), [ffn, d])?;
            vector(&mut w, &mut rng, &name("ffn_down.bias"), d);
        }
        norm(&mut w, &mut rng, "output_norm", d);
        matrix(&mut w, &mut rng, dtype, "output.weight", [d, self.vocab])?;

        let memory = |cause| Error::Memory { what: "the preset", bytes: 0, cause };
        Ok(Gguf::from_bytes(&format!("preset {}", self.name), w.to_bytes().map_err(memory)?)?)
    }
}

/// One token a byte, so that any text can be read and written, and unused places up to the vocabulary's size.
pub fn bytes_vocabulary(w: &mut GgufWriter<'_>, vocab: usize) {
    const NORMAL: i32 = 1;
    const UNUSED: i32 = 5;
    const BYTE: i32 = 6;
    let token = |id: usize| match id {
        // SentencePiece writes a blank as U+2581, which as bytes would be three tokens and never a blank again.
        0x20 => ("\u{2581}".to_owned(), NORMAL),
        0..256 => (format!("<0x{id:02X}>"), BYTE),
        _ => (format!("<unused{id}>"), UNUSED),
    };
    let (tokens, types): (Vec<String>, Vec<i32>) = (0..vocab).map(token).unzip();
    w.set_str("tokenizer.ggml.model", "llama")
        .set_strings("tokenizer.ggml.tokens", &tokens)
        .set_f32s("tokenizer.ggml.scores", &vec![0.0; vocab])
        .set_i32s("tokenizer.ggml.token_type", &types)
        .set_u32("tokenizer.ggml.bos_token_id", 0)
        .set_u32("tokenizer.ggml.eos_token_id", 0)
        .set_u32("tokenizer.ggml.unknown_token_id", 0)
        .set_bool("tokenizer.ggml.add_bos_token", false)
        .set_bool("tokenizer.ggml.add_space_prefix", false);
}

fn draw(rng: &mut Rng, n: usize) -> Vec<f32> {
    // Uniform on ±√3 · 0.02 has the standard deviation 0.02.
    const LIMIT: f64 = 0.034_641_016;
    (0..n).map(|_| ((2.0 * rng.unit() - 1.0) * LIMIT) as f32).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn matrix(w: &mut GgufWriter<'_>, rng: &mut Rng, dtype: DType, name: &str, shape: [usize; 2]) -> Result<()> {
    let values = draw(rng, shape[0] * shape[1]);
    let mut bytes = vec![0; dtype.bytes_of(values.len()).unwrap_or(0)];
    quant::quantize(dtype, &values, &mut bytes).map_err(|why| Error::Parameter(format!("{name}: {why}")))?;
    w.add_tensor(name, dtype, &shape, bytes);
    Ok(())
}

fn vector(w: &mut GgufWriter<'_>, rng: &mut Rng, name: &str, n: usize) {
    w.add_tensor(name, DType::F32, &[n], bytes_of(&draw(rng, n)));
}

fn norm(w: &mut GgufWriter<'_>, rng: &mut Rng, name: &str, n: usize) {
    w.add_tensor(&format!("{name}.weight"), DType::F32, &[n], bytes_of(&vec![1.0; n]));
    vector(w, rng, &format!("{name}.bias"), n);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadOptions, Model};
    use crate::session::{GenerateOptions, Session, SessionOptions};

    #[test]
    fn presets_have_the_parameters_they_promise_and_generate() {
        for (preset, parameters, tensors) in [("small", 470_528, 29), ("medium", 3_454_464, 53)] {
            for dtype in [DType::F32, DType::Q8_0] {
                let gguf = Preset::find(preset).unwrap().build(dtype, 1).unwrap();
                assert_eq!(gguf.tensors().iter().map(|t| t.elements()).sum::<usize>(), parameters);
                assert_eq!(gguf.tensors().len(), tensors);
                let options = LoadOptions { threads: Some(1), precise: false };
                let model = Model::from_gguf(gguf, &options).unwrap();
                let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
                let options =
                    GenerateOptions { max_tokens: Some(50), ignore_eos: true, ..GenerateOptions::default() };
                let prompt: Vec<u32> = (65..75).collect();
                assert_eq!(session.generate(&prompt, &options).unwrap().count(), 50);
            }
        }
    }

    #[test]
    fn a_text_is_one_token_a_byte_and_comes_back() {
        let text = "a b\tc\nzwölf <0x41> ";
        for preset in &PRESETS {
            let tokenizer = Model::tokenizer_of(&preset.build(DType::F32, 1).unwrap()).unwrap();
            let ids = tokenizer.encode(text, smallmind_text::Encode::default());
            assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
            assert_eq!(tokenizer.detokenize(&ids), text);
        }
    }

    #[test]
    fn a_seed_makes_one_model_and_another_seed_another() {
        let preset = Preset::find("small").unwrap();
        let bytes = |seed| {
            let gguf = preset.build(DType::F32, seed).unwrap();
            gguf.tensors().iter().flat_map(|t| gguf.data(t).to_vec()).collect::<Vec<u8>>()
        };
        assert!(bytes(1) == bytes(1));
        assert!(bytes(1) != bytes(2));
        assert!(preset.build(DType::Q4_0, 1).is_err());
    }
}
