//! What can go wrong in the library: one enum, one sentence each.

use smallmind_formats::FormatError;
use smallmind_kernels::UnknownIsa;
use smallmind_text::TextError;

use crate::sample::SampleError;

/// Everything the library reports. The text says what is at fault and what to do; match on the variants, not on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file is not what it claims to be, or cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The tokenizer or the chat template of the model.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Sampling parameters out of range, or logits that are no numbers.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// `SMALLMIND_ISA` names what this CPU lacks.
    #[error(transparent)]
    Isa(#[from] UnknownIsa),
    /// The prompt does not fit the context.
    #[error(
        "the prompt has {tokens} tokens and the context holds {context}: shorten it, or ask for a larger context"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the session.
        context: usize,
    },
    /// Nothing to go on from.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// A token id that the vocabulary lacks.
    #[error("token {id} is not in the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The id asked for.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A context that the model cannot hold.
    #[error("a context of {asked} tokens is more than the {trained} that this model was made for")]
    ContextTooLarge {
        /// Positions asked for.
        asked: usize,
        /// Positions of the model.
        trained: usize,
    },
    /// The system grants no memory of that size.
    #[error("cannot reserve {bytes} bytes for {what}: {cause}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// The system's word.
        cause: std::io::Error,
    },
    /// The system grants no threads.
    #[error("cannot start {threads} threads: {cause}; ask for fewer with --threads")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The system's word.
        cause: std::io::Error,
    },
    /// The model computes infinities or NaN.
    #[error("the model's output is not a number: its weights are damaged or it overflows")]
    NotANumber,
    /// The model has no chat template and its family none that we know.
    #[error("the model carries no chat template: use --raw for plain continuation")]
    NoChatTemplate,
    /// Whoever asked for the work asked to stop it.
    #[error("interrupted")]
    Cancelled,
    /// A parameter out of its range.
    #[error("{0}")]
    Parameter(String),
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
