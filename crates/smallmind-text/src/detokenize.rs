//! Token bytes to text as they arrive: never half a character, never a part of a stop string.
//! Knows no vocabulary; the caller pushes the bytes of each token.

/// What one push brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Push {
    /// Text that is certain to be part of the answer.
    pub text: String,
    /// A stop string is complete: the answer ends before it.
    pub stopped: bool,
}

/// One stop string, followed byte by byte (Knuth, Morris and Pratt).
#[derive(Debug, Clone)]
struct Stop {
    text: Box<[u8]>,
    /// `fallback[n]`: the longest proper prefix of the first `n + 1` bytes that is also their suffix.
    fallback: Box<[usize]>,
    /// Bytes of `text` that the text so far ends with.
    seen: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text: Box<[u8]> = text.as_bytes().into();
        let mut fallback = vec![0; text.len()];
        let mut seen = 0;
        for i in 1..text.len() {
            while seen > 0 && text[i] != text[seen] {
                seen = fallback[seen - 1];
            }
            if text[i] == text[seen] {
                seen += 1;
            }
            fallback[i] = seen;
        }
        Self { text, fallback: fallback.into(), seen: 0 }
    }

    /// Takes one byte; true where the string is complete with it.
    fn step(&mut self, byte: u8) -> bool {
        while self.seen > 0 && self.text[self.seen] != byte {
            self.seen = self.fallback[self.seen - 1];
        }
        if self.text[self.seen] == byte {
            self.seen += 1;
        }
        self.seen == self.text.len()
    }
}

/// The text of one answer in the making. Buffers are reused: in steady state a push allocates nothing.
///
/// A stop string ends the answer at the byte that completes it, however the tokens cut it; nothing of it comes out.
/// Bytes that are no UTF-8 become U+FFFD.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    stops: Vec<Stop>,
    /// The start of a character that is not complete, at most 3 bytes between pushes.
    bytes: Vec<u8>,
    /// Text that may be the start of a stop string.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends at the first of `stops`; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).map(|s| Stop::new(s)).collect();
        Self { stops, ..Self::default() }
    }

    /// Adds the bytes of one token and returns the text that is now certain.
    pub fn push(&mut self, piece: &[u8]) -> Push {
        let mut text = String::new();
        let stopped = self.push_into(piece, &mut text);
        Push { text, stopped }
    }

    /// As [`TextStream::push`], appending to `out`; true once a stop string is complete.
    pub fn push_into(&mut self, piece: &[u8], out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        // Taken out so that `self` is free; given back with its capacity.
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.extend_from_slice(piece);
        let mut used = 0;
        while used < bytes.len() && !self.stopped {
            match std::str::from_utf8(&bytes[used..]) {
                Ok(text) => {
                    self.feed(text, out);
                    used = bytes.len();
                }
                Err(error) => {
                    let valid = used + error.valid_up_to();
                    if let Ok(text) = std::str::from_utf8(&bytes[used..valid]) {
                        self.feed(text, out);
                    }
                    used = valid;
                    let Some(bad) = error.error_len() else { break };
                    used += bad;
                    self.feed("\u{fffd}", out);
                }
            }
        }
        bytes.drain(..used.min(bytes.len()));
        self.bytes = bytes;
        self.stopped
    }

    /// Ends the stream: what was held back comes out, an unfinished character as U+FFFD. Then the stream is as new.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.finish_into(&mut out);
        out
    }

    /// As [`TextStream::finish`], appending to `out`.
    pub fn finish_into(&mut self, out: &mut String) {
        if !self.stopped && !self.bytes.is_empty() {
            self.feed("\u{fffd}", out);
        }
        if !self.stopped {
            out.push_str(&self.held);
        }
        self.held.clear();
        self.bytes.clear();
        self.stopped = false;
        for stop in &mut self.stops {
            stop.seen = 0;
        }
    }

    /// Whether a stop string ended the answer.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds whole characters.
    fn feed(&mut self, text: &str, out: &mut String) {
        if self.stopped {
            return;
        }
        if self.stops.is_empty() {
            out.push_str(text);
            return;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            // Of two that end here, the longer one began first.
            let complete =
                self.stops.iter_mut().filter_map(|stop| stop.step(byte).then_some(stop.text.len())).max();
            if let Some(len) = complete {
                // A stop string is whole characters, so it began at a boundary inside `held`.
                out.push_str(&self.held[..(before + i + 1).saturating_sub(len)]);
                self.held.clear();
                self.stopped = true;
                return;
            }
        }
        let open = self.stops.iter().map(|stop| stop.seen).max().unwrap_or(0);
        let certain = self.held.len().saturating_sub(open);
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
    }
}

#[cfg(test)]
mod tests;
