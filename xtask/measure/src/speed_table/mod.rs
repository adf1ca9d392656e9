//! `cargo xtask speed-table`: every row of `speeds.toml`, SmallMind and llama.cpp in turn, each sample a process of its own,
//! with the machine's read bandwidth measured between the rounds. Rows are saved as they are done; a run that was
//! interrupted goes on where it stopped.

mod models;
mod render;
mod rows;
mod runner;
mod sample;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use smallmind::CancelToken;
use smallmind_bench::measure::machine::{Environment, sha256_of_file};
use smallmind_bench::results::{Kind, Results, Row, write_whole};

use self::models::Files;
use self::rows::{Case, Table};
use self::runner::Run;

/// The exit code of an interrupted program: 128 + SIGINT.
const INTERRUPTED: u8 = 130;
/// What the note of a row says that Ctrl-C cut short: it is measured again.
const CUT_SHORT: &str = "cut short";

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// llama.cpp's builds: the folder of `scripts/build-llama-cpp`, with native/bin, avx512/bin and avx2/bin in it
    #[arg(long, value_name = "FOLDER")]
    llama_cpp: Option<PathBuf>,
    /// Where the real models are [default: $SMALLMIND_TEST_MODELS, else ~/.cache/smallmind-test-models]
    #[arg(long, value_name = "FOLDER")]
    models: Option<PathBuf>,
    /// Where models are made: four types of SmolLM2, and 1.1 GB of random weights
    #[arg(long, value_name = "FOLDER", default_value = "target/speed-table")]
    work: PathBuf,
    /// Keep the rows in a file; rows that are there already are not measured again
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Seconds for each row; there are at least two rounds, and at least five where time allows
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    budget: u64,
    /// Rows whose name contains one of these, as --list shows them
    #[arg(long, value_delimiter = ',', value_name = "TEXT,…")]
    only: Vec<String>,
    /// The program that is measured [default: the one built beside this]
    #[arg(long, value_name = "FILE")]
    smallmind: Option<PathBuf>,
    /// Name the rows, and measure nothing
    #[arg(long)]
    list: bool,
    /// Show what is saved, and measure nothing
    #[arg(long, requires = "save")]
    show: bool,
    /// Put the table into a document, between its marks
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, cancel: &CancelToken) -> Result<ExitCode> {
    let table = Table::read()?;
    let all = table.cases();
    let wanted = |case: &&Case| {
        let id = id(case);
        arguments.only.is_empty() || arguments.only.iter().any(|text| id.contains(text.as_str()))
    };
    let cases: Vec<&Case> = all.iter().filter(wanted).collect();
    if cases.is_empty() {
        bail!("no row's name contains {}: --list names them", arguments.only.join(" or "));
    }
    if arguments.list {
        cases.iter().for_each(|case| {
            crate::print(&format!("{}  asked {}, goal {}", id(case), case.asked.words(), case.goal.words()));
        });
        return Ok(ExitCode::SUCCESS);
    }
    let saved = match arguments.save.as_deref().filter(|path| path.exists()) {
        Some(path) => Some(Results::load(path)?),
        None => None,
    };
    let (results, failed) = match saved {
        Some(saved) if arguments.show => (saved, Vec::new()),
        saved => measure(arguments, &table, &cases, saved, cancel)?,
    };
    let text = render::markdown(&results, &all);
    crate::print(&text);
    if let Some(path) = &arguments.update {
        let name = path.display().to_string();
        let document = std::fs::read_to_string(path).with_context(|| name.clone())?;
        write_whole(path, &render::update(&name, &document, &text)?)?;
    }
    failed.iter().for_each(|why| crate::note(&format!("failed: {why}")));
    Ok(match failed.is_empty() {
        _ if cancel.is_cancelled() => ExitCode::from(INTERRUPTED),
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The row's name in files of results.
fn id(case: &Case) -> String {
    runner::row(case, Vec::new()).id
}

fn measure(
    arguments: &Arguments,
    table: &Table,
    cases: &[&Case],
    saved: Option<Results>,
    cancel: &CancelToken,
) -> Result<(Results, Vec<String>)> {
    let beside = || std::env::current_exe().map(|p| p.with_file_name("smallmind"));
    let program = arguments.smallmind.clone().map_or_else(beside, Ok)?;
    let Some(llama_cpp) = &arguments.llama_cpp else {
        bail!("--llama-cpp FOLDER is missing: `scripts/build-llama-cpp FOLDER native avx512 avx2` makes it")
    };
    let models = match arguments.models.clone().or_else(|| set("SMALLMIND_TEST_MODELS")) {
        Some(folder) => folder,
        None => set("HOME").context("$HOME is not set: give --models")?.join(".cache/smallmind-test-models"),
    };
    let builds = Builds { folder: llama_cpp, needed: cases.iter().map(|c| c.build()).collect() };
    let mut results = Results::new(Kind::Compare, &command_line(), Environment::here());
    results.environment.notes = builds.notes(&program)?;
    if let Some(saved) = saved {
        results = go_on(results, saved, arguments)?;
    }
    results.command = command_line();
    let files = Files { table, models: &models, work: &arguments.work, program: &program, cancel };
    let budget = Duration::from_secs(arguments.budget);
    let (save, failed) = (arguments.save.as_deref(), Vec::new());
    let mut run = Run { files: &files, llama_cpp, budget, results, save, cancel, failed };
    run.all(cases)?;
    Ok((run.results, run.failed))
}

fn set(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// As the user wrote it, but of whole paths the last part: where a machine keeps its files is of no interest to others.
fn command_line() -> String {
    let last = |word: &str| word.rsplit('/').find(|part| !part.is_empty()).unwrap_or(word).to_owned();
    let words = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    let words = words.map(|word| if word.starts_with('/') { last(&word) } else { word });
    ["cargo".to_owned(), "xtask".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// The saved run, to be added to; figures of another machine or program are not mixed with these.
fn go_on(now: Results, saved: Results, arguments: &Arguments) -> Result<Results> {
    let name = arguments.save.as_deref().map(|p| p.display().to_string()).unwrap_or_default();
    let mut differences = now.environment.differences(&saved.environment);
    // Each run has the models of its rows.
    differences.retain(|d| !d.starts_with("another file behind"));
    for (what, value) in &now.environment.notes {
        match saved.environment.notes.iter().find(|(name, _)| name == what) {
            Some((_, then)) if then != value => differences.push(format!("{what}: {then} then, {value} now")),
            _ => {}
        }
    }
    if let Some(difference) = differences.first() {
        bail!("{name} holds another run ({difference}): give --save another file");
    }
    let mut saved = saved;
    for (what, value) in now.environment.notes {
        if !saved.environment.notes.iter().any(|(name, _)| *name == what) {
            saved.environment.notes.push((what, value));
        }
    }
    saved.rows.retain(|row| !cut_short(row));
    Ok(saved)
}

fn cut_short(row: &Row) -> bool {
    row.note.contains(CUT_SHORT)
}

/// llama.cpp's builds, by the instructions they may use.
struct Builds<'a> {
    folder: &'a Path,
    needed: Vec<&'a str>,
}

impl Builds<'_> {
    fn bin(folder: &Path, build: &str) -> PathBuf {
        folder.join(build).join("bin")
    }

    /// What identifies the programs of a run. Rows without their build are left out later.
    fn notes(&self, program: &Path) -> Result<Vec<(String, String)>> {
        let short = |path: &Path| -> Result<String> { Ok(sha256_of_file(path)?.chars().take(16).collect()) };
        if !program.is_file() {
            bail!("{}: is not there: cargo build --release -p smallmind-cli", program.display());
        }
        let mut notes = vec![("program's SHA-256".to_owned(), short(program)?)];
        for build in ["native", "avx512", "avx2"] {
            let bench = Builds::bin(self.folder, build).join("llama-bench");
            if self.needed.contains(&build) && bench.is_file() {
                notes.push((format!("llama-bench's SHA-256, {build} build"), short(&bench)?));
            }
        }
        Ok(notes)
    }
}
