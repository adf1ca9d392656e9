//! The engine reads a family's description, never its name: a name compared outside `model/arch` is a special case that
//! the description should have told.

use anyhow::{Result, ensure};

use super::{Tree, is_test, without_tests};

const FAMILIES: &str = "crates/smallmind/src/model/arch/";
const SEARCHED: &[&str] =
    &["crates/smallmind/src/", "crates/smallmind-kernels/src/", "crates/smallmind-cli/src/"];
/// The same words as values of other keys.
const NOT_FAMILIES: &[(&str, &str, &str)] = &[
    ("crates/smallmind/src/preset.rs", "gpt2", "the family that the presets are written as"),
    ("crates/smallmind/src/preset.rs", "llama", "a value of tokenizer.ggml.model"),
    ("crates/smallmind/src/model/vocab.rs", "gpt2", "a value of tokenizer.ggml.model"),
    ("crates/smallmind/src/model/vocab.rs", "llama", "a value of tokenizer.ggml.model"),
    ("crates/smallmind/src/model/config.rs", "llama3", "a value of rope.scaling.type"),
    ("crates/smallmind/src/convert/hf/numbers.rs", "llama3", "a value of rope_type"),
    ("crates/smallmind/src/convert/hf/vocabulary.rs", "gpt2", "a value of tokenizer.ggml.model"),
    ("crates/smallmind/src/convert/hf/vocabulary.rs", "llama", "a value of tokenizer.ggml.model"),
    ("crates/smallmind/src/convert/hf/vocabulary.rs", "qwen2", "a value of tokenizer.ggml.pre"),
];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let arch = tree.rust().filter(|(path, _)| path.starts_with(FAMILIES));
    let names: Vec<String> = arch.flat_map(|(_, text)| names_of(text)).collect();
    ensure!(
        names.len() >= 2,
        "no family has a `name: \"…\"` in {FAMILIES}: tell xtask how they are written now"
    );
    let searched = |path: &str| SEARCHED.iter().any(|s| path.starts_with(s)) && !path.starts_with(FAMILIES);
    let code = tree.rust().filter(|(path, _)| searched(path) && !is_test(path));
    Ok(code.flat_map(|(path, text)| mentions(path, text, &names)).collect())
}

/// The names that descriptions give: `name: "…"`.
fn names_of(text: &str) -> Vec<String> {
    let names = text.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

/// String literals that are a family's name, with or without another version's number.
fn mentions(path: &str, text: &str, names: &[String]) -> Vec<String> {
    let stem = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').to_owned();
    let stems: Vec<String> = names.iter().map(|n| stem(n)).collect();
    let mut problems = Vec::new();
    for line in without_tests(text).lines().filter(|l| !l.trim_start().starts_with("//")) {
        for literal in line.split('"').skip(1).step_by(2).filter(|l| stems.contains(&stem(l))) {
            if !NOT_FAMILIES.iter().any(|(p, l, _)| *p == path && *l == literal) {
                problems.push(format!(
                    "{path}: \"{literal}\" names a family: make what differs a field of `Arch` and test that"
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::assert_kept;
    use super::*;

    #[test]
    fn no_architectures_name_is_tested_outside_model_arch() {
        assert_kept(check);
    }

    #[test]
    fn a_comparison_with_a_familys_name_is_found() {
        let names = names_of("Arch { name: \"gemma3\", ..LLAMA }; Arch { name: \"qwen3\" }");
        assert_eq!(names, ["gemma3", "qwen3"]);
        let found = |code: &str| mentions("crates/smallmind/src/model/forward.rs", code, &names).len();
        assert_eq!(found("if config.arch.name == \"gemma3\" {"), 1);
        assert_eq!(found("name.starts_with(\"qwen\")"), 1);
        assert_eq!(found("// as in \"gemma3\"\nlet x = \"norm\";"), 0);
        assert_eq!(found("#[cfg(test)]\nmod tests {\n    tiny(\"qwen3\");\n}"), 0);
    }
}
