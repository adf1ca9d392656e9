//! Rewrites `a ~ b` in a template's tag to `__text(a) ~ __text(b)`. The engine's own conversion to text has no limit, so
//! a list that holds one long text many times over would fill the memory; [`TEXT`] pays for what it writes.
//! Finds the ends of operands by precedence; what it gets wrong is a syntax error later, never another meaning of text
//! and numbers, which the function leaves as they are.

use std::borrow::Cow;

use super::scan::{is_word, skip_string};

/// The function that operands pass.
pub(super) const TEXT: &str = "__text";

/// Words that end an operand of `~`, as the signs with lower precedence do.
const WORDS: [&str; 9] = ["and", "or", "not", "in", "if", "else", "recursive", "elif", "for"];

/// What is known inside one pair of brackets.
struct Level {
    /// Where the operand at hand starts.
    start: usize,
    /// It stands after a `~`, so its wrapper is open.
    open: bool,
}

/// The body of a tag with its concatenations wrapped. `statement`: the first word is the statement's name.
pub(super) fn wrap(body: &str, statement: bool) -> Cow<'_, str> {
    let bytes = body.as_bytes();
    if !bytes.contains(&b'~') {
        return Cow::Borrowed(body);
    }
    // Signs of blank control at both ends are no operators.
    let is_control = |at: Option<&u8>| matches!(at, Some(b'-' | b'+'));
    let end = bytes.len() - usize::from(bytes.len() > 1 && is_control(bytes.last()));
    let mut at = usize::from(is_control(bytes.first()));
    let mut insertions: Vec<(usize, bool)> = Vec::new();
    let mut levels = vec![Level { start: at, open: false }];
    // Whether what came last can end a value, so that a minus is a subtraction; and whether it was `is`.
    let (mut after_value, mut after_is, mut first_word) = (false, false, statement);
    while at < end {
        let (token, byte) = (at, bytes[at]);
        at += 1;
        let Some(level) = levels.last_mut() else { break };
        let mut ends_operand = false;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'"' | b'\'' => {
                at = skip_string(bytes, token).min(end);
                after_value = true;
            }
            b'(' | b'[' | b'{' => {
                levels.push(Level { start: at, open: false });
                (after_value, after_is) = (false, false);
                continue;
            }
            b')' | b']' | b'}' => {
                if level.open {
                    insertions.push((token, false));
                }
                if levels.len() > 1 {
                    levels.pop();
                }
                after_value = true;
            }
            b'~' => {
                if !level.open {
                    insertions.push((level.start, true));
                }
                insertions.push((token, false));
                insertions.push((at, true));
                *level = Level { start: at, open: true };
                after_value = false;
            }
            b'-' | b'+' => {
                ends_operand = after_value;
                after_value = false;
            }
            b',' | b':' | b'=' | b'!' | b'<' | b'>' => {
                ends_operand = true;
                after_value = false;
            }
            byte if is_word(byte) => {
                while at < end && is_word(bytes[at]) {
                    at += 1;
                }
                let word = &body[token..at];
                ends_operand = first_word || (WORDS.contains(&word) && !after_is);
                first_word = false;
                after_value = !ends_operand;
                if matches!(word, "is") {
                    after_is = true;
                    continue;
                }
                if after_is && word == "not" {
                    continue;
                }
            }
            _ => after_value = false,
        }
        after_is = false;
        if ends_operand && let Some(level) = levels.last_mut() {
            if level.open {
                insertions.push((token, false));
            }
            *level = Level { start: at, open: false };
        }
    }
    if levels.last().is_some_and(|level| level.open) {
        insertions.push((end, false));
    }
    // In order of place; of those at one place, what closes comes before what opens.
    insertions.sort_by_key(|&(place, opens)| (place, opens));
    let mut out = String::with_capacity(body.len() + 16 * insertions.len());
    let mut done = 0;
    for (place, opens) in insertions {
        out.push_str(&body[done..place]);
        out.push_str(if opens { " __text(" } else { ")" });
        done = place;
    }
    out.push_str(&body[done..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_found_by_precedence() {
        for (body, statement, want) in [
            (" a + b ", false, " a + b "),
            (" 'x~y' ", false, " 'x~y' "),
            ("a~b", false, " __text(a)~ __text(b)"),
            ("- a ~ b -", false, "- __text( a )~ __text( b )-"),
            ("a~b~c", false, " __text(a)~ __text(b)~ __text(c)"),
            ("a+b*2~-c.d|f(e~g)+h", false, "a+ __text(b*2)~ __text(-c.d|f( __text(e)~ __text(g)))+h"),
            ("a~b if c~d==e else f", false, " __text(a)~ __text(b )if __text( c)~ __text(d)==e else f"),
            (" if a~b is not none and c", true, " if __text( a)~ __text(b is not none )and c"),
            (" set x=[a~b,c:d~e]", true, " set x=[ __text(a)~ __text(b),c: __text(d)~ __text(e)]"),
            ("for x in a~b", true, "for x in __text( a)~ __text(b)"),
        ] {
            assert_eq!(wrap(body, statement), want);
        }
    }
}
