//! The one error of this crate: what is wrong with which file, in a sentence. It may not show raw file content:
//! whatever came from outside passes through [`crate::escaped`].

use crate::escape::escaped;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a file. `Display` is one line that names the file and the key, tensor or value at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {}", shown_path(path), plain_words(cause))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "open", "read", …
        action: &'static str,
        /// The system's answer (part of the sentence, hence not a `source`).
        cause: io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{}: {}", shown_path(path), shown(message))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The file ends before its header says it should.
    #[error("{}: {}", shown_path(path), missing_words(inside, *missing, *len))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What the file ends in the middle of.
        inside: String,
        /// Bytes that the header claims and the file lacks.
        missing: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// A metadata value is out of order.
    #[error("{}: key `{}`: {}", shown_path(path), shown(key), shown(message))]
    Key {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
    /// A metadata value has another type than the reader needs.
    #[error(
        "{}: key `{}` is {}, not {wanted}; convert the model again",
        shown_path(path),
        shown(key),
        shown(found)
    )]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// The type (and for a number its value) in the file.
        found: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// A metadata key that the reader needs is not there.
    #[error("{}: key `{}` is missing; convert the model again", shown_path(path), shown(key))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
    },
    /// A tensor's description is out of order.
    #[error("{}: tensor `{}`: {}", shown_path(path), shown(tensor), shown(message))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        message: String,
    },
}

impl FormatError {
    /// "path: message".
    pub fn file(path: &Path, message: impl Into<String>) -> FormatError {
        FormatError::File { path: path.to_owned(), message: message.into() }
    }

    /// "path: key `key`: message", for values that are well-formed but make no sense to the reader.
    pub fn invalid(path: &Path, key: &str, message: impl Into<String>) -> FormatError {
        FormatError::Key { path: path.to_owned(), key: key.to_owned(), message: message.into() }
    }

    /// "path: key `key` is missing".
    pub fn missing(path: &Path, key: &str) -> FormatError {
        FormatError::MissingKey { path: path.to_owned(), key: key.to_owned() }
    }

    /// "path: tensor `tensor`: message".
    pub fn tensor(path: &Path, tensor: &str, message: impl Into<String>) -> FormatError {
        FormatError::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), message: message.into() }
    }

    /// "path: cannot action: cause".
    pub fn io(path: &Path, action: &'static str, cause: io::Error) -> FormatError {
        FormatError::Io { path: path.to_owned(), action, cause }
    }

    /// The file that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            FormatError::Io { path, .. }
            | FormatError::File { path, .. }
            | FormatError::Truncated { path, .. }
            | FormatError::Key { path, .. }
            | FormatError::WrongType { path, .. }
            | FormatError::MissingKey { path, .. }
            | FormatError::Tensor { path, .. } => path,
        }
    }
}

fn shown(text: &str) -> String {
    escaped(text.as_bytes(), 400).to_string()
}

fn shown_path(path: &Path) -> String {
    escaped(path.as_os_str().as_encoded_bytes(), 4096).to_string()
}

/// More than any model has (16 TiB): a claim beyond it is damage, not a download that stopped.
const ABSURD_BYTES: u64 = 1 << 44;

fn missing_words(inside: &str, missing: u64, len: u64) -> String {
    let inside = shown(inside);
    if missing > ABSURD_BYTES {
        return format!(
            "the file of {len} bytes is damaged at {inside}: it would be larger than any model; fetch it again"
        );
    }
    format!(
        "{missing} bytes are missing: the file ends at byte {len}, inside {inside}; the download is incomplete or the file is damaged, fetch it again"
    )
}

fn plain_words(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "no such file or folder".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::StorageFull => "no space left on the disk".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the disk is mounted read-only".to_owned(),
        io::ErrorKind::NotADirectory => "a part of the path is not a folder".to_owned(),
        _ => shown(&cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_control_characters() {
        let path = Path::new("mo\x1b[2Jdel.gguf");
        let errors = [
            FormatError::invalid(path, "llama.\nblock_count", "is 0\x07"),
            FormatError::missing(path, "a\rb"),
            FormatError::tensor(path, "\x1b]0;x", "y\u{202e}"),
            FormatError::file(path, "z\n".repeat(1000)),
            FormatError::io(path, "open", io::ErrorKind::NotFound.into()),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(text.len() < 1000, "{text:?}");
            assert!(text.starts_with("mo\\u{1b}[2Jdel.gguf: "), "{text:?}");
        }
    }
}
