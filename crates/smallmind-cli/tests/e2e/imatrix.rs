//! `imatrix`: the sums of every matrix's inputs, in the form that `quantize --imatrix` and llama.cpp read.

use crate::support::{smallmind, tiny, with_stdin};

#[test]
fn importances_are_made_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = "the cat sat on the mat and the dog ate the bone ".repeat(20);
    let make = |threads: &str| {
        let out = path(threads);
        let args = ["imatrix", "-m", &tiny("llama"), "-o", &out, "-c", "32", "-t", threads, "--json"];
        let d = with_stdin(&args, text.as_bytes()).json();
        assert!(d["windows"].as_u64().unwrap() > 5);
        // Seven matrices in each of two layers.
        assert_eq!(d["matrices"], 14);
        std::fs::read(out).unwrap()
    };
    assert!(make("1") == make("3"));
    let shown = smallmind(&["show", &path("1"), "--json"]).json();
    let tensors = shown["tensors"].as_array().unwrap();
    let names: Vec<&str> = tensors.iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(
        names.contains(&"blk.0.attn_q.weight.in_sum2") && names.contains(&"blk.1.ffn_down.weight.counts")
    );
    assert_eq!(shown["metadata"]["general.type"], "imatrix");

    let quantized = |flags: &[&str]| {
        let out = path("q.gguf");
        let done = smallmind(&[&["quantize", &tiny("llama"), &out, "--type", "Q4_0"], flags].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
        (std::fs::read(&out).unwrap(), smallmind(&["show", &out, "--json"]).json())
    };
    let (plain, _) = quantized(&[]);
    let (weighted, shown) = quantized(&["--imatrix", &path("1")]);
    assert!(plain != weighted);
    assert_eq!(shown["metadata"]["quantize.imatrix.entries_count"], 14);
    let other = smallmind(&[
        "quantize",
        &tiny("qwen3-untied"),
        &path("q"),
        "--type",
        "Q4_0",
        "--imatrix",
        &path("1"),
    ]);
    other.refuses(1, &["made for another model"]);
}

#[test]
fn a_text_that_is_too_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("i.gguf").display().to_string();
    with_stdin(&["imatrix", "-m", &tiny("llama"), "-o", &out, "-c", "64"], b"short")
        .refuses(1, &["one window of 64"]);
    assert!(!dir.path().join("i.gguf").exists());
}
