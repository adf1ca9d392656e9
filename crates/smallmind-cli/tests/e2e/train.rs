//! `smallmind train`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Outcome, command, smallmind};

/// A text that small models can learn something from.
fn text(folder: &Path) -> PathBuf {
    let path = folder.join("text.txt");
    let lines: Vec<String> = (0..400)
        .map(|i| {
            format!(
                "The {} {} the {}.\n",
                ["cat", "dog", "fox"][i % 3],
                ["saw", "met"][i % 2],
                ["hen", "cow"][i / 3 % 2]
            )
        })
        .collect();
    std::fs::write(&path, lines.concat()).unwrap();
    path
}

fn train<'a>(data: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "--data", data.to_str().unwrap(), "-o", out.to_str().unwrap()];
    args.extend_from_slice(&["--preset", "small", "--batch", "2", "--seq", "32", "--eval-every", "10"]);
    args.extend_from_slice(more);
    args
}

#[test]
fn a_trained_model_is_saved_with_its_curve_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("model.gguf"));
    let d = smallmind(&train(&data, &out, &["--steps", "60", "--lr", "0.003", "--json"])).json();
    assert_eq!((d["steps"].as_u64(), d["parameters"].as_u64()), (Some(60), Some(470_528)));
    // 60 steps of a text of three dozen sentences: far from a guess among 256.
    assert!(d["valid_loss"].as_f64().unwrap() < 2.0, "{d}");
    let csv = std::fs::read_to_string(out.with_extension("csv")).unwrap();
    assert_eq!(csv.lines().count(), 61);
    assert!(std::fs::read_to_string(out.with_extension("svg")).unwrap().contains("validation"));
    assert!(!out.with_extension("gguf.checkpoint").exists());
    let model = out.to_str().unwrap();
    let d = smallmind(&["run", "-m", model, "--temp", "0", "-n", "8", "--json", "The cat "]).json();
    assert_eq!(d["tokens"].as_array().unwrap().len(), 8);
    let d =
        smallmind(&["perplexity", "-m", model, "-f", data.to_str().unwrap(), "-c", "32", "--json"]).json();
    assert!(d["perplexity"].as_f64().unwrap() < 8.0, "{d}");
}

#[test]
fn killed_at_any_moment_and_resumed_the_weights_are_the_same_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let data = text(dir.path());
    let whole = dir.path().join("whole.gguf");
    let settings =
        ["--steps", "200", "--save-every", "7", "--dropout", "0.1", "--accumulate", "2", "--name", "x"];
    assert_eq!(smallmind(&train(&data, &whole, &settings)).code, Some(0));
    let want = std::fs::read(&whole).unwrap();

    let out = dir.path().join("killed.gguf");
    let mut kills = 0;
    // Each time a little later, with another number of threads.
    for round in 0..40u64 {
        let threads = (round % 2 + 1).to_string();
        let mut more = settings.to_vec();
        more.extend_from_slice(&["-t", threads.as_str(), "--resume"]);
        let mut child = command(&train(&data, &out, &more)).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(150 + 90 * round));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "{round}");
                break;
            }
            None => {
                // SIGKILL: nothing is left to the program.
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    assert!(kills > 0, "it was never killed");
    assert!(std::fs::read(&out).unwrap() == want, "after {kills} kills the weights differ");
    // What was finished stays as it is.
    let mut more = settings.to_vec();
    more.push("--resume");
    let again = smallmind(&train(&data, &out, &more));
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("complete"), "{again:?}");
}

#[test]
fn mixed_precision_is_refused_where_the_instruction_set_has_no_matrix_units() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("model.gguf"));
    let config = dir.path().join("config.json");
    std::fs::write(&config, r#"{"precision": "bf16"}"#).unwrap();
    #[cfg(target_arch = "x86_64")]
    let avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let avx2 = false;
    for asked in [["--precision", "bf16"], ["--config", config.to_str().unwrap()]] {
        for isa in ["scalar"].into_iter().chain(avx2.then_some("avx2")) {
            let mut args = train(&data, &out, &asked);
            if asked[0] == "--config" {
                args.retain(|a| !["--preset", "small"].contains(a));
            }
            let refused: Outcome = command(&args).env("SMALLMIND_ISA", isa).output().unwrap().into();
            refused.refuses(1, &["precision is bf16", isa, "has no matrix units", "leave it out"]);
        }
    }
    // Neither a model nor a checkpoint nor a curve: only what was there.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn mixed_precision_trains_where_the_cpu_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("model.gguf"));
    let settings = train(&data, &out, &["--steps", "20", "--precision", "bf16", "--json"]);
    let here = smallmind(&settings);
    if here.stderr.contains("precision is bf16") {
        return;
    }
    let loss = |d: &serde_json::Value| d["valid_loss"].as_f64().unwrap();
    let plain = dir.path().join("plain.gguf");
    let f32 = smallmind(&train(&data, &plain, &["--steps", "20", "--json"])).json();
    let (ours, want) = (loss(&here.json()), loss(&f32));
    assert!((ours / want - 1.0).abs() < 0.02, "{ours} in bf16, {want} in f32");
}

#[test]
fn a_checkpoint_is_not_lost_by_accident_nor_taken_for_another_run() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("m.gguf"));
    let settings = ["--steps", "100000", "--save-every", "2"];
    let mut child = command(&train(&data, &out, &settings)).spawn().unwrap();
    let checkpoint = dir.path().join("m.gguf.checkpoint");
    for _ in 0..600 {
        if checkpoint.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    smallmind(&train(&data, &out, &settings)).refuses_after_notes(1, &["m.gguf.checkpoint", "--resume"]);
    let other = ["--steps", "100000", "--save-every", "2", "--lr", "0.5", "--resume"];
    smallmind(&train(&data, &out, &other)).refuses_after_notes(1, &["another run", "lr", "0.5"]);
    std::fs::write(&data, "Something else. ".repeat(100)).unwrap();
    let again = ["--steps", "100000", "--save-every", "2", "--resume"];
    smallmind(&train(&data, &out, &again)).refuses_after_notes(1, &["another run", "other data"]);
    // Damage is found, too.
    let bytes = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    smallmind(&train(&data, &out, &again)).refuses_after_notes(1, &["m.gguf.checkpoint"]);
    assert!(!out.exists());
}

#[test]
fn a_loss_that_is_no_number_stops_with_step_and_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("m.gguf"));
    let wild = [
        "--steps",
        "500",
        "--lr",
        "1000",
        "--warmup",
        "0",
        "--clip",
        "0",
        "--save-every",
        "1",
        "--weight-decay",
        "50",
    ];
    let run = smallmind(&train(&data, &out, &wild));
    run.refuses_after_notes(1, &["step ", "is not a number any more", "checkpoint is kept"]);
    assert!(!out.exists());
}

#[test]
fn bad_data_and_settings_are_one_sentence_each_and_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("m.gguf"));
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (empty, binary, zeros) =
        (file("e.txt", b" \n"), file("b.txt", b"\xff\xfe\x01"), file("z.txt", b"a\0b"));
    let short = file("s.txt", b"too short");
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    smallmind(&train(&empty, &out, &[])).refuses(1, &["e.txt", "empty"]);
    smallmind(&train(&binary, &out, &[])).refuses(1, &["b.txt", "UTF-8"]);
    smallmind(&train(&zeros, &out, &[])).refuses(1, &["z.txt", "binary"]);
    smallmind(&train(&short, &out, &[])).refuses(1, &["s.txt", "tokens to learn from"]);
    smallmind(&train(&folder, &out, &[])).refuses(1, &["folder", ".txt"]);
    smallmind(&train(Path::new("/nonexistent.txt"), &out, &[])).refuses(1, &["/nonexistent.txt"]);
    smallmind(&train(&data, &out, &["--vocab", "5000"]))
        .refuses(1, &["5000", "more than this text supports"]);
    smallmind(&train(&data, &out, &["--lr", "-1"])).refuses(2, &["lr is -1"]);
    let mut longer = train(&data, &out, &[]);
    let seq = longer.iter().position(|a| *a == "--seq").unwrap();
    longer[seq + 1] = "65";
    smallmind(&longer).refuses(2, &["seq is 65", "64"]);
    let config = file("c.json", br#"{"model": {"hidden": 100, "heads": 3}}"#);
    let with = |config: &Path| {
        let config = config.to_str().unwrap();
        smallmind(&[
            "train",
            "--data",
            data.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
            "--config",
            config,
        ])
    };
    with(&config).refuses(2, &["c.json", "model.heads is 3", "100"]);
    with(&file("d.json", br#"{"modle": {}}"#)).refuses(2, &["d.json", "modle"]);
    assert!(std::fs::read_dir(dir.path()).unwrap().all(|e| {
        let name = e.unwrap().file_name().into_string().unwrap();
        !name.contains("gguf") && !name.ends_with(".part")
    }));
}

/// Linux has a device that is always full, but no file in it; a small file size limit fills up the same way.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_is_one_sentence_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (text(dir.path()), dir.path().join("m.gguf"));
    let args = train(&data, &out, &["--steps", "2"]);
    // 512-byte blocks: less than the model needs. The signal that would end the program is ignored.
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$@\"";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_smallmind")]).args(&args);
    let run: crate::support::Outcome = shell.output().unwrap().into();
    run.refuses_after_notes(1, &["m.gguf", "cannot"]);
    let left: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.iter().all(|name| !name.contains("gguf")), "{left:?}");
}

#[test]
fn an_adapter_is_trained_applied_and_merged_with_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let data = text(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, adapter, merged, config) =
        (file("m.gguf"), file("a.safetensors"), file("merged.gguf"), file("c.json"));
    let shape = r#"{"arch": "llama", "vocab": 270, "context": 64, "hidden": 64, "kv_heads": 2}"#;
    std::fs::write(&config, format!(r#"{{"model": {shape}, "steps": 150, "batch": 2}}"#)).unwrap();
    let out = smallmind(&["train", "--config", &config, "--data", data.to_str().unwrap(), "-o", &model]);
    assert_eq!(out.code, Some(0), "{out:?}");
    let pairs = file("pairs.jsonl");
    std::fs::write(&pairs, r#"{"prompt": "The cat", "response": " met a whale."}"#).unwrap();
    let tune = [
        "finetune", "-m", &model, "--data", &pairs, "-o", &adapter, "--steps", "200", "--lr", "0.01",
        "--json",
    ];
    let d = smallmind(&tune).json();
    // The end-of-text token never occurs in what the model was trained on, and adapters do not reach its row.
    assert!(d["loss_after"].as_f64().unwrap() < 0.7 * d["loss_before"].as_f64().unwrap(), "{d}");
    let run = |more: &[&str]| {
        let mut args = vec!["run", "--temp", "0", "-n", "14", "--json", "The cat"];
        args.extend_from_slice(more);
        smallmind(&args).json()["text"].as_str().unwrap().to_owned()
    };
    let with = run(&["-m", &model, "--lora", &adapter]);
    assert!(with.contains("whale"), "{with}");
    assert_ne!(run(&["-m", &model]), with);
    assert_eq!(smallmind(&["merge", "-m", &model, "--lora", &adapter, "-o", &merged]).code, Some(0));
    assert_eq!(run(&["-m", &merged]), with);
    // The same of the model as SMQ, whose matrices are packed.
    let (smq, from_smq) = (file("m.smq"), file("merged-smq.gguf"));
    assert_eq!(smallmind(&["convert", &model, &smq]).code, Some(0));
    assert_eq!(run(&["-m", &smq, "--lora", &adapter]), with);
    assert_eq!(smallmind(&["merge", "-m", &smq, "--lora", &adapter, "-o", &from_smq]).code, Some(0));
    assert!(std::fs::read(&from_smq).unwrap() == std::fs::read(&merged).unwrap());
    let tuned = |model: &str, name: &str| {
        let out = file(name);
        let tune = ["finetune", "-m", model, "--data", &pairs, "-o", &out, "--steps", "2"];
        assert_eq!(smallmind(&tune).code, Some(0));
        std::fs::read(&out).unwrap()
    };
    assert!(tuned(&smq, "smq.safetensors") == tuned(&model, "gguf.safetensors"));

    // Unquantized where adapters are, quantized elsewhere: each product of a fast prompt is of the class that takes it.
    let (small, of_mlp) = (file("q8_0.gguf"), file("mlp.safetensors"));
    assert_eq!(smallmind(&["quantize", &model, &small, "--type", "Q8_0"]).code, Some(0));
    for targets in ["ffn_gate,ffn_up", "ffn_up", "ffn_down"] {
        let tune = ["finetune", "-m", &model, "--data", &pairs, "-o", &of_mlp, "--steps", "2"];
        assert_eq!(smallmind(&[&tune[..], &["--targets", targets]].concat()).code, Some(0));
        let args = ["run", "-m", &small, "--lora", &of_mlp, "--prefill", "fast", "-n", "4", "The cat"];
        let out = smallmind(&args);
        assert_eq!(out.code, Some(0), "{targets}: {out:?}");
    }

    smallmind(&["merge", "-m", &model, "-o", &merged]).refuses(2, &["--lora"]);
    smallmind(&["run", "--preset", "small", "--lora", &adapter, "x"]).refuses(1, &["another"]);
    std::fs::write(&pairs, "{\"prompt\": \"x\"}\n").unwrap();
    smallmind(&tune).refuses(1, &["pairs.jsonl", "line 1"]);
}
