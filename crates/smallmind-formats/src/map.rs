//! The bytes of a file, mapped or held in memory: the only file of this crate with `unsafe` code. It may not
//! interpret a byte.
#![allow(unsafe_code, reason = "mapping a file and giving its pages back are unsafe calls of memmap2")]

use crate::error::FormatError;
use crate::fs;
use memmap2::Mmap;
use std::ops::Range;
use std::path::Path;

/// Every byte string starts at a multiple of this in memory, so that an offset which is a multiple of 64 in the file
/// (of what kernels read in place) is one in memory too.
pub(crate) const BASE_ALIGNMENT: usize = 64;

/// Read-only bytes of one file.
#[derive(Debug)]
pub(crate) enum Map {
    /// A shared read-only map of a regular file.
    File(Mmap),
    /// Bytes that were in memory already, from `start` on (the first aligned address).
    Owned { bytes: Vec<u8>, start: usize },
}

impl Map {
    /// Maps a regular file that is not empty.
    pub(crate) fn open(path: &Path) -> Result<Map, FormatError> {
        let (file, len) = fs::open(path)?;
        if len == 0 {
            return Err(FormatError::file(path, "the file is empty (0 bytes); fetch it again"));
        }
        // SAFETY: the map is read-only and shared. What Rust cannot rule out is another process that shrinks or
        // rewrites the file meanwhile: shrinking ends this process with SIGBUS, rewriting changes weights under the
        // reader. Both are documented at `Gguf::open`; no bound is ever taken from the bytes a second time, because
        // the header is parsed once into owned numbers and later reads (of text and arrays) recheck their bounds.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| FormatError::io(path, "map", e))?;
        let now = file.metadata().map_err(|e| FormatError::io(path, "read", e))?.len();
        if now != len || map.len() as u64 != len {
            return Err(FormatError::file(
                path,
                format!(
                    "the file changed from {len} to {now} bytes while it was opened; wait for its download to end"
                ),
            ));
        }
        Ok(Map::File(map))
    }

    /// Takes bytes as they are; copies them once if their address is not aligned.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Map {
        if bytes.as_ptr().addr().is_multiple_of(BASE_ALIGNMENT) {
            return Map::Owned { bytes, start: 0 };
        }
        let mut aligned: Vec<u8> = Vec::with_capacity(bytes.len().saturating_add(BASE_ALIGNMENT));
        while !aligned.as_ptr().addr().wrapping_add(aligned.len()).is_multiple_of(BASE_ALIGNMENT) {
            aligned.push(0);
        }
        let start = aligned.len();
        aligned.extend_from_slice(&bytes);
        Map::Owned { bytes: aligned, start }
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Map::File(map) => map,
            Map::Owned { bytes, start } => bytes.get(*start..).unwrap_or_default(),
        }
    }

    /// The bytes of a range that was checked when the header was parsed; nothing where it was not.
    pub(crate) fn get(&self, range: Range<usize>) -> &[u8] {
        self.bytes().get(range).unwrap_or_default()
    }

    /// Gives the resident whole pages inside `range` back to the system; the next read fetches them from the file.
    /// Bytes held in memory stay, as there is no file to fetch them from.
    #[cfg(unix)]
    pub(crate) fn release(&self, range: Range<usize>) {
        let Map::File(map) = self else { return };
        let page = rustix::param::page_size();
        let Some(start) = range.start.checked_next_multiple_of(page) else { return };
        let end = range.end.min(map.len());
        let len = end.saturating_sub(start);
        let Some(len) = len.checked_sub(len.checked_rem(page).unwrap_or(len)).filter(|len| *len > 0) else {
            return;
        };
        // SAFETY: `start..start + len` lies inside the map, and the map is a shared, read-only file map: dropped
        // pages are read again from the same file, so no reference sees other bytes than before.
        let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        // A refusal costs memory, never correctness.
        drop(advised);
    }

    /// There is no such advice here: the system reclaims clean pages by itself.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _range: Range<usize>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_start_at_an_aligned_address_whatever_they_came_in() {
        for len in 0..64u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let map = Map::from_bytes(bytes.clone());
            assert_eq!(map.bytes(), bytes);
            assert!(map.bytes().as_ptr().addr().is_multiple_of(BASE_ALIGNMENT) || len == 0);
        }
    }

    #[test]
    fn released_pages_read_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(map.bytes(), bytes);
        for range in [0..100_000, 1..99_999, 5..6, 4096..8192, 0..usize::MAX, usize::MAX..usize::MAX] {
            map.release(range);
            assert_eq!(map.bytes(), bytes);
        }
        let owned = Map::from_bytes(bytes.clone());
        owned.release(0..100_000);
        assert_eq!(owned.bytes(), bytes);
    }

    #[test]
    fn a_range_outside_the_file_is_empty() {
        let map = Map::from_bytes(vec![1, 2, 3]);
        assert_eq!(map.get(1..3), [2, 3]);
        assert_eq!(map.get(1..4), [0u8; 0]);
    }
}
