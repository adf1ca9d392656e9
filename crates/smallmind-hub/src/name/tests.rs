//! Tests of the MODEL grammar.

use super::*;
use proptest::prelude::*;

fn parsed(name: &str) -> String {
    format!("{:?}", ModelRef::parse(name).unwrap())
}

fn refused(name: &str) -> String {
    ModelRef::parse(name).unwrap_err().to_string()
}

#[test]
fn every_form_of_the_grammar_is_understood() {
    for (name, wanted) in [
        ("tiny", "Tiny"),
        ("./tiny", r#"Path("./tiny")"#),
        ("m.gguf", r#"Path("m.gguf")"#),
        ("m.smq", r#"Path("m.smq")"#),
        ("a/b", r#"Path("a/b")"#),
        ("SmolLM2:135M", r#"Catalogue { name: "smollm2:135m" }"#),
        ("hf:o/r", r#"Hf { org: "o", repo: "r", file: None, revision: None }"#),
        ("hf:o/r:Q8_0", r#"Hf { org: "o", repo: "r", file: Some("Q8_0"), revision: None }"#),
        ("hf:o/r@v1:s/m.gguf", r#"Hf { org: "o", repo: "r", file: Some("s/m.gguf"), revision: Some("v1") }"#),
        ("pypi:p", r#"Pypi { package: "p", version: None, file: None }"#),
        ("pypi:p==1.0:x/*.gguf", r#"Pypi { package: "p", version: Some("1.0"), file: Some("x/*.gguf") }"#),
        ("https://h/m.gguf", r#"Url { url: "https://h/m.gguf", sha256: None }"#),
    ] {
        assert_eq!(parsed(name), wanted, "{name}");
    }
    let sum = "AB".repeat(32);
    assert!(parsed(&format!("https://h/m#sha256={sum}")).contains(&sum.to_lowercase()));
}

#[test]
fn an_existing_file_of_any_name_is_a_path() {
    assert_eq!(parsed("Cargo.toml"), r#"Path("Cargo.toml")"#);
}

#[test]
fn unknown_names_are_answered_with_the_nearest() {
    assert!(refused("smolm2:135m").contains("did you mean `smollm2:135m`?"), "{}", refused("smolm2:135m"));
    assert!(refused("smollm2").contains("`smollm2:135m`"));
    assert!(refused("gemma3").contains("`gemma3:270m`"));
    assert!(refused("tinny").contains("`tiny`"));
    assert!(refused("zzzzzzzzzz").contains("smallmind list --available"));
}

#[test]
fn malformed_names_are_refused_with_the_form_that_is_expected() {
    for name in ["hf:", "hf:o", "hf:o/r/x", "hf:../r", "hf:o/..", "hf:o/r@", "hf:o/r@../x"] {
        assert!(refused(name).contains("hf:ORG/REPO"), "{name}");
    }
    for name in
        ["hf:o/r:", "hf:o/r:../x.gguf", "hf:o/r:/etc/x.gguf", "hf:o/r:a//b", "hf:o/r:a\\..\\b", "pypi:p:../x"]
    {
        assert!(refused(name).contains("without `..`"), "{name}");
    }
    for name in ["pypi:", "pypi:p==", "pypi:../p", "pypi:p q"] {
        assert!(refused(name).contains("pypi:PACKAGE"), "{name}");
    }
    assert!(refused("https://").contains("malformed"));
    assert!(refused("https://h/m#sha256=12").contains("64 hex digits"));
    assert!(refused("http://example.com/m.gguf").contains("use https"));
    assert!(refused("").contains("tiny"));
}

#[test]
fn file_names_never_leave_their_folder() {
    for (member, wanted) in [
        ("a/b/m.gguf", "m.gguf"),
        ("../../m.gguf", "m.gguf"),
        ("..\\m.gguf", "m.gguf"),
        ("..", "model"),
        (".hidden", "hidden"),
        ("a\0b\n.gguf", "a_b_.gguf"),
    ] {
        assert_eq!(file_name(member), wanted);
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(name in "(hf:|pypi:|https://)?\\PC{0,40}") {
        if let Ok(model) = ModelRef::parse(&name) {
            let again = ModelRef::parse(&model.to_string());
            prop_assert!(again.is_ok());
        }
        let file = file_name(&name);
        prop_assert!(!file.is_empty() && !file.contains(['/', '\\']) && file != "..");
    }
}
