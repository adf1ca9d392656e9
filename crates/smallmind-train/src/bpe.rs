//! Byte-level BPE vocabularies made from text (Gage 1994; Sennrich et al. 2016), with the engine's own rules for cutting
//! text into words, so that what is learned is what will be applied.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use smallmind_formats::write::GgufWriter;
use smallmind_text::{Pretokenizer, TextError};

use crate::data::END_OF_TEXT;
use crate::error::{Result, TrainError};

/// The rules that cut text into words.
const PRE: &str = "gpt-2";

/// A vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bpe {
    /// The end of text, the 256 bytes, then one token a merge, in GPT-2's alphabet.
    pub(crate) tokens: Vec<String>,
    pub(crate) merges: Vec<String>,
}

/// A word as tokens, and how often it occurs.
struct Word {
    symbols: Vec<u32>,
    count: i64,
}

type Pair = (u32, u32);

/// GPT-2's character for a byte: printable Latin-1 stands for itself, the rest for the characters from U+0100 on.
fn alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let plain = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if plain { byte as u32 } else { next };
        next += u32::from(!plain);
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

/// Learns a vocabulary of `vocab` tokens from documents.
///
/// # Errors
/// Where the text has no pair of tokens left that occurs twice before the vocabulary is full.
pub(crate) fn learn<'t>(documents: impl Iterator<Item = &'t str>, vocab: usize) -> Result<Bpe> {
    let pre = Pretokenizer::by_name(PRE).map_err(|e: TextError| smallmind::Error::from(e))?;
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for text in documents {
        pre.split(text, &mut |word| *counts.entry(word).or_default() += 1);
    }
    // Token 0 is the end of text, token 1 + b the byte b.
    let mut words: Vec<Word> = counts
        .into_iter()
        .map(|(text, count)| Word { symbols: text.bytes().map(|b| 1 + u32::from(b)).collect(), count })
        .collect();
    let letters = alphabet();
    let mut tokens: Vec<String> =
        std::iter::once(END_OF_TEXT.to_owned()).chain(letters.map(String::from)).collect();
    let mut merges = Vec::new();

    let mut pairs: HashMap<Pair, i64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
    for (at, word) in words.iter().enumerate() {
        for w in word.symbols.windows(2) {
            *pairs.entry((w[0], w[1])).or_default() += word.count;
            places.entry((w[0], w[1])).or_default().push(at as u32);
        }
    }
    // The most frequent pair first, the lowest ids among equals; entries that are out of date are skipped.
    let mut heap: BinaryHeap<(i64, Reverse<Pair>)> =
        pairs.iter().map(|(pair, n)| (*n, Reverse(*pair))).collect();
    while tokens.len() < vocab {
        let Some((count, Reverse(pair))) = heap.pop() else { return Err(too_large(vocab, tokens.len())) };
        let now = pairs.get(&pair).copied().unwrap_or(0);
        if now != count {
            if now > 0 {
                heap.push((now, Reverse(pair)));
            }
            continue;
        }
        if count < 2 {
            return Err(too_large(vocab, tokens.len()));
        }
        let new = tokens.len() as u32;
        let (left, right) = (&tokens[pair.0 as usize], &tokens[pair.1 as usize]);
        merges.push(format!("{left} {right}"));
        tokens.push(format!("{left}{right}"));
        let mut changed: BTreeMap<Pair, i64> = BTreeMap::new();
        let mut at_words = places.remove(&pair).unwrap_or_default();
        at_words.dedup();
        for at in at_words {
            let word = &mut words[at as usize];
            if !word.symbols.windows(2).any(|w| (w[0], w[1]) == pair) {
                continue;
            }
            for w in word.symbols.windows(2) {
                *changed.entry((w[0], w[1])).or_default() -= word.count;
            }
            word.symbols = merged(&word.symbols, pair, new);
            for w in word.symbols.windows(2) {
                *changed.entry((w[0], w[1])).or_default() += word.count;
                if w.contains(&new) {
                    places.entry((w[0], w[1])).or_default().push(at);
                }
            }
        }
        for (pair, by) in changed.into_iter().filter(|(_, by)| *by != 0) {
            let n = pairs.entry(pair).or_default();
            *n += by;
            if by > 0 {
                heap.push((*n, Reverse(pair)));
            }
        }
    }
    Ok(Bpe { tokens, merges })
}

fn merged(symbols: &[u32], pair: Pair, new: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(symbols.len());
    let mut i = 0;
    while i < symbols.len() {
        if symbols[i] == pair.0 && symbols.get(i + 1) == Some(&pair.1) {
            out.push(new);
            i += 2;
        } else {
            out.push(symbols[i]);
            i += 1;
        }
    }
    out
}

fn too_large(vocab: usize, found: usize) -> TrainError {
    TrainError::config(format!(
        "a vocabulary of {vocab} tokens is more than this text supports, which has {found} with pairs that occur twice: \
         give more text or a smaller model.vocab"
    ))
}

/// Sets the tokenizer of a model file.
pub(crate) fn describe(bpe: &Bpe, w: &mut GgufWriter<'_>) {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let types: Vec<i32> = (0..bpe.tokens.len()).map(|i| if i == 0 { CONTROL } else { NORMAL }).collect();
    // A text begins where the last one ended.
    w.set_str("tokenizer.ggml.model", "gpt2")
        .set_str("tokenizer.ggml.pre", PRE)
        .set_strings("tokenizer.ggml.tokens", &bpe.tokens)
        .set_i32s("tokenizer.ggml.token_type", &types)
        .set_strings("tokenizer.ggml.merges", &bpe.merges)
        .set_u32("tokenizer.ggml.bos_token_id", 0)
        .set_u32("tokenizer.ggml.eos_token_id", 0)
        .set_bool("tokenizer.ggml.add_bos_token", true)
        // A model of plain text goes on with what it is given; without this a family's template would speak for it.
        .set_str(
            "tokenizer.chat_template",
            "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}",
        );
}

/// The merges of a vocabulary of `vocab` tokens learned from one text: for those who want the tokenizer alone.
///
/// # Errors
/// Where the text does not support so many tokens.
pub fn train_bpe(text: &str, vocab: usize) -> Result<Vec<String>> {
    Ok(learn(std::iter::once(text), vocab)?.merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: count all pairs, merge the first most frequent one, begin again.
    fn plainly(text: &str, merges: usize) -> Vec<String> {
        let pre = Pretokenizer::by_name(PRE).unwrap();
        let mut words: Vec<Vec<u32>> = Vec::new();
        pre.split(text, &mut |word| words.push(word.bytes().map(|b| 1 + u32::from(b)).collect()));
        let mut tokens: Vec<String> =
            std::iter::once(END_OF_TEXT.to_owned()).chain(alphabet().map(String::from)).collect();
        let mut out = Vec::new();
        for _ in 0..merges {
            let mut pairs: BTreeMap<Pair, i64> = BTreeMap::new();
            words
                .iter()
                .for_each(|w| w.windows(2).for_each(|w| *pairs.entry((w[0], w[1])).or_default() += 1));
            let pair =
                pairs.iter().max_by_key(|(pair, n)| (**n, Reverse(**pair))).map(|(pair, _)| *pair).unwrap();
            out.push(format!("{} {}", tokens[pair.0 as usize], tokens[pair.1 as usize]));
            tokens.push(format!("{}{}", tokens[pair.0 as usize], tokens[pair.1 as usize]));
            let new = tokens.len() as u32 - 1;
            words.iter_mut().for_each(|w| *w = merged(w, pair, new));
        }
        out
    }

    #[test]
    fn merges_are_those_of_the_definition() {
        let text = "the cat sat on the mat; the cats sat on the mats. aaaa aaa aa zwölf zwölf ".repeat(3);
        assert_eq!(train_bpe(&text, 257 + 20).unwrap(), plainly(&text, 20));
    }

    #[test]
    fn a_vocabulary_larger_than_the_text_supports_is_refused() {
        let error = train_bpe("abc", 300).unwrap_err().to_string();
        assert!(error.contains("300") && error.contains("more than this text supports"), "{error}");
    }
}
