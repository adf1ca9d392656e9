//! `show`: every GGUF file, run by this version or not.

use crate::support::{smallmind, tiny};

#[test]
fn a_model_is_described_for_humans_and_as_json() {
    let model = tiny("llama");
    let text = smallmind(&["show", &model, "--tensors"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    for word in ["parameters", "memory", "KV cache", "general.architecture = llama", "token_embd.weight"] {
        assert!(text.stdout.contains(word), "no {word} in {}", text.stdout);
    }
    let d = smallmind(&["show", &model, "--json", "-c", "100"]).json();
    assert_eq!((d["architecture"].as_str(), d["memory"]["context"].as_u64()), (Some("llama"), Some(100)));
    assert_eq!(d["metadata"]["general.architecture"], "llama");
    assert!(d["parameters"].as_u64().unwrap() > 1000);
    assert!(d["tensors"].as_array().unwrap().iter().any(|t| t["name"] == "output_norm.weight"));
}

#[test]
fn long_arrays_are_shortened_unless_all_is_asked_for() {
    let model = tiny("llama");
    let [short, all] = [&["show", &model][..], &["show", &model, "--all"]].map(smallmind);
    assert_eq!((short.code, all.code), (Some(0), Some(0)));
    assert!(all.stdout.len() > short.stdout.len());
    let d = smallmind(&["show", &model, "--all", "--json"]).json();
    assert!(d["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len() > 8);
    assert!(!smallmind(&["show", &model, "--json"]).json()["metadata"]["tokenizer.ggml.tokens"].is_array());
}

#[test]
fn a_family_that_is_not_run_is_shown_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    // The same length, so that the file stays whole.
    let mut bytes = std::fs::read(tiny("llama")).unwrap();
    let at = bytes.windows(5).position(|w| w == b"llama").unwrap();
    bytes[at..at + 5].copy_from_slice(b"mamba");
    std::fs::write(&path, bytes).unwrap();
    let outcome = smallmind(&["show", path.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("not run by this version") && outcome.stdout.contains("mamba"),
        "{outcome:?}"
    );
    smallmind(&["run", "-m", path.to_str().unwrap(), "x"]).refuses(1, &["mamba"]);
}
