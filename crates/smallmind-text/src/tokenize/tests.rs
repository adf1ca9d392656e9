//! The algorithms against naive ones, the rules for special tokens, and the vocabularies that must be refused.

use super::*;
use crate::Texts;
use proptest::prelude::*;

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const SPECIAL: Encode = Encode { add_special: false, parse_special: true };
const BOTH: Encode = Encode { add_special: true, parse_special: true };

/// A BPE vocabulary: all 256 bytes, then these tokens.
fn bpe(more: &[(&str, TokenType)], merges: &[&str]) -> VocabSpec {
    let mut spec = VocabSpec { pre: "gpt-2".into(), ..VocabSpec::default() };
    for byte in 0..=255u8 {
        let c = super::bpe::char_of(byte);
        spec.tokens.push(c.to_string());
        spec.types.push(TokenType::Normal);
    }
    for (text, kind) in more {
        spec.tokens.push(text);
        spec.types.push(*kind);
    }
    spec.merges = merges.iter().collect();
    spec
}

/// An SPM vocabulary: unk, bos, eos, 256 byte tokens, then these with their scores.
fn spm(more: &[(&str, f32, TokenType)]) -> VocabSpec {
    let mut spec = VocabSpec { kind: VocabKind::Spm, ..VocabSpec::default() };
    for (text, kind) in
        [("<unk>", TokenType::Unknown), ("<s>", TokenType::Control), ("</s>", TokenType::Control)]
    {
        spec.tokens.push(text);
        spec.types.push(kind);
    }
    for byte in 0..=255u8 {
        spec.tokens.push(format!("<0x{byte:02X}>"));
        spec.types.push(TokenType::Byte);
    }
    spec.scores = vec![0.0; spec.tokens.len()];
    for (text, score, kind) in more {
        spec.tokens.push(text);
        spec.scores.push(*score);
        spec.types.push(*kind);
    }
    spec
}

/// Writes another text in the place of one.
fn set(texts: &mut Texts, place: usize, text: &[u8]) {
    *texts = texts.iter().enumerate().map(|(i, old)| if i == place { text } else { old }).collect();
}

fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| String::from_utf8_lossy(&tokenizer.vocab.texts[id as usize]).into_owned()).collect()
}

use TokenType::{Control, Normal, Unknown, UserDefined};

/// Byte-pair encoding by the book: the best pair, leftmost first, until there is none.
fn naive_bpe(word: &str, merges: &[String], known: &[String]) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let rank = |w: &[String]| merges.iter().position(|m| *m == format!("{} {}", w[0], w[1]));
        let best = parts.windows(2).enumerate().filter_map(|(i, w)| Some((rank(w)?, i))).min();
        let Some((_, at)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    // What is no token falls apart into its bytes.
    let spell = |part: String| match known.contains(&part) {
        true => vec![part],
        false => part.chars().map(String::from).collect(),
    };
    parts.into_iter().flat_map(spell).collect()
}

/// SentencePiece by the book: the best-scored pair, leftmost first, until there is none.
fn naive_spm(text: &str, scores: &[(String, f32)]) -> Vec<String> {
    let score = |text: &str| scores.iter().find(|(t, _)| t == text).map(|(_, s)| *s);
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for (i, w) in parts.windows(2).enumerate() {
            if let Some(s) = score(&w.concat()).filter(|s| best.is_none_or(|(b, _)| *s > b)) {
                best = Some((s, i));
            }
        }
        let Some((_, at)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    let spell = |part: String| match score(&part) {
        Some(_) => vec![part],
        None => part.bytes().map(|b| format!("<0x{b:02X}>")).collect(),
    };
    parts.into_iter().flat_map(spell).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_by_rank_equals_the_naive_way(
        pairs in proptest::collection::vec(("[ab]{1,4}", "[abc]{1,4}", any::<bool>()), 0..24),
        word in "[abc]{1,100}",
    ) {
        let mut merges: Vec<String> = Vec::new();
        let mut known: Vec<String> = Vec::new();
        for (left, right, is_token) in pairs {
            merges.push(format!("{left} {right}"));
            let merged = left + &right;
            if is_token && !known.contains(&merged) {
                known.push(merged);
            }
        }
        let more: Vec<(&str, TokenType)> = known.iter().map(|t| (t.as_str(), Normal)).collect();
        let merge_refs: Vec<&str> = merges.iter().map(String::as_str).collect();
        let tokenizer = Tokenizer::new(bpe(&more, &merge_refs)).unwrap();
        let ids = tokenizer.encode(&word, PLAIN);
        prop_assert_eq!(texts(&tokenizer, &ids), naive_bpe(&word, &merges, &known));
        prop_assert_eq!(tokenizer.detokenize(&ids), word);
    }

    #[test]
    fn merging_by_score_equals_the_naive_way(
        tokens in proptest::collection::btree_map("[abé]{1,5}", -4i8..4, 0..30),
        word in "[abcé]{1,100}",
    ) {
        let scores: Vec<(String, f32)> = tokens.into_iter().map(|(t, s)| (t, f32::from(s) / 2.0)).collect();
        let more: Vec<(&str, f32, TokenType)> = scores.iter().map(|(t, s)| (t.as_str(), *s, Normal)).collect();
        let mut spec = spm(&more);
        spec.add_space_prefix = Some(false);
        let tokenizer = Tokenizer::new(spec).unwrap();
        let ids = tokenizer.encode(&word, PLAIN);
        prop_assert_eq!(texts(&tokenizer, &ids), naive_spm(&word, &scores));
        prop_assert_eq!(tokenizer.detokenize(&ids), word);
    }

    #[test]
    fn special_tokens_are_cut_out_as_one_search_after_the_other_does(
        specials in proptest::collection::btree_set("[ab<]{1,5}", 1..8),
        text in "[ab<c]{0,40}",
    ) {
        let specials: Vec<String> = specials.into_iter().filter(|s| s.len() > 1 || s == "c").collect();
        let more: Vec<(&str, TokenType)> = specials.iter().map(|t| (t.as_str(), Control)).collect();
        let tokenizer = Tokenizer::new(bpe(&more, &[])).unwrap();
        // llama.cpp's way: the longest token first, everywhere, then the next in what is left.
        let mut order: Vec<&String> = specials.iter().collect();
        order.sort_by_key(|s| std::cmp::Reverse(s.len()));
        let mut parts: Vec<(String, bool)> = vec![(text.clone(), false)];
        for special in order {
            parts = parts.into_iter().flat_map(|(part, done)| {
                if done { return vec![(part, true)]; }
                let mut cut = Vec::new();
                for (i, rest) in part.split(special.as_str()).enumerate() {
                    if i > 0 { cut.push((special.clone(), true)); }
                    cut.push((rest.to_owned(), false));
                }
                cut
            }).filter(|(p, _)| !p.is_empty()).collect();
        }
        let want: Vec<String> = parts.into_iter().flat_map(|(part, done)| match done {
            true => vec![part],
            false => part.chars().map(String::from).collect(),
        }).collect();
        prop_assert_eq!(texts(&tokenizer, &tokenizer.encode(&text, SPECIAL)), want);
    }

    #[test]
    fn byte_level_gives_every_text_back(text in ".{0,60}") {
        let tokenizer = Tokenizer::new(bpe(&[("th", Normal), ("the", Normal)], &["t h", "th e"])).unwrap();
        prop_assert_eq!(tokenizer.detokenize(&tokenizer.encode(&text, BOTH)), text);
    }
}

#[test]
fn user_defined_tokens_are_read_in_any_text_and_control_tokens_only_where_asked_for() {
    let spec = bpe(&[("<|u|>", UserDefined), ("<|c|>", Control), ("<|?|>", Unknown)], &[]);
    let tokenizer = Tokenizer::new(spec).unwrap();
    let (u, c, unk) = (256, 257, 258);
    assert_eq!(tokenizer.encode("<|u|><|c|><|?|>", SPECIAL), [u, c, unk]);
    let plain = tokenizer.encode("<|u|><|c|>", PLAIN);
    assert_eq!((plain[0], plain.len()), (u, 6));
    assert_eq!(tokenizer.piece(u), b"<|u|>");
    assert_eq!((tokenizer.piece(c), tokenizer.piece(unk)), (&b""[..], &b""[..]));
    assert_eq!(tokenizer.piece_special(c), b"<|c|>");
    assert_eq!(tokenizer.piece(9999), b"");
}

#[test]
fn llama3_words_that_are_tokens_are_not_merged() {
    let mut spec = bpe(&[("ab", Normal), ("bc", Normal), ("abc", Normal)], &["b c", "a b"]);
    let merged = Tokenizer::new(spec.clone()).unwrap();
    assert_eq!(texts(&merged, &merged.encode("abc", PLAIN)), ["a", "bc"]);
    spec.pre = "llama-bpe".into();
    spec.bos = Some(0);
    let whole = Tokenizer::new(spec).unwrap();
    assert_eq!(texts(&whole, &whole.encode("abc", PLAIN)), ["abc"]);
    assert!(whole.adds_bos() && !merged.adds_bos());
}

#[test]
fn a_blank_of_its_own_precedes_a_text_and_what_follows_a_special_token() {
    let more = [("\u{2581}", -1.0, Normal), ("a", -2.0, Normal), ("\u{2581}a", -0.5, Normal)];
    let tokenizer = Tokenizer::new(spm(&more)).unwrap();
    assert_eq!(texts(&tokenizer, &tokenizer.encode("a", BOTH)), ["<s>", "\u{2581}a"]);
    assert_eq!(
        texts(&tokenizer, &tokenizer.encode("a</s>a a", BOTH)),
        ["<s>", "\u{2581}a", "</s>", "\u{2581}a", "\u{2581}a"]
    );
    assert_eq!(tokenizer.encode("", BOTH), [1]);
    assert_eq!(tokenizer.encode("", PLAIN), [0u32; 0]);
    assert_eq!(tokenizer.detokenize(&tokenizer.encode("a a", BOTH)), "a a");
    let mut without = spm(&more);
    without.add_space_prefix = Some(false);
    without.add_eos = Some(true);
    let tokenizer = Tokenizer::new(without).unwrap();
    assert_eq!(texts(&tokenizer, &tokenizer.encode("a", BOTH)), ["<s>", "a", "</s>"]);
}

#[test]
fn what_has_no_token_becomes_bytes() {
    let tokenizer = Tokenizer::new(spm(&[])).unwrap();
    assert_eq!(texts(&tokenizer, &tokenizer.encode("é", PLAIN))[3..], ["<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.piece(3 + 0xC3), [0xC3]);
}

#[test]
fn phi3_takes_the_blanks_after_its_markers_along() {
    let more = [("<|end|>", 0.0, Control), ("a", 0.0, Normal)];
    let mut spec = spm(&more);
    spec.add_space_prefix = Some(false);
    let other = Tokenizer::new(spec.clone()).unwrap();
    spec.model_name = "Phi-3 Mini".into();
    let phi = Tokenizer::new(spec).unwrap();
    assert_eq!(texts(&phi, &phi.encode("<|end|> \n a", SPECIAL)), ["<|end|>", "a"]);
    assert!(other.encode("<|end|> \n a", SPECIAL).len() > 2);
    assert_eq!(texts(&phi, &phi.encode("<s>\n", SPECIAL)), ["<s>", "<0x0A>"]);
}

#[test]
fn the_tokens_that_end_an_answer_are_known_by_id_and_by_name() {
    let names =
        ["<|im_end|>", "<|endoftext|>", "<|file_sep|>", "<|im_start|>", "<done>"].map(|t| (t, Normal));
    let mut spec = bpe(&names, &[]);
    spec.eos = Some(260);
    let tokenizer = Tokenizer::new(spec).unwrap();
    assert_eq!(tokenizer.end_of_generation(), [256, 257, 258, 260]);
    assert!(tokenizer.is_control(256) && !tokenizer.is_control(259) && !tokenizer.is_control(260));
    // gpt-oss: <|end|> closes a part only.
    let names = ["<|return|>", "<|call|>", "<|end|>", "<|channel|>"].map(|t| (t, Control));
    let tokenizer = Tokenizer::new(bpe(&names, &[])).unwrap();
    assert_eq!(tokenizer.end_of_generation(), [256, 257]);
    assert_eq!(tokenizer.piece(258), b"<|end|>");
    assert_eq!(tokenizer.piece(259), b"<|channel|>");
}

#[test]
fn damaged_vocabularies_are_refused_with_the_key_at_fault() {
    let refused = |change: fn(&mut VocabSpec), spec: VocabSpec, says: &str| {
        let mut spec = spec;
        change(&mut spec);
        let error = Tokenizer::new(spec).unwrap_err().to_string();
        assert!(error.contains(says), "{error} does not say {says}");
        assert!(!error.contains(['\n', '\u{1b}']));
    };
    let s = || spm(&[("a", -1.0, Normal)]);
    let b = || bpe(&[("th", Normal)], &["t h"]);
    refused(|s| s.tokens = Texts::default(), s(), "tokenizer.ggml.tokens is empty");
    refused(|s| s.scores.truncate(5), s(), "tokenizer.ggml.scores has 5 entries for 260 tokens");
    refused(|s| s.types.push(Normal), s(), "token_type");
    refused(|s| s.scores[7] = f32::NAN, s(), "tokenizer.ggml.scores[7]");
    refused(|s| s.bos = Some(260), s(), "bos_token_id is 260");
    refused(|s| s.eos = Some(u32::MAX), s(), "eos_token_id");
    refused(|s| s.pad = Some(300), s(), "padding_token_id");
    refused(|s| set(&mut s.tokens, 4, b"<0x00>"), s(), "tokens 3 and 4 are both");
    for bad in ["<0x-1>", "<0xZZ>", "<0x1>", "<0x100>", "<0x>", "<0x+1>", "<0x 1>", "\u{1b}[2J"] {
        let mut spec = s();
        set(&mut spec.tokens, 3, bad.as_bytes());
        refused(|_| {}, spec, "token 3 is of type byte");
    }
    for bad in [&b"th"[..], b"", b" ", b" h", b"t ", b"\t", b"t \xff"] {
        let mut spec = b();
        spec.merges = [bad].into_iter().chain(spec.merges.iter()).collect();
        refused(|_| {}, spec, "tokenizer.ggml.merges[0]");
    }
    refused(|s| s.pre = "zzz".into(), b(), "tokenizer.ggml.pre = \"zzz\"");
    refused(|s| s.add_bos = Some(true), b(), "bos_token_id is not set");
    assert!(TokenType::try_from(7).is_err() && TokenType::try_from(-1).is_err());
}

#[test]
fn characters_outside_the_byte_alphabet_stand_for_themselves() {
    for (text, bytes) in [
        ("Ġthe".as_bytes(), &b" the"[..]),
        ("Ċ\u{143}é".as_bytes(), b"\n\xad\xe9"),
        ("\u{144}Ġ".as_bytes(), "\u{144} ".as_bytes()),
        ("→Ġa".as_bytes(), "→ a".as_bytes()),
        (b" \x7f\0", b" \x7f\0"),
        (b"a\xc4b", b"a\xc4b"),
        (b"\xff\xc4\xa0\xc4", b"\xff \xc4"),
    ] {
        let mut out = Vec::new();
        super::bpe::decode(text, &mut out);
        assert_eq!(out, bytes, "{text:x?}");
    }
}

#[test]
fn odd_vocabularies_that_still_make_sense_are_taken() {
    for change in [
        (|s| s.scores.clear()) as fn(&mut VocabSpec),
        |s| s.types.clear(),
        |s| s.types.fill(Control),
        |s| s.scores.fill(f32::INFINITY),
        |s| s.scores.fill(f32::NEG_INFINITY),
        |s| set(&mut s.tokens, 259, &[0xff, 0xc3]),
        |s| set(&mut s.tokens, 259, b""),
        |s| set(&mut s.tokens, 259, b"a\0"),
        |s| set(&mut s.tokens, 259, &[b'a'; 1 << 18]),
    ] {
        let mut spec = spm(&[("a", -1.0, Normal)]);
        change(&mut spec);
        let tokenizer = Tokenizer::new(spec).unwrap();
        for text in ["", "a", "aaaa a\0é", "<s>"] {
            tokenizer.detokenize(&tokenizer.encode(text, BOTH));
        }
    }
    // Bytes without a token, and merges no text can reach.
    let spec = VocabSpec {
        tokens: ["w1", "a"].into_iter().collect(),
        merges: ["zz qq", "t h e", "a b", "a b"].into_iter().collect(),
        ..VocabSpec::default()
    };
    let tokenizer = Tokenizer::new(spec).unwrap();
    assert_eq!(tokenizer.encode("xaab", BOTH), [1, 1]);
}
