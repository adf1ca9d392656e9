//! tokenizer.json or tokenizer.model, tokenizer_config.json, generation_config.json and the chat template -> GGUF's keys.
//! Knows which pre-tokenizer a tokenizer.json describes by comparing its expressions with the known ones.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;
use smallmind_formats::write::GgufWriter;
use smallmind_formats::{FormatError, fs};

use super::numbers::Object;
use super::sentencepiece;
use crate::error::Result;

/// The largest tokenizer.json files are near 40 MB.
const MAX_TOKENIZER_BYTES: usize = 512 << 20;
const MAX_JSON_BYTES: usize = 64 << 20;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
/// SentencePiece's blank.
const BLANK: &str = "\u{2581}";
/// The score of a token that was added to a SentencePiece vocabulary.
const ADDED_SCORE: f32 = -1000.0;

/// The tokens of a model, as many as the embedding has rows.
struct Tokens {
    texts: Vec<Vec<u8>>,
    types: Vec<i32>,
    scores: Vec<f32>,
}

impl Tokens {
    fn new(count: usize) -> Tokens {
        let texts = (0..count).map(|i| format!("[PAD{i}]").into_bytes()).collect();
        Tokens { texts, types: vec![UNUSED; count], scores: vec![-10_000.0; count] }
    }

    fn set(&mut self, path: &Path, id: usize, text: &[u8], kind: i32, score: f32) -> Result<()> {
        let count = self.texts.len();
        let (Some(to), Some(t), Some(s)) =
            (self.texts.get_mut(id), self.types.get_mut(id), self.scores.get_mut(id))
        else {
            let message =
                format!("has a token {id}, and the embedding has {count} rows: the files are of two models");
            return Err(FormatError::file(path, message).into());
        };
        *to = text.to_vec();
        (*t, *s) = (kind, score);
        Ok(())
    }

    fn id_of(&self, text: &str) -> Option<u32> {
        let at = self.texts.iter().position(|t| t == text.as_bytes())?;
        u32::try_from(at).ok()
    }
}

/// Sets the tokenizer's keys for an embedding of `rows` rows; returns what is worth knowing.
pub(super) fn write(
    folder: &Path,
    config: &Object,
    rows: usize,
    writer: &mut GgufWriter<'_>,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let settings = Object::open_optional(&folder.join("tokenizer_config.json"), MAX_JSON_BYTES)?;
    let (pieces, json) = (folder.join("tokenizer.model"), folder.join("tokenizer.json"));
    let tokenizer = match json.exists() {
        true => Some(Object::open(&json, MAX_TOKENIZER_BYTES)?),
        false => None,
    };
    let mut tokens = Tokens::new(rows);
    let mut space_prefix = None;
    match &tokenizer {
        _ if pieces.exists() => {
            space_prefix = Some(from_sentencepiece(&pieces, &settings, &mut tokens, &mut notes)?);
            writer.set_str("tokenizer.ggml.model", "llama").set_str("tokenizer.ggml.pre", "default");
        }
        Some(t) => {
            let merges = merges(t)?;
            if flag_in(t, "model", "byte_fallback") {
                space_prefix = Some(from_scored_bpe(t, &merges, &mut tokens)?);
                writer.set_str("tokenizer.ggml.model", "llama").set_str("tokenizer.ggml.pre", "default");
            } else {
                from_bpe(t, &mut tokens)?;
                writer
                    .set_str("tokenizer.ggml.model", "gpt2")
                    .set_str("tokenizer.ggml.pre", pretokenizer(t)?);
                writer.set_strings("tokenizer.ggml.merges", &merges);
            }
        }
        None => {
            let message = "holds neither tokenizer.json nor tokenizer.model; get the model's tokenizer too";
            return Err(FormatError::file(folder, message).into());
        }
    }
    writer.set_strings("tokenizer.ggml.tokens", &tokens.texts);
    if space_prefix.is_some() {
        writer.set_f32s("tokenizer.ggml.scores", &tokens.scores);
    }
    writer.set_i32s("tokenizer.ggml.token_type", &tokens.types);
    let generation = Object::open_optional(&folder.join("generation_config.json"), MAX_JSON_BYTES)?;
    special(&settings, [&generation, config], &tokens, writer)?;
    if let Some(add) = settings.flag("add_prefix_space").or(space_prefix).filter(|_| space_prefix.is_some()) {
        writer.set_bool("tokenizer.ggml.add_space_prefix", add);
    }
    let template = |which: &str| tokenizer.as_ref().and_then(|t| surrounds(t.get("post_processor")?, which));
    for (key, which) in [("add_bos_token", "first"), ("add_eos_token", "last")] {
        if let Some(add) = settings.flag(key).or_else(|| template(which)) {
            writer.set_bool(&format!("tokenizer.ggml.{key}"), add);
        }
    }
    chat_template(folder, &settings, writer)?;
    sampling(&generation, writer)?;
    Ok(notes)
}

fn flag_in(t: &Object, object: &str, key: &str) -> bool {
    t.get(object).and_then(|m| m.get(key)).and_then(Value::as_bool) == Some(true)
}

fn from_sentencepiece(
    path: &Path,
    settings: &Object,
    tokens: &mut Tokens,
    notes: &mut Vec<String>,
) -> Result<bool> {
    let bytes = fs::read(path, MAX_TOKENIZER_BYTES)?;
    let model = sentencepiece::parse(&bytes).map_err(|sentencepiece::Malformed| {
        FormatError::file(path, "is no SentencePiece model; download it again")
    })?;
    if model.model_type != 2 {
        notes.push(
            "tokenizer.model is no BPE model: texts may be cut into other tokens than the original's"
                .to_owned(),
        );
    }
    for (id, piece) in model.pieces.iter().enumerate() {
        let text = match piece.kind {
            USER_DEFINED => String::from_utf8_lossy(&piece.text).replace(BLANK, " ").into_bytes(),
            _ => piece.text.clone(),
        };
        tokens.set(path, id, &text, piece.kind, piece.score)?;
    }
    let added = Object::open_optional(&path.with_file_name("added_tokens.json"), MAX_JSON_BYTES)?;
    for (text, id) in &added.map {
        if let Some(id) = id.as_u64().and_then(|id| usize::try_from(id).ok()) {
            tokens.set(&added.path, id, text.as_bytes(), USER_DEFINED, ADDED_SCORE)?;
        }
    }
    for (id, token) in settings.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let Some(id) = id.parse::<usize>().ok() else { continue };
        add(&settings.path, id, token, true, tokens)?;
    }
    Ok(model.add_dummy_prefix)
}

/// One entry of `added_tokens` or `added_tokens_decoder`.
fn add(path: &Path, id: usize, token: &Value, scored: bool, tokens: &mut Tokens) -> Result<()> {
    let Some(text) = token.get("content").and_then(Value::as_str) else {
        let message = format!("has an added token {id} without text; download it again");
        return Err(FormatError::file(path, message).into());
    };
    let special = token.get("special").and_then(Value::as_bool) == Some(true) || looks_special(text);
    // Byte and unknown tokens are listed again in some files.
    let kept = tokens
        .types
        .get(id)
        .copied()
        .filter(|t| matches!(*t, UNKNOWN | BYTE) && tokens.texts[id] == text.as_bytes());
    let score = if scored { ADDED_SCORE } else { 0.0 };
    match kept {
        Some(kind) => tokens.set(path, id, text.as_bytes(), kind, score),
        None if special => tokens.set(path, id, text.as_bytes(), CONTROL, score),
        None => tokens.set(path, id, text.replace(BLANK, " ").as_bytes(), USER_DEFINED, score),
    }
}

/// Tokens that steer, though some files do not mark them so; llama.cpp's list.
fn looks_special(text: &str) -> bool {
    let within = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

/// The vocabulary of tokenizer.json by id.
fn vocabulary(t: &Object) -> Result<BTreeMap<usize, &str>> {
    let kind = t.get("model").and_then(|m| m.get("type")).and_then(Value::as_str);
    if kind.is_some_and(|k| k != "BPE") {
        let message = format!("is of the type {}, and only BPE is converted", kind.unwrap_or_default());
        return Err(t.invalid("model", message));
    }
    let Some(vocab) = t.get("model").and_then(|m| m.get("vocab")).and_then(Value::as_object) else {
        return Err(t.invalid("model", "has no `vocab`: download it again"));
    };
    let mut by_id = BTreeMap::new();
    for (text, id) in vocab {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let fresh = id.map(|id| by_id.insert(id, text.as_str()).is_none());
        if fresh != Some(true) {
            return Err(
                t.invalid("model", "has a token whose id is no number, or another's: download it again")
            );
        }
    }
    Ok(by_id)
}

fn added(t: &Object) -> impl Iterator<Item = (usize, &Value)> {
    let all = t.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|token| Some((usize::try_from(token.get("id")?.as_u64()?).ok()?, token)))
}

fn from_bpe(t: &Object, tokens: &mut Tokens) -> Result<()> {
    for (id, text) in vocabulary(t)? {
        tokens.set(&t.path, id, text.as_bytes(), NORMAL, 0.0)?;
    }
    added(t).try_for_each(|(id, token)| add(&t.path, id, token, false, tokens))
}

/// A SentencePiece vocabulary that was rewritten as BPE: a token's score is the rank of the merge that makes it.
fn from_scored_bpe(t: &Object, merges: &[String], tokens: &mut Tokens) -> Result<bool> {
    let mut rank = HashMap::new();
    for (i, merge) in merges.iter().enumerate() {
        rank.entry(merge.replacen(' ', "", 1)).or_insert(i);
    }
    for (id, text) in vocabulary(t)? {
        let byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let score = rank.get(text).map_or(0.0, |i| -(*i as f32));
        tokens.set(&t.path, id, text.as_bytes(), if byte { BYTE } else { NORMAL }, score)?;
    }
    if let Some(unknown) = t.get("model").and_then(|m| m.get("unk_token")).and_then(Value::as_str)
        && let Some(id) = tokens.id_of(unknown)
    {
        tokens.types[id as usize] = UNKNOWN;
    }
    added(t).try_for_each(|(id, token)| add(&t.path, id, token, true, tokens))?;
    // A blank before the text is put by a normalizer, or in newer files by the pre-tokenizer.
    let prepends = |v: &Value| {
        v.get("type").and_then(Value::as_str) == Some("Prepend")
            || v.get("prepend_scheme").and_then(Value::as_str).is_some_and(|s| s != "never")
    };
    Ok(["normalizer", "pre_tokenizer"]
        .iter()
        .any(|key| t.get(key).is_some_and(|v| steps(v).into_iter().any(prepends))))
}

/// Merges as `left right`; newer files have pairs.
fn merges(t: &Object) -> Result<Vec<String>> {
    let all = t.get("model").and_then(|m| m.get("merges")).and_then(Value::as_array).into_iter().flatten();
    let one = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    all.map(one)
        .collect::<Option<_>>()
        .ok_or_else(|| t.invalid("model", "has a merge of no two tokens: download it again"))
}

/// A sequence's steps, or the one step.
fn steps(v: &Value) -> Vec<&Value> {
    let inner = ["pretokenizers", "normalizers", "processors"].iter().find_map(|k| v.get(k)?.as_array());
    match inner {
        Some(all) => all.iter().flat_map(steps).collect(),
        None => vec![v],
    }
}

/// The expressions of the known pre-tokenizers, and GGUF's names of them.
const EXPRESSIONS: &[(&str, &str)] = &[
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "tekken",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "gpt-4o",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// GGUF's name of a tokenizer.json's pre-tokenizer.
fn pretokenizer(t: &Object) -> Result<&'static str> {
    let unknown = || {
        t.invalid(
            "pre_tokenizer",
            "cuts words in a way we do not know: get the model as GGUF from someone who converted it",
        )
    };
    let steps = t.get("pre_tokenizer").map(steps).unwrap_or_default();
    let kind = |v: &Value| v.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kinds: Vec<String> = steps.iter().map(|v| kind(v)).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let by_words = |v: &Value| v.get("use_regex").and_then(Value::as_bool) != Some(false);
    match (kinds.as_slice(), steps.as_slice()) {
        (["ByteLevel"], [bytes]) if by_words(bytes) => Ok("gpt-2"),
        (["Digits", "ByteLevel"], [digits, bytes])
            if by_words(bytes) && digits.get("individual_digits").and_then(Value::as_bool) == Some(true) =>
        {
            Ok("smollm")
        }
        (["Split", "ByteLevel"], [split, bytes]) if !by_words(bytes) => {
            let pattern = split.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str);
            EXPRESSIONS.iter().find(|(_, e)| Some(*e) == pattern).map(|(name, _)| *name).ok_or_else(unknown)
        }
        _ => Err(unknown()),
    }
}

/// Whether a post-processor puts a special token first or last.
fn surrounds(processor: &Value, which: &str) -> Option<bool> {
    let templates = steps(processor)
        .into_iter()
        .filter(|p| p.get("type").and_then(Value::as_str) == Some("TemplateProcessing"));
    let single = templates.filter_map(|p| p.get("single")?.as_array()).next()?;
    let at = if which == "first" { single.first() } else { single.last() };
    Some(at?.get("SpecialToken").is_some())
}

/// Ids of the tokens with a role: named by text, or else by number.
fn special(
    settings: &Object,
    numbered: [&Object; 2],
    tokens: &Tokens,
    writer: &mut GgufWriter<'_>,
) -> Result<()> {
    // GGUF's spelling of the separator is the specification's.
    let roles =
        [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding")];
    for (role, gguf) in roles {
        let named = settings.get(&format!("{role}_token"));
        let text = named.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        let key = format!("{role}_token_id");
        let number = || {
            numbered.iter().find_map(|o| {
                let v = o.get(&key)?;
                let first = v.as_array().and_then(|a| a.first()).unwrap_or(v);
                first.as_u64().and_then(|id| u32::try_from(id).ok())
            })
        };
        let Some(id) = text.and_then(|t| tokens.id_of(t)).or_else(number) else { continue };
        // A padding token of -1 or beyond the vocabulary is none.
        if (id as usize) < tokens.texts.len() {
            writer.set_u32(&format!("tokenizer.ggml.{gguf}_token_id"), id);
        }
    }
    Ok(())
}

fn chat_template(folder: &Path, settings: &Object, writer: &mut GgufWriter<'_>) -> Result<()> {
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        writer.set_str("tokenizer.chat_template", &fs::read_to_string(&file, MAX_JSON_BYTES)?);
        return Ok(());
    }
    let template = match settings.get("chat_template") {
        Some(Value::String(text)) => Some(text.as_str()),
        // Several, by name.
        Some(Value::Array(all)) => {
            let default = all.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            default.and_then(|t| t.get("template")?.as_str())
        }
        _ => None,
    };
    if let Some(template) = template {
        writer.set_str("tokenizer.chat_template", template);
    }
    Ok(())
}

/// What generation_config.json recommends, where it samples at all.
fn sampling(generation: &Object, writer: &mut GgufWriter<'_>) -> Result<()> {
    if generation.flag("do_sample") != Some(true) {
        return Ok(());
    }
    for (from, to) in [
        ("temperature", "temp"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if let Some(value) = generation.number(from)? {
            writer.set_f32(&format!("general.sampling.{to}"), value);
        }
    }
    if let Some(k) = generation.count(&["top_k"])? {
        writer.set_i32("general.sampling.top_k", i32::try_from(k).unwrap_or(i32::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(map) => Object { path: "tokenizer.json".into(), map },
            _ => unreachable!("the tests give objects"),
        }
    }

    #[test]
    fn known_pre_tokenizers_are_recognized_and_others_refused() {
        let of = |v: Value| pretokenizer(&object(json!({ "pre_tokenizer": v }))).map_err(|e| e.to_string());
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
        assert_eq!(of(bytes(true)), Ok("gpt-2"));
        let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
        assert_eq!(
            of(sequence(vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)])),
            Ok("smollm")
        );
        for (name, expression) in EXPRESSIONS {
            let split = json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
            assert_eq!(of(sequence(vec![split, bytes(false)])), Ok(*name));
        }
        let other = json!({"type": "Split", "pattern": {"Regex": "x"}});
        assert!(of(sequence(vec![other, bytes(false)])).unwrap_err().contains("pre_tokenizer"));
        assert!(of(bytes(false)).is_err());
    }

    #[test]
    fn merges_are_read_in_both_forms() {
        let t = |m: Value| object(json!({"model": {"merges": m}}));
        assert_eq!(merges(&t(json!(["a b", ["c", "d"]]))).unwrap(), ["a b", "c d"]);
        assert!(merges(&t(json!([["a"]]))).is_err());
    }
}
