//! What the program says: results on stdout, talk on stderr, for a human or as one JSON document. The JSON contracts
//! live here and nowhere else.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use smallmind_hub::HubError;

use crate::args::{ColorChoice, OutputArgs};
use crate::interrupt;

/// How to talk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// One JSON document instead of text.
    pub(crate) json: bool,
    quiet: bool,
    verbose: bool,
    color: bool,
}

impl Out {
    /// As the flags say.
    pub(crate) fn new(args: &OutputArgs) -> Out {
        Out { json: args.json, quiet: args.quiet, verbose: args.verbose, ..Out::plain(args.color) }
    }

    /// Before, or without, flags.
    pub(crate) fn plain(color: ColorChoice) -> Out {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !no_color && io::stderr().is_terminal(),
        };
        Out { json: false, quiet: false, verbose: false, color }
    }

    /// Whether someone watches stderr and wants to.
    pub(crate) fn watched(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// One sentence on stderr, safe for a terminal.
    pub(crate) fn error(&self, sentence: &str) {
        let (red, end) = if self.color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let sentence = smallmind::escaped(sentence.trim().as_bytes(), 2000);
        // There is nowhere left to report that stderr is closed.
        let _ = writeln!(io::stderr(), "{red}smallmind:{end} {sentence}");
    }

    /// A line on stderr, unless quiet.
    pub(crate) fn note(&self, line: &str) {
        if !self.quiet {
            let (dim, end) = if self.color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            let _ = writeln!(io::stderr(), "{dim}{}{end}", smallmind::escaped(line.as_bytes(), 2000));
        }
    }

    /// Lines on stderr, unless quiet.
    pub(crate) fn note_lines(&self, lines: &str) {
        lines.lines().for_each(|line| self.note(line));
    }

    /// A line on stderr that only `--verbose` shows.
    pub(crate) fn detail(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            self.note(&line());
        }
    }
}

/// Prints one JSON document.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(document)?;
    text.push('\n');
    print(&text)
}

/// Prints text to stdout.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A wrong usage that clap cannot see: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

/// Ctrl-C: exit code 130, without a sentence.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Usage {}
impl std::error::Error for Interrupted {}

/// How the program ends after an error.
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// What to say, if anything.
    pub(crate) sentence: Option<String>,
}

impl Failure {
    pub(crate) const WORK: u8 = 1;
    pub(crate) const USAGE: u8 = 2;

    /// Whoever closed our stdout has what they wanted; what a flag asked for in vain is usage; the rest is a failure.
    pub(crate) fn of(error: &anyhow::Error) -> Failure {
        let sentence = Some(error.to_string());
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::BrokenPipe
        {
            return Failure { code: 0, sentence: None };
        }
        if error.is::<Interrupted>() {
            return Failure { code: interrupt::EXIT_CODE, sentence: None };
        }
        let bench = error.downcast_ref::<smallmind_bench::Error>();
        let engine = match bench {
            Some(smallmind_bench::Error::Engine(engine)) => Some(engine),
            _ => error.downcast_ref::<smallmind::Error>(),
        };
        if matches!(bench, Some(smallmind_bench::Error::Usage(_))) {
            return Failure { code: Failure::USAGE, sentence };
        }
        if let Some(smallmind::Error::Cancelled) = engine {
            return Failure { code: interrupt::EXIT_CODE, sentence: None };
        }
        let code = match (error.downcast_ref::<HubError>(), engine) {
            (Some(HubError::Cancelled), _) => interrupt::EXIT_CODE,
            (Some(hub), _) if hub.is_usage() => Failure::USAGE,
            (_, Some(smallmind::Error::ContextTooLarge { .. } | smallmind::Error::Isa(_))) => Failure::USAGE,
            _ if error.is::<Usage>() => Failure::USAGE,
            _ => Failure::WORK,
        };
        Failure { code, sentence }
    }
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Tokens a second; 0 where no time passed.
pub(crate) fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// Bytes for a human.
pub(crate) fn bytes(bytes: u64) -> String {
    smallmind_bench::results::bytes(bytes as f64)
}

/// What was typed, for those who want the same again. Of whole paths the last part: saved results are shown to others, and
/// where a machine keeps its files is nothing to them.
pub(crate) fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|a| quoted(without_folders(&a.to_string_lossy())));
    std::iter::once("smallmind".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// As a shell takes it.
fn quoted(word: String) -> String {
    match word.chars().any(|c| c.is_whitespace() || "'\"$`\\*?;&|<>()#".contains(c)) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word,
    }
}

/// `/a/model.gguf` and `--save=../results.json` without the folders.
fn without_folders(word: &str) -> String {
    let (name, value) = word.rsplit_once('=').map_or(("", word), |(name, _)| word.split_at(name.len() + 1));
    let whole = ["/", "./", "../", "~/"].iter().any(|start| value.starts_with(start));
    let last = Path::new(value).file_name().map(|last| last.to_string_lossy());
    match last.filter(|_| whole || Path::new(value).is_absolute()) {
        Some(last) => format!("{name}{last}"),
        None => word.to_owned(),
    }
}

/// `train --json`.
#[derive(Serialize)]
pub(crate) struct TrainDocument {
    pub(crate) model: String,
    pub(crate) parameters: usize,
    pub(crate) steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) valid_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_s: Option<f64>,
}

/// `run --json`.
#[derive(Serialize)]
pub(crate) struct RunDocument<'a> {
    pub(crate) model: &'a str,
    pub(crate) architecture: &'a str,
    pub(crate) threads: usize,
    pub(crate) isa: &'a str,
    pub(crate) seed: u64,
    pub(crate) prompt_tokens: &'a [u32],
    pub(crate) tokens: &'a [u32],
    pub(crate) text: &'a str,
    pub(crate) finish_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logprobs: Option<Vec<Vec<LogprobDocument>>>,
    pub(crate) timings: TimingsDocument,
    pub(crate) memory: MemoryDocument,
}

/// One of the most likely tokens.
#[derive(Serialize)]
pub(crate) struct LogprobDocument {
    pub(crate) id: u32,
    pub(crate) token: String,
    pub(crate) logprob: f32,
}

/// How long the parts of `run` took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TimingsDocument {
    pub(crate) load_ms: f64,
    pub(crate) prompt_ms: f64,
    pub(crate) ttft_ms: f64,
    pub(crate) decode_ms: f64,
    pub(crate) prompt_tps: f64,
    pub(crate) decode_tps: f64,
}

/// What `run` took of memory.
#[derive(Serialize)]
pub(crate) struct MemoryDocument {
    pub(crate) peak_rss_bytes: u64,
    pub(crate) decode_allocations: u64,
    pub(crate) decode_allocated_bytes: u64,
}

/// `tokenize --json`.
#[derive(Serialize)]
pub(crate) struct TokenizeDocument {
    pub(crate) tokens: Vec<u32>,
    pub(crate) pieces: Vec<String>,
}

/// `perplexity --json`.
#[derive(Serialize)]
pub(crate) struct PerplexityDocument {
    pub(crate) perplexity: f64,
    pub(crate) stderr: f64,
    pub(crate) tokens: usize,
}

/// A model of `list --json` and `pull --json`.
#[derive(Serialize)]
pub(crate) struct ModelDocument<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: u64,
    pub(crate) installed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pulled_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_kept_without_the_folders_of_its_machine() {
        let kept = [
            ("/models/m.gguf", "m.gguf"),
            ("--save=/tmp/r.json", "--save=r.json"),
            ("../r.json", "r.json"),
            ("python=/opt/peers", "python=peers"),
            ("bench-results/r.json", "bench-results/r.json"),
            ("--peers=llama.cpp,PyTorch", "--peers=llama.cpp,PyTorch"),
            ("hf:org/repo", "hf:org/repo"),
            ("512,128", "512,128"),
        ];
        for (word, want) in kept {
            assert_eq!(without_folders(word), want);
        }
        assert_eq!(quoted("ONNX Runtime,it's".to_owned()), "'ONNX Runtime,it'\\''s'");
        assert_eq!(quoted("--only=decode".to_owned()), "--only=decode");
    }

    #[test]
    fn a_closed_pipe_is_success_and_a_wrong_flag_is_usage() {
        let code = |error: anyhow::Error| Failure::of(&error).code;
        assert_eq!(code(io::Error::from(io::ErrorKind::BrokenPipe).into()), 0);
        assert_eq!(code(Usage("x".into()).into()), 2);
        assert_eq!(code(Interrupted.into()), 130);
        assert_eq!(code(smallmind_bench::Error::Usage("x".into()).into()), 2);
        let too_large = smallmind::Error::ContextTooLarge { asked: 2, trained: 1 };
        assert_eq!(code(smallmind_bench::Error::from(too_large).into()), 2);
        assert_eq!(code(smallmind::Error::EmptyPrompt.into()), 1);
        assert_eq!(code(smallmind::Error::ContextTooLarge { asked: 2, trained: 1 }.into()), 2);
    }
}
