//! Text to ids and ids to bytes: cuts out special tokens, hands the rest to the vocabulary's algorithm, adds BOS and EOS.
//! Knows no files and no templates.

mod bpe;
mod queue;
mod special;
mod spm;

use crate::vocab::{TokenType, Vocab, VocabKind, VocabSpec, byte_of};
use crate::{Pretokenizer, TextError};
use bpe::Bpe;
use special::{Fragment, Specials};
use spm::Spm;

/// How to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encode {
    /// Add BOS and EOS where the vocabulary wants them.
    pub add_special: bool,
    /// Read `<|im_end|>` and the like as their tokens; without it they are plain text (right for untrusted input).
    pub parse_special: bool,
}

/// A vocabulary with its algorithm, immutable and shareable between threads.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    specials: Specials,
    add_bos: bool,
    add_eos: bool,
    /// SPM: a text starts with a blank of its own.
    add_space_prefix: bool,
    /// The bytes of every token one after the other, and where each starts.
    pieces: Vec<u8>,
    piece_starts: Vec<u32>,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Box<Bpe>),
    Spm(Spm),
}

impl Tokenizer {
    /// Checks the vocabulary and builds the lookup tables.
    ///
    /// # Errors
    /// [`TextError::Vocabulary`] where counts, ids, scores, merges or byte tokens do not fit together, and
    /// [`TextError::UnknownPretokenizer`]. Nothing larger than a few times the vocabulary itself is allocated.
    pub fn new(mut spec: VocabSpec) -> Result<Self, TextError> {
        let mut vocab = Vocab::new(&mut spec)?;
        let (algorithm, bos_default, space_default) = match spec.kind {
            VocabKind::Bpe => {
                let pre = Pretokenizer::by_name(&spec.pre)?;
                let bpe = Bpe::new(&vocab, &spec.merges, pre)?;
                (Algorithm::Bpe(Box::new(bpe)), pre.add_bos, false)
            }
            VocabKind::Spm => (Algorithm::Spm(Spm::new(&vocab)), true, true),
        };
        vocab.scores.shrink_to_fit();
        let specials = Specials::new(&vocab, &spec.model_name)?;
        let (pieces, piece_starts) = pieces(&vocab, spec.kind);
        Ok(Self {
            add_bos: spec.add_bos.unwrap_or(bos_default),
            add_eos: spec.add_eos.unwrap_or(false),
            add_space_prefix: spec.add_space_prefix.unwrap_or(space_default) && spec.kind == VocabKind::Spm,
            vocab,
            algorithm,
            specials,
            pieces,
            piece_starts,
        })
    }

    /// The ids of `text`. Time: O(n log n) in the worst case, linear on prose.
    pub fn encode(&self, text: &str, opts: Encode) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if opts.add_special && self.add_bos {
            ids.extend(self.vocab.bos);
        }
        let fragments = self.specials.split(text, opts.parse_special);
        match &self.algorithm {
            Algorithm::Bpe(bpe) => {
                let mut session = bpe.session();
                for fragment in fragments {
                    match fragment {
                        Fragment::Text(text) => session.encode(text, &mut ids),
                        Fragment::Token(id) => ids.push(id),
                    }
                }
            }
            Algorithm::Spm(spm) => {
                let mut after_special = true;
                for fragment in fragments {
                    match fragment {
                        Fragment::Text(text) => {
                            spm.encode(&self.vocab, text, self.add_space_prefix && after_special, &mut ids);
                        }
                        Fragment::Token(id) => ids.push(id),
                    }
                    after_special = matches!(fragment, Fragment::Token(_));
                }
            }
        }
        if opts.add_special && self.add_eos {
            ids.extend(self.vocab.eos);
        }
        ids
    }

    /// The bytes a token adds to the output: none for control, unknown and unused tokens and for ids out of range.
    pub fn piece(&self, id: u32) -> &[u8] {
        if self.vocab.is_hidden(id) {
            return &[];
        }
        self.stored_piece(id)
    }

    /// As [`Tokenizer::piece`], but control and unknown tokens give their own text (`<|im_end|>`).
    pub fn piece_special(&self, id: u32) -> &[u8] {
        self.stored_piece(id)
    }

    fn stored_piece(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.piece_starts.get(id), self.piece_starts.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.pieces[start as usize..end as usize],
            _ => &[],
        }
    }

    /// The text of `ids`, control tokens left out; bytes that are no UTF-8 become U+FFFD. Where encoding puts a blank
    /// before the text, that blank is taken away again.
    pub fn detokenize(&self, ids: &[u32]) -> String {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.piece(id)).copied().collect();
        if self.add_space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The token stored as `text` (as the vocabulary spells it), if there is one.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.vocab.id(text.as_bytes())
    }

    /// Number of tokens.
    pub fn vocab_len(&self) -> usize {
        self.vocab.texts.len()
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// The token for what the vocabulary cannot express.
    pub fn unk(&self) -> Option<u32> {
        self.vocab.unk
    }

    /// Whether [`Encode::add_special`] puts BOS in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.vocab.bos.is_some()
    }

    /// Whether [`Encode::add_special`] puts EOS at the end.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.vocab.eos.is_some()
    }

    /// Whether the token steers the model and shows no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.types.get(id as usize) == Some(&TokenType::Control)
    }

    /// Whether the token ends an answer: EOS, end of turn, end of message and the names llama.cpp knows.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.vocab.end_of_generation.binary_search(&id).is_ok()
    }

    /// The ids of [`Tokenizer::is_end_of_generation`], ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.vocab.end_of_generation
    }
}

/// The bytes of every token in the output, and where each starts (one more than there are tokens).
fn pieces(vocab: &Vocab, kind: VocabKind) -> (Vec<u8>, Vec<u32>) {
    let mut bytes = Vec::with_capacity(vocab.texts.iter().map(<[u8]>::len).sum());
    let mut starts = Vec::with_capacity(vocab.texts.len() + 1);
    starts.push(0);
    for (text, token_type) in vocab.texts.iter().zip(&vocab.types) {
        match (token_type, kind) {
            (TokenType::Unused, _) => {}
            (TokenType::Byte, _) => bytes.extend(byte_of(text)),
            (TokenType::Normal, VocabKind::Spm) => spm::unescape(text, &mut bytes),
            (TokenType::Normal, VocabKind::Bpe) => bpe::decode(text, &mut bytes),
            (TokenType::Control | TokenType::Unknown | TokenType::UserDefined, _) => bytes.extend(text),
        }
        // No piece is longer than its text, and all texts together have 32-bit places.
        starts.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
    (bytes, starts)
}

#[cfg(test)]
mod tests;
