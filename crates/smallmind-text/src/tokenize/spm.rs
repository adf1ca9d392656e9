//! SentencePiece's merging by score: two neighbours merge where their text together is a token, best score first.
//! What stays without a token is written as bytes. Sees one fragment at a time; special tokens are cut out before.

use super::queue::Queue;
use crate::vocab::Vocab;

/// U+2581, which stands for a blank.
const BLANK: &str = "\u{2581}";

/// The tables of one vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    /// What each byte becomes where its character is no token.
    bytes: Box<[Option<u32>; 256]>,
    longest: usize,
}

/// A run of characters merged so far; `len` 0 once its left neighbour has taken it.
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

impl Spm {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let mut bytes = Box::new([None; 256]);
        for (byte, slot) in (0u8..=255).zip(bytes.iter_mut()) {
            *slot =
                vocab.id(format!("<0x{byte:02X}>").as_bytes()).or_else(|| vocab.id(&[byte])).or(vocab.unk);
        }
        Self { bytes, longest: vocab.longest() }
    }

    /// Appends the ids of `text`, after a blank of its own where `prefixed`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, prefixed: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + BLANK.len());
        if prefixed {
            escaped.push_str(BLANK);
        }
        for (i, part) in text.split(' ').enumerate() {
            if i > 0 {
                escaped.push_str(BLANK);
            }
            escaped.push_str(part);
        }
        // Positions are 32 bits; longer texts are cut at a character, 1 GiB at a time.
        let mut rest = escaped.as_str();
        while !rest.is_empty() {
            let cut = rest.floor_char_boundary(rest.len().min(1 << 30));
            self.merge(vocab, &rest[..cut], ids);
            rest = &rest[cut..];
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "encode passes at most 2^30 bytes")]
    fn merge(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let mut symbols = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                start: start as u32,
                len: c.len_utf8() as u32,
                prev: at.wrapping_sub(1),
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        // The key of the pair that starts at each symbol: what llama.cpp's queue holds, found again to drop old entries.
        let mut keys: Vec<u32> = Vec::with_capacity(symbols.len());
        for left in 0..symbols.len() as u32 {
            keys.push(self.key(vocab, text, &symbols, left));
        }
        let mut queue = Queue::default();
        for (&key, at) in keys.iter().zip(0u32..).filter(|(key, _)| **key != NONE) {
            queue.push(key, at);
        }
        while let Some((key, left)) = queue.pop() {
            if keys[left as usize] != key {
                continue;
            }
            let right = symbols[left as usize].next;
            let (len, next) = (symbols[right as usize].len, symbols[right as usize].next);
            symbols[right as usize].len = 0;
            keys[right as usize] = NONE;
            symbols[left as usize].len += len;
            symbols[left as usize].next = next;
            if next != NONE {
                symbols[next as usize].prev = left;
            }
            for at in [symbols[left as usize].prev, left] {
                if at == NONE {
                    continue;
                }
                let key = self.key(vocab, text, &symbols, at);
                keys[at as usize] = key;
                if key != NONE {
                    queue.push(key, at);
                }
            }
        }
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            let text = &text.as_bytes()[symbol.start as usize..(symbol.start + symbol.len) as usize];
            match vocab.id(text) {
                Some(id) => ids.push(id),
                None => ids.extend(text.iter().filter_map(|&b| self.bytes[b as usize])),
            }
        }
    }

    /// The sort key of the pair that starts at `left`, best score lowest; [`NONE`] where it is no token.
    fn key(&self, vocab: &Vocab, text: &str, symbols: &[Symbol], left: u32) -> u32 {
        let Symbol { start, len, next, .. } = symbols[left as usize];
        if next == NONE {
            return NONE;
        }
        let (start, end) = (start as usize, (start + len + symbols[next as usize].len) as usize);
        if end - start > self.longest {
            return NONE;
        }
        let Some(id) = vocab.id(&text.as_bytes()[start..end]) else { return NONE };
        // + 0.0 makes -0 equal to 0; then the order of the bits is the order of the numbers.
        let bits = (vocab.scores[id as usize] + 0.0).to_bits();
        let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        // Not a number was refused, so the largest key (NONE) is never a score.
        !ascending
    }
}

/// Appends a token's text with its `▁` as blanks.
pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(BLANK.as_bytes()) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(*first);
            rest = &rest[1..];
        }
    }
}
