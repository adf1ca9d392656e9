//! Numbers out of a program's output, by a line such as `eval time = {decode_ms} ms / {decoded} runs`.

use crate::{Error, Result};

/// A line with numbers to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Text before each number, and the number's name.
    parts: Vec<(String, String)>,
    /// Text after the last number.
    end: String,
}

impl Pattern {
    /// # Errors
    /// Where it names no number, or a brace is left open.
    pub(super) fn parse(text: &str) -> Result<Pattern> {
        let wrong = || Error::Usage(format!("`{text}` is no pattern: write text with numbers as {{name}}"));
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(wrong)?;
            parts.push((before.to_owned(), name.to_owned()));
            rest = after;
        }
        if parts.is_empty() { Err(wrong()) } else { Ok(Pattern { parts, end: rest.to_owned() }) }
    }

    /// Names and values of the first line that has the pattern anywhere in it; blanks count as one.
    pub(super) fn find(&self, output: &str) -> Option<Vec<(&str, f64)>> {
        output.lines().find_map(|line| {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            let first = &self.parts.first()?.0;
            line.match_indices(first.as_str()).find_map(|(at, _)| self.at(&line[at..]))
        })
    }

    fn at(&self, mut rest: &str) -> Option<Vec<(&str, f64)>> {
        let mut found = Vec::with_capacity(self.parts.len());
        for (before, name) in &self.parts {
            rest = rest.strip_prefix(before.as_str())?;
            let end = rest.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(rest.len());
            found.push((name.as_str(), rest[..end].parse().ok()?));
            rest = &rest[end..];
        }
        rest.starts_with(self.end.as_str()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, output: &str) -> Option<Vec<(String, f64)>> {
        let pattern = Pattern::parse(pattern).unwrap();
        pattern.find(output).map(|f| f.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())
    }

    #[test]
    fn numbers_are_read_from_llama_cpps_words() {
        let output = "0.01 I perf:  load time =  199.90 ms\n\
            0.01 I perf: prompt eval time =     623.70 ms /   494 tokens (    1.26 ms per token)\n\
            0.01 I perf:        eval time =     120.75 ms /    15 runs   (    8.05 ms per token)\n";
        let prompt = find("prompt eval time = {first_ms} ms / {prompt_tokens} tokens", output).unwrap();
        assert_eq!(prompt, [("first_ms".to_owned(), 623.7), ("prompt_tokens".to_owned(), 494.0)]);
        // The prompt's line has the words, too, and ends otherwise.
        assert_eq!(find("eval time = {ms} ms / {n} runs", output).unwrap()[0].1, 120.75);
        assert_eq!(find("eval time = {ms} ms / {n} walks", output), None);
        let json = r#"{"pp": 20, "tg": 8, "t_tg": 0.873, "speed_tg": 9.16}"#;
        assert_eq!(find(r#""t_tg": {decode_s},"#, json).unwrap()[0].1, 0.873);
        assert_eq!(find("PPL = {p} +/-", "Final estimate: PPL = 15.9360 +/- 1.42506").unwrap()[0].1, 15.936);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert!(Pattern::parse("no number").is_err() && Pattern::parse("open {name").is_err());
    }
}
