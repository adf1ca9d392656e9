//! Checkpoint folders that `transformers` saved (`testdata/golden/README.md`), converted: the tensors and tokens of the
//! GGUF files they were made from, and llama.cpp's logits; and bad folders, refused in a sentence.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy cannot see it")]

mod support;

use std::path::{Path, PathBuf};

use smallmind::convert::{ConvertOptions, convert, is_checkpoint, open_checkpoint};
use smallmind::{DType, Gguf, KvPrecision, LoadOptions, Model, Session, SessionOptions};

fn folders() -> Vec<PathBuf> {
    let all = std::fs::read_dir(support::golden("checkpoints")).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(all.len() >= 7, "the fixtures cover the families");
    all
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn floats(gguf: &Gguf, tensor: &str) -> Option<Vec<f32>> {
    let t = gguf.tensor(tensor)?;
    assert_eq!(t.dtype, DType::F32, "{tensor}");
    Some(gguf.data(t).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

#[test]
fn checkpoints_become_the_tensors_and_tokens_they_were_made_from() {
    for folder in folders() {
        assert!(is_checkpoint(&folder));
        let name = name(&folder);
        let ours = open_checkpoint(&folder).unwrap();
        let golden = Gguf::open(&support::golden(&format!("tiny/{name}.gguf"))).unwrap();
        for tensor in golden.tensors() {
            let found = floats(&ours, &tensor.name).unwrap_or_else(|| panic!("{name}: no {}", tensor.name));
            assert_eq!(ours.tensor(&tensor.name).unwrap().shape, tensor.shape, "{name}: {}", tensor.name);
            let want = floats(&golden, &tensor.name).unwrap();
            // Norms less 1 plus 1 again round twice.
            let bound = if name.starts_with("gemma") { 2e-7 } else { 0.0 };
            let worst = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= bound, "{name}: {} is off by {worst}", tensor.name);
        }
        assert_eq!(ours.tensors().len(), golden.tensors().len(), "{name}");
        let (a, b) = (ours.metadata(), golden.metadata());
        for key in ["tokens", "merges"] {
            let key = format!("tokenizer.ggml.{key}");
            assert_eq!(a.byte_strings(&key).unwrap(), b.byte_strings(&key).unwrap(), "{name}: {key}");
        }
        assert_eq!(
            a.i32s("tokenizer.ggml.token_type").unwrap(),
            b.i32s("tokenizer.ggml.token_type").unwrap()
        );
        assert_eq!(
            a.str("tokenizer.ggml.pre").unwrap().unwrap_or("default"),
            b.str("tokenizer.ggml.pre").unwrap().unwrap_or("default")
        );
        for role in ["bos", "eos", "unknown"] {
            let key = format!("tokenizer.ggml.{role}_token_id");
            assert!(b.u32(&key).unwrap().is_none_or(|id| a.u32(&key).unwrap() == Some(id)), "{name}: {key}");
        }
    }
}

#[test]
fn converted_checkpoints_give_llama_cpps_logits() {
    let cases = support::cases();
    for folder in folders() {
        let case = cases.iter().find(|c| c.name == name(&folder)).unwrap();
        let options = LoadOptions { threads: Some(2), precise: false };
        let model = Model::from_gguf(open_checkpoint(&folder).unwrap(), &options).unwrap();
        let options = SessionOptions { kv: Some(KvPrecision::F32), ..SessionOptions::default() };
        let mut session = Session::new(&model, &options).unwrap();
        let found = session.score(&case.ids, case.ids.len()).unwrap();
        let worst = found.iter().zip(&case.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{}: off by {worst}", case.name);
    }
}

#[test]
fn the_file_is_the_same_whatever_the_threads_and_takes_other_types() {
    let dir = tempfile::tempdir().unwrap();
    let folder = support::golden("checkpoints/qwen3-untied");
    let write = |name: &str, dtype, threads| {
        let path = dir.path().join(name);
        convert(&folder, &path, &ConvertOptions { dtype, threads }, &mut |_| true).unwrap();
        std::fs::read(path).unwrap()
    };
    assert!(write("1", None, 1) == write("3", None, 3));
    write("bf16", Some(DType::BF16), 1);
    let half = Gguf::open(&dir.path().join("bf16")).unwrap();
    assert_eq!(half.tensor("blk.0.attn_q.weight").unwrap().dtype, DType::BF16);
    assert_eq!(half.tensor("blk.0.attn_norm.weight").unwrap().dtype, DType::F32);
    let quantized = ConvertOptions { dtype: Some(DType::Q8_0), threads: 1 };
    let text = convert(&folder, &dir.path().join("q"), &quantized, &mut |_| true).unwrap_err().to_string();
    assert!(text.contains("quantize the GGUF file afterwards"), "{text}");
}

/// A copy of a folder with one change; what refusing it says.
fn refused(case: &str, change: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(support::golden("checkpoints").join(case)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    change(&folder);
    let out = dir.path().join("out.gguf");
    let error = convert(&folder, &out, &ConvertOptions::default(), &mut |_| true).unwrap_err().to_string();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["model"], "{error}");
    assert!(!error.contains('\n') && error.len() < 700, "{error}");
    error
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_folder_that_does_not_add_up_is_refused_in_a_sentence() {
    let config = |case: &str, from: &'static str, to: &'static str| {
        refused(case, |f| edit(f, "config.json", from, to))
    };
    let cases = [
        (config("llama-untied", "\"hidden_size\": 32", "\"hidden_size\": 48"), "shape"),
        (config("llama-untied", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"), "is missing"),
        (config("llama-untied", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"), "no part of"),
        (
            config("llama-untied", "\"num_attention_heads\": 2", "\"num_attention_heads\": \"two\""),
            "not a count",
        ),
        (config("llama-untied", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3"), "heads"),
        (
            config("llama-untied", "LlamaForCausalLM", "MambaForCausalLM"),
            "`MambaForCausalLM` is not converted",
        ),
        (config("llama-untied", "\"silu\"", "\"relu\""), "hidden_act"),
        (config("llama-rope-linear", "\"linear\"", "\"dynamic\""), "`dynamic` is no RoPE scaling"),
        (
            config("gemma3-pattern", "\"query_pre_attn_scalar\": 12", "\"query_pre_attn_scalar\": 8"),
            "query_pre_attn_scalar",
        ),
        (config("gemma3-pattern", "10000.0", "20000.0"), "windowed layers"),
        (
            config("gemma3-pattern", "\"full_attention\",\n    \"sliding", "\"full_attention\",\n    \"full"),
            "layer_types",
        ),
        (config("gpt2", "\"vocab_size\"", "vocab_size"), "is not JSON"),
        (
            refused("llama-untied", |f| {
                std::fs::remove_file(f.join("model-00002-of-00003.safetensors")).unwrap()
            }),
            "which is missing",
        ),
        (
            refused("llama-untied", |f| std::fs::remove_file(f.join("tokenizer.model")).unwrap()),
            "neither tokenizer.json",
        ),
        (
            refused("llama-untied", |f| std::fs::remove_file(f.join("config.json")).unwrap()),
            "config.json: cannot open",
        ),
        (
            refused("llama-bias", |f| std::fs::remove_file(f.join("model.safetensors")).unwrap()),
            "neither model.safetensors",
        ),
        (
            refused("llama-bias", |f| std::fs::write(f.join("tokenizer.model"), b"\x0a\xff").unwrap()),
            "no SentencePiece model",
        ),
        (refused("qwen2-yarn", |f| edit(f, "tokenizer.json", "\\\\p{N}|", "\\\\p{N}+|")), "pre_tokenizer"),
        (refused("qwen2-yarn", |f| edit(f, "tokenizer.json", "\"BPE\"", "\"Unigram\"")), "only BPE"),
    ];
    for (text, words) in cases {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_name() {
    for value in [f32::NAN, f32::INFINITY] {
        let text = refused("llama-bias", |folder| {
            let path = folder.join("model.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
            std::fs::write(path, bytes).unwrap();
        });
        assert!(text.contains("tensor `output_norm.weight`: row 0, column 31"), "{text}");
    }
}
