//! The sides of a comparison: ours and the peers' variants, found, started, and asked for samples.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use smallmind::{DType, PrefillClass};

use super::driver::{Driver, Generated};
use super::forms::{Forms, preset_weights};
use super::process::{self, Fault, Patience};
use super::program::Programs;
use super::recipe::{Book, Fill, Recipe, SCRIPTS, Variant};
use super::runner::Plan;
use super::work::{Prompt, Questions, Scored, Subject};
use crate::results::OURS;
use crate::{Error, Result};

/// What a comparison's file holds beside its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// Every side of every model.
    pub sides: Vec<SideFacts>,
    /// Where prompts came from.
    pub text: String,
    /// Rounds asked for.
    pub rounds: usize,
    /// Rounds measured of each model and thread count, fewer where time ran out.
    pub measured: Vec<(String, usize, usize)>,
}

/// What is known of a side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideFacts {
    /// As rows name it: the peer, and its variant.
    pub name: String,
    /// The peer.
    pub peer: String,
    /// The model.
    pub subject: String,
    /// Its version, as it says.
    pub version: String,
    /// The version that the entry was tried with.
    pub pinned: String,
    /// What of the model it runs.
    pub form: String,
    /// What it takes on disk, its dependencies included.
    pub installed_bytes: Option<u64>,
    /// Whether it was measured.
    pub state: State,
    /// Why not; or what failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub words: String,
    /// The command that installs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub install: String,
    /// Of the first prompt's greedy tokens, how many from the first on are ours, of how many.
    pub same_tokens: Option<(usize, usize)>,
}

/// What became of a side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has figures.
    #[default]
    Measured,
    /// It is not installed.
    Absent,
    /// It is here and cannot do this.
    Skipped,
    /// It is here and failed.
    Failed,
}

/// How a side is asked.
enum Asked {
    Driver(Driver),
    Programs(Programs),
}

/// A side that runs.
pub(super) struct Side {
    pub(super) facts: SideFacts,
    asked: Asked,
    /// Starts it again, for cold starts.
    command: Vec<String>,
    threads: usize,
    repeats: usize,
    /// What it failed at, which is not asked again.
    pub(super) failed: Vec<&'static str>,
}

impl Side {
    /// Whether it can be asked for this, and has not failed at it.
    pub(super) fn can(&self, what: &'static str) -> bool {
        let can = match &self.asked {
            Asked::Driver(driver) => what == "cold" || driver.ready.can.iter().any(|c| c == what),
            Asked::Programs(programs) => programs.can(what),
        };
        can && !self.failed.contains(&what)
    }

    /// Times and tokens, and the most memory it has held.
    pub(super) fn generate(
        &mut self,
        prompt: &Prompt,
        tokens: usize,
        patience: Patience<'_>,
    ) -> std::result::Result<(Generated, Option<u64>), Fault> {
        match &mut self.asked {
            Asked::Driver(driver) => {
                let generated = driver.generate(prompt, tokens, self.repeats, patience)?;
                Ok((generated, driver.peak_bytes()))
            }
            Asked::Programs(programs) => programs.generate(prompt, tokens, patience),
        }
    }

    /// Seconds from a process's start to its first token.
    pub(super) fn cold(&self, prompt: &Prompt, patience: Patience<'_>) -> std::result::Result<f64, Fault> {
        match &self.asked {
            Asked::Programs(programs) => programs.cold(prompt, patience),
            Asked::Driver(_) => {
                let start = Instant::now();
                let mut driver = Driver::start(&self.command, self.threads, patience)?;
                driver.generate(prompt, 1, 1, patience)?;
                Ok(start.elapsed().as_secs_f64())
            }
        }
    }

    /// Tokens a second of all sequences together.
    pub(super) fn batch(
        &mut self,
        prompt: &Prompt,
        sequences: usize,
        tokens: usize,
        patience: Patience<'_>,
    ) -> std::result::Result<f64, Fault> {
        let decoded = match &mut self.asked {
            Asked::Driver(driver) => driver.batch(prompt, sequences, tokens, patience)?,
            Asked::Programs(programs) => programs.batch(prompt, sequences, tokens, patience)?,
        };
        Ok(1e3 * decoded.decoded / decoded.decode_ms)
    }

    pub(super) fn perplexity(
        &mut self,
        scored: &Scored,
        patience: Patience<'_>,
    ) -> std::result::Result<f64, Fault> {
        match &mut self.asked {
            Asked::Driver(driver) => driver.perplexity(&scored.windows, scored.window / 2, patience),
            Asked::Programs(programs) => programs.perplexity(scored, patience),
        }
    }
}

/// What sides are made with.
pub(super) struct Maker<'a> {
    pub(super) plan: &'a Plan,
    pub(super) book: &'a Book,
    pub(super) subject: &'a Subject,
    pub(super) questions: &'a Questions,
    /// A folder for this run.
    pub(super) scratch: &'a Path,
    /// Of the model's file, for the forms made from it.
    pub(super) sha256: &'a str,
    pub(super) threads: usize,
}

impl Maker<'_> {
    /// Writes the drivers' scripts into the run's folder.
    pub(super) fn scripts(scratch: &Path) -> Result<()> {
        for (name, text) in SCRIPTS {
            let path = scratch.join(name);
            std::fs::write(&path, text)
                .map_err(|cause| Error::System { what: path.display().to_string(), cause })?;
        }
        Ok(())
    }

    fn context(&self) -> usize {
        let work = &self.plan.work;
        let longest = self.questions.prompts.iter().map(|p| p.ids.len()).max().unwrap_or(0) + work.tokens;
        longest.max(work.batch.0 + work.batch.1)
    }

    fn fill(&self, home: &Path) -> Fill {
        Fill::default()
            .with("home", home.display())
            .with("peers", self.plan.peers_folder.display())
            .with("drivers", self.scratch.display())
            .with("threads", self.threads)
            .with("context", self.context())
    }

    fn facts(&self, name: &str, peer: &str) -> SideFacts {
        SideFacts {
            name: name.to_owned(),
            peer: peer.to_owned(),
            subject: self.subject.name(),
            ..SideFacts::default()
        }
    }

    /// Ours: this program again.
    pub(super) fn ours(&self, patience: Patience<'_>) -> std::result::Result<Side, Fault> {
        let model = match self.subject {
            Subject::File { path, .. } => ["-m".to_owned(), path.display().to_string()],
            Subject::Preset { preset, dtype } => {
                ["--preset".to_owned(), format!("{}:{}", preset.name, dtype.to_string().to_lowercase())]
            }
        };
        let [flag, model] = model;
        let program = self.plan.program.display().to_string();
        let mut command =
            vec![program, "peer".into(), "-q".into(), "-t".into(), self.threads.to_string(), flag, model];
        if self.plan.work.prefill == PrefillClass::Fast {
            command.extend(["--prefill", "fast"].map(str::to_owned));
        }
        self.driver(&self.facts(OURS, OURS), command, patience)
    }

    fn driver(
        &self,
        facts: &SideFacts,
        command: Vec<String>,
        patience: Patience<'_>,
    ) -> std::result::Result<Side, Fault> {
        let driver = Driver::start(&command, self.threads, patience)?;
        let mut facts = facts.clone();
        facts.version.clone_from(&driver.ready.version);
        facts.form.clone_from(&driver.ready.form);
        facts.installed_bytes = driver.ready.installed_bytes;
        let repeats = if matches!(self.subject, Subject::Preset { .. }) { 20 } else { 1 };
        let (asked, threads) = (Asked::Driver(driver), self.threads);
        Ok(Side { facts, asked, command, threads, repeats, failed: Vec::new() })
    }

    /// All variants of a peer; those that cannot run as facts that say why.
    pub(super) fn peer(
        &self,
        recipe: &Recipe,
        patience: Patience<'_>,
        say: &mut dyn FnMut(&str),
    ) -> std::result::Result<Vec<std::result::Result<Side, SideFacts>>, Fault> {
        let fill = self.fill(&self.plan.home(recipe));
        let mut facts = look(self.plan, recipe, self.scratch, patience)?;
        facts.subject = self.subject.name();
        if facts.state == State::Absent {
            return Ok(vec![Err(facts)]);
        }
        let variants = match (self.subject, &recipe.preset) {
            (Subject::Preset { .. }, None) => {
                facts.state = State::Skipped;
                facts.words = "its entry has no way to run a preset".into();
                return Ok(vec![Err(facts)]);
            }
            (Subject::Preset { .. }, Some(preset)) => {
                vec![Variant { value: Some(preset.variant.clone()), ..Variant::default() }]
            }
            (Subject::File { .. }, _) if recipe.variant.is_empty() => vec![Variant::default()],
            (Subject::File { .. }, _) => recipe.variant.clone(),
        };
        let mut sides = Vec::with_capacity(variants.len());
        for variant in &variants {
            let mut facts = facts.clone();
            if !variant.name.is_empty() {
                facts.name = format!("{} {}", recipe.name, variant.name);
            }
            match self.variant(recipe, variant, &fill, &facts, patience, say) {
                Ok(side) => sides.push(Ok(side)),
                Err(Fault::Cancelled) => return Err(Fault::Cancelled),
                Err(Fault::Failed(words)) => {
                    facts.state = State::Failed;
                    facts.words = words;
                    sides.push(Err(facts));
                }
            }
        }
        Ok(sides)
    }

    fn variant(
        &self,
        recipe: &Recipe,
        variant: &Variant,
        fill: &Fill,
        facts: &SideFacts,
        patience: Patience<'_>,
        say: &mut dyn FnMut(&str),
    ) -> std::result::Result<Side, Fault> {
        let model = self.model(variant, fill, patience, say)?.display().to_string();
        let value = variant.value.as_ref().unwrap_or(&variant.name);
        let fill = fill.with("model", &model).with("variant", value);
        let failed = |error: Error| Fault::Failed(error.to_string());
        if recipe.driver.is_empty() {
            let mut facts = SideFacts { form: recipe.form.clone(), ..facts.clone() };
            let files = fill.command(&recipe.size).map_err(failed)?;
            facts.installed_bytes = files.iter().map(|f| std::fs::metadata(f).ok().map(|m| m.len())).sum();
            let programs = Programs { programs: recipe.program.clone(), fill, threads: self.threads };
            let (asked, command, threads) = (Asked::Programs(programs), Vec::new(), self.threads);
            return Ok(Side { facts, asked, command, threads, repeats: 1, failed: Vec::new() });
        }
        let driver = match (self.subject, &recipe.preset) {
            (Subject::Preset { .. }, Some(preset)) => &preset.driver,
            _ => &recipe.driver,
        };
        let mut command = fill.command(driver).map_err(failed)?;
        let (threads, context) = (self.threads.to_string(), self.context().to_string());
        let options =
            [("--model", &model), ("--threads", &threads), ("--variant", value), ("--context", &context)];
        command.extend(options.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).clone()]));
        self.driver(facts, command, patience)
    }

    /// What a variant loads.
    fn model(
        &self,
        variant: &Variant,
        fill: &Fill,
        patience: Patience<'_>,
        say: &mut dyn FnMut(&str),
    ) -> std::result::Result<PathBuf, Fault> {
        let (gguf, form) = match (self.subject, &variant.form) {
            (Subject::Preset { preset, .. }, _) => {
                let prompt = &self.questions.first.ids;
                return preset_weights(preset, prompt, self.scratch)
                    .map_err(|e| Fault::Failed(e.to_string()));
            }
            (Subject::File { path, .. }, None) => return Ok(path.clone()),
            (Subject::File { path, .. }, Some(form)) => (path.clone(), form),
        };
        let hash = self.sha256.get(..16).unwrap_or(self.sha256);
        let folder = self.plan.cache.join("forms").join(hash);
        let fill = match &variant.made_by {
            Some(by) => fill.with("home", self.plan.peers_folder.join(by).display()),
            None => fill.clone(),
        };
        // A conversion takes minutes where a sample takes seconds.
        let patience = Patience { timeout: 6 * patience.timeout, ..patience };
        Forms { book: self.book, gguf, folder }.make(form, &fill, patience, say)
    }
}

/// Whether a peer is here: its version, or how it is installed. The drivers' scripts are in `scratch`.
pub(super) fn look(
    plan: &Plan,
    recipe: &Recipe,
    scratch: &Path,
    patience: Patience<'_>,
) -> std::result::Result<SideFacts, Fault> {
    let failed = |error: Error| Fault::Failed(error.to_string());
    let fill = Fill::default()
        .with("home", plan.home(recipe).display())
        .with("peers", plan.peers_folder.display())
        .with("drivers", scratch.display());
    let mut facts = SideFacts {
        name: recipe.name.clone(),
        peer: recipe.name.clone(),
        pinned: recipe.pinned.clone(),
        ..SideFacts::default()
    };
    let patience = Patience { timeout: patience.timeout.min(Duration::from_secs(60)), ..patience };
    match process::run(&fill.command(&recipe.version).map_err(failed)?, 1, patience) {
        Ok(found) => facts.version = version_line(&found.output),
        Err(Fault::Cancelled) => return Err(Fault::Cancelled),
        Err(Fault::Failed(words)) => {
            facts.state = State::Absent;
            facts.words = words;
            facts.install = fill.text(&recipe.install).map_err(failed)?;
        }
    }
    Ok(facts)
}

/// The first line that has a digit: a version.
fn version_line(output: &str) -> String {
    let line = output.lines().map(str::trim).find(|l| l.contains(|c: char| c.is_ascii_digit()));
    smallmind::escaped(line.unwrap_or_default().as_bytes(), 120).to_string()
}

/// The dtype of a preset's peers: they run F32 whatever ours runs.
pub(super) fn peers_precision(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Preset { dtype, .. } if *dtype != DType::F32 => {
            Some("peers run the same model in F32".into())
        }
        _ => None,
    }
}
