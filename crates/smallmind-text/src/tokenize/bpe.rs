//! Byte-level byte-pair encoding: a word's bytes merge in the order of the merges' ranks. Sees one fragment at a time;
//! special tokens are cut out before.

use super::queue::Queue;
use crate::error::quote;
use crate::vocab::{FastMap, Vocab};
use crate::{Pretokenizer, TextError, Texts};

/// A symbol of a word being merged: a token id, or a number past the vocabulary for a text that is no token.
type Symbol = u32;
const NONE: u32 = u32::MAX;
/// Up to here a word is scanned for its best merge each time; longer ones get a queue.
const SHORT: usize = 32;
/// Words remembered in one call, of at most [`SHORT`] bytes each.
const REMEMBERED: usize = 1 << 16;

/// The tables of one vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    pre: Pretokenizer,
    /// The symbol of each byte.
    bytes: Box<[Symbol; 256]>,
    /// Two neighbours (left in the high half) to the rank of their merge and the symbol they become.
    merges: FastMap<u64, (u32, Symbol)>,
    tokens: u32,
    /// What a symbol past the vocabulary is written as: one token a byte, and nothing for bytes that have no token
    /// (SmolLM2 lacks some that no text of its time uses); llama.cpp drops them as well.
    spelled: Vec<Box<[u32]>>,
    /// Whole words, by their bytes, for vocabularies that look there before merging.
    whole: Option<FastMap<Box<[u8]>, u32>>,
}

fn pair(left: Symbol, right: Symbol) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for the characters from U+0100 on.
pub(super) fn char_of(byte: u8) -> char {
    let shift = match byte {
        0..=0x20 => 0x100,
        0x7f..=0xa0 => 0x121 - 0x7f,
        0xad => 0x143 - 0xad,
        _ => 0,
    };
    char::from_u32(u32::from(byte) + shift).unwrap_or('\u{fffd}')
}

fn byte_for(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => code,
    };
    u8::try_from(byte).ok().filter(|&b| char_of(b) == c)
}

/// Appends the bytes a token's text stands for; characters outside the alphabet stand for themselves.
pub(super) fn decode(mut text: &[u8], out: &mut Vec<u8>) {
    // Nearly all texts are ASCII, which stands for itself, and characters of two bytes.
    loop {
        let ascii = text.iter().position(|b| !b.is_ascii()).unwrap_or(text.len());
        out.extend_from_slice(&text[..ascii]);
        text = &text[ascii..];
        let [lead @ 0xc4..=0xc5, trail @ 0x80..=0xbf, rest @ ..] = text else { break };
        let code = u32::from(lead & 0x1f) << 6 | u32::from(trail & 0x3f);
        let Some(byte) = char::from_u32(code).and_then(byte_for) else { break };
        out.push(byte);
        text = rest;
    }
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match byte_for(c) {
                Some(byte) => out.push(byte),
                None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out.extend(chunk.invalid());
    }
}

/// Gives every text one number: the token's id, or the next one past the vocabulary.
struct Interner<'v> {
    vocab: &'v Vocab,
    tokens: u32,
    extra: FastMap<Box<[u8]>, Symbol>,
    texts: Vec<Box<[u8]>>,
}

impl Interner<'_> {
    fn number(&mut self, text: &[u8]) -> Result<Symbol, TextError> {
        if let Some(id) = self.vocab.id(text).or_else(|| self.extra.get(text).copied()) {
            return Ok(id);
        }
        let number = u32::try_from(self.texts.len())
            .ok()
            .and_then(|n| n.checked_add(self.tokens))
            .filter(|&n| n < NONE)
            .ok_or_else(|| TextError::vocabulary("tokenizer.ggml.merges has too many entries"))?;
        self.extra.insert(text.into(), number);
        self.texts.push(text.into());
        Ok(number)
    }
}

impl Bpe {
    pub(super) fn new(vocab: &Vocab, merges: &Texts, pre: Pretokenizer) -> Result<Self, TextError> {
        let tokens = u32::try_from(vocab.texts.len()).unwrap_or(NONE);
        let mut interner = Interner { vocab, tokens, extra: FastMap::default(), texts: Vec::new() };
        let mut bytes = Box::new([NONE; 256]);
        for (byte, slot) in (0u8..=255).zip(bytes.iter_mut()) {
            *slot = interner.number(char_of(byte).encode_utf8(&mut [0; 4]).as_bytes())?;
        }
        let mut table =
            FastMap::with_capacity_and_hasher(merges.len(), foldhash::fast::RandomState::default());
        let (mut both, mut merged) = (Vec::new(), NONE);
        for (rank, merge) in (0u32..).zip(merges.strs()) {
            let (left, right) = merge.and_then(split_merge).ok_or_else(|| {
                TextError::vocabulary(format!(
                    "tokenizer.ggml.merges[{rank}] is \"{}\", not two texts with a blank between",
                    quote(&merges[rank as usize])
                ))
            })?;
            // A blank is outside the alphabet, so such a merge can never apply.
            if right.contains(' ') {
                continue;
            }
            // A side of one character, as every seventh is, needs no search either.
            let mut side = |text: &str| {
                let mut chars = text.chars();
                match (chars.next().and_then(byte_for), chars.next()) {
                    (Some(byte), None) => Ok(bytes[usize::from(byte)]),
                    _ => interner.number(text.as_bytes()),
                }
            };
            let key = pair(side(left)?, side(right)?);
            both.clear();
            both.extend_from_slice(left.as_bytes());
            both.extend_from_slice(right.as_bytes());
            // Tokens mostly stand in the order of the merges that make them, so the next one needs no search.
            let next = merged.wrapping_add(1);
            merged = match vocab.texts.get(next as usize) {
                Some(text) if text == both => next,
                _ => interner.number(&both)?,
            };
            table.entry(key).or_insert((rank, merged));
        }
        let spelled = interner
            .texts
            .iter()
            .map(|text| {
                let chars = std::str::from_utf8(text).unwrap_or_default().chars();
                chars.filter_map(|c| vocab.id(c.encode_utf8(&mut [0; 4]).as_bytes())).collect()
            })
            .collect();
        let whole = pre.ignore_merges.then(|| {
            let mut whole = FastMap::default();
            for (id, text) in (0u32..).zip(vocab.texts.iter()) {
                let Ok(text) = std::str::from_utf8(text) else { continue };
                if let Some(bytes) = text.chars().map(byte_for).collect::<Option<Box<[u8]>>>() {
                    whole.insert(bytes, id);
                }
            }
            whole
        });
        Ok(Self { pre, bytes, merges: table, tokens, spelled, whole })
    }

    pub(super) fn session<'t>(&self) -> Session<'_, 't> {
        Session { bpe: self, word: Word::default(), known: FastMap::default(), known_ids: Vec::new() }
    }

    /// Appends the tokens of a finished symbol.
    fn write(&self, symbol: Symbol, ids: &mut Vec<u32>) {
        match symbol.checked_sub(self.tokens) {
            None => ids.push(symbol),
            Some(extra) => ids.extend(self.spelled.get(extra as usize).into_iter().flatten()),
        }
    }
}

/// The two sides of a merge. The blank that parts them is the first after the first character, as llama.cpp reads it.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let at = first + merge[first..].find(' ')?;
    let (left, right) = (&merge[..at], &merge[at + 1..]);
    (!right.is_empty() && left != " ").then_some((left, right))
}

/// One call's memory.
pub(super) struct Session<'b, 't> {
    bpe: &'b Bpe,
    word: Word,
    /// Words seen in this call to their range in `known_ids`.
    known: FastMap<&'t str, (u32, u32)>,
    known_ids: Vec<u32>,
}

impl<'t> Session<'_, 't> {
    pub(super) fn encode(&mut self, text: &'t str, ids: &mut Vec<u32>) {
        let pre = self.bpe.pre;
        pre.split(text, &mut |word| self.encode_word(word, ids));
    }

    fn encode_word(&mut self, word: &'t str, ids: &mut Vec<u32>) {
        let bpe = self.bpe;
        if let Some(&id) = bpe.whole.as_ref().and_then(|whole| whole.get(word.as_bytes())) {
            ids.push(id);
            return;
        }
        if let [byte] = word.as_bytes() {
            bpe.write(bpe.bytes[*byte as usize], ids);
            return;
        }
        if word.len() > SHORT {
            // Positions are 32 bits; no word of a real text is cut here.
            for part in word.as_bytes().chunks(1 << 30) {
                self.word.merge_long(bpe, part, ids);
            }
            return;
        }
        if let Some(&(start, end)) = self.known.get(word) {
            ids.extend_from_slice(&self.known_ids[start as usize..end as usize]);
            return;
        }
        let before = ids.len();
        self.word.merge_short(bpe, word.as_bytes(), ids);
        if self.known.len() < REMEMBERED {
            let range = (self.known_ids.len(), self.known_ids.len() + ids.len() - before);
            if let (Ok(start), Ok(end)) = (u32::try_from(range.0), u32::try_from(range.1)) {
                self.known_ids.extend_from_slice(&ids[before..]);
                self.known.insert(word, (start, end));
            }
        }
    }
}

/// A word being merged: symbols in place, merged-away ones marked [`NONE`].
#[derive(Default)]
struct Word {
    symbols: Vec<Symbol>,
    /// `merges[i]`: rank and result of the pair that starts at `i`; rank [`NONE`] where it does not merge.
    merges: Vec<(u32, Symbol)>,
    prev: Vec<u32>,
    next: Vec<u32>,
}

impl Word {
    fn start(&mut self, bpe: &Bpe, word: &[u8]) {
        self.symbols.clear();
        self.symbols.extend(word.iter().map(|&b| bpe.bytes[b as usize]));
        self.merges.clear();
        self.merges.extend(self.symbols.windows(2).map(|w| find(bpe, w[0], w[1])));
        self.merges.push((NONE, NONE));
    }

    fn merge_short(&mut self, bpe: &Bpe, word: &[u8], ids: &mut Vec<u32>) {
        self.start(bpe, word);
        let Self { symbols, merges, .. } = self;
        while let Some((at, &(rank, merged))) = merges.iter().enumerate().min_by_key(|(_, m)| m.0) {
            if rank == NONE {
                break;
            }
            symbols[at] = merged;
            symbols.remove(at + 1);
            merges.remove(at + 1);
            merges[at] = match symbols.get(at + 1) {
                Some(&right) => find(bpe, merged, right),
                None => (NONE, NONE),
            };
            if at > 0 {
                merges[at - 1] = find(bpe, symbols[at - 1], merged);
            }
        }
        for &symbol in &*symbols {
            bpe.write(symbol, ids);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "encode_word passes at most 2^30 bytes")]
    fn merge_long(&mut self, bpe: &Bpe, word: &[u8], ids: &mut Vec<u32>) {
        self.start(bpe, word);
        let len = word.len() as u32;
        self.prev.clear();
        self.prev.extend((0..len).map(|at| at.wrapping_sub(1)));
        self.next.clear();
        self.next.extend(1..=len);
        let Self { symbols, merges, prev, next } = self;
        let mut queue = Queue::default();
        for (&(rank, _), at) in merges.iter().zip(0u32..) {
            if rank != NONE {
                queue.push(rank, at);
            }
        }
        while let Some((rank, at)) = queue.pop() {
            let at = at as usize;
            if merges[at].0 != rank {
                continue;
            }
            let right = next[at] as usize;
            symbols[at] = merges[at].1;
            symbols[right] = NONE;
            merges[right].0 = NONE;
            next[at] = next[right];
            merges[at] = (NONE, NONE);
            if prev[at] != NONE {
                let left = prev[at] as usize;
                merges[left] = find(bpe, symbols[left], symbols[at]);
                if merges[left].0 != NONE {
                    queue.push(merges[left].0, left as u32);
                }
            }
            if next[at] < len {
                prev[next[at] as usize] = at as u32;
                merges[at] = find(bpe, symbols[at], symbols[next[at] as usize]);
                if merges[at].0 != NONE {
                    queue.push(merges[at].0, at as u32);
                }
            }
        }
        for &symbol in symbols.iter().filter(|&&s| s != NONE) {
            bpe.write(symbol, ids);
        }
    }
}

fn find(bpe: &Bpe, left: Symbol, right: Symbol) -> (u32, Symbol) {
    bpe.merges.get(&pair(left, right)).copied().unwrap_or((NONE, NONE))
}
