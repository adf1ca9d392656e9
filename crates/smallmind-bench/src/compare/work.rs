//! What is asked of every side: the model, the prompts as tokens and as text, the text whose perplexity is computed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallmind::preset::Preset;
use smallmind::{DType, Encode, Gguf, PrefillClass, Tokenizer};

use crate::{Error, Result};

/// Where presets draw their weights from: the same model for everyone.
const PRESET_SEED: u64 = 1;
/// Bytes around the place where a prompt has enough tokens that are searched for one with exactly as many.
const AROUND: usize = 64;
/// The most windows whose perplexity is computed.
const WINDOWS: usize = 4;
/// Tokens of a window: llama-perplexity's.
const WINDOW: usize = 512;

/// The text that prompts and perplexity are taken from where none is given: the Apache licence. Most models have seen it,
/// so perplexities compare programs here, and not models.
pub const TEXT: &str = include_str!("../../../../LICENSE-APACHE");

/// A text and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// As the report names it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// A model to compare on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A GGUF file.
    File {
        /// As the user named it.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
    /// A preset in one of its types.
    Preset {
        /// Which.
        preset: &'static Preset,
        /// F32 or Q8_0.
        dtype: DType,
    },
}

impl Subject {
    /// What tables call it.
    pub fn name(&self) -> String {
        match self {
            Subject::File { path, .. } => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            Subject::Preset { preset, dtype } => format!("preset {} {dtype}", preset.name),
        }
    }

    /// Maps the file, or makes the preset.
    ///
    /// # Errors
    /// Where the file is no model.
    pub fn open(&self) -> Result<Gguf> {
        match self {
            Subject::File { path, .. } => Ok(Gguf::open(path)?),
            Subject::Preset { preset, dtype } => Ok(preset.build(*dtype, PRESET_SEED)?),
        }
    }
}

/// How much of what is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Thread counts, each a run of its own.
    pub threads: Vec<usize>,
    /// Lengths of the prompts in tokens.
    pub prompts: Vec<usize>,
    /// Tokens generated behind each.
    pub tokens: usize,
    /// The prompt whose first token is waited for.
    pub first: usize,
    /// How our side computes prompts.
    pub prefill: PrefillClass,
    /// Sequences decoded together; 1 leaves that out.
    pub sequences: usize,
    /// Tokens of each sequence's prompt, and tokens decoded behind it.
    pub batch: (usize, usize),
    /// Alternations.
    pub rounds: usize,
    /// Parts to do, of [`PARTS`]; empty is all.
    pub only: Vec<String>,
    /// When no further round is begun, after the second.
    pub budget: Duration,
    /// What one sample, or loading the model, may take.
    pub timeout: Duration,
}

/// What can be asked for.
pub const PARTS: [&str; 8] = ["prefill", "decode", "ttft", "cold", "memory", "size", "batch", "perplexity"];

impl Default for Work {
    fn default() -> Work {
        Work {
            threads: vec![1],
            prompts: vec![512],
            tokens: 128,
            first: 32,
            prefill: PrefillClass::Exact,
            sequences: 16,
            batch: (100, 32),
            rounds: 5,
            only: Vec::new(),
            budget: Duration::from_secs(600),
            timeout: Duration::from_secs(300),
        }
    }
}

impl Work {
    pub(super) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|p| p == part)
    }
}

/// A prompt as every side gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) ids: Vec<u32>,
    /// The same as text, for programs that read their prompt from a file.
    pub(super) file: PathBuf,
}

impl Prompt {
    pub(super) fn of_ids(ids: Vec<u32>) -> Prompt {
        Prompt { ids, file: PathBuf::new() }
    }
}

/// A text in windows, as llama-perplexity cuts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scored {
    pub(super) windows: Vec<Vec<u32>>,
    pub(super) window: usize,
    pub(super) file: PathBuf,
}

/// Everything that a subject's sides are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Questions {
    pub(super) prompts: Vec<Prompt>,
    pub(super) first: Prompt,
    pub(super) batch: Prompt,
    pub(super) scored: Scored,
}

impl Questions {
    /// Prompts of `work`'s lengths out of `text`, written to `folder` as well.
    ///
    /// # Errors
    /// Where the text is too short, or the folder cannot be written.
    pub(super) fn of_text(
        tokenizer: &Tokenizer,
        context: usize,
        text: &Text,
        work: &Work,
        folder: &Path,
    ) -> Result<Questions> {
        let write = |name: String, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text)
                .map_err(|cause| Error::System { what: path.display().to_string(), cause })?;
            Ok(path)
        };
        let prompt = |n: usize| -> Result<Prompt> {
            let (ids, prefix) = prompt(tokenizer, text, n)?;
            Ok(Prompt { ids, file: write(format!("prompt-{n}.txt"), prefix)? })
        };
        let all = encode(tokenizer, &text.text);
        let windows = all.chunks_exact(WINDOW).take(WINDOWS).map(|window| {
            let mut window = window.to_vec();
            if let (Some(bos), true) = (tokenizer.bos(), tokenizer.adds_bos()) {
                window[0] = bos;
            }
            window
        });
        // llama-perplexity, as ours, wants two windows at least.
        let scorable = all.len() >= 2 * WINDOW && context >= WINDOW;
        let windows: Vec<Vec<u32>> = if scorable { windows.collect() } else { Vec::new() };
        let file = write("text.txt".into(), &text.text)?;
        Ok(Questions {
            prompts: work.prompts.iter().map(|n| prompt(*n)).collect::<Result<_>>()?,
            first: prompt(work.first)?,
            batch: prompt(work.batch.0)?,
            scored: Scored { windows, window: WINDOW, file },
        })
    }

    /// The seed's measurement: ten tokens, whatever the text.
    pub(super) fn of_preset() -> Questions {
        let prompt = Prompt::of_ids((65..75).collect());
        Questions { prompts: vec![prompt.clone()], first: prompt, ..Questions::default() }
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Encode { add_special: true, parse_special: false })
}

/// A beginning of the text that is `n` tokens, or just below where none has exactly as many: whoever tokenizes it gets
/// the same ones.
fn prompt<'a>(tokenizer: &Tokenizer, text: &'a Text, n: usize) -> Result<(Vec<u32>, &'a str)> {
    let ends: Vec<usize> = text.text.char_indices().map(|(i, c)| i + c.len_utf8()).collect();
    let about = ends.partition_point(|end| encode(tokenizer, &text.text[..*end]).len() < n);
    if about == ends.len() {
        let (name, has) = (&text.name, encode(tokenizer, &text.text).len());
        return Err(Error::Usage(format!(
            "{name} has {has} tokens, and a prompt of {n} is asked for: give a longer text"
        )));
    }
    let near = about.saturating_sub(AROUND)..(about + AROUND).min(ends.len());
    let beginnings = near.map(|at| &text.text[..ends[at]]);
    // A last blank is dropped by some readers, and may join what comes next.
    let best = beginnings
        .map(|prefix| (encode(tokenizer, prefix), prefix))
        .filter(|(ids, prefix)| ids.len() <= n && !prefix.ends_with(char::is_whitespace))
        .max_by_key(|(ids, _)| ids.len());
    best.ok_or_else(|| {
        Error::Usage(format!("{} has no beginning of {n} tokens: take another number", text.name))
    })
}

/// A folder that is there as long as this lives.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(under: &Path) -> Result<Scratch> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(".run-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = under.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|cause| Error::System { what: folder.display().to_string(), cause })?;
        Ok(Scratch(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left; its name says that it may go.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::Model;

    fn small() -> Tokenizer {
        Model::tokenizer_of(&Preset::find("small").unwrap().build(DType::F32, 1).unwrap()).unwrap()
    }

    #[test]
    fn prompts_are_the_same_tokens_as_ids_and_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let text = Text { name: "t".into(), text: "Ünïcode and words, ".repeat(100) };
        let work = Work { prompts: vec![20, 31], first: 8, batch: (10, 4), ..Work::default() };
        let questions = Questions::of_text(&small(), 4096, &text, &work, folder.path()).unwrap();
        for (prompt, n) in
            questions.prompts.iter().chain([&questions.first, &questions.batch]).zip([20, 31, 8, 10])
        {
            // Characters of two bytes are two tokens here, and no prompt ends in a blank.
            assert!((n - 2..=n).contains(&prompt.ids.len()), "{n}: {}", prompt.ids.len());
            let written = std::fs::read_to_string(&prompt.file).unwrap();
            assert_eq!(encode(&small(), &written), prompt.ids);
            assert!(!written.ends_with(' '));
        }
        assert_eq!(questions.scored.windows.len(), 4);
        assert!(questions.scored.windows.iter().all(|w| w.len() == WINDOW));
    }

    #[test]
    fn a_text_that_is_too_short_is_refused_and_gives_no_perplexity() {
        let folder = tempfile::tempdir().unwrap();
        let text = Text { name: "note.txt".into(), text: "words ".repeat(100) };
        let of = |n| {
            let work = Work { prompts: vec![n], ..Work::default() };
            Questions::of_text(&small(), 4096, &text, &work, folder.path())
        };
        let error = of(601).unwrap_err().to_string();
        assert!(error.contains("note.txt has 600 tokens") && error.contains("601"), "{error}");
        assert!(of(512).unwrap().scored.windows.is_empty());
    }

    #[test]
    fn a_scratch_folder_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path()).unwrap();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
