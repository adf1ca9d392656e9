//! What can go wrong between a name and a file: one sentence each, naming what is at fault and what to do.
//! Sentences never contain tokens, passwords or the query of a URL.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be named, found, pulled, checked or removed. `Display` is one sentence for a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name does not follow the MODEL grammar.
    #[error("`{name}` does not name a model: {why}")]
    BadName {
        /// The name as given.
        name: String,
        /// What is wrong with it and what is expected.
        why: String,
    },
    /// The name is not in the catalogue and no such file exists.
    #[error(
        "`{name}` is neither a file nor a model of the catalogue; did you mean {nearest}? \
         (`smallmind list --available` shows all)"
    )]
    Unknown {
        /// The name as given.
        name: String,
        /// The nearest names, ready to print.
        nearest: String,
    },
    /// A path that leads to nothing.
    #[error("there is no model at {}: check the path", path.display())]
    NoSuchFile {
        /// The path as given.
        path: PathBuf,
    },
    /// `tiny` is inside the program: there is no file to resolve, pull, verify or remove.
    #[error("`tiny` is built into the program, so there is no file of it to pull, check or remove")]
    Embedded,
    /// The model is not in the store.
    #[error("`{name}` is not installed; `smallmind list` shows what is, `smallmind pull {name}` brings it")]
    NotInstalled {
        /// The name as given.
        name: String,
    },
    /// The model is not here and the network may not be used.
    #[error(
        "`{name}` is not on this machine and --offline forbids downloading it: \
         run `smallmind pull {name}` once with a network"
    )]
    Offline {
        /// The name as given.
        name: String,
    },
    /// The server could not be reached or the connection broke.
    #[error("cannot download {url}: {why}")]
    Network {
        /// The address, without credentials and query.
        url: String,
        /// What happened and what to check.
        why: String,
        /// Whether trying again may help (a broken connection) or not (no such host).
        transient: bool,
    },
    /// The server answered with an error.
    #[error("cannot download {url}: {why} (HTTP {status})")]
    Status {
        /// The address, without credentials and query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it means here and what to do.
        why: String,
    },
    /// What a server or an archive holds is not what was asked for.
    #[error("cannot use {what}: {why}")]
    Content {
        /// The file, page or package at fault.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The bytes are not the expected ones.
    #[error("the SHA-256 of {what} is {actual}, but {expected} is expected: {remedy}")]
    Checksum {
        /// The file at fault.
        what: String,
        /// The sum the catalogue, the index or the manifest records, in hex.
        expected: String,
        /// The sum of the bytes at hand, in hex.
        actual: String,
        /// What to do.
        remedy: String,
    },
    /// No room for the download.
    #[error(
        "no room for {what} on the disk of {}: {need}; free some space (or set SMALLMIND_HOME to another disk) \
         and pull again, which continues where it stopped",
        path.display()
    )]
    DiskFull {
        /// What was being written.
        what: String,
        /// The folder on the full disk.
        path: PathBuf,
        /// How much is needed, where known.
        need: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: read, write, create …
        action: &'static str,
        /// The file or folder at fault.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// HTTPS cannot be spoken on this machine.
    #[error("cannot open a secure connection: {why}")]
    Tls {
        /// What is missing and what to do.
        why: String,
    },
    /// The machine's settings are unusable.
    #[error("{0}")]
    Settings(String),
    /// Every source of a catalogue entry failed.
    #[error("no source of `{name}` could be used: {reasons}")]
    AllSources {
        /// The catalogue name.
        name: String,
        /// One sentence a source.
        reasons: String,
    },
    /// [`Progress::cancelled`](crate::Progress::cancelled) said so; what was downloaded is kept for the next pull.
    #[error("interrupted; pull again to continue where it stopped")]
    Cancelled,
}

impl HubError {
    /// Whether the caller named something wrongly (exit code 2) rather than the work having failed.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::BadName { .. } | Self::Unknown { .. } | Self::Embedded)
    }

    /// Whether the same request may succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Network { transient, .. } => *transient,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    /// Whether the fault lies with this machine or this user, so that another source would not help.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Io { .. } | Self::Cancelled)
    }

    /// Wraps an error of the file system; a full disk gets its own sentence.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull {
                    what: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    path: path.parent().unwrap_or(path).to_path_buf(),
                    need: format!("the system says “{source}”"),
                }
            }
            _ => Self::Io { action, path: path.to_path_buf(), source },
        }
    }
}

/// Bytes for a human, decimal units: `98 MB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    for (scale, unit) in UNITS {
        if bytes >= scale {
            let tenths = bytes / (scale / 10);
            return if tenths < 100 {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            } else {
                format!("{} {unit}", bytes / scale)
            };
        }
    }
    format!("{bytes} B")
}
