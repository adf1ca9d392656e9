//! `tokenize`: ids and pieces.

use crate::support::{smallmind, smollm2, with_stdin};

#[test]
fn the_pieces_join_to_the_text() {
    let Some(model) = smollm2() else { return };
    let d = smallmind(&["tokenize", "-m", &model, "--json", "Hello, world of 1234 things!"]).json();
    let pieces: String = d["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(pieces, "Hello, world of 1234 things!");
    assert_eq!(d["tokens"].as_array().unwrap().len(), d["pieces"].as_array().unwrap().len());
}

#[test]
fn special_tokens_are_text_where_asked_for() {
    let Some(model) = smollm2() else { return };
    let count = |args: &[&str]| {
        let d = smallmind(&[&["tokenize", "-m", &model, "--json"], args, &["<|im_start|>"]].concat()).json();
        d["tokens"].as_array().unwrap().len()
    };
    assert_eq!(count(&[]), 1);
    assert!(count(&["--no-special"]) > 1);
}

#[test]
fn text_for_humans_is_one_line_a_token_and_harmless() {
    let Some(model) = smollm2() else { return };
    let outcome = with_stdin(&["tokenize", "-m", &model], b"a\x1b[2Jb");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("\\u{1b}") && !outcome.stdout.contains('\x1b'), "{outcome:?}");
    assert!(
        outcome.stdout.lines().all(|line| line.split_whitespace().next().unwrap().parse::<u32>().is_ok())
    );
}
