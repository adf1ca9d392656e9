//! Measurements by llama-bench's method: arbitrary tokens, nothing sampled, a first run that is not counted.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use smallmind::{Batch, Model, PrefillClass, Session, SessionOptions};

use crate::args::{BenchArgs, Prefill};
use crate::interrupt::Guard;
use crate::output::Interrupted;
use crate::resolve;

/// One row: a prompt or a generation, behind `depth` tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub(crate) prompt: usize,
    pub(crate) generate: usize,
    pub(crate) depth: usize,
    /// Sequences side by side, each with all of the above.
    pub(crate) batch: usize,
}

impl Test {
    /// Tokens that are measured, of all sequences.
    pub(crate) fn tokens(self) -> usize {
        (self.prompt + self.generate).saturating_mul(self.batch)
    }

    /// llama-bench's name of the row, with the sequences where there are several.
    pub(crate) fn name(self) -> String {
        let (kind, n) = if self.prompt > 0 { ("pp", self.prompt) } else { ("tg", self.generate) };
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        let batch = if self.batch > 1 { format!(" x{}", self.batch) } else { String::new() };
        format!("{kind}{n}{batch}{depth}")
    }
}

/// The time of each repetition.
///
/// # Errors
/// Where the row does not fit the model's context, and on Ctrl-C.
pub(crate) fn measure(
    model: &Model,
    test: Test,
    args: &BenchArgs,
    interrupt: &Guard,
) -> Result<Vec<Duration>> {
    let context = test.depth.saturating_add(test.prompt + test.generate);
    let prefill = match args.prefill {
        Prefill::Exact => PrefillClass::Exact,
        Prefill::Fast => PrefillClass::Fast,
    };
    let kv = resolve::kv(args.kv_type);
    let options = SessionOptions { context: Some(context), chunk: args.chunk, prefill, kv };
    let sessions: smallmind::Result<Vec<Session>> =
        (0..test.batch).map(|_| Session::new(model, &options)).collect();
    let mut sessions = sessions?;
    let mut batch = Batch::new(model, test.batch)?;
    let tokens = arbitrary_tokens(model, context);
    let (before, measured) = tokens.split_at(test.depth);
    let mut samples = Vec::new();
    for repetition in 0..=args.repetitions {
        for session in &mut sessions {
            // A window may have passed what the cut would need: then all of it is computed again.
            let left = session.truncate(before.len().min(session.tokens().len()));
            if left < before.len() {
                session.prefill(&before[left..])?;
            }
        }
        let start = Instant::now();
        if test.prompt > 0 {
            for session in &mut sessions {
                session.prefill(measured)?;
            }
        } else {
            generate(&mut sessions, &mut batch, measured)?;
        }
        if repetition > 0 {
            samples.push(start.elapsed());
        }
        if interrupt.interrupted() {
            return Err(Interrupted.into());
        }
    }
    Ok(samples)
}

/// Appends the tokens one at a time to every session.
fn generate(sessions: &mut [Session], batch: &mut Batch, tokens: &[u32]) -> Result<()> {
    if let [session] = sessions {
        for token in tokens {
            session.decode(*token)?;
        }
        return Ok(());
    }
    let mut step = vec![0; sessions.len()];
    for token in tokens {
        step.fill(*token);
        batch.decode(sessions, &step)?;
    }
    Ok(())
}

/// Tokens all over the vocabulary, the same every time: BOS first, then a multiplicative sequence.
fn arbitrary_tokens(model: &Model, count: usize) -> Vec<u32> {
    let vocab = u64::try_from(model.config().vocab).unwrap_or(u64::MAX).max(1);
    let token = |i: u64| u32::try_from(((i * 2_654_435_761) >> 7) % vocab).unwrap_or(0);
    let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
    let all = bos.into_iter().chain((1u64..1 << 31).map(token));
    all.take(count).collect()
}

/// The mean, and the sample's standard deviation (0 for one value).
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// The processor's name.
pub(crate) fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The time in UTC, `2026-01-31T12:00:00Z`.
pub(crate) fn now_utc() -> String {
    let s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(s / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600 % 24, s / 60 % 60, s % 60)
}

/// Days since 1970 as year, month and day of the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59 + 365 * 2), (1972, 2, 29));
        assert_eq!(civil(20_484), (2026, 1, 31));
    }

    #[test]
    fn the_deviation_is_the_samples_own() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
    }

    #[test]
    fn rows_are_named_as_llama_bench_names_them() {
        assert_eq!(Test { prompt: 512, generate: 0, depth: 0, batch: 1 }.name(), "pp512");
        assert_eq!(Test { prompt: 0, generate: 128, depth: 64, batch: 1 }.name(), "tg128 @ d64");
        assert_eq!(Test { prompt: 0, generate: 8, depth: 2, batch: 4 }.name(), "tg8 x4 @ d2");
    }
}
