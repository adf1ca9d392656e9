//! SMQ from the command line: there and back, run, verified; every damage found, none of them a panic.

use crate::support::{smallmind, smollm2, tiny};

fn tokens(model: &str) -> Vec<u64> {
    let d = smallmind(&["run", "-m", model, "--raw", "-n", "16", "--temp", "0", "--json", "The cat"]).json();
    d["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect()
}

#[test]
fn a_model_goes_there_and_back_and_runs_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let models = [Some(tiny("gemma3")), Some(tiny("llama-mixed")), smollm2()];
    for model in models.into_iter().flatten() {
        let (smq, back) = (path("m.smq"), path("m.gguf"));
        assert_eq!(smallmind(&["convert", &model, &smq]).code, Some(0));
        assert_eq!(tokens(&smq), tokens(&model));
        let verified = smallmind(&["verify", &smq, "--json"]).json();
        assert!(verified["parts"].as_u64().unwrap() > 10);
        assert_eq!(smallmind(&["convert", &smq, &back]).code, Some(0));
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&model).unwrap(), "{model}");
        assert_eq!(
            smallmind(&["show", &smq, "--json"]).json()["tensors"],
            smallmind(&["show", &model, "--json"]).json()["tensors"]
        );
    }
}

#[test]
fn damage_is_found_by_verify_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let smq = dir.path().join("m.smq");
    let shown = smq.display().to_string();
    assert_eq!(smallmind(&["convert", &tiny("llama-q8_0"), &shown]).code, Some(0));
    let good = std::fs::read(&smq).unwrap();
    let end = good.len();
    for (at, words) in [
        (3, "verify"),
        (9, "version"),
        (40, "SHA-256"),
        (200, "SHA-256"),
        (end - 5, "tensor"),
        (1 << 20, "belong to nothing"),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        std::fs::write(&smq, bytes).unwrap();
        let words = if words == "verify" { "not a GGUF model" } else { words };
        smallmind(&["verify", &shown]).refuses(1, &[words]);
        // Damaged weights may run; nothing may panic.
        let run = smallmind(&["run", "-m", &shown, "--raw", "-n", "2", "x"]);
        assert!(matches!(run.code, Some(0 | 1)) && !run.stderr.contains("internal error"), "{run:?}");
    }
    for cut in [0, 8, 63, 64, 500, end / 2, end - 1] {
        std::fs::write(&smq, &good[..cut]).unwrap();
        smallmind(&["verify", &shown]).refuses(1, &["m.smq"]);
    }
}

#[test]
fn what_cannot_be_converted_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("o.gguf").display().to_string();
    smallmind(&["convert", &tiny("llama"), &out]).refuses(1, &["is GGUF already"]);
    smallmind(&["convert", &tiny("llama"), &out, "--type", "F16"]).refuses(1, &["smallmind quantize"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
