//! Text of unknown origin made fit for a terminal or a log line. It may not allocate by the text's length.

use std::fmt::{self, Display, Formatter, Write};

/// Text whose `Display` is safe to show: see [`escaped`].
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    max_chars: usize,
}

/// `bytes` shown as text of at most `max_chars` characters (an ellipsis marks the cut): control characters, line
/// separators and bidirectional overrides become `\u{…}`, bytes that are not UTF-8 become `\xNN`. Other text,
/// backslashes included, stays as it is, so that escaping twice changes nothing.
pub fn escaped(bytes: &[u8], max_chars: usize) -> Escaped<'_> {
    Escaped { bytes, max_chars }
}

/// Characters that move the cursor, start a new line or reorder the text around them.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut left = self.max_chars;
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                let Some(next) = left.checked_sub(1) else { return f.write_char('…') };
                left = next;
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if is_deceptive(c) => write!(f, "{}", c.escape_unicode())?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                let Some(next) = left.checked_sub(1) else { return f.write_char('…') };
                left = next;
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8], max: usize) -> String {
        escaped(bytes, max).to_string()
    }

    #[test]
    fn escape_sequences_and_overrides_lose_their_power() {
        assert_eq!(shown(b"\x1b[2J\nred\x07", 99), "\\u{1b}[2J\\nred\\u{7}");
        assert_eq!(shown("\u{202e}gpj.exe\u{2028}".as_bytes(), 99), "\\u{202e}gpj.exe\\u{2028}");
        assert_eq!(shown(b"a\xff\xc3(b", 99), "a\\xff\\xc3(b");
    }

    #[test]
    fn ordinary_text_is_untouched_and_escaping_twice_changes_nothing() {
        let text = "模型 модель 🦙 C:\\models\\x \"quoted\"";
        assert_eq!(shown(text.as_bytes(), 99), text);
        let once = shown(b"\x1b[2J\xff", 99);
        assert_eq!(shown(once.as_bytes(), 99), once);
    }

    #[test]
    fn long_text_is_cut_at_the_limit() {
        assert_eq!(shown(b"abcdef", 3), "abc…");
        assert_eq!(shown(b"abc", 3), "abc");
        assert_eq!(shown(b"ab\xff\xff", 3), "ab\\xff…");
    }
}
