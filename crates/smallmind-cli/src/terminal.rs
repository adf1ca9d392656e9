//! Model text on its way to stdout: bytes as they are into a pipe or file, and without power over the terminal where
//! one is watching.

use std::io::{self, IsTerminal, StdoutLock, Write};

/// Writes pieces of an answer as they come.
pub(crate) struct Pieces {
    out: StdoutLock<'static>,
    terminal: bool,
    ends_with_newline: bool,
}

impl Pieces {
    /// Takes stdout.
    pub(crate) fn new() -> Pieces {
        let out = io::stdout().lock();
        let terminal = out.is_terminal();
        Pieces { out, terminal, ends_with_newline: false }
    }

    /// Writes a piece and flushes it. Allocates nothing.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        let Some(last) = text.as_bytes().last() else { return Ok(()) };
        self.ends_with_newline = *last == b'\n';
        match self.terminal {
            true => write_harmless(&mut self.out, text)?,
            false => self.out.write_all(text.as_bytes())?,
        }
        self.out.flush()
    }

    /// Ends the answer's last line.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if !self.ends_with_newline {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

/// Writes text with all control characters but newline and tab spelled out: nothing in it moves the cursor, changes
/// colours or titles, or makes the terminal answer.
fn write_harmless(out: &mut impl Write, text: &str) -> io::Result<()> {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\n' && c != '\t') {
        let (plain, tail) = rest.split_at(at);
        out.write_all(plain.as_bytes())?;
        let mut chars = tail.chars();
        if let Some(c) = chars.next() {
            write!(out, "{}", c.escape_unicode())?;
        }
        rest = chars.as_str();
    }
    out.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::write_harmless;

    fn shown(text: &str) -> String {
        let mut out = Vec::new();
        write_harmless(&mut out, text).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escape_sequences_lose_their_power() {
        assert_eq!(shown("a\x1b[2Jb\r\u{9b}c\x07"), "a\\u{1b}[2Jb\\u{d}\\u{9b}c\\u{7}");
    }

    #[test]
    fn ordinary_text_keeps_its_lines_and_tabs() {
        assert_eq!(shown("zwei\n\tZeilen, 模型 🦙"), "zwei\n\tZeilen, 模型 🦙");
    }
}
