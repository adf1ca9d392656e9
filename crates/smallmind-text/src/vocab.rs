//! The vocabulary as the model file gives it, checked once so that the tokenizers may trust it.
//! Does not read files: the caller copies the `tokenizer.ggml.*` values into a [`VocabSpec`].

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::error::quote;
use crate::{TextError, Texts};

/// A map that hostile keys cannot make collide and that is fast on short keys.
pub(crate) type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The algorithm of a vocabulary, GGUF's `tokenizer.ggml.model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VocabKind {
    /// `"gpt2"`: byte-level byte-pair encoding with ranked merges.
    #[default]
    Bpe,
    /// `"llama"`: SentencePiece's scored merges with byte fallback.
    Spm,
}

/// What a token is for; the numbers are GGUF's `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TokenType {
    /// Ordinary text.
    Normal = 1,
    /// Stands for what the vocabulary cannot express.
    Unknown = 2,
    /// Steers the model (`<s>`, `<|im_end|>`), invisible in output.
    Control = 3,
    /// Added by hand: found in any text, before everything else.
    UserDefined = 4,
    /// A reserved place; stands for no text.
    Unused = 5,
    /// One byte, written `<0xHH>`.
    Byte = 6,
}

impl TryFrom<i32> for TokenType {
    type Error = TextError;

    fn try_from(number: i32) -> Result<Self, TextError> {
        Ok(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => {
                return Err(TextError::vocabulary(format!(
                    "tokenizer.ggml.token_type holds {number}, and only 1 to 6 are token types"
                )));
            }
        })
    }
}

/// A vocabulary as stored in a model file (`tokenizer.ggml.*`), unchecked.
#[derive(Debug, Clone, Default)]
pub struct VocabSpec {
    /// The algorithm (`model`).
    pub kind: VocabKind,
    /// Token texts by id, as stored: GPT-2's byte alphabet for [`VocabKind::Bpe`], `▁` for spaces in [`VocabKind::Spm`].
    pub tokens: Texts,
    /// One score a token, or empty where the file has none (all zero).
    pub scores: Vec<f32>,
    /// One type a token, or empty where the file has none (all normal).
    pub types: Vec<TokenType>,
    /// BPE merges, `"left right"`, most important first.
    pub merges: Texts,
    /// The name of the pre-tokenizer (`pre`); empty = `default`.
    pub pre: String,
    /// `bos_token_id`; SPM without one takes 1.
    pub bos: Option<u32>,
    /// `eos_token_id`; SPM without one takes 2.
    pub eos: Option<u32>,
    /// `eot_token_id`: end of a turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: end of a message.
    pub eom: Option<u32>,
    /// `unknown_token_id`; SPM without one takes 0.
    pub unk: Option<u32>,
    /// `seperator_token_id`.
    pub sep: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`; the default depends on the kind and the pre-tokenizer.
    pub add_bos: Option<bool>,
    /// `add_eos_token`; default false.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; default true for SPM, without meaning for BPE.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`: of unigram vocabularies only, so without effect here.
    pub remove_extra_whitespaces: Option<bool>,
    /// `general.name`: llama.cpp strips the blanks after special tokens where it says Phi-3, and only there.
    pub model_name: String,
}

/// The checked vocabulary both algorithms share.
#[derive(Debug)]
pub(crate) struct Vocab {
    /// Token texts as stored; an empty one stays empty and is never found.
    pub(crate) texts: Texts,
    pub(crate) types: Vec<TokenType>,
    pub(crate) scores: Vec<f32>,
    /// Ids by the hash of their texts.
    ids: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) end_of_generation: Vec<u32>,
}

/// Texts that end an answer whatever the file says; llama.cpp's list.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fill-in-the-middle tokens by role; the first three end nothing, the last three end an answer.
const FIM_TEXTS: [(&[&str], bool); 6] = [
    (
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        false,
    ),
    (
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        false,
    ),
    (
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        false,
    ),
    (&["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
    (&["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"], true),
    (&["<|file_sep|>"], true),
];

/// Tokens of gpt-oss that structure an answer and must stay visible.
const ALWAYS_VISIBLE: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Vocab {
    /// Checks `spec` (its merges and pre-tokenizer apart) and settles the defaults.
    pub(crate) fn new(spec: &mut VocabSpec) -> Result<Self, TextError> {
        let count = spec.tokens.len();
        if count == 0 {
            return Err(TextError::vocabulary("tokenizer.ggml.tokens is empty"));
        }
        if u32::try_from(count).map_or(true, |n| n > u32::MAX / 4) {
            return Err(TextError::vocabulary(format!("tokenizer.ggml.tokens has {count} entries")));
        }
        for (key, len) in [("scores", spec.scores.len()), ("token_type", spec.types.len())] {
            if len != count && len != 0 {
                return Err(TextError::vocabulary(format!(
                    "tokenizer.ggml.{key} has {len} entries for {count} tokens"
                )));
            }
        }
        if let Some(id) = spec.scores.iter().position(|s| s.is_nan()) {
            return Err(TextError::vocabulary(format!("tokenizer.ggml.scores[{id}] is not a number")));
        }
        if spec.tokens.is_full() || spec.merges.is_full() {
            return Err(TextError::vocabulary("its tokens or merges are more than 4 GiB of text"));
        }
        let mut texts = std::mem::take(&mut spec.tokens);
        texts.shrink_to_fit();
        let mut types = std::mem::take(&mut spec.types);
        types.resize(count, TokenType::Normal);
        let mut scores = std::mem::take(&mut spec.scores);
        scores.resize(count, 0.0);

        let hasher = foldhash::fast::RandomState::default();
        let mut ids = HashTable::with_capacity(count);
        let text_of = |id: u32| &texts[id as usize];
        for (id, text) in (0u32..).zip(texts.iter()) {
            if text.is_empty() {
                continue;
            }
            let hash = hasher.hash_one(text);
            match ids.entry(hash, |other| text_of(*other) == text, |other| hasher.hash_one(text_of(*other))) {
                Entry::Vacant(place) => place.insert(id),
                Entry::Occupied(first) => {
                    let message = format!("tokens {} and {id} are both \"{}\"", first.get(), quote(text));
                    return Err(TextError::vocabulary(message));
                }
            };
            if types[id as usize] == TokenType::Byte && byte_of(text).is_none() {
                return Err(TextError::vocabulary(format!(
                    "token {id} is of type byte, and its text \"{}\" is not <0x..> with two hexadecimal digits",
                    quote(text)
                )));
            }
        }
        let in_range = |key: &str, id: Option<u32>| match id {
            Some(id) if id as usize >= count => Err(TextError::vocabulary(format!(
                "tokenizer.ggml.{key} is {id}, and there are {count} tokens"
            ))),
            id => Ok(id),
        };
        // SentencePiece's own numbers, for old files that do not say.
        let spm = spec.kind == VocabKind::Spm;
        let default = |id: u32| (spm && (id as usize) < count).then_some(id);
        let bos = in_range("bos_token_id", spec.bos)?.or_else(|| default(1));
        let eos = in_range("eos_token_id", spec.eos)?.or_else(|| default(2));
        let unk = in_range("unknown_token_id", spec.unk)?.or_else(|| default(0));
        let eot = in_range("eot_token_id", spec.eot)?;
        let eom = in_range("eom_token_id", spec.eom)?;
        in_range("seperator_token_id", spec.sep)?;
        in_range("padding_token_id", spec.pad)?;
        for (key, wanted, id) in [
            ("add_bos_token", spec.add_bos, ("bos_token_id", bos)),
            ("add_eos_token", spec.add_eos, ("eos_token_id", eos)),
        ] {
            if wanted == Some(true) && id.1.is_none() {
                return Err(TextError::vocabulary(format!(
                    "tokenizer.ggml.{key} is true, but tokenizer.ggml.{} is not set",
                    id.0
                )));
            }
        }
        let mut vocab =
            Self { texts, types, scores, ids, hasher, bos, eos, unk, end_of_generation: Vec::new() };
        vocab.settle_roles([eos, eot, eom]);
        Ok(vocab)
    }

    /// The end-of-generation set and the types that names override, in llama.cpp's order.
    fn settle_roles(&mut self, named: [Option<u32>; 3]) {
        let mut ends = BTreeSet::new();
        for (texts, ends_answer) in FIM_TEXTS {
            // Of several spellings llama.cpp takes whichever its hash map yields first; here the lowest id.
            if let Some(id) = texts.iter().filter_map(|t| self.id(t.as_bytes())).min() {
                self.types[id as usize] = TokenType::Control;
                if ends_answer {
                    ends.insert(id);
                }
            }
        }
        for id in self.all_ids(END_TEXTS) {
            self.types[id as usize] = TokenType::Control;
            ends.insert(id);
        }
        for id in self.all_ids(ALWAYS_VISIBLE) {
            self.types[id as usize] = TokenType::UserDefined;
        }
        ends.extend(named.into_iter().flatten());
        let has = |ends: &BTreeSet<u32>, text: &str| self.id(text.as_bytes()).filter(|id| ends.contains(id));
        // gpt-oss and Solar: where calls have their own ends, <|end|> only closes a part of the answer.
        let call = has(&ends, "<|call|>").or_else(|| has(&ends, "<|calls|>")).is_some();
        let other = has(&ends, "<|return|>").or_else(|| has(&ends, "<|flush|>")).is_some();
        let demoted = [
            has(&ends, "<|end|>").filter(|_| call && other).map(|id| (id, TokenType::UserDefined)),
            // Gemma 4 writes </s> as text.
            has(&ends, "</s>")
                .filter(|_| has(&ends, "<|tool_response>").is_some())
                .map(|id| (id, TokenType::Normal)),
        ];
        for (id, kind) in demoted.into_iter().flatten() {
            ends.remove(&id);
            self.types[id as usize] = kind;
        }
        self.end_of_generation = ends.into_iter().collect();
    }

    fn all_ids(&self, texts: &[&str]) -> Vec<u32> {
        texts.iter().filter_map(|t| self.id(t.as_bytes())).collect()
    }

    /// The id of the token stored as `text`.
    pub(crate) fn id(&self, text: &[u8]) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(text), |id| &self.texts[*id as usize] == text).copied()
    }

    /// Whether the token shows in output only when asked for.
    pub(crate) fn is_hidden(&self, id: u32) -> bool {
        matches!(self.types.get(id as usize), Some(TokenType::Control | TokenType::Unknown) | None)
    }

    /// Length of the longest token in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.texts.iter().map(|t| t.len()).max().unwrap_or(0)
    }
}

/// The byte of a `<0xHH>` token; exactly two hexadecimal digits.
pub(crate) fn byte_of(text: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = text else { return None };
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(*high)? * 16 + digit(*low)?)
}
