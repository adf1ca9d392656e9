//! The modules of the library as a ladder: what a file names by `crate::` or `super::` stands on its own rung or below.
//!
//! Crate edges are checked by the compiler; within a crate any module could use any other, and layers would be manners.

use anyhow::Result;

use super::{Tree, is_test, without_tests};

const SOURCE: &str = "crates/smallmind/src/";

/// From the bottom up. Modules of one rung are one thing in several files.
const RUNGS: &[&[&str]] = &[
    // Logits to a token: knows no model.
    &["sample"],
    &["error"],
    // How many threads this machine is good for.
    &["cpus::quota"],
    &["cpus"],
    // The names of the stages of a step.
    &["profile"],
    // What a family is, then the numbers of one file.
    &["model::arch"],
    &["model::config"],
    // Keys and values: of the model it knows the numbers only.
    &["kv"],
    // Names and shapes of weights, their bytes, and how they are wired.
    &["model::slots"],
    &["model::weights"],
    &["model::plan"],
    // The working memory of a pass, then the pass.
    &["model::activations"],
    &["model::scratch"],
    &["model::cost"],
    &["model::pass"],
    &["model::attention"],
    &["model::forward"],
    // A loaded model.
    &["model::vocab"],
    &["model"],
    &["session"],
    &["perplexity", "preset"],
    // Models into other models.
    &["quantize::mix", "quantize::importance", "quantize::rows"],
    &["quantize"],
    &["convert", "imatrix"],
];
/// Names that the crate's root gives to all.
const ROOT: &[(&str, &str)] = &[("Error", "error"), ("Result", "error")];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut seen = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| path.starts_with(SOURCE)) {
        let module = module_of(&path[SOURCE.len()..]);
        seen.push(module.join("::"));
        if !module.is_empty() && !is_test(path) {
            problems.extend(problems_of(path, &module, text));
        }
    }
    let gone = RUNGS.iter().copied().flatten().filter(|m| !seen.iter().any(|s| s == *m));
    problems
        .extend(gone.map(|m| format!("`{m}` is gone: take it off the ladder in xtask/src/tidy/ladder.rs")));
    Ok(problems)
}

fn problems_of(path: &str, module: &[&str], text: &str) -> Vec<String> {
    let Some((home, _)) = rung(module) else {
        return vec![format!(
            "{path}: put `{}` on the ladder in xtask/src/tidy/ladder.rs",
            module.join("::")
        )];
    };
    let mut problems = Vec::new();
    for named in paths(&without_tests(text)) {
        let shown = named.join("::");
        match resolve(module, &named).map(|target| rung(&target)) {
            Some(Some((there, _))) if there <= home => {}
            Some(Some((_, above))) => problems.push(format!(
                "{path}: `{shown}` is of `{above}`, which stands above `{}`: move what both need down, or take it as a \
                 parameter",
                module.join("::")
            )),
            _ => problems.push(format!("{path}: `{shown}`: name the module it comes from, so that the ladder can tell")),
        }
    }
    problems
}

/// `model/arch/mod.rs` is `model::arch`; the root is empty.
fn module_of(file: &str) -> Vec<&str> {
    let file = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if file == "lib" { Vec::new() } else { file.split('/').collect() }
}

/// The rung of the nearest module that is on the ladder.
fn rung(module: &[&str]) -> Option<(usize, &'static str)> {
    (1..=module.len()).rev().find_map(|n| {
        let name = module[..n].join("::");
        RUNGS.iter().enumerate().find_map(|(i, r)| r.iter().find(|m| **m == name).map(|m| (i, *m)))
    })
}

/// A path from the root of the crate; `None` where it names something that the root alone knows.
fn resolve<'a>(module: &[&'a str], named: &'a [String]) -> Option<Vec<&'a str>> {
    let supers = named.iter().take_while(|s| *s == "super").count();
    let mut target: Vec<&str> =
        if supers > 0 { module[..module.len().checked_sub(supers)?].to_vec() } else { Vec::new() };
    let from = if supers > 0 { supers } else { 1 };
    if target.is_empty() {
        let first = named.get(from)?;
        if let Some((_, home)) = ROOT.iter().find(|(name, _)| name == first) {
            return Some(home.split("::").collect());
        }
    }
    target.extend(named[from..].iter().map(String::as_str));
    Some(target)
}

/// Every path that begins with `crate` or `super`, lists in braces taken apart.
fn paths(code: &str) -> Vec<Vec<String>> {
    let lines = code.lines().map(|l| l.split("//").next().unwrap_or(l));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = ["crate::", "super::"].iter().filter_map(|k| rest.find(k)).min() {
        let inside = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        rest = &rest[at..];
        if inside {
            rest = &rest["crate".len()..];
        } else {
            rest = expand(rest, &[], &mut found);
        }
    }
    found
}

/// Reads one path or tree of paths behind `prefix`; gives back what follows it.
fn expand<'a>(code: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = code;
    loop {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix("::") else { break };
        let Some(mut list) = after.strip_prefix('{') else {
            rest = after;
            continue;
        };
        loop {
            list = list.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if list.is_empty() || list.starts_with('}') {
                return list.get(1..).unwrap_or("");
            }
            let next = expand(list, &path, found);
            // Behind the path: ` as name`, or something that is no list of paths, which we leave.
            list = next.find([',', '}']).map_or("", |at| &next[at..]);
        }
    }
    found.push(path);
    rest
}

#[cfg(test)]
mod tests {
    use super::super::assert_kept;
    use super::*;

    #[test]
    fn modules_of_the_library_use_only_what_stands_below_them() {
        assert_kept(check);
    }

    #[test]
    fn lists_of_paths_are_taken_apart() {
        let found = paths(
            "use crate::{kv::KvCache, model::{self as m, config::{A, B}}};\nlet x: super::Y<u8>; // crate::z",
        );
        let shown: Vec<String> = found.iter().map(|p| p.join("::")).collect();
        let want = [
            "crate::kv::KvCache",
            "crate::model::self",
            "crate::model::config::A",
            "crate::model::config::B",
            "super::Y",
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn an_arrow_upwards_is_found_however_it_is_written() {
        let of = |module: &str, code: &str| {
            let module: Vec<&str> = module.split("::").collect();
            problems_of("x.rs", &module, code).len()
        };
        assert_eq!(of("kv", "use crate::model::config::Config;\nuse crate::error::Result;"), 0);
        assert_eq!(of("kv", "use crate::model::Config;"), 1);
        assert_eq!(of("sample::filters", "use super::Ranked;"), 0);
        assert_eq!(of("sample::filters", "fn f() -> crate::Error {}"), 1);
        assert_eq!(of("model::plan", "use super::{slots::Slot, forward::Pass};"), 1);
        assert_eq!(of("model::arch::qwen", "use super::llama::LLAMA;"), 0);
        assert_eq!(of("model::forward", "use super::attention;"), 0);
        assert_eq!(of("model", "fn f(s: &crate::session::Session) {}"), 1);
        assert_eq!(of("session", "use crate::SamplingParams;"), 1);
        assert_eq!(of("engine", ""), 1);
    }
}
