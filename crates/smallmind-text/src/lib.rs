//! Text to token ids and back, and messages to prompts. May not read files, touch the network or print.
//!
//! The modules are the pipeline: `pretokenize` cuts text into words, `tokenize` turns words into ids,
//! `detokenize` turns ids into text as they arrive, `template` writes a conversation as one prompt.
//! Behaviour follows llama.cpp: the same vocabulary gives the same ids.
//!
//! ```
//! use smallmind_text::{Encode, TokenType, Tokenizer, VocabKind, VocabSpec};
//!
//! let mut spec = VocabSpec { kind: VocabKind::Spm, ..VocabSpec::default() };
//! spec.tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "h", "i", "hi", "\u{2581}hi"].iter().collect();
//! spec.scores = vec![0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0];
//! spec.types = vec![TokenType::Normal; 8];
//! let tokenizer = Tokenizer::new(spec)?;
//! let ids = tokenizer.encode("hi", Encode { add_special: true, parse_special: true });
//! assert_eq!(ids, [1, 7]);
//! assert_eq!(tokenizer.piece(7), b" hi");
//! # Ok::<(), smallmind_text::TextError>(())
//! ```

mod detokenize;
mod error;
mod pretokenize;
mod template;
mod texts;
mod tokenize;
mod vocab;

pub use detokenize::{Push, TextStream};
pub use error::TextError;
pub use pretokenize::{Pretokenizer, UnicodeClass, unicode_class};
pub use template::{ChatTemplate, Message, RenderOptions, builtin_template};
pub use texts::Texts;
pub use tokenize::{Encode, Tokenizer};
pub use vocab::{TokenType, VocabKind, VocabSpec};
