//! `convert`: checkpoint folders to files that both this program and llama.cpp run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{smallmind, tiny};

fn checkpoint(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/checkpoints");
    folder.join(name).display().to_string()
}

const GREEDY: [&str; 6] = ["--raw", "-n", "12", "--temp", "0", "--json"];

fn tokens(model: &str, prompt: &str) -> Vec<u64> {
    let d = smallmind(&[&["run", "-m", model, prompt][..], &GREEDY].concat()).json();
    d["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect()
}

#[test]
fn a_folder_runs_as_it_is_and_converted_with_the_same_tokens() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama-untied", "gpt2", "qwen3-untied", "gemma3-pattern"] {
        let out = dir.path().join(name).display().to_string();
        let done = smallmind(&["convert", &checkpoint(name), &out, "--json"]).json();
        assert_eq!(done["path"], out.as_str());
        let expected = tokens(&tiny(name), "abc");
        assert_eq!(tokens(&out, "abc"), expected, "{name}");
        assert_eq!(tokens(&checkpoint(name), "abc"), expected, "{name}");
    }
}

#[test]
fn bad_folders_are_one_sentence_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf").display().to_string();
    smallmind(&["convert", dir.path().to_str().unwrap(), &out]).refuses(1, &["config.json", "no such file"]);
    smallmind(&["convert", &checkpoint("none"), &out]).refuses(1, &["none"]);
    smallmind(&["convert", &checkpoint("gpt2"), &out, "--type", "Q4_0"]).refuses(2, &["smallmind quantize"]);
    smallmind(&["convert", &checkpoint("gpt2"), "/nonexistent/out.gguf"]).refuses(1, &["cannot write"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// llama.cpp's greedy continuation, where `SMALLMIND_LLAMA_CPP` names a folder that `scripts/build-llama-cpp` made.
fn llama_cpp(model: &str, prompt: &str) -> Option<String> {
    let Some(folder) = std::env::var_os("SMALLMIND_LLAMA_CPP").map(PathBuf::from) else {
        eprintln!("skipped: SMALLMIND_LLAMA_CPP does not name a folder with bin/llama-completion");
        return None;
    };
    let output = Command::new(folder.join("bin/llama-completion"))
        .args([
            "-m",
            model,
            "-p",
            prompt,
            "-n",
            "12",
            "--temp",
            "0",
            "-no-cnv",
            "--no-display-prompt",
            "-t",
            "2",
        ])
        .args(["--no-warmup", "-fa", "off", "-ctk", "f32", "-ctv", "f32", "-c", "64"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = text.trim_end();
    Some(text.strip_suffix("[end of text]").unwrap_or(text).trim_end().to_owned())
}

#[test]
fn what_is_written_runs_in_llama_cpp_with_the_same_text() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name).display().to_string();
    for name in ["llama-untied", "llama-bias", "gpt2", "qwen2-yarn", "qwen3-untied", "gemma3-pattern"] {
        let path = out(name);
        assert_eq!(smallmind(&["convert", &checkpoint(name), &path]).code, Some(0));
        let mut compared = 0;
        for prompt in ["abc", "The cat", "hello", "x"] {
            let Some(theirs) = llama_cpp(&path, prompt) else { return };
            let ours = smallmind(&[
                "run",
                "-m",
                &path,
                prompt,
                "--raw",
                "-n",
                "12",
                "--temp",
                "0",
                "--kv-type",
                "f32",
            ]);
            assert_eq!(ours.stdout.trim_end(), theirs, "{name}: {prompt}");
            compared += theirs.len();
        }
        assert!(compared > 12, "{name}: only {compared} bytes were compared");
    }
    for kind in ["Q8_0", "Q5_1", "F16", "Q4_K_M"] {
        let path = out(kind);
        assert_eq!(smallmind(&["quantize", &tiny("llama"), &path, "--type", kind]).code, Some(0));
        assert!(llama_cpp(&path, "abc").is_some());
    }
}
