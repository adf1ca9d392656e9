//! The digests of a file's parts, recomputed; and the bytes between parts, which must be zero. After this every byte of
//! the file is known to be as it was written: header and index were checked when it was opened.

use super::Part;
use crate::error::FormatError;
use crate::gguf::{Gguf, TensorInfo};
use sha2::{Digest, Sha256};

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Parts whose SHA-256 is as recorded.
    pub parts: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Gguf {
    /// Recomputes the SHA-256 of every part of an SMQ file; `None` for a GGUF file, which records none. `progress` is told
    /// the bytes done and returns whether to go on; where it does not, the answer is `None` too.
    ///
    /// # Errors
    /// If a part's bytes are not those that were written, or there are bytes between the parts. The tensor is named.
    pub fn verify(&self, progress: &mut dyn FnMut(u64) -> bool) -> Result<Option<Verified>, FormatError> {
        let Some(parts) = self.parts() else { return Ok(None) };
        let damaged = |part: &Part, message: &str| {
            let name = self.tensors().get(part.tensor).map_or("", |t: &TensorInfo| t.name.as_str());
            FormatError::tensor(self.path(), name, format!("{message}; convert or fetch the file again"))
        };
        let mut by_place: Vec<&Part> = parts.iter().collect();
        by_place.sort_unstable_by_key(|p| p.range.start);
        let mut end = self.index_end();
        for part in by_place {
            if self.bytes(end..part.range.start).iter().any(|b| *b != 0) {
                return Err(damaged(part, "has bytes before it that belong to nothing"));
            }
            if Sha256::digest(self.bytes(part.range.clone())).as_slice() != part.sha256 {
                return Err(damaged(part, "is damaged (its SHA-256 differs)"));
            }
            end = part.range.end;
            if !progress(end as u64) {
                return Ok(None);
            }
        }
        let bytes = self.file_len();
        let tail = end..usize::try_from(bytes).unwrap_or(usize::MAX);
        if self.bytes(tail).iter().any(|b| *b != 0) {
            return Err(FormatError::file(
                self.path(),
                "has bytes behind its last tensor; convert or fetch it again",
            ));
        }
        Ok(Some(Verified { parts: parts.len(), bytes }))
    }
}
