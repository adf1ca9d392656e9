//! `chat`: conversations through a pipe. The terminal's line editing is rustyline's own matter.

use std::io::Write;
use std::process::Stdio;

use crate::support::{command, interrupt, smallmind, smollm2, tiny, wait_for_output, with_stdin};

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let Some(model) = smollm2() else { return };
    let script = b"My name is Ada.\nWhat is my name?\n/info\n/exit\nnever read\n";
    let outcome = with_stdin(&["chat", "-m", &model, "--temp", "0", "-n", "12", "-v"], script);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let kept: Vec<usize> = outcome
        .stderr
        .lines()
        .filter_map(|line| line.split_once(" new tokens after ")?.1.split_once(" kept")?.0.parse().ok())
        .collect();
    assert_eq!(kept.len(), 2, "{outcome:?}");
    assert!(kept[0] == 0 && kept[1] > 30, "{kept:?}");
    assert!(outcome.stderr.contains("4 messages"), "{outcome:?}");
}

#[test]
fn a_conversation_is_saved_and_gone_on_with() {
    let Some(model) = smollm2() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json").display().to_string();
    let base = ["chat", "-m", &model, "--temp", "0", "-n", "8"];
    let script = format!("/system You are terse.\n\"\"\"Hello\nthere\"\"\"\n/save {file}\n");
    let first = with_stdin(&base, script.as_bytes());
    assert_eq!(first.code, Some(0), "{first:?}");
    let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let roles: Vec<&str> =
        kept["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(kept["messages"][1]["content"], "Hello\nthere");
    let answer = kept["messages"][2]["content"].as_str().unwrap();
    assert_eq!(first.stdout.trim_end(), answer.trim_end());

    let again = with_stdin(&base, format!("/load {file}\n/regen\n").as_bytes());
    assert_eq!(again.stdout, first.stdout, "greedy answers are the same again");
}

#[test]
fn wrong_commands_are_said_and_do_not_end_the_conversation() {
    let Some(model) = smollm2() else { return };
    let script = b"/frobnicate\n/set temp hot\n/set temp -3\n/load /no/such/file\n/regen\n/save\n/help\n";
    let outcome = with_stdin(&["chat", "-m", &model], script);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{outcome:?}");
    for word in ["/frobnicate", "hot", "temperature", "/no/such/file", "no answer yet", "/save", "/regen  "] {
        assert!(outcome.stderr.contains(word), "no {word} in {outcome:?}");
    }
}

#[test]
fn the_oldest_turns_make_room_and_a_message_that_never_fits_is_refused() {
    let Some(model) = smollm2() else { return };
    let long = "word ".repeat(500);
    let script = format!("{}\n{}\n{long}\nStill there?\n", "one ".repeat(30), "two ".repeat(30));
    let outcome =
        with_stdin(&["chat", "-m", &model, "-c", "96", "-n", "6", "--temp", "0"], script.as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("forgotten"), "{outcome:?}");
    assert!(outcome.stderr.contains("--ctx"), "{outcome:?}");
    assert!(!outcome.stdout.trim().is_empty());
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let Some(model) = smollm2() else { return };
    let args = ["chat", "-m", &model, "--temp", "0", "--ignore-eos"];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Count to a million.\n").unwrap();
    wait_for_output(&mut child);
    interrupt(&child);
    stdin.write_all(b"/info\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("2 messages"), "{stderr}");
}

#[test]
fn a_model_without_a_template_is_refused_before_the_first_message() {
    smallmind(&["chat", "-m", &tiny("gpt2")]).refuses(1, &["chat template"]);
}

#[test]
fn bytes_that_are_no_text_end_the_conversation_in_a_sentence() {
    let Some(model) = smollm2() else { return };
    with_stdin(&["chat", "-m", &model], b"\xff\xfe\n").refuses(1, &["UTF-8"]);
}
