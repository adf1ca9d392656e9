//! Rules that one file keeps or breaks alone: its opening, its length, its words, its size.

use anyhow::Result;

use super::{Tree, is_test, without_tests};

/// Lines, tests apart, above which a file should be split, and above which it must be.
const SOFT_LINES: usize = 400;
const HARD_LINES: usize = 600;
/// Largest file that belongs in git.
const LARGEST_BYTES: u64 = 5_000_000;

/// Marks of unfinished work; in two halves, so that this file has none.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
/// Names of drawers: what is in them is not told.
const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager"];
/// Paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
/// What only the crate that opens sockets may know.
const NETWORK: &[&str] = &[
    concat!("pypi", ".org"),
    concat!("python", "hosted"),
    concat!("hugging", "face.co"),
    concat!("crates", ".io"),
    concat!("std::", "net"),
];
const NETWORK_LIVES_IN: &str = "crates/smallmind-hub/";

pub(super) fn module_docs(tree: &Tree) -> Result<Vec<String>> {
    let silent = tree.rust().filter(|(_, text)| !has_module_doc(text));
    Ok(silent
        .map(|(path, _)| format!("{path}: start it with `//!`: what it does, and what it may not do"))
        .collect())
}

fn has_module_doc(text: &str) -> bool {
    text.lines().find(|l| !l.starts_with("#!")).is_some_and(|l| l.starts_with("//! "))
}

pub(super) fn length(tree: &Tree) -> Result<Vec<String>> {
    let long = lengths(tree).filter(|(_, lines)| *lines > HARD_LINES);
    Ok(long
        .map(|(path, lines)| {
            format!("{path}: {lines} lines; split it by what it does (at most {HARD_LINES})")
        })
        .collect())
}

/// Files between the limits: no problem yet.
pub(super) fn long_files(tree: &Tree) -> Vec<String> {
    let long = lengths(tree).filter(|(path, lines)| *lines > SOFT_LINES && !is_test(path));
    long.map(|(path, lines)| format!("{path} has {lines} lines; {SOFT_LINES} read better")).collect()
}

fn lengths(tree: &Tree) -> impl Iterator<Item = (&str, usize)> {
    tree.rust().map(|(path, text)| (path, without_tests(text).lines().count()))
}

pub(super) fn words(tree: &Tree) -> Result<Vec<String>> {
    Ok(tree.texts(|_| true).flat_map(|(path, text)| words_of(path, text)).collect())
}

fn words_of(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for part in path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        if DRAWERS.contains(&stem) {
            problems.push(format!("{path}: `{stem}` says nothing; name it after what it holds"));
        }
    }
    for (i, line) in text.lines().enumerate() {
        let mut say = |what: &str, word: &str| problems.push(format!("{path}:{}: `{word}`: {what}", i + 1));
        UNFINISHED.iter().filter(|w| has_word(line, w)).for_each(|w| say("finish it, or take it out", w));
        MACHINE_PATHS.iter().filter(|w| line.contains(*w)).for_each(|w| say("a path of one machine", w));
        // Tests may have a server of their own on loopback.
        if !path.starts_with(NETWORK_LIVES_IN) && !path.contains("/tests/") {
            NETWORK
                .iter()
                .filter(|w| line.contains(*w))
                .for_each(|w| say("only smallmind-hub knows the network", w));
        }
        let module =
            line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ");
        let module = module.map(|m| m.trim_end_matches([';', '{', ' ']));
        if let Some(name) = module.filter(|m| path.ends_with(".rs") && DRAWERS.contains(m)) {
            say("name the module after what it holds", name);
        }
    }
    problems
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !before.is_some_and(part) && (word.ends_with('!') || !after.is_some_and(part))
    })
}

pub(super) fn size(tree: &Tree) -> Result<Vec<String>> {
    let large = tree.files.iter().filter(|f| f.bytes > LARGEST_BYTES);
    Ok(large
        .map(|f| format!("{}: {} bytes; fetch it by a script, keep a checksum here", f.path, f.bytes))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::{File, assert_kept};
    use super::*;

    #[test]
    fn every_rust_file_says_what_it_is_for() {
        assert!(has_module_doc("//! Reads.\n") && has_module_doc("#![no_main]\n//! Fuzzes.\n"));
        assert!(!has_module_doc("// Reads.\n") && !has_module_doc("use x;\n//! late") && !has_module_doc(""));
        assert_kept(module_docs);
    }

    #[test]
    fn no_file_is_too_long_or_too_large() {
        let text = Some("//! x\n".repeat(HARD_LINES + 1));
        let file = File { path: "long.rs".into(), bytes: LARGEST_BYTES + 1, text };
        let tree = Tree { root: "".into(), files: vec![file] };
        assert_eq!(length(&tree).unwrap().len(), 1);
        assert_eq!(size(&tree).unwrap().len(), 1);
        assert_eq!(long_files(&tree).len(), 1);
        assert_kept(length);
        assert_kept(size);
    }

    #[test]
    fn unfinished_work_and_empty_names_are_found() {
        for word in UNFINISHED {
            assert_eq!(words_of("a.rs", &format!("    {word}()")).len(), 1, "{word}");
        }
        assert_eq!(
            words_of("a.rs", concat!("mktemp .XX", "XXXX; IQ2_XX", "S; my_to", "do!")),
            Vec::<String>::new()
        );
        assert_eq!(words_of("src/utils/a.rs", "").len(), 1);
        assert_eq!(words_of("src/a.rs", "pub mod helpers;").len(), 1);
        assert_eq!(words_of("README.md", MACHINE_PATHS[0]).len(), 1);
        assert_eq!(words_of("README.md", NETWORK[0]).len(), 1);
        assert_eq!(words_of("crates/smallmind-hub/src/config.rs", NETWORK[0]).len(), 0);
        assert_kept(words);
    }
}
