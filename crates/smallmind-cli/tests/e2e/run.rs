//! `run`: answers, their reproducibility, and prompts from everywhere.

use std::io::Read;

use serde_json::Value;

use crate::support::{Outcome, command, interrupt, smallmind, smollm2, tiny, wait_for_output, with_stdin};

fn tokens(document: &Value) -> Vec<u64> {
    document["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn the_json_document_has_every_field_of_the_contract() {
    let Some(model) = smollm2() else { return };
    let args = ["run", "-m", &model, "--json", "--temp", "0", "-n", "6", "--logprobs", "3", "-t", "1"];
    let outcome = smallmind(&[&args[..], &["What is the capital of France?"]].concat());
    let d = outcome.json();
    assert_eq!(outcome.stderr, "");
    assert_eq!((d["model"].as_str(), d["architecture"].as_str()), (Some(model.as_str()), Some("llama")));
    assert_eq!((d["threads"].as_u64(), d["finish_reason"].as_str()), (Some(1), Some("length")));
    assert!(d["prompt_tokens"].as_array().unwrap().len() > 10);
    assert_eq!(tokens(&d).len(), 6);
    assert!(!d["text"].as_str().unwrap().is_empty(), "{d}");
    let logprobs = d["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 6);
    for (step, id) in logprobs.iter().zip(tokens(&d)) {
        let step = step.as_array().unwrap();
        assert_eq!(step.len(), 3);
        assert_eq!(step[0]["id"].as_u64(), Some(id), "greedy takes the likeliest");
        assert!(step[0]["token"].is_string());
        let values: Vec<f64> = step.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values[0] <= 0.0, "{values:?}");
    }
    for name in ["load_ms", "prompt_ms", "ttft_ms", "decode_ms", "prompt_tps", "decode_tps"] {
        assert!(d["timings"][name].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(d["memory"]["peak_rss_bytes"].as_u64().unwrap() > 50_000_000);
}

#[test]
fn decoding_allocates_nothing() {
    let Some(model) = smollm2() else { return };
    let base = ["run", "-m", &model, "--json", "-n", "24", "-s", "1", "--ignore-eos"];
    let greedy: &[&str] = &["--temp", "0"];
    let sampled: &[&str] = &["--temp", "1", "--repeat-penalty", "1.1", "--logprobs", "5"];
    for more in [greedy, sampled] {
        let d = smallmind(&[&base, more, &["Tell me about the sea."]].concat()).json();
        assert_eq!(tokens(&d).len(), 24);
        assert_eq!(d["memory"]["decode_allocations"], 0, "{more:?}");
        assert_eq!(d["memory"]["decode_allocated_bytes"], 0, "{more:?}");
    }
}

#[test]
fn the_text_does_not_depend_on_threads_or_prefill_chunks() {
    let Some(model) = smollm2() else { return };
    let run = |more: &[&str]| {
        let args = ["run", "-m", &model, "--json", "--temp", "0", "-n", "12", "--logprobs", "2"];
        let d = smallmind(&[&args, more, &["Write one line about rain."]].concat()).json();
        (tokens(&d), d["text"].clone(), d["logprobs"].clone())
    };
    let one = run(&["-t", "1"]);
    assert_eq!(one, run(&["-t", "2"]));
    assert_eq!(one, run(&["-t", "2", "--chunk", "1"]));
    assert_eq!(one, run(&["-t", "1", "--chunk", "7", "-c", "300"]));
}

#[test]
fn every_instruction_set_gives_the_same_log_probabilities() {
    let Some(model) = smollm2() else { return };
    let args = ["run", "-m", &model, "--json", "--raw", "--temp", "0", "-n", "4", "--logprobs", "10"];
    let args = [&args[..], &["The quick brown fox"]].concat();
    let default = smallmind(&args).json();
    let mut compared = Vec::new();
    for isa in ["scalar", "avx2", "avxvnni", "avx512bw", "avx512", "amx", "neon", "neon-dotprod", "neon-i8mm"]
    {
        let outcome = Outcome::from(command(&args).env("SMALLMIND_ISA", isa).output().unwrap());
        if outcome.code == Some(2) {
            // This CPU lacks it, which is said with what it has.
            outcome.refuses(2, &[isa, "scalar"]);
            continue;
        }
        let d = outcome.json();
        assert_eq!(d["isa"], isa);
        assert_eq!((&d["tokens"], &d["logprobs"]), (&default["tokens"], &default["logprobs"]), "{isa}");
        compared.push(isa);
    }
    assert!(compared.contains(&"scalar"), "{compared:?}");
}

#[test]
fn a_seed_gives_the_same_text_and_another_seed_another() {
    let Some(model) = smollm2() else { return };
    let run = |seed: &str| {
        let args =
            ["run", "-m", &model, "--raw", "--temp", "1.5", "-n", "16", "-s", seed, "Once upon a time"];
        let outcome = smallmind(&args);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

#[test]
fn what_is_streamed_is_what_json_reports() {
    let Some(model) = smollm2() else { return };
    let args = ["run", "-m", &model, "--temp", "0", "-n", "10", "Hello"];
    let streamed = smallmind(&args);
    assert_eq!((streamed.code, streamed.stderr.as_str()), (Some(0), ""));
    let document = smallmind(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(streamed.stdout.strip_suffix('\n'), document["text"].as_str());
}

#[test]
fn a_stop_text_ends_the_answer_and_is_never_part_of_it() {
    let Some(model) = smollm2() else { return };
    let args =
        ["run", "-m", &model, "--raw", "--temp", "0", "-n", "16", "--json", "The capital of France is"];
    let text = smallmind(&args).json()["text"].as_str().unwrap().to_owned();
    // From the middle of one word to the middle of another: the stop text spans tokens.
    let (from, to) = (text.len() / 3, text.len() / 2 + 1);
    let stop = text.get(from..to).unwrap();
    let d = smallmind(&[&args[..], &["--stop", stop, "--stop", "never to be seen"]].concat()).json();
    assert_eq!(d["text"].as_str().unwrap(), &text[..text.find(stop).unwrap()]);
    assert_eq!(d["finish_reason"], "stop");
}

#[test]
fn prompts_come_from_arguments_files_and_stdin() {
    let Some(model) = smollm2() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "The sky is\n").unwrap();
    let base = ["run", "-m", &model, "--raw", "--temp", "0", "-n", "4", "--json"];
    let argument = smallmind(&[&base[..], &["The sky is"]].concat()).json();
    let from_file = smallmind(&[&base[..], &["-f", file.to_str().unwrap()]].concat()).json();
    let from_stdin = with_stdin(&base, b"The sky is\n").json();
    let from_dash = with_stdin(&[&base[..], &["-f", "-"]].concat(), b"The sky is").json();
    for other in [&from_file, &from_stdin, &from_dash] {
        assert_eq!(argument["prompt_tokens"], other["prompt_tokens"]);
        assert_eq!(argument["tokens"], other["tokens"]);
    }
}

#[test]
fn the_template_is_applied_unless_raw_and_takes_a_system_message() {
    let Some(model) = smollm2() else { return };
    let text = |args: &[&str]| {
        let d =
            smallmind(&[&["run", "-m", &model, "--temp", "0", "-n", "1", "--json"], args].concat()).json();
        d["prompt_tokens"].as_array().unwrap().len()
    };
    let (raw, chat) = (text(&["--raw", "Hi"]), text(&["Hi"]));
    let system = text(&["--system", "You are a pirate with a very long beard, and you say so.", "Hi"]);
    assert!(raw <= 2 && chat > raw + 5, "{raw} {chat}");
    assert_ne!(system, chat);
}

#[test]
fn prompts_that_cannot_be_used_are_refused() {
    let model = tiny("llama");
    let base = ["run", "-m", &model, "--raw", "-n", "4"];
    with_stdin(&base, b"").refuses(2, &["prompt is empty"]);
    with_stdin(&base, b"abc\xff\xfe").refuses(1, &["stdin", "UTF-8", "byte 3"]);
    smallmind(&[&base[..], &["-f", "/no/such/prompt"]].concat()).refuses(1, &["/no/such/prompt"]);
    smallmind(&[&base[..], &["-f", "/"]].concat()).refuses(1, &["/"]);
    with_stdin(&base, "word ".repeat(200_000).as_bytes()).refuses(1, &["tokens", "context"]);
}

#[test]
fn a_megabyte_for_a_chat_model_is_refused_in_a_sentence() {
    let Some(model) = smollm2() else { return };
    let text = "All work and no play. ".repeat(48_000);
    with_stdin(&["run", "-m", &model, "-n", "4"], text.as_bytes()).refuses(1, &["tokens", "8192"]);
}

#[test]
fn model_files_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let run = |model: &str| smallmind(&["run", "-m", model, "--raw", "-n", "1", "x"]);
    run(&path("missing.gguf")).refuses(1, &["missing.gguf"]);
    run(folder.path().to_str().unwrap()).refuses(1, &[folder.path().to_str().unwrap()]);
    std::fs::write(path("text.gguf"), "this is no model").unwrap();
    run(&path("text.gguf")).refuses(1, &["text.gguf"]);
    std::fs::write(path("empty.gguf"), "").unwrap();
    run(&path("empty.gguf")).refuses(1, &["empty.gguf"]);
    let whole = std::fs::read(tiny("llama")).unwrap();
    std::fs::write(path("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    run(&path("cut.gguf")).refuses(1, &["cut.gguf"]);
    std::fs::write(path("evil\x1b[2J.gguf"), "no").unwrap();
    run(&path("evil\x1b[2J.gguf")).refuses(1, &["evil"]);
}

#[cfg(unix)]
#[test]
fn a_file_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret.gguf");
    std::fs::copy(tiny("llama"), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    smallmind(&["run", "-m", path.to_str().unwrap(), "--raw", "x"]).refuses(1, &["secret.gguf"]);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let Some(model) = smollm2() else { return };
    let mut child =
        command(&["run", "-m", &model, "--raw", "-n", "-1", "--ignore-eos", "Once"]).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_130_and_without_a_word() {
    let Some(model) = smollm2() else { return };
    let mut child =
        command(&["run", "-m", &model, "--raw", "-n", "-1", "--ignore-eos", "Once"]).spawn().unwrap();
    wait_for_output(&mut child);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn control_tokens_are_shown_only_where_asked_for() {
    let Some(model) = smollm2() else { return };
    let args = ["run", "-m", &model, "--temp", "0", "-n", "48", "--ignore-eos", "Say only: ok"];
    assert!(!smallmind(&args).stdout.contains("<|im_"));
    assert!(smallmind(&[&args[..], &["--special"]].concat()).stdout.contains("<|im_end|>"));
}

#[test]
fn the_precise_path_says_the_same_and_verbose_tells_the_timings() {
    let Some(model) = smollm2() else { return };
    let args = ["run", "-m", &model, "--raw", "--temp", "0", "-n", "3", "-v", "The capital of France is"];
    let (fast, precise) = (smallmind(&args), smallmind(&[&args[..], &["--precise"]].concat()));
    assert_eq!(fast.stdout, precise.stdout);
    assert!(fast.stderr.contains("tokens/s") && fast.stderr.contains("threads"), "{}", fast.stderr);
}

#[test]
fn a_fast_prefill_is_said_to_be_there_or_not_and_what_it_is() {
    let run = |isa: &str, args: &[&str]| -> Outcome {
        let fixed = ["run", "--raw", "--temp", "0", "-n", "2", "--prefill", "fast"];
        let outcome: Outcome =
            command(&[&fixed[..], args, &["ab"]].concat()).env("SMALLMIND_ISA", isa).output().unwrap().into();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome
    };
    let quantized = ["--preset", "small:q8_0"];
    let said = run("scalar", &[&quantized[..], &["-v"]].concat()).stderr;
    assert!(said.contains("8 bits"), "{said}");
    // What it cannot be is said to all, unless they want to hear nothing.
    let floats = ["--preset", "small:f32"];
    assert!(run("scalar", &floats).stderr.contains("exact"));
    assert!(run("scalar", &[&quantized[..], &["--precise"]].concat()).stderr.contains("exact"));
    assert_eq!(run("scalar", &[&floats[..], &["-q"]].concat()).stderr, "");
    // With any instruction set the program answers.
    assert_eq!(smallmind(&["run", "-m", &tiny("llama"), "-n", "2", "--prefill", "fast", "ab"]).code, Some(0));
}
