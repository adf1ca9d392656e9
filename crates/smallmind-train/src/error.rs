//! What can go wrong in training: one sentence each.

use std::path::PathBuf;

use smallmind_formats::FormatError;

/// Everything that training reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The engine's own.
    #[error(transparent)]
    Engine(#[from] smallmind::Error),
    /// A setting that is out of range or does not fit another.
    #[error("{0}")]
    Config(String),
    /// Data that nothing can be learned from.
    #[error("{}: {why}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A family with parts that training does not know.
    #[error("training does not know {what}, which {family} models have")]
    Unsupported {
        /// The family.
        family: String,
        /// The part.
        what: &'static str,
    },
    /// The loss or a gradient overflowed.
    #[error(
        "step {step}: {tensor} is not a number any more: lower --lr or --clip; the last good checkpoint is kept"
    )]
    NotANumber {
        /// The step, counted from 1.
        step: u64,
        /// What was found first.
        tensor: String,
    },
    /// A checkpoint of another run.
    #[error("{}: {why}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What does not fit, and what to do.
        why: String,
    },
}

impl TrainError {
    pub(crate) fn config(why: impl Into<String>) -> TrainError {
        TrainError::Config(why.into())
    }
}

/// The crate's result.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;
