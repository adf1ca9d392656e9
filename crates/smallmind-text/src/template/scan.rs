//! Looks a template's source over before the parser sees it: size, nesting, chains. Does not parse expressions.
//!
//! Also rewrites three things: `{% generation %}` (transformers' mark for training) becomes a block that is always taken,
//! `a ~ b` gets operands of limited length ([`super::concat`]), and `{% set ns.x = value %}` hands its value through [`HOLD`], which refuses what could make a value contain itself.

use super::concat;
use crate::TextError;

/// The function that values pass on their way into a namespace.
pub(super) const HOLD: &str = "__held";

/// Real templates stay under 20 KiB.
const SOURCE_BYTES: usize = 64 << 10;
/// `{% if %}` inside `{% for %}` inside ….
const BLOCKS: usize = 64;
/// `elif` in a whole template; each one nests the syntax tree by one.
const ELIFS: usize = 1000;
/// Brackets inside one another in a tag.
const BRACKETS: usize = 32;
/// Words and signs in one tag: bounds chains like `1+1+1`, which nest as well.
const TOKENS: usize = 4000;

fn limit(what: impl Into<String>) -> TextError {
    TextError::TemplateLimit(what.into())
}

/// The source to compile.
pub(super) fn prepare(source: &str) -> Result<String, TextError> {
    if source.len() > SOURCE_BYTES {
        return Err(limit(format!("it has {} bytes, and {SOURCE_BYTES} are allowed", source.len())));
    }
    let mut out = String::with_capacity(source.len() + 64);
    let (mut blocks, mut elifs) = (0usize, 0usize);
    let mut rest = source;
    while let Some(at) = next_opening(rest) {
        let (text, opening, after) = (&rest[..at], &rest[at..at + 2], &rest[at + 2..]);
        out.push_str(text);
        out.push_str(opening);
        if opening == "{#" {
            let end = after.find("#}").map_or(after.len(), |i| i + 2);
            out.push_str(&after[..end]);
            rest = &after[end..];
            continue;
        }
        let tag = Tag::read(after, if opening == "{%" { "%}" } else { "}}" })?;
        rest = &after[tag.body.len()..];
        if opening == "{{" {
            out.push_str(&concat::wrap(tag.body, false));
            continue;
        }
        let (before, word, arguments) = tag.split_word();
        // Targets have no `~`, so what is left of an assigning `=` stays in place.
        let body = concat::wrap(tag.body, true);
        match word {
            "elif" => elifs += 1,
            "if" | "for" | "macro" | "call" | "filter" | "with" | "block" | "autoescape" | "generation" => {
                blocks += 1
            }
            "set" if tag.equals.is_none() => blocks += 1,
            _ if word.starts_with("end") => blocks = blocks.saturating_sub(1),
            _ => {}
        }
        if blocks > BLOCKS {
            return Err(limit(format!("its blocks nest deeper than {BLOCKS}")));
        }
        if elifs > ELIFS {
            return Err(limit(format!("it has more than {ELIFS} elif")));
        }
        match (word, tag.equals) {
            ("generation", _) => out.extend([before, "if true", arguments]),
            ("endgeneration", _) => out.extend([before, "endif", arguments]),
            ("set", Some(equals)) if body[..equals].contains('.') => {
                let value = body[equals + 1..].trim_end_matches(['-', '+']);
                let end = &body[equals + 1 + value.len()..];
                out.extend([&body[..=equals], " ", HOLD, "((", value, ")) ", end]);
            }
            _ => out.push_str(&body),
        }
        if word == "raw" {
            let end = end_of_raw(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the next `{{`, `{%` or `{#` is.
fn next_opening(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|w| matches!(w, b"{{" | b"{%" | b"{#"))
}

/// Where the tag that ends a raw block begins.
fn end_of_raw(text: &str) -> usize {
    let mut at = 0;
    while let Some(offset) = text[at..].find("{%") {
        let tag = at + offset;
        if text[tag + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw") {
            return tag;
        }
        at = tag + 2;
    }
    text.len()
}

/// What stands between the brackets of a tag.
struct Tag<'s> {
    body: &'s str,
    /// Where the first `=` outside of brackets is that assigns.
    equals: Option<usize>,
}

impl<'s> Tag<'s> {
    /// Reads up to `close` outside of strings, counting as it goes. Without one, all that is left.
    fn read(text: &'s str, close: &str) -> Result<Self, TextError> {
        let bytes = text.as_bytes();
        let (mut at, mut tokens, mut depth) = (0, 0usize, 0usize);
        let mut equals = None;
        while at < bytes.len() {
            if depth == 0 && text.as_bytes()[at..].starts_with(close.as_bytes()) {
                break;
            }
            let byte = bytes[at];
            let start = at;
            at += 1;
            match byte {
                b'"' | b'\'' => at = skip_string(bytes, start),
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b'=' if depth == 0 && equals.is_none() => {
                    let comparison = bytes.get(at) == Some(&b'=')
                        || matches!(bytes.get(start.wrapping_sub(1)), Some(b'=' | b'!' | b'<' | b'>'));
                    if !comparison {
                        equals = Some(start);
                    }
                }
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b if is_word(b) => {
                    while at < bytes.len() && is_word(bytes[at]) {
                        at += 1;
                    }
                }
                _ => {}
            }
            tokens += 1;
            if depth > BRACKETS {
                return Err(limit(format!("its brackets nest deeper than {BRACKETS}")));
            }
            if tokens > TOKENS {
                return Err(limit(format!("one of its expressions has more than {TOKENS} parts")));
            }
        }
        Ok(Self { body: &text[..at.min(text.len())], equals })
    }

    /// The blanks before the first word, the word, and what follows.
    fn split_word(&self) -> (&'s str, &'s str, &'s str) {
        let word = self.body.trim_start_matches(['-', '+']).trim_start();
        let before = &self.body[..self.body.len() - word.len()];
        let len = word.bytes().take_while(|&b| is_word(b)).count();
        // Only ASCII and bytes above it count as word bytes, so this is a boundary.
        let (word, arguments) = word.split_at(len);
        (before, word, arguments)
    }
}

/// Where the string that starts at `start` is over.
pub(super) fn skip_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != bytes[start] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_templates_pass_unchanged() {
        for source in [
            "",
            "no tags { at % all }",
            "{% for m in messages %}{{ m['role'] + '%}' }}{% endfor %}",
            "{{ {'a': {'b': 1}} }}{# {% if %} #}{% raw %}{% if (((( %}{% endraw %}",
            "{% set x = 1 %}{% set y %}text{% endset %}{% if a == b %}{% endif %}",
            "{{ unterminated",
            "{% 'unterminated",
            "{%",
            "\u{e9}{{ '\u{e9}\\",
        ] {
            assert_eq!(prepare(source).unwrap(), source);
        }
    }

    #[test]
    fn values_on_their_way_into_a_namespace_are_held() {
        assert_eq!(
            prepare("{%- set ns.a = b if c else d -%}").unwrap(),
            "{%- set ns.a = __held(( b if c else d )) -%}"
        );
        assert_eq!(
            prepare("{% set (a, ns.b) = x, 'a=b' %}").unwrap(),
            "{% set (a, ns.b) = __held(( x, 'a=b' )) %}"
        );
    }

    #[test]
    fn the_mark_for_training_is_a_block_that_is_taken() {
        assert_eq!(prepare("{%- generation -%}x{% endgeneration %}").unwrap(), "{%- if true -%}x{% endif %}");
    }

    #[test]
    fn nesting_and_chains_have_limits() {
        for source in [
            "x".repeat(SOURCE_BYTES + 1),
            "{% if 1 %}".repeat(65),
            format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(1001)),
            format!("{{{{ {}", "(".repeat(33)),
            format!("{{{{ 1{} }}}}", "+1".repeat(2000)),
            format!("{{{{ {}1 }}}}", "not ".repeat(4000)),
        ] {
            assert!(matches!(prepare(&source), Err(TextError::TemplateLimit(_))), "{}", &source[..40]);
        }
    }
}
