//! Text to tokens: files and folders, the documents in them, the split into training and validation, and the windows of
//! each pass.

use std::path::{Path, PathBuf};

use smallmind::{Encode, Gguf, Model, Tokenizer};
use smallmind_formats::fs::read_to_string;
use smallmind_formats::write::GgufWriter;
use smallmind_formats::{FormatError, Value};
use smallmind_kernels::DType;

use crate::bpe;
use crate::config::{TokenizerKind, TrainConfig};
use crate::error::{Result, TrainError};
use crate::rng::{Key, Stream};

/// A line of its own that ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The largest file that is read.
const LARGEST: usize = 4 << 30;

/// Documents of some files, and what they were read from.
#[derive(Debug)]
pub struct Corpus {
    documents: Vec<String>,
    from: PathBuf,
}

impl Corpus {
    /// Reads text files, and the `.txt` and `.md` files of folders (sorted by path). Documents end at lines of
    /// [`END_OF_TEXT`] and at the ends of files.
    ///
    /// # Errors
    /// Where a file cannot be read, is empty or no text.
    pub fn read(paths: &[PathBuf]) -> Result<Corpus> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() { walk(path, &mut files)? } else { files.push(path.clone()) }
        }
        let first = paths.first().cloned().unwrap_or_default();
        if files.is_empty() {
            let why = "holds no .txt or .md file to learn from".to_owned();
            return Err(TrainError::Data { path: first, why });
        }
        let mut documents = Vec::new();
        for path in files {
            let text = read_to_string(&path, LARGEST)?;
            if text.contains('\0') {
                let why = "is binary data, not text: give plain text in UTF-8".to_owned();
                return Err(TrainError::Data { path, why });
            }
            if text.trim().is_empty() {
                let why = "is empty: there is nothing to learn from".to_owned();
                return Err(TrainError::Data { path, why });
            }
            let mut document = String::new();
            for line in text.split_inclusive('\n') {
                if line.trim_end() == END_OF_TEXT {
                    documents.push(std::mem::take(&mut document));
                } else {
                    document.push_str(line);
                }
            }
            documents.push(document);
        }
        documents.iter_mut().for_each(|d| d.truncate(d.trim_end().len()));
        documents.retain(|d| !d.is_empty());
        Ok(Corpus { documents, from: first })
    }

    /// Which documents are held back: every n-th one, so that all kinds of text are in both parts.
    fn held_back(&self, config: &TrainConfig) -> impl Fn(usize) -> bool + use<> {
        let every =
            if config.valid > 0.0 { (1.0 / config.valid).round().max(2.0) as usize } else { usize::MAX };
        let enough = self.documents.len() >= every;
        move |i| enough && (i + 1).is_multiple_of(every)
    }

    /// Makes the vocabulary that the settings ask for, from the part that is not held back.
    ///
    /// # Errors
    /// Where the text does not support so many tokens.
    pub(crate) fn vocabulary(&self, config: &TrainConfig) -> Result<Vocabulary> {
        let mut w = GgufWriter::new();
        w.set_str("general.name", &config.name);
        match config.tokenizer() {
            TokenizerKind::Bytes => smallmind::preset::bytes_vocabulary(&mut w, config.model.vocab),
            TokenizerKind::Bpe => {
                let held_back = self.held_back(config);
                let kept = self.documents.iter().enumerate().filter(|(i, _)| !held_back(*i));
                bpe::describe(&bpe::learn(kept.map(|(_, d)| d.as_str()), config.model.vocab)?, &mut w);
            }
        }
        // A file without tensors is none.
        w.add_tensor("none", DType::F32, &[1], vec![0; 4]);
        let bytes = w.to_bytes().map_err(|e| TrainError::config(e.to_string()))?;
        Vocabulary::of(Gguf::from_bytes("the vocabulary", bytes)?)
    }

    /// The tokens, split.
    ///
    /// # Errors
    /// Where there are too few for one window.
    pub(crate) fn tokens(&self, vocabulary: &Vocabulary, config: &TrainConfig) -> Result<Tokens> {
        let held_back = self.held_back(config);
        let mut tokens = Tokens::default();
        for (i, document) in self.documents.iter().enumerate() {
            let part = if held_back(i) { &mut tokens.valid } else { &mut tokens.train };
            let plain = Encode { add_special: false, parse_special: false };
            match vocabulary.end {
                Some(end) => {
                    part.push(end);
                    part.extend(vocabulary.tokenizer.encode(document, plain));
                }
                None => {
                    part.extend(vocabulary.tokenizer.encode(document, plain));
                    part.extend(vocabulary.tokenizer.encode("\n", plain));
                }
            }
        }
        let need = config.seq() + 1;
        if tokens.valid.is_empty() && config.valid > 0.0 {
            // One long document: its end is held back.
            let n = (tokens.train.len() as f64 * (1.0 - config.valid)) as usize;
            tokens.valid = tokens.train.split_off(n);
        }
        if tokens.train.len() < need {
            let why = format!(
                "has {} tokens to learn from, and one window takes {need}: give more text or a smaller context",
                tokens.train.len()
            );
            return Err(TrainError::Data { path: self.from.clone(), why });
        }
        if tokens.valid.len() < need {
            tokens.valid.clear();
        }
        Ok(tokens)
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let io = |e| TrainError::from(FormatError::io(folder, "list", e));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "txt" || e == "md") {
            files.push(path);
        }
    }
    Ok(())
}

/// A tokenizer, and its description as a model file has it.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub(crate) tokenizer: Tokenizer,
    gguf: Gguf,
    end: Option<u32>,
}

impl Vocabulary {
    /// That of a model file.
    pub(crate) fn of(gguf: Gguf) -> Result<Vocabulary> {
        let tokenizer = Model::tokenizer_of(&gguf)?;
        let end = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
        Ok(Vocabulary { tokenizer, gguf, end })
    }

    /// Sets it in a model file.
    pub(crate) fn describe(&self, w: &mut GgufWriter<'_>) {
        let keys = self.gguf.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."));
        keys.for_each(|(key, value): (&str, &Value)| {
            w.set_value(key, value);
        });
    }
}

/// Token ids of both parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) train: Vec<u32>,
    pub(crate) valid: Vec<u32>,
}

impl Tokens {
    /// FNV-1a (Fowler, Noll, Vo) of all ids: tells other data from the same.
    pub(crate) fn fingerprint(&self) -> String {
        let all = self.train.iter().chain(&[u32::MAX]).chain(&self.valid);
        let hash = all.flat_map(|id| id.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}-{}-{}", self.train.len(), self.valid.len())
    }

    /// Inputs and targets of pass `pass`, `[batch, seq]` each: windows that begin anywhere.
    pub(crate) fn windows(&self, config: &TrainConfig, pass: u64) -> (Vec<u32>, Vec<u32>) {
        let seq = config.seq();
        let key = Key::new(config.seed, Stream::Data, pass);
        let starts = (0..config.batch).map(|b| key.below(b as u64, self.train.len() - seq));
        split(&self.train, starts, seq)
    }

    /// The windows of validation: side by side, at most `most` of them, spread over the whole part.
    pub(crate) fn validation(&self, seq: usize, most: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
        let windows = self.valid.len().saturating_sub(1) / seq;
        let n = windows.min(most);
        (0..n).map(|i| split(&self.valid, std::iter::once(i * windows / n * seq), seq)).collect()
    }
}

fn split(tokens: &[u32], starts: impl Iterator<Item = usize>, seq: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for start in starts {
        ids.extend_from_slice(&tokens[start..start + seq]);
        targets.extend_from_slice(&tokens[start + 1..=start + seq]);
    }
    (ids, targets)
}
