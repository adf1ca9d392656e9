//! `compare` and `report`: the protocol with peers made of a few lines of shell, and real peers where they are installed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::{command, interrupt, smallmind, smollm2, tiny, with_stdin};

/// A folder with a store, and programs that answer as llama.cpp's do.
struct Place {
    folder: tempfile::TempDir,
}

/// As llama.cpp writes its figures; `-n` and the number of the prompt's tokens are taken from the command line.
const LLAMA: &str = r#"#!/bin/sh
case "$1" in --version) echo 'version: 1 (build 1, commit 0c1e570)'; exit 0;; esac
n=1
while [ $# -gt 0 ]; do case "$1" in -n) n=$2;; esac; shift; done
echo "prompt eval time = 8.00 ms / PROMPT tokens"
[ "$n" = 1 ] && exit 0
echo "eval time = 70.00 ms / $((n - 1)) runs"
"#;

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn program(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = command(args);
        command.env("SMALLMIND_HOME", self.path("store")).env("SMALLMIND_PEERS", self.path("peers"));
        command
    }

    fn run(&self, args: &[&str]) -> crate::support::Outcome {
        self.command(args).output().unwrap().into()
    }
}

const SMALL: &[&str] = &["-p", "12", "-n", "8", "-b", "2", "-t", "1"];

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [&["compare"], first, more].concat()
}

/// A text that the tiny models' tokenizers make enough tokens of.
fn text(place: &Place) -> String {
    let path = place.path("text.txt");
    std::fs::write(&path, "The quick brown fox jumps over the lazy dog, and then some more. ".repeat(60))
        .unwrap();
    path.display().to_string()
}

#[test]
fn ours_alone_gives_rows_and_absent_peers_are_named_with_their_commands() {
    let place = Place::new();
    let (text, model, saved) = (text(&place), tiny("llama"), place.shown("run.json"));
    let flags = [
        "-m",
        &model,
        "-f",
        &text,
        "--rounds",
        "2",
        "--save",
        &saved,
        "--json",
        "--peers",
        "candle,llama.cpp",
    ];
    let outcome = place.run(&with(SMALL, &flags));
    let results = outcome.json();
    assert!(outcome.stderr.contains("candle is not installed: skipped; to have it: "), "{outcome:?}");
    assert!(outcome.stderr.contains("scripts/build-llama-cpp "), "{outcome:?}");
    let ids: Vec<&str> =
        results["rows"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    for part in ["size", "prefill", "decode", "memory", "ttft", "cold", "batch"] {
        assert!(ids.iter().any(|id| id.starts_with(&format!("{part}/llama/t1/"))), "{part}: {ids:?}");
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert_eq!((&kept["rows"], &kept["complete"]), (&results["rows"], &Value::Bool(true)));
    assert_eq!(kept["detail"]["sides"][1]["state"], "absent");
    // Nothing of the run is left behind.
    assert_eq!(std::fs::read_dir(place.path("store/compare")).unwrap().count(), 0);
}

#[test]
fn a_peers_figures_stand_beside_ours_and_one_that_fails_is_reported_with_its_words() {
    let place = Place::new();
    let (text, model) = (text(&place), tiny("llama"));
    place.program("bin/llama-completion", &LLAMA.replace("PROMPT", "12"));
    place.program("bin/llama-batched-bench", "#!/bin/sh\necho cannot allocate >&2; exit 3\n");
    place.program("bin/llama-perplexity", "#!/bin/sh\nsleep 1000\n");
    let peer = format!("llama.cpp={}", place.shown("bin"));
    let flags = [
        "-m",
        &model,
        "-f",
        &text,
        "--rounds",
        "2",
        "--peers",
        "llamacpp",
        "--peer",
        &peer,
        "--timeout",
        "2",
    ];
    let results =
        place.run(&with(SMALL, &[&flags[..], &["--only", "prefill,decode,batch", "--json"]].concat())).json();
    let row = |part: &str| {
        let rows = results["rows"].as_array().unwrap();
        rows.iter().find(|r| r["part"] == part).unwrap_or_else(|| panic!("{part}: {results}")).clone()
    };
    let sides = |part: &str| -> Vec<(String, usize)> {
        let sides = row(part)["sides"].as_array().unwrap().clone();
        sides
            .iter()
            .map(|s| (s["name"].as_str().unwrap().into(), s["samples"].as_array().unwrap().len()))
            .collect()
    };
    let want = ["SmallMind", "llama.cpp fa off", "llama.cpp fa on"].map(|name| (name.to_owned(), 2));
    assert_eq!(sides("decode"), want);
    assert_eq!(row("prefill")["sides"][1]["samples"][0], 1500.0);
    assert_eq!(row("decode")["sides"][2]["samples"][1], 100.0);
    assert_eq!(sides("batch"), [want[0].clone()]);
    let failed = &results["detail"]["sides"][1];
    assert_eq!(failed["state"], "failed");
    assert!(failed["words"].as_str().unwrap().contains("cannot allocate"), "{failed}");
    let text = place.run(&with(SMALL, &[&flags[..], &["--only", "decode"]].concat()));
    assert_eq!(text.code, Some(0), "{text:?}");
    for words in [
        "llama.cpp fa on",
        "× llama.cpp fa o",
        "too few samples to tell",
        "2 rounds were measured; a verdict needs 5",
    ] {
        assert!(text.stdout.contains(words), "{words}: {}", text.stdout);
    }
}

#[test]
fn a_peer_that_counts_other_tokens_or_never_answers_is_no_measurement() {
    let place = Place::new();
    let (text, model) = (text(&place), tiny("llama"));
    let run = |script: &str| {
        place.program("bin/llama-completion", script);
        let peer = format!("llama.cpp={}", place.shown("bin"));
        let flags = [
            "-m",
            &model,
            "-f",
            &text,
            "--rounds",
            "1",
            "--peers",
            "llama.cpp",
            "--peer",
            &peer,
            "--timeout",
            "1",
        ];
        place.run(&with(SMALL, &[&flags[..], &["--only", "decode", "--json"]].concat())).json()["detail"]["sides"][1].clone()
    };
    let other = run(&LLAMA.replace("PROMPT", "13"));
    assert!(other["words"].as_str().unwrap().contains("13 tokens, we as 12"), "{other}");
    let slow = run(&LLAMA.replace("n=1\n", "sleep 1000\n"));
    assert!(slow["words"].as_str().unwrap().contains("no end after 1s"), "{slow}");
}

#[test]
fn the_presets_are_compared_too() {
    let place = Place::new();
    let outcome = place.run(&[
        "compare",
        "--preset",
        "small,small:q8_0",
        "-t",
        "1",
        "--rounds",
        "1",
        "--peers",
        "none",
        "--json",
    ]);
    let results = outcome.json();
    let subjects: Vec<&str> = results["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["part"] == "generate")
        .map(|r| r["subject"].as_str().unwrap())
        .collect();
    assert_eq!(subjects, ["preset small F32", "preset small Q8_0"]);
}

#[test]
fn ctrl_c_keeps_what_has_been_measured() {
    let place = Place::new();
    let (text, model, saved) = (text(&place), tiny("llama"), place.path("run.json"));
    let shown = saved.display().to_string();
    let flags = ["-m", &model, "-f", &text, "--rounds", "1000", "--peers", "none", "--save", &shown];
    let mut child =
        place.command(&with(SMALL, &flags)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !saved.exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let kept: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert_eq!(kept["complete"], false);
    assert!(!kept["rows"][0]["sides"][0]["samples"].as_array().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(place.path("store/compare")).unwrap().count(), 0);
}

#[test]
fn the_time_limits_the_rounds_and_the_table_says_so() {
    let place = Place::new();
    let (text, model) = (text(&place), tiny("llama"));
    let flags =
        ["-m", &model, "-f", &text, "--rounds", "9", "--budget", "1", "--peers", "none", "--timeout", "60"];
    let outcome = place.run(&with(SMALL, &[&flags[..], &["--json"]].concat()));
    let measured = &outcome.json()["detail"]["measured"][0];
    assert!(measured[2].as_u64().unwrap() >= 2, "{measured}");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let place = Place::new();
    let (text, model) = (text(&place), tiny("llama"));
    let refused = |flags: &[&str], words: &[&str]| {
        place.run(&[&["compare", "-m", &model, "-f", &text, "-q"], flags].concat()).refuses(2, words);
    };
    refused(&["--peers", "lama.cpp"], &["lama.cpp", "PyTorch"]);
    refused(&["--peer", "candle"], &["--peer"]);
    refused(&["--only", "speed"], &["speed", "prefill"]);
    refused(&["-p", "9999"], &["10127", "llama"]);
    refused(&["-n", "1", "-p", "4"], &["2 tokens"]);
    smallmind(&["compare", "-m", "/nonexistent/m.gguf", "--offline"]).refuses(1, &["/nonexistent/m.gguf"]);
}

#[test]
fn peers_can_be_listed() {
    let place = Place::new();
    place.program("bin/llama-completion", &LLAMA.replace("PROMPT", "1"));
    let outcome = place.run(&["compare", "--list", "--peer", &format!("llama.cpp={}", place.shown("bin"))]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.starts_with("llama.cpp: version: 1 (build 1, commit 0c1e570)\n"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("PyTorch: not here; to have it:\n    python3 -m venv "),
        "{}",
        outcome.stdout
    );
}

#[test]
fn our_own_side_speaks_the_protocol() {
    let requests = "{\"generate\": {\"prompt\": [1, 2, 3], \"tokens\": 4}}\nnonsense\n";
    let outcome = with_stdin(&["peer", "-m", &tiny("llama"), "-t", "1"], requests.as_bytes());
    let lines: Vec<Value> = outcome.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines[0]["ready"]["version"].as_str().unwrap().starts_with("SmallMind "), "{outcome:?}");
    assert_eq!(lines[1]["tokens"].as_array().unwrap().len(), 4);
    assert!(lines[2]["error"].is_string() && outcome.code == Some(0));
}

#[test]
fn saved_results_become_five_reports_and_a_page_and_parts_of_documents() {
    let place = Place::new();
    let saved = place.shown("run.json");
    let made = place.run(&[
        "compare", "--preset", "small", "-t", "1", "--rounds", "1", "--peers", "none", "--save", &saved,
    ]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let folder = place.path("out");
    let document = place.path("DOC.md");
    let mark = "<!-- generated by `smallmind report --update`: comparison -->";
    std::fs::write(&document, format!("kept\n\n{mark}\nstale words\n<!-- end of what is generated -->\n"))
        .unwrap();
    let flags =
        ["report", &saved, "-o", &folder.display().to_string(), "--update", &document.display().to_string()];
    let outcome = place.run(&flags);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), 6);
    for name in [
        "quick-reference.md",
        "executive-summary.md",
        "comparison.md",
        "profile.md",
        "benchmarks.md",
        "report.html",
    ] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(text.len() > 100 && outcome.stdout.contains(name), "{name}");
    }
    let updated = std::fs::read_to_string(&document).unwrap();
    assert!(
        updated.starts_with("kept\n")
            && updated.contains("preset small F32")
            && !updated.contains("stale words"),
        "{updated}"
    );
    let quick = place.run(&["report", &saved]);
    assert!(quick.stdout.starts_with("# Quick reference\n"), "{quick:?}");
}

#[test]
fn results_that_are_none_are_refused_in_a_sentence() {
    let place = Place::new();
    let cut = place.path("cut.json");
    std::fs::write(&cut, "{\"schema\": 1, \"kind\"").unwrap();
    place.run(&["report", &cut.display().to_string()]).refuses(1, &["cut.json", "ends in the middle"]);
    place.run(&["report", &place.shown("absent.json")]).refuses(1, &["absent.json"]);
    let document = place.path("DOC.md");
    std::fs::write(&document, "no marks").unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../smallmind-bench/tests/report/compare.json");
    let flags = ["report", &fixture.display().to_string(), "--update", &document.display().to_string()];
    place.run(&flags).refuses(2, &["DOC.md", "nothing to update"]);
}

#[test]
fn a_real_peer_that_is_installed_is_measured_on_a_real_model() {
    let Some(model) = smollm2() else { return };
    let Some(peers) = std::env::var_os("SMALLMIND_PEERS").map(PathBuf::from) else {
        eprintln!("skipped: SMALLMIND_PEERS names no folder of peers (docs/adding-a-peer.md)");
        return;
    };
    let place = Place::new();
    let outcome: crate::support::Outcome = place
        .command(&[
            "compare",
            "-m",
            &model,
            "-p",
            "64",
            "-n",
            "8",
            "-b",
            "2",
            "--rounds",
            "1",
            "--only",
            "prefill,decode,perplexity",
            "--json",
        ])
        .env("SMALLMIND_PEERS", &peers)
        .output()
        .unwrap()
        .into();
    let results = outcome.json();
    let sides = results["detail"]["sides"].as_array().unwrap();
    let state = |state: &str| sides.iter().filter(|s| s["state"] == state).collect::<Vec<_>>();
    assert!(state("measured").len() > 1, "{results}");
    assert_eq!(state("failed").len(), 0, "{results}");
    let perplexity = results["rows"].as_array().unwrap().iter().find(|r| r["part"] == "perplexity").unwrap();
    for side in perplexity["sides"].as_array().unwrap() {
        let name = side["name"].as_str().unwrap();
        // int4 of everything computes another model.
        let within = if name.ends_with("int4") { 10.0 } else { 0.5 };
        let difference =
            side["samples"][0].as_f64().unwrap() - perplexity["sides"][0]["samples"][0].as_f64().unwrap();
        assert!(difference.abs() < within, "{name}: {difference}");
    }
}
