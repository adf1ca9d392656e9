//! `cargo xtask peers`: SmallMind against llama.cpp, PyTorch and ONNX Runtime on the same files, threads and tests,
//! alternated (A B A B …) in one run, with the machine's limits measured in the same run. Prints one table; every row
//! goes to stderr, and to the file of `--out`, as soon as it is measured. A row that fails says why and the run goes on.
//!
//! It builds `smallmind` and itself with optimizations before it measures anything.

mod options;
mod programs;
mod random_model;
mod seed;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use options::{Options, target_folder};
use programs::{FLASH, Ours, Test, answer, version};
use smallmind_bench::measure::bytes::Bytes;
use smallmind_bench::measure::kernels;
use smallmind_bench::measure::machine::Environment;
use smallmind_bench::measure::roofline::Limits;
use smallmind_bench::measure::stats::Samples;
use smallmind_bench::results::{Kind, OURS, Results, Row, Side as Figures, Unit};

/// Tokens of the random model's decode: it is ten times as slow as the others.
const RANDOM_TOKENS: usize = 64;
const DEPTHS: [usize; 2] = [1024, 4096];
const SEQUENCES: usize = 16;
/// Tokens of a run whose peak memory is taken.
const MEMORY_TOKENS: usize = 16;

/// Runs the comparison and returns the table, as Markdown.
pub(crate) fn run(arguments: &[&str]) -> Result<(String, bool)> {
    let options = Options::parse(arguments)?;
    if cfg!(debug_assertions) {
        return optimized(arguments);
    }
    let mut run = Run::new(options)?;
    let complete = run.everything()?;
    Ok((run.report.sides_markdown(), complete))
}

/// The same command by an optimized build: half of what is measured runs in this process.
fn optimized(arguments: &[&str]) -> Result<(String, bool)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--release", "-p", "smallmind-cli", "-p", "xtask"];
    if !Command::new(cargo).args(build).status().context("cannot run cargo")?.success() {
        bail!("the release build failed");
    }
    let program = target_folder().join("release/xtask");
    let output = Command::new(&program).arg("peers").args(arguments).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| program.display().to_string())?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()))
}

struct Run {
    options: Options,
    ours: Ours,
    limits: Limits,
    report: Results,
}

/// One side of a row: its name and how to take one sample.
type Side<'a> = (String, Box<dyn Fn() -> Result<f64> + 'a>);

fn side<'a>(name: &str, sample: impl Fn() -> Result<f64> + 'a) -> Side<'a> {
    (name.to_owned(), Box::new(sample))
}

impl Run {
    fn new(options: Options) -> Result<Run> {
        let ours = Ours::new(target_folder().join("release/smallmind"))?;
        let mut environment = Environment::here();
        environment.notes = notes(&options);
        let limits = Limits::measure(&options.threads);
        let mut report =
            Results::new(Kind::Compare, &format!("cargo xtask peers {}", options.line), environment);
        report.limits = Some(limits.clone());
        say(&report.environment_markdown());
        Ok(Run { options, ours, limits, report })
    }

    /// Every part that was asked for; whether all rows have figures.
    fn everything(&mut self) -> Result<bool> {
        self.write()?;
        let (options, limits) = (self.options.clone(), self.limits.clone());
        if options.wants("kernels") {
            let mut rows = Vec::new();
            kernels::measure(options.rounds, &limits, |row| {
                rows.push(row);
                Ok(())
            })?;
            rows.into_iter().try_for_each(|row| self.done(row))?;
        }
        if options.wants("seed") {
            seed::measure(&options, &limits, |row| self.done(row))?;
        }
        for model in self.options.models.clone() {
            let bytes = Bytes::of_file(&model)?;
            for threads in self.options.threads.clone() {
                let llama = self.options.program("llama-bench");
                if self.options.wants("prefill") {
                    self.prefill("prefill", &model, threads)?;
                }
                if self.options.wants("decode") {
                    let test = Test { threads, prompt: 0, generated: 128, depth: 0 };
                    self.bench("decode", None, &llama, &model, test, &bytes)?;
                }
            }
            if self.options.wants("cold") {
                self.cold_start(&model)?;
            }
            if self.options.wants("memory") {
                self.memory(&model)?;
            }
        }
        let (models, threads) = self.options.dear();
        for (model, threads) in pairs(models, threads) {
            self.dear(&model, threads)?;
        }
        if self.options.wants("random") {
            self.random()?;
        }
        let whole = |row: &Row| !row.samples(OURS).0.is_empty() && !row.note.contains("failed");
        Ok(self.report.rows.iter().all(whole))
    }

    /// Depth, batch and the other instruction sets.
    fn dear(&mut self, model: &Path, threads: usize) -> Result<()> {
        let bytes = Bytes::of_file(model)?;
        let llama = self.options.program("llama-bench");
        if self.options.wants("depth") {
            for depth in DEPTHS {
                let test = Test { threads, prompt: 0, generated: 64, depth };
                self.bench("depth", None, &llama, model, test, &bytes)?;
            }
        }
        if self.options.wants("batch") {
            self.batch(model, threads, &bytes)?;
        }
        if self.options.wants("isa") {
            for (isa, llama) in self.options.forced.clone() {
                for (prompt, generated) in [(512, 0), (0, 128)] {
                    let test = Test { threads, prompt, generated, depth: 0 };
                    self.bench("isa", Some(isa), &llama, model, test, &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn prefill(&mut self, part: &'static str, model: &Path, threads: usize) -> Result<()> {
        let test = Test { threads, prompt: 512, generated: 0, depth: 0 };
        let llama = self.options.program("llama-bench");
        let bytes = Bytes::of_file(model)?;
        self.bench(part, None, &llama, model, test, &bytes)?;
        if !self.ours.bench_takes("--prefill") {
            return Ok(());
        }
        let fast = || self.ours.bench(model, test, &["--prefill", "fast"]);
        let sides = self.flash_sides(|flash| programs::llama_bench(&llama, model, test, flash));
        let row = self.alternate(
            part,
            model,
            threads,
            "pp512, fast class".into(),
            Unit::TokensPerSecond,
            &fast,
            &sides,
        );
        drop(sides);
        self.done(row)
    }

    /// A test of llama-bench in both programs, ours with an instruction set forced where one is named.
    fn bench(
        &mut self,
        part: &'static str,
        isa: Option<&'static str>,
        llama: &Path,
        model: &Path,
        test: Test,
        bytes: &Bytes,
    ) -> Result<()> {
        let forced = isa.map(|isa| self.ours.forced(isa));
        let ours = || forced.as_ref().unwrap_or(&self.ours).bench(model, test, &[]);
        let sides = self.flash_sides(|flash| programs::llama_bench(llama, model, test, flash));
        let name = isa.map_or(test.name(), |isa| format!("{}, {isa}", test.name()));
        let mut row = self.alternate(part, model, test.threads, name, Unit::TokensPerSecond, &ours, &sides);
        drop(sides);
        if test.prompt == 0 {
            let bytes = bytes.at(test.depth, test.generated);
            row.of_limit = self.limits.share(test.threads, bytes, row.median()).filter(|s| s.is_finite());
        }
        self.done(row)
    }

    fn batch(&mut self, model: &Path, threads: usize, bytes: &Bytes) -> Result<()> {
        let program = self.options.program("llama-batched-bench");
        // Ours counts the prompt as depth: what is measured is the decode of all sequences.
        let test = Test { threads, prompt: 0, generated: 128, depth: 100 };
        let theirs = Test { prompt: 100, depth: 0, ..test };
        let sequences = SEQUENCES.to_string();
        let ours = || self.ours.bench(model, test, &["-b", &sequences]);
        let sides =
            self.flash_sides(|flash| programs::llama_batched(&program, model, theirs, SEQUENCES, flash));
        let name = format!("{SEQUENCES} sequences, decode in all");
        let mut row = self.alternate("batch", model, threads, name, Unit::TokensPerSecond, &ours, &sides);
        drop(sides);
        let each = bytes.shared(SEQUENCES, test.depth, test.generated);
        let (rate, set) = (row.median(), bytes.weights);
        row.of_limit = self.limits.bandwidth(threads, set).map(|b| each * rate / b).filter(|s| s.is_finite());
        self.done(row)
    }

    fn cold_start(&mut self, model: &Path) -> Result<()> {
        let (threads, llama) = (self.options.most_threads(), self.options.program("llama-completion"));
        // The file is to be in the page cache for whoever comes first.
        std::io::copy(&mut std::fs::File::open(model)?, &mut std::io::sink())?;
        let ours = || programs::wall_seconds(&mut self.ours.complete(model, threads, 1));
        let sides = [side("llama.cpp", || {
            programs::wall_seconds(&mut programs::llama_complete(&llama, model, threads, 1))
        })];
        let name = "process start to its first token's end".into();
        let row = self.alternate("cold", model, threads, name, Unit::Seconds, &ours, &sides);
        drop(sides);
        self.done(row)
    }

    fn memory(&mut self, model: &Path) -> Result<()> {
        let (threads, llama) = (self.options.most_threads(), self.options.program("llama-completion"));
        let n = MEMORY_TOKENS;
        let ours = || programs::peak_megabytes(&mut self.ours.complete(model, threads, n));
        let theirs = || programs::peak_megabytes(&mut programs::llama_complete(&llama, model, threads, n));
        let name = format!("peak memory, {n} tokens");
        let mut row = self.alternate(
            "memory",
            model,
            threads,
            name,
            Unit::Megabytes,
            &ours,
            &[side("llama.cpp", theirs)],
        );
        let file = std::fs::metadata(model)?.len() as f64 / 1e6;
        row.note = join(&row.note, &format!("file {file:.0} MB"));
        self.done(row)
    }

    fn random(&mut self) -> Result<()> {
        let Some(vocabulary) = self.options.models.first() else { return Ok(()) };
        let model = random_model::file(&self.options.cache, vocabulary)?;
        let bytes = Bytes::of_file(&model)?;
        let llama = self.options.program("llama-bench");
        for threads in self.options.threads.clone() {
            self.prefill("random", &model, threads)?;
            let test = Test { threads, prompt: 0, generated: RANDOM_TOKENS, depth: 0 };
            self.bench("random", None, &llama, &model, test, &bytes)?;
        }
        Ok(())
    }

    /// llama.cpp without and with flash attention.
    fn flash_sides<'a>(&self, sample: impl Fn(&str) -> Result<f64> + Clone + 'a) -> Vec<Side<'a>> {
        let of = |(name, flash): (&str, &'static str)| {
            let sample = sample.clone();
            side(name, move || sample(flash))
        };
        FLASH.map(of).into_iter().collect()
    }

    /// Samples of ours and of every peer in turn. A side that fails once is left out of further rounds.
    #[allow(clippy::too_many_arguments, reason = "they are the columns of the row")]
    fn alternate(
        &self,
        part: &'static str,
        model: &Path,
        threads: usize,
        test: String,
        unit: Unit,
        ours: &dyn Fn() -> Result<f64>,
        peers: &[Side<'_>],
    ) -> Row {
        let subject = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (samples, note) = sample(self.options.rounds, ours, peers);
        let names = std::iter::once(OURS.to_owned()).chain(peers.iter().map(|(name, _)| name.clone()));
        let sides = names.zip(samples).map(|(name, samples)| Figures { name, samples }).collect();
        Row { note, ..Row::with_sides(part, &subject, threads, &test, unit, sides) }
    }

    fn done(&mut self, row: Row) -> Result<()> {
        say(&row.sides_markdown());
        self.report.push(row);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let Some(path) = &self.options.out else { return Ok(()) };
        Ok(self.report.save(path)?)
    }
}

/// The other programs' versions, and how the rows are taken.
fn notes(options: &Options) -> Vec<(String, String)> {
    let mut notes = vec![("llama.cpp".to_owned(), version(&options.program("llama-bench")))];
    notes.extend(options.forced.iter().map(|(isa, bench)| (format!("llama.cpp for {isa}"), version(bench))));
    if let Some(python) = &options.python {
        let code = "import importlib.metadata as m, platform\n\
                    print(platform.python_version(), *[f'{p} {m.version(p)}' for p in ('torch', 'onnxruntime')], sep=', ')";
        let said = answer(Command::new(python).args(["-c", code]));
        notes.push(("Python".to_owned(), said.map_or_else(|e| e.to_string(), |s| s.trim().to_owned())));
    }
    let threads: Vec<String> = options.threads.iter().map(usize::to_string).collect();
    notes.push(("rounds".to_owned(), format!("{} on {} threads", options.rounds, threads.join(" and "))));
    notes
}

/// Samples of the first side and of every other in turn, and what failed.
fn sample(rounds: usize, first: &dyn Fn() -> Result<f64>, others: &[Side<'_>]) -> (Vec<Samples>, String) {
    let mut samples = vec![Samples::default(); 1 + others.len()];
    let mut failed = vec![false; 1 + others.len()];
    let mut note = String::new();
    for _ in 0..rounds {
        let takes =
            std::iter::once(("SmallMind", first)).chain(others.iter().map(|(n, f)| (n.as_str(), &**f)));
        for (i, (name, take)) in takes.enumerate() {
            if failed[i] {
                continue;
            }
            match take() {
                Ok(figure) => samples[i].0.push(figure),
                Err(error) => {
                    failed[i] = true;
                    let why = format!("{name} failed: {error:#}").replace(['|', '\n'], " ");
                    note = join(&note, &why);
                }
            }
        }
    }
    (samples, note)
}

fn join(a: &str, b: &str) -> String {
    if a.is_empty() { b.to_owned() } else { format!("{a}; {b}") }
}

fn pairs(models: &[PathBuf], threads: &[usize]) -> Vec<(PathBuf, usize)> {
    models.iter().flat_map(|m| threads.iter().map(|t| (m.clone(), *t))).collect()
}

/// To the terminal, while the run goes on.
#[allow(clippy::print_stderr, reason = "a command for the terminal")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn sides_take_turns_and_one_that_fails_is_named_and_left_out() {
        let order = RefCell::new(String::new());
        let take = |name: char, figure: Option<f64>| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                figure.context("no | answer")
            }
        };
        let others = [side("b", take('b', None)), side("c", take('c', Some(2.0)))];
        let (samples, note) = sample(2, &take('a', Some(1.0)), &others);
        assert_eq!(*order.borrow(), "abcac");
        assert_eq!(samples, [Samples(vec![1.0; 2]), Samples(vec![]), Samples(vec![2.0; 2])]);
        assert_eq!(note, "b failed: no   answer");
    }
}
