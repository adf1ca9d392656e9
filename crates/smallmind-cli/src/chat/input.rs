//! What the user types: with line editing and a history in a terminal, line by line from anything else. A text of
//! several lines stands between `"""`, or its lines end in a backslash.

use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// Lines of the history that are kept.
const HISTORY: usize = 1000;

/// One thing the user did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Entered a text, never empty.
    Text(String),
    /// Pressed Ctrl-C once.
    Interrupted,
    /// Ended the input, or pressed Ctrl-C twice.
    End,
}

enum Source {
    Editor { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Lines(io::Lines<Box<dyn BufRead>>),
}

/// Where texts come from.
pub(crate) struct Input {
    source: Source,
    interrupted: bool,
}

/// One line from the source.
enum Raw {
    Line(String),
    Interrupted,
    End,
}

impl Input {
    /// The terminal if stdin is one, else plain lines.
    pub(crate) fn new() -> Result<Input> {
        if !io::stdin().is_terminal() {
            return Ok(Input::lines(Box::new(io::BufReader::new(io::stdin()))));
        }
        let config = rustyline::Config::builder().max_history_size(HISTORY)?.auto_add_history(false).build();
        let mut editor = Box::new(DefaultEditor::with_config(config)?);
        let history = history_file();
        if let Some(file) = &history {
            // No history yet is no fault.
            let _ = editor.load_history(file);
        }
        Ok(Input { source: Source::Editor { editor, history }, interrupted: false })
    }

    fn lines(from: Box<dyn BufRead>) -> Input {
        Input { source: Source::Lines(from.lines()), interrupted: false }
    }

    /// Whether someone types.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Editor { .. })
    }

    /// The next text.
    ///
    /// # Errors
    /// Where stdin cannot be read or is not UTF-8.
    pub(crate) fn next(&mut self) -> Result<Line> {
        loop {
            let line = match self.text()? {
                Raw::Line(text) if text.trim().is_empty() => continue,
                Raw::Line(text) => {
                    self.remember(&text);
                    Line::Text(text)
                }
                Raw::Interrupted if self.interrupted => Line::End,
                Raw::Interrupted => Line::Interrupted,
                Raw::End => Line::End,
            };
            self.interrupted = line == Line::Interrupted;
            return Ok(line);
        }
    }

    /// One text of one or more lines.
    fn text(&mut self) -> Result<Raw> {
        let first = match self.raw(">>> ")? {
            Raw::Line(line) => line,
            other => return Ok(other),
        };
        let quoted = first.trim_start().strip_prefix("\"\"\"").map(str::to_owned);
        let Some(mut text) = quoted else { return self.continued(first) };
        loop {
            if let Some(whole) = text.trim_end().strip_suffix("\"\"\"") {
                return Ok(Raw::Line(whole.to_owned()));
            }
            match self.raw("... ")? {
                Raw::Line(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                Raw::Interrupted => return Ok(Raw::Interrupted),
                // What was quoted and never closed is taken as it is.
                Raw::End => return Ok(Raw::Line(text)),
            }
        }
    }

    /// Lines that end in a backslash go on.
    fn continued(&mut self, mut text: String) -> Result<Raw> {
        while text.ends_with('\\') {
            text.pop();
            match self.raw("... ")? {
                Raw::Line(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                Raw::Interrupted => return Ok(Raw::Interrupted),
                Raw::End => break,
            }
        }
        Ok(Raw::Line(text))
    }

    fn raw(&mut self, prompt: &str) -> Result<Raw> {
        let raw = match &mut self.source {
            Source::Editor { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Raw::Line(line),
                Err(ReadlineError::Interrupted) => Raw::Interrupted,
                Err(ReadlineError::Eof) => Raw::End,
                Err(error) => return Err(anyhow!("cannot read from the terminal: {error}")),
            },
            Source::Lines(lines) => match lines.next() {
                Some(Ok(line)) => Raw::Line(line),
                Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(anyhow!("stdin is not UTF-8: convert it, for example with iconv"));
                }
                Some(Err(error)) => return Err(anyhow!("cannot read stdin: {error}")),
                None => Raw::End,
            },
        };
        Ok(raw)
    }

    fn remember(&mut self, text: &str) {
        if let Source::Editor { editor, history } = &mut self.source {
            let added = editor.add_history_entry(text).unwrap_or(false);
            if let (true, Some(file)) = (added, history) {
                // A history that cannot be kept is no reason to stop talking.
                let _ = file.parent().map(fs::create_dir_all);
                let _ = editor.append_history(file);
            }
        }
    }
}

/// The history's place: `SMALLMIND_HOME`, else the data folder of the XDG specification.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = folder("SMALLMIND_HOME");
    let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    Some(own.or_else(|| Some(data?.join("smallmind")))?.join("chat-history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(typed: &'static str) -> Vec<String> {
        let mut input = Input::lines(Box::new(typed.as_bytes()));
        let mut all = Vec::new();
        while let Line::Text(text) = input.next().unwrap() {
            all.push(text);
        }
        all
    }

    #[test]
    fn a_text_is_a_line_and_empty_lines_are_none() {
        assert_eq!(texts("one\n\n  \ntwo"), ["one", "two"]);
    }

    #[test]
    fn a_backslash_or_three_quotes_join_lines() {
        assert_eq!(texts("a\\\nb\nc\n"), ["a\nb", "c"]);
        assert_eq!(texts("\"\"\"a\n\nb\"\"\"\nc\n"), ["a\n\nb", "c"]);
        assert_eq!(texts("\"\"\"one line\"\"\"\n"), ["one line"]);
    }

    #[test]
    fn what_is_never_closed_is_taken_as_it_is() {
        assert_eq!(texts("\"\"\"a\nb"), ["a\nb"]);
        assert_eq!(texts("a\\"), ["a"]);
    }
}
