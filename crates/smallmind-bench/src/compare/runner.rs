//! The run: sides are started, and asked in turn, round by round, until all rounds are done or the time is used up. What
//! has been measured is saved after every round, and kept when the run is interrupted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use smallmind::{CancelToken, Model};

use super::process::{Fault, Patience};
use super::recipe::{Book, Recipe};
use super::sides::{Detail, Maker, Side, SideFacts, State, peers_precision};
use super::work::{PARTS, Questions, Scratch, Subject, Text, Work};
use crate::measure::bytes::Bytes;
use crate::measure::machine::{Environment, ModelFacts};
use crate::measure::roofline::Limits;
use crate::measure::stats::Samples;
use crate::results::{Kind, OURS, Results, Row, Side as Figures, Unit};
use crate::{Error, Result};

/// Between two samples: threads of the side before that still spin come to rest.
const PAUSE: Duration = Duration::from_millis(150);
/// Rounds that are done whatever the time.
const LEAST_ROUNDS: usize = 2;

/// Everything a comparison needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The models.
    pub subjects: Vec<Subject>,
    /// How much of what.
    pub work: Work,
    /// Where prompts come from.
    pub text: Text,
    /// Peers by name; `None` takes all that are known.
    pub peers: Option<Vec<String>>,
    /// Where peers are that do not lie in the peers' folder: name and folder.
    pub homes: Vec<(String, PathBuf)>,
    /// Where peers lie.
    pub peers_folder: PathBuf,
    /// Where converted models are kept.
    pub cache: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// The command line that makes the run again.
    pub command: String,
}

impl Plan {
    pub(super) fn home(&self, recipe: &Recipe) -> PathBuf {
        let given = self.homes.iter().find(|(name, _)| is(name, recipe));
        given.map_or_else(|| self.peers_folder.join(&recipe.home), |(_, home)| home.clone())
    }

    /// The peers asked for, in the order of the file.
    fn wanted<'b>(&self, book: &'b Book) -> Result<Vec<&'b Recipe>> {
        let given = self.peers.iter().flatten().chain(self.homes.iter().map(|(name, _)| name));
        if let Some(unknown) = given.into_iter().find(|name| !book.peers.iter().any(|r| is(name, r))) {
            let names: Vec<&str> = book.peers.iter().map(|r| r.name.as_str()).collect();
            return Err(Error::Usage(format!(
                "no peer `{unknown}` is known: there are {}",
                names.join(", ")
            )));
        }
        let asked =
            |r: &&Recipe| self.peers.as_ref().is_none_or(|names| names.iter().any(|name| is(name, r)));
        Ok(book.peers.iter().filter(asked).collect())
    }

    fn check(&self) -> Result<()> {
        if let Some(unknown) = self.work.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
            return Err(Error::Usage(format!(
                "no part `{unknown}` is known: there are {}",
                PARTS.join(", ")
            )));
        }
        let work = &self.work;
        if work.tokens < 2 || work.batch.1 < 2 {
            return Err(Error::Usage("at least 2 tokens are needed to time a decode".into()));
        }
        if work.prompts.is_empty() || work.threads.is_empty() || self.subjects.is_empty() {
            return Err(Error::Usage("a model, a prompt length and a number of threads are needed".into()));
        }
        Ok(())
    }
}

/// Whether `name` is how a user would write the peer's name: case, blanks and dots do not count.
fn is(name: &str, recipe: &Recipe) -> bool {
    let plain =
        |s: &str| s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    plain(name) == plain(&recipe.name)
}

/// Who watches.
pub struct Watch<'a> {
    /// Is told what goes on, a line at a time.
    pub say: &'a mut dyn FnMut(&str),
    /// Is given everything measured so far, after every round.
    pub save: &'a mut dyn FnMut(&Results) -> Result<()>,
    /// Stops.
    pub cancel: &'a CancelToken,
}

/// Which of the peers asked for are here: their versions, or the commands that install them.
///
/// # Errors
/// Where a peer is named that is not known, or the run was interrupted.
pub fn found(plan: &Plan, cancel: &CancelToken) -> Result<Vec<SideFacts>> {
    let book = Book::read()?;
    let scratch = Scratch::new(&plan.cache)?;
    Maker::scripts(scratch.path())?;
    let patience = Patience { timeout: plan.work.timeout, cancel };
    let look = |recipe: &&Recipe| match super::sides::look(plan, recipe, scratch.path(), patience) {
        Ok(facts) => Ok(facts),
        Err(Fault::Cancelled) => Err(Error::Interrupted),
        Err(Fault::Failed(words)) => Err(Error::Side(format!("{}: {words}", recipe.name))),
    };
    plan.wanted(&book)?.iter().map(look).collect()
}

/// Compares.
///
/// # Errors
/// Where what was asked for makes no sense, ours cannot run the model, or a file cannot be written. A peer that fails is
/// no error: the results say so.
pub fn run(plan: &Plan, watch: &mut Watch<'_>) -> Result<Results> {
    plan.check()?;
    let book = Book::read()?;
    let peers = plan.wanted(&book)?;
    let mut environment = Environment::here();
    let mut largest = 0;
    for subject in &plan.subjects {
        let gguf = subject.open()?;
        check_context(subject, &gguf, &plan.work)?;
        environment.models.push(ModelFacts::of(&subject.name(), &gguf)?);
        largest = largest.max(usize::try_from(gguf.file_len()).unwrap_or(usize::MAX));
    }
    let mut results = Results::new(Kind::Compare, &plan.command, environment);
    (watch.say)("measuring the machine's limits");
    results.limits = Some(Limits::measure_for(&plan.work.threads, largest));
    let mut detail = Detail { text: plan.text.name.clone(), rounds: plan.work.rounds, ..Detail::default() };
    let runs = plan.subjects.len() * plan.work.threads.len();
    let begun = Instant::now();
    let mut done = 0;
    for (i, subject) in plan.subjects.iter().enumerate() {
        for &threads in &plan.work.threads {
            // Time that one leaves is the next one's.
            let left = plan.work.budget.saturating_sub(begun.elapsed());
            let budget = left / u32::try_from(runs - done).unwrap_or(1);
            let sha256 = results.environment.models[i].sha256.clone();
            let run = Run { plan, book: &book, peers: &peers, subject, threads, sha256, budget };
            results.complete = run.measure(&mut results, &mut detail, watch)?;
            results.detail = serde_json::to_value(&detail).unwrap_or_default();
            (watch.save)(&results)?;
            if !results.complete {
                return Ok(results);
            }
            done += 1;
        }
    }
    Ok(results)
}

fn check_context(subject: &Subject, gguf: &smallmind::Gguf, work: &Work) -> Result<()> {
    let context = smallmind::Config::read(gguf)?.context;
    let longest = work.prompts.iter().max().unwrap_or(&0) + work.tokens;
    if matches!(subject, Subject::File { .. }) && longest > context {
        let name = subject.name();
        return Err(Error::Usage(format!(
            "prompt and answer of {longest} tokens are more than the {context} that {name} was made for"
        )));
    }
    Ok(())
}

/// One model on one number of threads.
struct Run<'a> {
    plan: &'a Plan,
    book: &'a Book,
    peers: &'a [&'a Recipe],
    subject: &'a Subject,
    threads: usize,
    sha256: String,
    budget: Duration,
}

/// Something to ask every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// The prompt of that number, and the tokens behind it.
    Generate(usize),
    First,
    Cold,
    Batch,
    Perplexity,
}

impl Task {
    /// What a side must be able to do.
    fn needs(self) -> &'static str {
        match self {
            Task::Generate(_) | Task::First => "generate",
            Task::Cold => "cold",
            Task::Batch => "batch",
            Task::Perplexity => "perplexity",
        }
    }
}

impl Run<'_> {
    /// All rounds; whether they were not interrupted.
    fn measure(&self, results: &mut Results, detail: &mut Detail, watch: &mut Watch<'_>) -> Result<bool> {
        let begun = Instant::now();
        let scratch = Scratch::new(&self.plan.cache)?;
        Maker::scripts(scratch.path())?;
        let gguf = self.subject.open()?;
        let work = self.work();
        let questions = match self.subject {
            Subject::Preset { .. } => Questions::of_preset(),
            Subject::File { .. } => {
                let context = smallmind::Config::read(&gguf)?.context;
                Questions::of_text(
                    &Model::tokenizer_of(&gguf)?,
                    context,
                    &self.plan.text,
                    &work,
                    scratch.path(),
                )?
            }
        };
        if let Subject::File { path, .. } = self.subject {
            // In the page cache for whoever comes first.
            let read =
                std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
            read.map_err(|cause| Error::System { what: path.display().to_string(), cause })?;
        }
        let Some((sides, lacking)) = self.start(&questions, scratch.path(), watch)? else { return Ok(false) };
        let mut round =
            Round { run: self, questions, work, sides, rows: self.rows(), ours: Vec::new(), number: 0 };
        round.sizes();
        let plural = if self.threads == 1 { "" } else { "s" };
        let name = format!("{}, {} thread{plural}", self.subject.name(), self.threads);
        let (rows, facts, counts) = (results.rows.len(), detail.sides.len(), detail.measured.len());
        loop {
            let round_begun = Instant::now();
            let whole = round.all(watch);
            round.rows.shares(&Bytes::of(&gguf)?, results.limits.as_ref(), &round.work, &round.questions);
            results.rows.truncate(rows);
            round.rows.rows.iter().for_each(|row| results.push(row.clone()));
            detail.sides.truncate(facts);
            detail.sides.extend(round.sides.iter().map(|s| s.facts.clone()).chain(lacking.iter().cloned()));
            detail.measured.truncate(counts);
            detail.measured.push((self.subject.name(), self.threads, round.number));
            results.detail = serde_json::to_value(&*detail).unwrap_or_default();
            // Until all is done.
            results.complete = false;
            (watch.save)(results)?;
            let (seconds, asked) = (begun.elapsed().as_secs_f64(), round.work.rounds);
            (watch.say)(&format!("{name}: {} of {asked} rounds, {seconds:.0} s", round.number));
            if !whole || round.number >= asked {
                return Ok(whole);
            }
            if round.number >= LEAST_ROUNDS && begun.elapsed() + round_begun.elapsed() > self.budget {
                (watch.say)(&format!("{name}: the time is used up; --budget gives more"));
                return Ok(true);
            }
        }
    }

    /// What is done on this subject: a preset is the seed's measurement.
    fn work(&self) -> Work {
        match self.subject {
            Subject::File { .. } => {
                let mut work = self.plan.work.clone();
                // Nothing is longer than what was asked for: the model may not have room for it.
                let shortest = work.prompts.iter().copied().min().unwrap_or(1);
                work.first = work.first.min(shortest);
                work.batch = (work.batch.0.min(shortest), work.batch.1.min(work.tokens));
                work
            }
            Subject::Preset { .. } => Work { prompts: vec![10], tokens: 50, ..self.plan.work.clone() },
        }
    }

    fn rows(&self) -> Rows {
        Rows { subject: self.subject.name(), threads: self.threads, rows: Vec::new() }
    }

    /// Every side that runs, ours first, and what is to be said of the others; `None` after Ctrl-C.
    fn start(
        &self,
        questions: &Questions,
        scratch: &std::path::Path,
        watch: &mut Watch<'_>,
    ) -> Result<Option<(Vec<Side>, Vec<SideFacts>)>> {
        let patience = Patience { timeout: self.plan.work.timeout, cancel: watch.cancel };
        let (plan, book, subject) = (self.plan, self.book, self.subject);
        let (sha256, threads) = (self.sha256.as_str(), self.threads);
        let maker = Maker { plan, book, subject, questions, scratch, sha256, threads };
        let mut sides = match maker.ours(patience) {
            Ok(side) => vec![side],
            Err(Fault::Cancelled) => return Ok(None),
            Err(Fault::Failed(words)) => {
                return Err(Error::Side(format!("SmallMind cannot run {}: {words}", subject.name())));
            }
        };
        let mut lacking = Vec::new();
        for recipe in self.peers {
            let made = match maker.peer(recipe, patience, watch.say) {
                Ok(made) => made,
                Err(Fault::Cancelled) => return Ok(None),
                Err(Fault::Failed(words)) => return Err(Error::Side(format!("{}: {words}", recipe.name))),
            };
            for side in made {
                match side {
                    Ok(side) => {
                        (watch.say)(&format!(
                            "{}: {}, {}",
                            side.facts.name, side.facts.version, side.facts.form
                        ));
                        sides.push(side);
                    }
                    Err(facts) => {
                        (watch.say)(&told(&facts));
                        lacking.push(facts);
                    }
                }
            }
        }
        Ok(Some((sides, lacking)))
    }
}

/// A side that is not measured, in a sentence.
pub(super) fn told(facts: &SideFacts) -> String {
    let (name, words, install) = (&facts.name, &facts.words, &facts.install);
    match facts.state {
        State::Absent => format!("{name} is not installed: skipped; to have it: {install}"),
        State::Skipped => format!("{name} is skipped: {words}"),
        State::Failed => format!("{name} failed: {words}"),
        State::Measured => format!("{name}: {words}"),
    }
}

/// A run under way.
struct Round<'a> {
    run: &'a Run<'a>,
    questions: Questions,
    work: Work,
    sides: Vec<Side>,
    rows: Rows,
    /// Our tokens behind the first prompt.
    ours: Vec<u32>,
    /// Rounds done.
    number: usize,
}

impl Round<'_> {
    /// One sample of everything from every side; false after Ctrl-C.
    fn all(&mut self, watch: &mut Watch<'_>) -> bool {
        for task in self.tasks() {
            for at in 0..self.sides.len() {
                if watch.cancel.is_cancelled() {
                    return false;
                }
                if !self.sides[at].can(task.needs()) {
                    continue;
                }
                std::thread::sleep(PAUSE);
                let patience = Patience { timeout: self.work.timeout, cancel: watch.cancel };
                match self.ask(task, at, patience) {
                    Ok(()) => {}
                    Err(Fault::Cancelled) => return false,
                    Err(Fault::Failed(words)) => {
                        let side = &mut self.sides[at];
                        side.failed.push(task.needs());
                        let words = format!("{}: {words}", task.needs());
                        (watch.say)(&format!("{} failed at {words}", side.facts.name));
                        let before = std::mem::take(&mut side.facts.words);
                        side.facts.words =
                            if before.is_empty() { words } else { format!("{before}; {words}") };
                        side.facts.state = State::Failed;
                    }
                }
            }
        }
        self.number += 1;
        true
    }

    fn tasks(&self) -> Vec<Task> {
        let wants = |parts: &[&str]| parts.iter().any(|part| self.work.wants(part));
        let file = matches!(self.run.subject, Subject::File { .. });
        let mut tasks = Vec::new();
        if wants(&["prefill", "decode", "memory"]) || !file {
            tasks.extend((0..self.questions.prompts.len()).map(Task::Generate));
        }
        if file && wants(&["ttft"]) {
            tasks.push(Task::First);
        }
        if wants(&["cold"]) {
            tasks.push(Task::Cold);
        }
        if file && wants(&["batch"]) && self.work.sequences > 1 {
            tasks.push(Task::Batch);
        }
        // The same every time.
        if wants(&["perplexity"]) && self.number == 0 && !self.questions.scored.windows.is_empty() {
            tasks.push(Task::Perplexity);
        }
        tasks
    }

    fn ask(&mut self, task: Task, at: usize, patience: Patience<'_>) -> std::result::Result<(), Fault> {
        let (work, questions, side, rows) =
            (&self.work, &self.questions, &mut self.sides[at], &mut self.rows);
        let name = side.facts.name.clone();
        let first = self.number == 0;
        match task {
            Task::Generate(n) => {
                let prompt = &questions.prompts[n];
                let (generated, peak) = side.generate(prompt, work.tokens, patience)?;
                let (length, tokens) = (prompt.ids.len(), work.tokens);
                if matches!(self.run.subject, Subject::Preset { .. }) {
                    let seconds = (generated.first_ms + generated.decode_ms) / 1e3;
                    let test = format!("{tokens} after {length}");
                    rows.add("generate", &test, Unit::TokensPerSecond, &name, tokens as f64 / seconds);
                    let test = format!("first of {length}");
                    rows.add("ttft", &test, Unit::Microseconds, &name, 1e3 * generated.first_ms);
                } else {
                    if work.wants("prefill") {
                        let rate = 1e3 * length as f64 / generated.first_ms;
                        rows.add("prefill", &format!("pp{length}"), Unit::TokensPerSecond, &name, rate);
                    }
                    if work.wants("decode") {
                        let rate = 1e3 * (tokens - 1) as f64 / generated.decode_ms;
                        rows.add(
                            "decode",
                            &format!("tg{tokens} @ d{length}"),
                            Unit::TokensPerSecond,
                            &name,
                            rate,
                        );
                    }
                }
                if first && n == 0 {
                    if let Some(peak) = peak.filter(|_| work.wants("memory")) {
                        let test = format!("peak of pp{length} and tg{tokens}");
                        rows.add("memory", &test, Unit::Megabytes, &name, peak as f64 / 1e6);
                    }
                    if name == OURS {
                        self.ours = generated.tokens;
                    } else if !generated.tokens.is_empty() {
                        let pairs = generated.tokens.iter().zip(&self.ours);
                        let same = pairs.take_while(|(theirs, ours)| theirs == ours).count();
                        side.facts.same_tokens = Some((same, self.ours.len()));
                    }
                }
            }
            Task::First => {
                let (generated, _) = side.generate(&questions.first, 1, patience)?;
                let test = format!("first of {}", questions.first.ids.len());
                rows.add("ttft", &test, Unit::Milliseconds, &name, generated.first_ms);
            }
            Task::Cold => {
                let seconds = side.cold(&questions.first, patience)?;
                rows.add("cold", "process start to first token", Unit::Seconds, &name, seconds);
            }
            Task::Batch => {
                let rate = side.batch(&questions.batch, work.sequences, work.batch.1, patience)?;
                let test = format!("tg{} x{} @ d{}", work.batch.1, work.sequences, questions.batch.ids.len());
                rows.add("batch", &test, Unit::TokensPerSecond, &name, rate);
            }
            Task::Perplexity => {
                let perplexity = side.perplexity(&questions.scored, patience)?;
                let (windows, window) = (questions.scored.windows.len(), questions.scored.window);
                rows.add(
                    "perplexity",
                    &format!("{windows} windows of {window}"),
                    Unit::Perplexity,
                    &name,
                    perplexity,
                );
            }
        }
        Ok(())
    }

    fn sizes(&mut self) {
        if !self.work.wants("size") {
            return;
        }
        for side in &self.sides {
            if let Some(bytes) = side.facts.installed_bytes {
                let megabytes = bytes as f64 / 1e6;
                self.rows.add("size", "installed", Unit::Megabytes, &side.facts.name, megabytes);
            }
        }
        if let Some(note) = peers_precision(self.run.subject) {
            self.rows.rows.iter_mut().for_each(|row| row.note.clone_from(&note));
        }
    }
}

/// Rows of one model and number of threads.
struct Rows {
    subject: String,
    threads: usize,
    rows: Vec<Row>,
}

impl Rows {
    /// Adds a sample; the row and the side are made where they are new.
    fn add(&mut self, part: &str, test: &str, unit: Unit, side: &str, value: f64) {
        if !value.is_finite() {
            return;
        }
        let at = self.rows.iter().position(|r| r.part == part && r.test == test).unwrap_or_else(|| {
            self.rows.push(Row::with_sides(part, &self.subject, self.threads, test, unit, Vec::new()));
            self.rows.len() - 1
        });
        let sides = &mut self.rows[at].sides;
        match sides.iter_mut().find(|s| s.name == side) {
            Some(side) => side.samples.0.push(value),
            None => sides.push(Figures { name: side.to_owned(), samples: Samples(vec![value]) }),
        }
    }

    /// What the decode rows reach of the read bandwidth.
    fn shares(&mut self, bytes: &Bytes, limits: Option<&Limits>, work: &Work, questions: &Questions) {
        let Some(limits) = limits else { return };
        for row in &mut self.rows {
            let rate = row.samples(OURS).median();
            let (depth, tokens) = (questions.prompts.iter().map(|p| p.ids.len()), work.tokens);
            row.of_limit = match row.part.as_str() {
                "decode" => depth
                    .into_iter()
                    .find(|d| row.test == format!("tg{tokens} @ d{d}"))
                    .and_then(|d| limits.share(self.threads, bytes.at(d, tokens), rate)),
                "generate" => limits.share(self.threads, bytes.at(questions.first.ids.len(), tokens), rate),
                "batch" => {
                    let each = bytes.shared(work.sequences, work.batch.0, work.batch.1);
                    limits.bandwidth(self.threads, bytes.weights).map(|b| each * rate / b)
                }
                _ => None,
            }
            .filter(|share| share.is_finite());
        }
    }
}

#[cfg(test)]
mod tests;
