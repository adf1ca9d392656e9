//! What can go wrong while measuring, or while reading what was measured before.

use std::path::PathBuf;

/// A measurement, or a results file, that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] smallmind::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] smallmind_formats::FormatError),
    /// Ctrl-C, before anything was measured.
    #[error("interrupted")]
    Interrupted,
    /// A results file that ends too early.
    #[error("{}: ends in the middle: the file was not written to its end; measure again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
    },
    /// A file that holds something else.
    #[error("{}: holds no results of `smallmind bench`, `profile` or `compare`: {why}", path.display())]
    NotResults {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong.
        why: String,
    },
    /// Results of another version.
    #[error(
        "{}: was saved in version {found} of the results format, and this program reads version {ours}: measure again, or \
         read it with the program that wrote it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that this program reads.
        ours: u64,
    },
    /// A side of a comparison that must not fail did.
    #[error("{0}")]
    Side(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The system refused something that a measurement needs.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// The system's words.
        cause: std::io::Error,
    },
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
