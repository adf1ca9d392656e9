//! The hand-written matchers against the regular expressions they stand for, run by a backtracking engine.

use super::*;
use fancy_regex::Regex;
use proptest::prelude::*;
use std::sync::LazyLock;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Names and llama.cpp's expressions for them.
static ORACLES: LazyLock<Vec<(&str, Vec<Regex>)>> = LazyLock::new(|| {
    let cut = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
    let line = |cut: &str, word: &str, digits: &str, signs: &str, tail: &str| {
        format!(r"{cut}{word}|{digits}| ?{signs}+{tail}|\s*[\r\n]+|\s+(?!\S)|\s+")
    };
    let before = format!("{cut}|");
    let (word, signs) = (r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\s\p{L}\p{N}]");
    let cased = |after: &str| {
        let (u, v) = (r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))");
        format!(r"[^\r\n\p{{L}}\p{{N}}]?{u}*{v}+{after}|[^\r\n\p{{L}}\p{{N}}]?{u}+{v}*{after}")
    };
    let rows: Vec<(&str, Vec<String>)> = vec![
        ("gpt-2", vec![GPT2.into()]),
        ("smollm", vec![r"\p{N}".into(), GPT2.into()]),
        ("falcon", vec![r"[\p{P}\$\+<=>\^~\|`]+".into(), GPT2.into(), "[0-9][0-9][0-9]".into()]),
        (
            "default",
            vec![r"[\p{P}\$\+<=>\^~\|]+".into(), GPT2.into(), r"\p{N}+".into(), "[0-9][0-9][0-9]".into()],
        ),
        ("llama-bpe", vec![line(&before, word, r"\p{N}{1,3}", signs, r"[\r\n]*")]),
        ("qwen2", vec![line(&before, word, r"\p{N}", signs, r"[\r\n]*")]),
        (
            "qwen35",
            vec![line(&before, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]", r"[\r\n]*")],
        ),
        ("minicpm5", vec![r"\p{N}{1,3}".into(), line(&before, word, r"\p{N}+", signs, r"[\r\n]*")]),
        ("ufakzeka", vec![line("", word, r"\p{N}", signs, r"[\r\n]*")]),
        ("seed-coder", vec![line(&before, word, r"\p{N}", r"[^\s\p{L}\p{N}\r\n]", "")]),
        ("tekken", vec![line("", &cased(""), r"\p{N}", signs, r"[\r\n/]*")]),
        ("gpt-4o", vec![line("", &cased(&format!("{cut}?")), r"\p{N}{1,3}", signs, r"[\r\n/]*")]),
        (
            "deepseek-coder",
            ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"].map(Into::into).into(),
        ),
        (
            "deepseek-v3",
            vec![
                r"\p{N}{1,3}".into(),
                "[一-龥぀-ゟ゠-ヿ]+".into(),
                concat!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                )
                .into(),
            ],
        ),
        ("bloom", vec![r" ?[^(\s|.,!?…。，、।۔،)]+".into()]),
        ("viking", vec![r" ?[^(\s|.,!?…。，、।۔،)]+".into(), r"\p{N}".into()]),
    ];
    rows.into_iter()
        .map(|(name, list)| (name, list.iter().map(|r| Regex::new(r).unwrap()).collect()))
        .collect()
});

fn by_regex<'t>(rules: &[Regex], text: &'t str) -> Vec<&'t str> {
    let mut pieces = vec![text];
    for rule in rules {
        let mut finer = Vec::new();
        for piece in pieces {
            let mut at = 0;
            for found in rule.find_iter(piece) {
                let found = found.unwrap();
                finer.push(&piece[at..found.start()]);
                finer.push(found.as_str());
                at = found.end();
            }
            finer.push(&piece[at..]);
        }
        pieces = finer;
    }
    pieces.retain(|p| !p.is_empty());
    pieces
}

fn by_hand<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
    let mut words = Vec::new();
    Pretokenizer::by_name(name).unwrap().split(text, &mut |word| words.push(word));
    words
}

fn agree(text: &str) {
    for (name, rules) in ORACLES.iter() {
        assert_eq!(by_hand(name, text), by_regex(rules, text), "{name}: {text:?}");
    }
}

#[test]
fn chosen_texts_are_cut_as_the_expressions_cut_them() {
    for text in [
        "",
        "Hello world",
        "I'll we'RE 's ''S 'x don't",
        "  two  blanks\n\n and\r\n lines \t",
        "a1b22c333d4444 ١٢٣٤ ½Ⅷ",
        "camelCase ABCdef ÀBC ABÀ ÀÉa éÀB AÉ ÉA.",
        "x = y+1; // ok\n/\r\n~~ ~é `q` $5",
        "我喜欢 吃苹果。ひらカタ한국",
        "e\u{301}\u{302} \u{301}a  \u{301}",
        "👩‍👩‍👧 \u{0}\u{1}a \u{85}\u{a0}b\u{3000}",
        " \u{ad}\u{200b}\u{10ffff}x",
    ] {
        agree(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_texts_are_cut_as_the_expressions_cut_them(
        text in "([a-cA-CsStTdDéÉß'']|[ \t\r\n\u{a0}\u{3000}]|[0-9½١]|[.,/!~$+`<|(。，]|[一ひカ한]|[\u{301}\u{200d}\u{0}👍ǅʰ]|\\PC|.){0,24}"
    ) {
        agree(&text);
    }
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let error = Pretokenizer::by_name("(a+)+$").unwrap_err().to_string();
    assert!(error.contains("(a+)+$") && error.contains("llama-bpe") && error.contains("smollm"), "{error}");
    for name in Pretokenizer::names() {
        Pretokenizer::by_name(name).unwrap();
    }
}

#[test]
fn ascii_has_the_classes_of_the_unicode_tables() {
    let classes = [
        (C::Letter, r"\p{L}"),
        (C::Number, r"\p{N}"),
        (C::Mark, r"\p{M}"),
        (C::Punctuation, r"\p{P}"),
        (C::Symbol, r"\p{S}"),
        (C::Space, r"\s"),
    ];
    for (class, expression) in classes {
        let expression = Regex::new(&format!("^{expression}$")).unwrap();
        for c in '\0'..'\u{800}' {
            assert_eq!(
                unicode_class(c) == class,
                expression.is_match(c.encode_utf8(&mut [0; 4])).unwrap(),
                "{c:?}"
            );
        }
    }
}
