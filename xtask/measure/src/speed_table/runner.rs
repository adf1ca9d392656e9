//! Row by row: sides are asked in turn until the ratio is known well or the time is used up. What was measured is saved
//! after every row, and after Ctrl-C.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use smallmind::{CancelToken, DType, Gguf};
use smallmind_bench::compare::process::{Fault, Patience};
use smallmind_bench::compare::{Detail, SideFacts, State};
use smallmind_bench::measure::bytes::Bytes;
use smallmind_bench::measure::machine::ModelFacts;
use smallmind_bench::measure::roofline::{Arithmetic, Limits, Memory};
use smallmind_bench::measure::stats::{Better, Comparison, LEAST_SAMPLES, Samples};
use smallmind_bench::results::{OURS, Results, Row, Side, Unit};

use super::models::Files;
use super::rows::{Case, Prefill};
use super::{Builds, CUT_SHORT, id, sample};

/// Between two samples: threads of the process before come to rest.
const PAUSE: Duration = Duration::from_millis(150);
/// Rounds that are done whatever the time, and the most.
const ROUNDS: std::ops::Range<usize> = 2..20;
/// A ratio whose 95 % interval is narrower than this is known well enough.
const NARROW: f64 = 0.03;
/// Flash attention's worse choice is asked no more, once it is this much behind after so many rounds.
const CLEARLY_WORSE: (f64, usize) = (0.93, 3);
/// The longest sample: 512 tokens of 1.1 GB on one thread, twice.
const SAMPLE: Duration = Duration::from_secs(300);

pub(super) struct Run<'a> {
    pub(super) files: &'a Files<'a>,
    pub(super) llama_cpp: &'a Path,
    /// For each row.
    pub(super) budget: Duration,
    pub(super) results: Results,
    pub(super) save: Option<&'a Path>,
    pub(super) cancel: &'a CancelToken,
    /// What went wrong, a row each.
    pub(super) failed: Vec<String>,
}

/// A case as a row of results.
pub(super) fn row(case: &Case, sides: Vec<Side>) -> Row {
    let unit = Unit::TokensPerSecond;
    let mut row = Row::with_sides(case.part(), &case.model, case.threads, &case.name(), unit, sides);
    row.note = format!("asked {}, goal {}", case.asked.words(), case.goal.words());
    row
}

/// llama.cpp's side.
pub(super) fn their_name(attention: &str) -> String {
    format!("llama.cpp fa {attention}")
}

/// The better of llama.cpp's sides, and ours beside it.
pub(super) fn beside_the_best(row: &Row) -> Option<(&Side, Comparison)> {
    let peers = row.peers().filter(|side| side.samples.median().is_finite());
    let best = peers.max_by(|a, b| a.samples.median().total_cmp(&b.samples.median()))?;
    Some((best, Comparison::of(&best.samples, row.samples(OURS), Better::More)))
}

impl Run<'_> {
    /// Every case that has no row yet.
    pub(super) fn all(&mut self, cases: &[&Case]) -> Result<()> {
        for (at, case) in cases.iter().enumerate() {
            let place = format!("{}/{}: {}", at + 1, cases.len(), id(case));
            if self.results.row(&id(case)).is_some() {
                crate::note(&format!("{place}: saved already"));
                continue;
            }
            let bin = Builds::bin(self.llama_cpp, case.build());
            if !bin.join("llama-bench").is_file() {
                let (build, folder) = (case.build(), self.llama_cpp.display());
                crate::note(&format!("{place}: skipped: scripts/build-llama-cpp {folder} {build}"));
                continue;
            }
            crate::note(&place);
            // One row that cannot be measured is no reason to measure no other.
            if let Err(error) = self.case(case, &bin) {
                let failed = format!("{}: {error:#}", id(case));
                crate::note(&format!("    failed: {error:#}"));
                self.failed.push(failed);
            }
            if self.cancel.is_cancelled() {
                break;
            }
        }
        self.results.complete = !self.cancel.is_cancelled();
        self.keep()
    }

    fn keep(&self) -> Result<()> {
        self.save.map_or(Ok(()), |path| Ok(self.results.save(path)?))
    }

    fn case(&mut self, case: &Case, bin: &Path) -> Result<()> {
        let model = self.files.of(&case.model)?;
        let gguf = Gguf::open(&model)?;
        if !self.results.environment.models.iter().any(|m| m.name == case.model) {
            // Reads all of it: the page cache has it from here on.
            self.results.environment.models.push(ModelFacts::of(&case.model, &gguf)?);
        }
        let bytes = Bytes::of(&gguf)?;
        // What a pass of the test reads, weights and the K and V of every sequence.
        let test = case.test;
        let per_token = bytes.shared(test.batch, test.depth, test.generate);
        let working_set = (per_token * test.batch as f64) as usize;
        let mut limits = self.results.limits.take().unwrap_or_default();
        let memory = (test.prompt == 0).then(|| Memory::new(working_set));
        let mut sides = Sides::new(case, self.files.program, bin, &model);
        let begun = Instant::now();
        let whole = loop {
            let round = Instant::now();
            let whole = sides.round(case, self.cancel)?;
            if let Some(memory) = &memory {
                limits.raise(memory.read(working_set, case.threads));
            }
            if !whole || sides.known(begun.elapsed(), round.elapsed(), self.budget) {
                break whole;
            }
        };
        let mut done = row(case, sides.figures());
        done.of_limit = match test.prompt {
            0 => limits.share(case.threads, per_token, done.median()),
            _ => share_of_peak(&mut limits, case, &gguf, done.median()),
        }
        .filter(|share| share.is_finite());
        if !whole {
            done.note = format!("{CUT_SHORT}; {}", done.note);
        }
        crate::note(&format!("    {}", in_short(&done)));
        self.results.limits = Some(limits);
        let rounds = sides.rounds;
        if done.median().is_finite() {
            self.results.push(done);
        }
        self.describe(case, rounds);
        self.keep()
    }

    /// What reports want to know of the sides.
    fn describe(&mut self, case: &Case, rounds: usize) {
        let mut detail: Detail = serde_json::from_value(self.results.detail.clone()).unwrap_or_default();
        detail.text = "arbitrary tokens, as llama-bench takes".into();
        detail.rounds = ROUNDS.end;
        let same = |(subject, threads, _): &(String, usize, usize)| {
            *subject == case.model && *threads == case.threads
        };
        match detail.measured.iter_mut().find(|m| same(m)) {
            Some(measured) => measured.2 = measured.2.min(rounds),
            None => detail.measured.push((case.model.clone(), case.threads, rounds)),
        }
        let version = format!("{} build", case.build());
        for (name, peer) in
            [(OURS.to_owned(), OURS), (their_name("off"), "llama.cpp"), (their_name("on"), "llama.cpp")]
        {
            let version = if peer == OURS {
                let build = &self.results.environment.build;
                format!("{} at {}", build.version, build.commit)
            } else {
                version.clone()
            };
            let known = |s: &SideFacts| s.name == name && s.subject == case.model && s.version == version;
            if !detail.sides.iter().any(known) {
                detail.sides.push(SideFacts {
                    name,
                    peer: peer.to_owned(),
                    subject: case.model.clone(),
                    version,
                    form: "the file itself".into(),
                    state: State::Measured,
                    ..SideFacts::default()
                });
            }
        }
        self.results.detail = serde_json::to_value(&detail).unwrap_or_default();
    }
}

/// Prefill's operations over the measured peak of 8-bit products: only for the exact class on this machine's own
/// instructions, because the peak is theirs. Both bytes of an activation are multiplied.
fn share_of_peak(limits: &mut Limits, case: &Case, gguf: &Gguf, rate: f64) -> Option<f64> {
    if case.isa.is_some() || case.prefill == Prefill::Fast {
        return None;
    }
    limits.measure_peaks(case.threads);
    let peak = limits.peak(case.threads, Arithmetic::Int8)?;
    let matrices = gguf.tensors().iter().filter(|t| {
        t.name.starts_with("blk.") && t.shape.len() == 2 && !matches!(t.dtype, DType::F32 | DType::F16)
    });
    let multiplied: f64 = matrices.map(|t| t.elements() as f64).sum();
    Some(2.0 * 2.0 * multiplied * rate / (1e9 * peak.gops))
}

/// A row in a line.
fn in_short(row: &Row) -> String {
    let sides: Vec<String> = row
        .sides
        .iter()
        .map(|s| format!("{} {:.1} ({})", s.name, s.samples.median(), s.samples.0.len()))
        .collect();
    let ratio = beside_the_best(row).map_or(String::new(), |(_, c)| format!(", {:.2} ×", c.ratio));
    let limit = row.of_limit.map_or(String::new(), |share| format!(", {:.0} % of the limit", 100.0 * share));
    format!("{}{ratio}{limit}", sides.join(", "))
}

/// One program of a row, and its samples.
struct Asked {
    name: String,
    words: Vec<String>,
    samples: Samples,
}

/// The sides of a row under way.
struct Sides {
    asked: Vec<Asked>,
    rounds: usize,
}

impl Sides {
    fn new(case: &Case, program: &Path, bin: &Path, model: &Path) -> Sides {
        let ours = Asked {
            name: OURS.into(),
            words: sample::ours(program, model, case),
            samples: Samples::default(),
        };
        let theirs = ["off", "on"].map(|attention| Asked {
            name: their_name(attention),
            words: sample::theirs(bin, model, case, attention),
            samples: Samples::default(),
        });
        Sides { asked: std::iter::once(ours).chain(theirs).collect(), rounds: 0 }
    }

    /// A sample of every side that is still asked; false after Ctrl-C.
    fn round(&mut self, case: &Case, cancel: &CancelToken) -> Result<bool> {
        let best = self.best_peer();
        for at in 0..self.asked.len() {
            if self.rounds >= CLEARLY_WORSE.1 && at > 0 {
                let (own, best) = (self.asked[at].samples.median(), best);
                if own < CLEARLY_WORSE.0 * best {
                    continue;
                }
            }
            std::thread::sleep(PAUSE);
            let asked = &mut self.asked[at];
            match sample::take(&asked.words, case, Patience { timeout: SAMPLE, cancel }) {
                Ok(rate) => asked.samples.0.push(rate),
                Err(Fault::Cancelled) => return Ok(false),
                // Ctrl-C reaches the side as well.
                Err(Fault::Failed(_)) if cancel.is_cancelled() => return Ok(false),
                Err(Fault::Failed(words)) => anyhow::bail!("{}: {words}", asked.words.join(" ")),
            }
        }
        self.rounds += 1;
        Ok(!cancel.is_cancelled())
    }

    /// The better peer's median so far.
    fn best_peer(&self) -> f64 {
        self.asked.iter().skip(1).map(|a| a.samples.median()).fold(f64::NAN, f64::max)
    }

    /// Whether another round is not worth its time, or has none.
    fn known(&self, elapsed: Duration, round: Duration, budget: Duration) -> bool {
        if self.rounds < ROUNDS.start {
            return false;
        }
        let figures = Row::with_sides("", "", 0, "", Unit::TokensPerSecond, self.figures());
        let narrow = beside_the_best(&figures)
            .is_some_and(|(_, c)| self.rounds >= LEAST_SAMPLES && (c.high - c.low) < NARROW * c.ratio);
        narrow || self.rounds >= ROUNDS.end || elapsed + round > budget
    }

    fn figures(&self) -> Vec<Side> {
        let side = |a: &Asked| Side { name: a.name.clone(), samples: a.samples.clone() };
        self.asked.iter().map(side).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Table;
    use super::*;

    fn sides(script: [&str; 3]) -> Sides {
        let asked = [OURS.to_owned(), their_name("off"), their_name("on")].into_iter().zip(script);
        let asked = asked.map(|(name, script)| Asked {
            name,
            words: ["sh", "-c", script].map(str::to_owned).to_vec(),
            samples: Samples::default(),
        });
        Sides { asked: asked.collect(), rounds: 0 }
    }

    #[test]
    fn sides_are_asked_in_turn_and_the_worse_attention_no_longer_than_needed() {
        let case = Table::read().unwrap().cases().swap_remove(0);
        let speed = |rate: &str| format!("echo '[{{\"avg_ts\": {rate}}}]'");
        let [a, b, c] = ["200", "100", "50"].map(speed);
        let mut sides = sides([&a, &b, &c]);
        let cancel = CancelToken::default();
        let (no, long) = (Duration::ZERO, Duration::from_secs(1000));
        for round in 1..=LEAST_SAMPLES {
            assert!(sides.round(&case, &cancel).unwrap());
            assert_eq!(sides.known(no, no, long), round >= LEAST_SAMPLES, "{round}");
            assert_eq!(sides.known(long, no, no), round >= 2, "{round}");
        }
        let counts: Vec<usize> = sides.asked.iter().map(|a| a.samples.0.len()).collect();
        assert_eq!(counts, [5, 5, 3]);
        let done = row(&case, sides.figures());
        let (best, comparison) = beside_the_best(&done).unwrap();
        assert_eq!((best.name.as_str(), comparison.ratio), ("llama.cpp fa off", 2.0));
        assert_eq!(
            in_short(&done),
            "SmallMind 200.0 (5), llama.cpp fa off 100.0 (5), llama.cpp fa on 50.0 (3), 2.00 ×"
        );
    }

    #[test]
    fn a_side_that_fails_ends_the_run_with_its_command_and_words() {
        let case = Table::read().unwrap().cases().swap_remove(0);
        let mut sides = sides(["echo no model >&2; exit 1", "true", "true"]);
        let error = sides.round(&case, &CancelToken::default()).unwrap_err().to_string();
        assert!(error.contains("exit 1") && error.contains("no model"), "{error}");
        let cancel = CancelToken::default();
        cancel.cancel();
        assert!(!sides.round(&case, &cancel).unwrap());
    }
}
