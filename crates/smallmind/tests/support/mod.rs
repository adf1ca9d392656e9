//! What the integration tests share: where models and fixtures are.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this is test code, though clippy cannot see it"
)]

use std::path::{Path, PathBuf};

use smallmind::{LoadOptions, Model};

/// The repository's fixtures.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
}

/// A real model, or `None` (said loudly) where it was not fetched; in CI that is a failure.
pub fn real_model(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SMALLMIND_TEST_MODELS").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/smallmind-test-models"))
    });
    let path = folder.map(|f| f.join(file)).filter(|p| p.exists());
    if path.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{file} is missing: run scripts/fetch-models");
        eprintln!("skipped: {file} is missing: run scripts/fetch-models");
    }
    path
}

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

/// A tiny model of the fixtures.
pub fn tiny(name: &str, threads: usize, precise: bool) -> Model {
    let path = golden("tiny").join(format!("{name}.gguf"));
    Model::load(path, &LoadOptions { threads: Some(threads), precise }).unwrap()
}

/// One case of `testdata/golden/tiny/index.json`.
pub struct Case {
    pub name: String,
    pub quantized: bool,
    pub vocab: usize,
    pub ids: Vec<u32>,
    pub greedy: Vec<u32>,
    pub margins: Vec<f64>,
    /// `[ids, vocab]`
    pub logits: Vec<f32>,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let index = std::fs::read_to_string(golden("tiny/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let ids = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|i| u32::try_from(i.as_u64().unwrap()).unwrap()).collect()
    };
    index["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            let bytes = std::fs::read(golden("tiny").join(c["logits"].as_str().unwrap())).unwrap();
            Case {
                name: c["name"].as_str().unwrap().to_owned(),
                quantized: c["quantized"].as_bool().unwrap(),
                vocab: usize::try_from(c["vocab"].as_u64().unwrap()).unwrap(),
                ids: ids(&c["ids"]),
                greedy: c.get("greedy_ids").map(ids).unwrap_or_default(),
                margins: c["greedy_margins"]
                    .as_array()
                    .map(|m| m.iter().map(|v| v.as_f64().unwrap()).collect())
                    .unwrap_or_default(),
                logits: bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            }
        })
        .collect()
}
