//! Where the models' files are: in the models' folder, or made once in the work folder out of one that is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use smallmind::CancelToken;
use smallmind_bench::compare::process::{self, Fault, Patience};

use super::rows::{ModelEntry, Table};
use crate::random_model;

/// Making a file from one of 100 MB takes seconds.
const PATIENCE: Duration = Duration::from_secs(1800);

pub(super) struct Files<'a> {
    pub(super) table: &'a Table,
    /// Where models lie that are not made here.
    pub(super) models: &'a Path,
    /// Where models are made.
    pub(super) work: &'a Path,
    /// Makes them.
    pub(super) program: &'a Path,
    pub(super) cancel: &'a CancelToken,
}

impl Files<'_> {
    /// The model's file, made where it is not there yet.
    pub(super) fn of(&self, name: &str) -> Result<PathBuf> {
        match self.table.model(name)? {
            ModelEntry { file: Some(file), .. } => {
                let path = self.models.join(file);
                if !path.is_file() {
                    let (path, folder) = (path.display(), self.models.display());
                    bail!("{path}: is not there: `scripts/fetch-models {folder}` downloads it");
                }
                Ok(path)
            }
            ModelEntry { random: Some(random), .. } => {
                random_model::file(self.work, &self.of(&random.vocabulary)?)
            }
            ModelEntry { quantize: Some(quantized), .. } => {
                let from = self.of(&quantized.from)?;
                let stem = from.file_stem().context("the model's file has no name")?.to_string_lossy();
                let path = self.work.join(format!("{stem}-as-{}.gguf", quantized.to));
                if !path.is_file() {
                    self.quantize(&from, &path, &quantized.to)?;
                }
                Ok(path)
            }
            ModelEntry { .. } => bail!("speeds.toml: `{name}` has no source"),
        }
    }

    fn quantize(&self, from: &Path, to: &Path, kind: &str) -> Result<()> {
        std::fs::create_dir_all(self.work).with_context(|| self.work.display().to_string())?;
        crate::note(&format!("making {}", to.display()));
        let [program, from, to] = [self.program, from, to].map(|p| p.display().to_string());
        let words = [&program, "quantize", "--quiet", &from, &to, "--type", kind].map(str::to_owned);
        match process::run(&words, 1, Patience { timeout: PATIENCE, cancel: self.cancel }) {
            Ok(_) => Ok(()),
            Err(Fault::Cancelled) => bail!("interrupted"),
            Err(Fault::Failed(why)) => bail!("{to}: {why}"),
        }
    }
}
