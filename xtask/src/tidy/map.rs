//! The documents as a map that is tested: a path they name exists, and ARCHITECTURE.md names every crate.

use anyhow::Result;

use super::{Tree, crates};

/// Folders at the root: a path that begins with one is meant from there.
const TOP: &[&str] = &["crates/", "docs/", "scripts/", "testdata/", "fuzz/", "xtask/", ".ci/", ".cargo/"];
/// What a path of ours ends with when it does not begin at the root (`model/forward.rs`).
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".py"];
/// It tells what once was.
const HISTORY: &str = "CHANGELOG.md";

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (path, text) in tree.texts(|p| p.ends_with(".md") && p != HISTORY) {
        problems.extend(missing(text, |named| exists(tree, named)).into_iter().map(|m| lost(path, &m)));
    }
    // Code points at documents and scripts.
    for (path, text) in tree.rust().filter(|(path, _)| !path.starts_with("xtask/src/tidy/")) {
        let named = missing(text, |named| exists(tree, named)).into_iter();
        let pointers = named.filter(|m| m.starts_with("docs/") || m.starts_with("scripts/"));
        problems.extend(pointers.map(|m| lost(path, &m)));
    }
    let Some((_, map)) = tree.texts(|p| p == "ARCHITECTURE.md").next() else {
        problems.push("ARCHITECTURE.md is missing: it is the map of the code".to_owned());
        return Ok(problems);
    };
    let metadata = crates::metadata(tree)?;
    problems.extend(unnamed(map, &crates::members(&metadata)));
    Ok(problems)
}

fn lost(path: &str, named: &str) -> String {
    format!("{path}: names `{named}`, which does not exist: mend the path, or drop it")
}

fn unnamed(map: &str, members: &[&str]) -> Vec<String> {
    let words: Vec<&str> = map.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).collect();
    let absent = members.iter().filter(|m| !words.contains(m));
    absent.map(|m| format!("ARCHITECTURE.md does not name the crate {m}: put it on the map")).collect()
}

/// Paths in `text` that `exists` does not know.
fn missing(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let in_path = |c: char| c.is_ascii_alphanumeric() || "._-/{},*".contains(c);
    let mut missing = Vec::new();
    for (at, _) in text.match_indices('/') {
        let start = text[..at]
            .rfind(|c| !in_path(c))
            .map_or(0, |i| i + text[i..].chars().next().map_or(1, char::len_utf8));
        let end = text[at..].find(|c| !in_path(c)).map_or(text.len(), |i| at + i);
        // The first slash of a word speaks for the word; what follows a scheme or a home is none of our paths.
        let (before, word) = (&text[..start], text[start..end].trim_end_matches(['.', ',', '-', '{', '}']));
        if text[start..at].contains('/') || before.ends_with([':', '~', '$', '<', '>', '/', '\\']) {
            continue;
        }
        for path in alternatives(text[start..end].trim_end_matches(['.', ',']), word) {
            let path = path.trim_start_matches("./").to_owned();
            let meant = TOP.iter().any(|t| path.starts_with(t)) || ENDINGS.iter().any(|e| path.ends_with(e));
            let ours =
                !path.starts_with(['/', '.']) || path.starts_with(".ci/") || path.starts_with(".cargo/");
            if meant && ours && !exists(&path) && !missing.contains(&path) {
                missing.push(path);
            }
        }
    }
    missing
}

/// `a/{b,c}.rs` is two paths; what a star stands for is not looked up.
fn alternatives(word: &str, plain: &str) -> Vec<String> {
    let until_star = |path: &str| match path.find('*') {
        Some(star) => path[..star].rfind('/').map_or(String::new(), |slash| path[..=slash].to_owned()),
        None => path.to_owned(),
    };
    match (word.find('{'), word.find('}')) {
        (Some(open), Some(close)) if open < close => word[open + 1..close]
            .split(',')
            .map(|one| until_star(&format!("{}{one}{}", &word[..open], &word[close + 1..])))
            .collect(),
        _ => vec![until_star(plain)],
    }
}

/// From the root, or below some folder: `model/forward.rs` is found wherever it stands.
fn exists(tree: &Tree, named: &str) -> bool {
    let from_root = TOP.iter().any(|t| named.starts_with(t));
    tree.files.iter().any(|f| {
        let path = f.path.as_str();
        let within = |at: &str| at == named || at.starts_with(&format!("{}/", named.trim_end_matches('/')));
        within(path) || (!from_root && path.match_indices('/').any(|(i, _)| within(&path[i + 1..])))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{File, assert_kept};
    use super::*;

    #[test]
    fn the_documents_name_only_what_exists() {
        assert_kept(check);
    }

    #[test]
    fn paths_are_found_in_prose_lists_and_figures() {
        let none = |text: &str| missing(text, |_| false);
        assert_eq!(
            none("see `docs/a.md`, and crates/x/src/{b,c}.rs."),
            ["docs/a.md", "crates/x/src/b.rs", "crates/x/src/c.rs"]
        );
        assert_eq!(
            none("├─ model/forward.rs  testdata/golden/*.bin ─►"),
            ["model/forward.rs", "testdata/golden/"]
        );
        assert_eq!(
            none("https://example.org/docs/a.md ~/x.toml /etc/x.toml and/or n/a 1/2"),
            Vec::<String>::new()
        );
        assert_eq!(none("(docs/…/a.md) docs/<name>.md"), ["docs/"]);
    }

    #[test]
    fn a_path_that_moved_and_a_crate_off_the_map_are_found() {
        let file = File { path: "crates/a/src/model/forward.rs".into(), bytes: 0, text: None };
        let tree = Tree { root: "".into(), files: vec![file] };
        for there in ["crates/a/", "crates/a/src/model/forward.rs", "model/forward.rs", "a/src"] {
            assert!(exists(&tree, there), "{there}");
        }
        for gone in ["crates/b/", "model/back.rs", "forward.rs.old", "crates/model/forward.rs"] {
            assert!(!exists(&tree, gone), "{gone}");
        }
        assert_eq!(
            unnamed("smallmind-cli uses smallmind.", &["smallmind", "smallmind-cli", "smallmind-hub"]).len(),
            1
        );
    }
}
