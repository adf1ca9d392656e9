//! Opens the models that the end-to-end tests use and compares what is known about them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test outside of a test function's body")]

use smallmind_formats::Gguf;
use smallmind_kernels::dtype::DType;
use std::path::PathBuf;

/// The model, or `None` with a loud word where it was not fetched (which fails where `CI` is set).
fn model(name: &str) -> Option<Gguf> {
    let folder = std::env::var_os("SMALLMIND_TEST_MODELS").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/smallmind-test-models"))
    })?;
    let path = folder.join(name);
    if path.exists() {
        return Some(Gguf::open(&path).unwrap());
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: run scripts/fetch-models", path.display());
    eprintln!("skipped: run scripts/fetch-models ({} is missing)", path.display());
    None
}

#[test]
fn smollm2_has_its_known_header() {
    let Some(file) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let m = file.metadata();
    assert_eq!((file.version(), m.len(), file.tensors().len(), file.file_len()), (3, 33, 272, 98_362_432));
    assert_eq!(m.require_str("general.architecture").unwrap(), "llama");
    assert_eq!(m.require_u32("llama.embedding_length").unwrap(), 576);
    assert_eq!(m.require_f32("llama.rope.freq_base").unwrap(), 1e5);
    assert_eq!(m.require_str("tokenizer.ggml.model").unwrap(), "gpt2");
    let tokens = m.require_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[0], tokens[1]), (49_152, "<|endoftext|>", "<|im_start|>"));
    assert_eq!(m.require_strings("tokenizer.ggml.merges").unwrap().len(), 48_900);
    assert_eq!(m.require_i32s("tokenizer.ggml.token_type").unwrap().len(), 49_152);
    let norm = file.tensor("output_norm.weight").unwrap();
    assert_eq!((norm.dtype, norm.shape.as_slice()), (DType::F32, &[576][..]));
    let embed = file.tensor("token_embd.weight").unwrap();
    assert_eq!(embed.shape, [576, 49_152]);
    assert_eq!((embed.row_len(), embed.rows()), (576, 49_152));
}

#[test]
fn gemma_has_its_known_header() {
    let Some(file) = model("gemma-3-270m-q4_k_m.gguf") else { return };
    let m = file.metadata();
    assert_eq!((m.len(), file.tensors().len(), file.file_len()), (33, 236, 253_113_024));
    assert_eq!(m.require_str("general.architecture").unwrap(), "gemma3");
    let tokens = m.require_byte_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[0], tokens[2]), (262_144, &b"<pad>"[..], &b"<bos>"[..]));
    assert_eq!(m.require_f32s("tokenizer.ggml.scores").unwrap().len(), 262_144);
    assert!(m.require_bool("tokenizer.ggml.add_bos_token").unwrap());
}

#[test]
fn every_tensor_of_a_real_model_reads_the_same_after_its_pages_are_released() {
    let Some(file) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let sum = |t| file.data(t).iter().fold(0u64, |sum, b| sum + u64::from(*b));
    for t in file.tensors().iter().take(20) {
        assert_eq!(file.data(t).len(), t.bytes());
        let before = sum(t);
        file.release(t, 0..t.bytes());
        assert_eq!(sum(t), before, "{}", t.name);
    }
}
