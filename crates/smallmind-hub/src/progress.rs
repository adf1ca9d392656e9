//! What a caller sees while a download, an unpacking or a checksum is under way. Draws nothing itself.

/// Receives the progress of long work; all methods are called from the calling thread.
pub trait Progress {
    /// Work on `what` begins: `total` bytes in all where known, `already` of them done in an earlier try.
    fn start(&mut self, what: &str, total: Option<u64>, already: u64);
    /// `bytes` more are done.
    fn advance(&mut self, bytes: u64);
    /// The work begun by the last [`start`](Progress::start) ended, well or not.
    fn finish(&mut self);
    /// Asked at least once per block of data; `true` stops the work with [`HubError::Cancelled`](crate::HubError).
    fn cancelled(&self) -> bool {
        false
    }
    /// One line worth showing: a fallback to another source, a wait for another process, a resumed connection.
    fn note(&mut self, _line: &str) {}
}

/// Shows nothing and never cancels.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _what: &str, _total: Option<u64>, _already: u64) {}
    fn advance(&mut self, _bytes: u64) {}
    fn finish(&mut self) {}
}
