//! `quantize`: every type, the same bytes whatever the threads, and nothing half-written.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Outcome, smallmind, tiny};

fn folder() -> (tempfile::TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, move |name: &str| path.join(name).display().to_string())
}

fn names(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn every_type_gives_a_model_that_runs() {
    let (_folder, path) = folder();
    let types =
        "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K";
    for name in types.split(' ') {
        let out = path(name);
        let done = smallmind(&["quantize", &tiny("llama"), &out, "--type", name, "--json", "-t", "2"]).json();
        assert_eq!((done["type"].as_str(), done["path"].as_str()), (Some(name), Some(out.as_str())));
        let run =
            smallmind(&["run", "-m", &out, "--raw", "-n", "4", "--temp", "0", "--json", "hello"]).json();
        assert!(!run["tokens"].as_array().unwrap().is_empty(), "{name}");
        let shown = smallmind(&["show", &out, "--json"]).json();
        assert_eq!(shown["metadata"]["general.quantization_version"], 2, "{name}");
    }
}

#[test]
fn the_mix_and_the_flags_choose_each_tensors_type() {
    let (_folder, path) = folder();
    let types = |args: &[&str]| {
        let out = path("m.gguf");
        let mut all = vec!["quantize", "IN", "OUT", "--type"];
        let model = tiny("llama");
        (all[1], all[2]) = (&model, &out);
        all.extend(args);
        assert_eq!(smallmind(&all).code, Some(0), "{args:?}");
        let shown = smallmind(&["show", &out, "--json"]).json();
        let of = |name: &str| {
            let t = shown["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
            t["type"].as_str().unwrap().to_owned()
        };
        ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"].map(of)
    };
    // Rows of 64 are no super-blocks: Q4_K falls back to Q5_0, and the tied embedding's Q6_K to Q8_0.
    assert_eq!(types(&["Q4_K_M"]), ["Q8_0", "Q5_0", "F32"]);
    assert_eq!(types(&["Q4_0", "--pure"]), ["Q4_0", "Q4_0", "F32"]);
    assert_eq!(types(&["Q4_0", "--token-embedding-type", "F16"]), ["F16", "Q4_0", "F32"]);
    assert_eq!(types(&["Q4_0", "--output-tensor-type", "Q5_1"]), ["Q5_1", "Q4_0", "F32"]);
    assert_eq!(types(&["f16"]), ["F16", "F16", "F32"]);
}

#[test]
fn threads_change_no_byte_and_a_second_loss_is_told() {
    let (_folder, path) = folder();
    let bytes = |threads: &str| {
        let out = path(threads);
        let outcome = smallmind(&["quantize", &tiny("qwen3"), &out, "--type", "Q4_0", "-t", threads]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        std::fs::read(out).unwrap()
    };
    assert!(bytes("1") == bytes("3"));
    let again = |flags: &[&str]| {
        smallmind(&[&["quantize", &path("1"), &path("2"), "--type", "Q5_0"], flags].concat())
    };
    assert!(again(&[]).stderr.contains("lose twice"));
    assert!(!again(&["--allow-requantize"]).stderr.contains("lose twice"));
}

#[test]
fn bad_input_is_one_sentence_and_nothing_is_left() {
    let (folder, path) = folder();
    let mut bytes = std::fs::read(tiny("llama")).unwrap();
    let end = bytes.len();
    bytes[end - 64..end - 60].copy_from_slice(&f32::NAN.to_le_bytes());
    let damaged = path("nan.gguf");
    std::fs::write(&damaged, bytes).unwrap();
    smallmind(&["quantize", &damaged, &path("out"), "--type", "Q8_0"]).refuses(1, &["tensor", "is NaN"]);
    smallmind(&["quantize", &tiny("llama"), &path("out"), "--type", "Q9"])
        .refuses(2, &["not one of", "Q4_K_M"]);
    smallmind(&["quantize", &tiny("llama"), &path("no/out"), "--type", "Q8_0"]).refuses(1, &["cannot write"]);
    smallmind(&["quantize", &path("none"), &path("out"), "--type", "Q8_0"]).refuses(1, &["none"]);
    let args = ["quantize", &tiny("llama"), &path("out"), "--type", "Q8_0", "--imatrix", &tiny("llama")];
    smallmind(&args).refuses(1, &["general.type"]);
    assert_eq!(names(folder.path()), [PathBuf::from(damaged)]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_leaves_nothing_behind() {
    let (folder, path) = folder();
    // A limit on file sizes fails a write as a full disk does.
    let script = format!(
        "trap '' XFSZ; ulimit -f 16; exec {} quantize {} {} --type F32",
        env!("CARGO_BIN_EXE_smallmind"),
        tiny("llama"),
        path("out.gguf")
    );
    let outcome: Outcome = Command::new("sh").args(["-c", &script]).output().unwrap().into();
    outcome.refuses(1, &["out.gguf", "cannot write"]);
    assert_eq!(names(folder.path()), [""; 0].map(PathBuf::from));
}
