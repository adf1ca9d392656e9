//! Wrong usage: exit code 2 and one sentence. Help and version: exit code 0, on stdout.

use crate::support::{smallmind, tiny};

#[test]
fn wrong_flags_and_values_are_usage_errors_that_name_the_culprit() {
    let cases: &[(&[&str], &str)] = &[
        (&["run", "--tmp", "0", "x"], "--tmp"),
        (&["run", "-n", "many", "x"], "many"),
        (&["run", "-n", "-2", "x"], "-2"),
        (&["run", "-t", "-1", "x"], "-1"),
        (&["run", "--logit-bias", "x", "x"], "ID=BIAS"),
        (&["run", "--prefill", "best", "x"], "best"),
        (&["run", "--raw", "--system", "s", "x"], "--system"),
        (&["run", "-f", "file", "x"], "--file"),
        (&["frobnicate"], "frobnicate"),
        (&["pull"], "MODEL"),
        (&["bench", "-r", "0"], "0"),
    ];
    for (args, word) in cases {
        smallmind(args).refuses(2, &[word]);
    }
}

#[test]
fn values_that_only_the_model_can_judge_are_usage_errors_too() {
    let model = tiny("llama");
    let run = |args: &[&str]| smallmind(&[&["run", "-m", &model, "--raw"], args].concat());
    run(&["--temp", "-1", "x"]).refuses(2, &["temperature", "-1"]);
    run(&["--top-p", "7", "x"]).refuses(2, &["top_p", "7"]);
    run(&["--logit-bias", "999999=1", "x"]).refuses(2, &["999999"]);
    run(&["-c", "9999999", "x"]).refuses(2, &["9999999"]);
    run(&[""]).refuses(2, &["prompt is empty"]);
    smallmind(&["run", "-m", "no-such-model", "x"]).refuses(2, &["no-such-model"]);
    smallmind(&["chat", "-m", &model, "--json"]).refuses(2, &["run --json"]);
    smallmind(&["bench", "-m", &model, "-p", "0", "-n", "0"]).refuses(2, &["-p"]);
}

#[test]
fn an_unknown_instruction_set_is_a_usage_error() {
    let mut command = crate::support::command(&["run", "-m", &tiny("llama"), "--raw", "x"]);
    let outcome: crate::support::Outcome = command.env("SMALLMIND_ISA", "mmx").output().unwrap().into();
    outcome.refuses(2, &["SMALLMIND_ISA", "mmx"]);
}

#[test]
fn help_and_version_are_results_and_not_errors() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"], &["-h"], &["help", "chat"]] {
        let outcome = smallmind(args);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(!outcome.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn every_command_explains_each_of_its_flags() {
    for name in ["run", "chat", "tokenize", "perplexity", "bench", "pull", "list", "show", "verify", "rm"] {
        let help = smallmind(&[name, "--help"]);
        assert_eq!(help.code, Some(0), "{name}");
        assert!(help.stdout.contains(&format!("Usage: smallmind {name}")), "{name}");
        assert!(help.stdout.contains("--json") && help.stdout.contains("--quiet"), "{name}");
    }
}
