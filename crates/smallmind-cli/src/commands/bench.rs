//! `smallmind bench`: how fast prompts are computed (pp) and tokens generated (tg), by llama-bench's method and in its
//! rows. One sequence; tokens are arbitrary, nothing is sampled; a run that is not counted warms up.

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use smallmind::{KvPrecision, LoadOptions, Model, Session, SessionOptions};

use crate::args::BenchArgs;
use crate::interrupt::Guard;
use crate::output::{self, BenchDocument, Interrupted, Out, Usage, bytes, rate};
use crate::resolve;

/// One row: a prompt or a generation, behind `depth` tokens.
#[derive(Clone, Copy, Debug)]
struct Test {
    prompt: usize,
    generate: usize,
    depth: usize,
}

impl Test {
    fn tokens(self) -> usize {
        self.prompt + self.generate
    }

    /// llama-bench's name of the row.
    fn name(self) -> String {
        let (kind, n) = if self.prompt > 0 { ("pp", self.prompt) } else { ("tg", self.generate) };
        if self.depth > 0 { format!("{kind}{n} @ d{}", self.depth) } else { format!("{kind}{n}") }
    }
}

pub(crate) fn run(args: &BenchArgs, out: &Out) -> Result<()> {
    let tests = tests(args);
    if tests.is_empty() {
        return Err(Usage("there is nothing to measure: give -p or -n a number above 0".into()).into());
    }
    let local = resolve::file(args.model.as_deref(), args.offline, out)?;
    let interrupt = Guard::new();
    let mut rows = Vec::new();
    for threads in &args.threads {
        let options = LoadOptions { threads: resolve::threads(*threads), precise: args.precise };
        let model = Model::load(&local.path, &options)?;
        for test in &tests {
            let samples = measure(&model, *test, args, &interrupt)?;
            let row = row(&model, *test, args, samples);
            out.detail(|| format!("{} on {} threads: {:.2} tokens/s", row.test, row.n_threads, row.avg_ts));
            rows.push(row);
        }
    }
    if out.json { output::json(&rows) } else { output::print(&table(&rows)?) }
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let of_depth = |depth: &usize| {
        let depth = *depth;
        let prompts = args.n_prompt.iter().map(move |n| Test { prompt: *n, generate: 0, depth });
        let generations = args.n_gen.iter().map(move |n| Test { prompt: 0, generate: *n, depth });
        prompts.chain(generations)
    };
    args.n_depth.iter().flat_map(of_depth).filter(|test| test.tokens() > 0).collect()
}

/// Seconds of each repetition.
fn measure(model: &Model, test: Test, args: &BenchArgs, interrupt: &Guard) -> Result<Vec<Duration>> {
    let context = test.depth.saturating_add(test.tokens());
    let options = SessionOptions { context: Some(context), chunk: args.chunk, kv: resolve::kv(args.kv_type) };
    let mut session = Session::new(model, &options)?;
    let tokens = arbitrary_tokens(model, context);
    let (before, measured) = tokens.split_at(test.depth);
    let mut samples = Vec::new();
    for repetition in 0..=args.repetitions {
        // A window may have passed what the cut would need: then all of it is computed again.
        let left = session.truncate(test.depth.min(session.tokens().len()));
        if left < before.len() {
            session.prefill(&before[left..])?;
        }
        let start = Instant::now();
        if test.prompt > 0 {
            session.prefill(measured)?;
        }
        for token in measured.iter().take(test.generate) {
            session.prefill(std::slice::from_ref(token))?;
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

/// Tokens all over the vocabulary, the same every time: BOS first, then a multiplicative sequence.
fn arbitrary_tokens(model: &Model, count: usize) -> Vec<u32> {
    let vocab = u64::try_from(model.config().vocab).unwrap_or(u64::MAX).max(1);
    let token = |i: u64| u32::try_from((i * 2_654_435_761 >> 7) % vocab).unwrap_or(0);
    let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
    let all = bos.into_iter().chain((1u64..1 << 31).map(token));
    all.take(count).collect()
}

fn row(model: &Model, test: Test, args: &BenchArgs, samples: Vec<Duration>) -> BenchDocument {
    let samples_ns: Vec<u64> =
        samples.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).collect();
    let samples_ts: Vec<f64> = samples.iter().map(|time| rate(test.tokens(), *time)).collect();
    let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
    let (avg_ns, stddev_ns) = mean_and_deviation(&samples_ns.iter().map(|ns| *ns as f64).collect::<Vec<_>>());
    let tensors = model.gguf().tensors();
    let kv =
        resolve::kv(args.kv_type).unwrap_or(if args.precise { KvPrecision::F32 } else { KvPrecision::F16 });
    let kv = if kv == KvPrecision::F32 { "f32" } else { "f16" };
    BenchDocument {
        build_version: env!("CARGO_PKG_VERSION"),
        cpu_info: cpu(),
        backends: "CPU",
        isa: model.isa().to_owned(),
        model_filename: model.gguf().path().display().to_string(),
        model_type: format!("{} {}", model.config().arch.name, model.config().name),
        model_size: tensors.iter().map(|t| t.bytes() as u64).sum(),
        model_n_params: tensors.iter().map(|t| t.elements() as u64).sum(),
        n_batch: args.chunk,
        n_ubatch: args.chunk,
        n_threads: model.threads(),
        type_k: kv,
        type_v: kv,
        use_mmap: true,
        test: test.name(),
        n_prompt: test.prompt,
        n_gen: test.generate,
        n_depth: test.depth,
        test_time: now_utc(),
        avg_ns: avg_ns as u64,
        stddev_ns: stddev_ns as u64,
        avg_ts,
        stddev_ts,
        samples_ns,
        samples_ts,
    }
}

/// The mean, and the sample's standard deviation (0 for one value).
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

fn table(rows: &[BenchDocument]) -> Result<String> {
    let mut s = String::from("| model | size | params | backend | threads | test | t/s |\n");
    s.push_str("| --- | ---: | ---: | --- | ---: | ---: | ---: |\n");
    for r in rows {
        let (model, size) = (smallmind::escaped(r.model_type.as_bytes(), 60), bytes(r.model_size));
        let params = r.model_n_params as f64 / 1e6;
        let speed = format!("{:.2} ± {:.2}", r.avg_ts, r.stddev_ts);
        let (threads, test) = (r.n_threads, &r.test);
        writeln!(s, "| {model} | {size} | {params:.1} M | CPU {} | {threads} | {test} | {speed} |", r.isa)?;
    }
    Ok(s)
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The time in UTC, `2026-01-31T12:00:00Z`.
fn now_utc() -> String {
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
        assert_eq!(Test { prompt: 512, generate: 0, depth: 0 }.name(), "pp512");
        assert_eq!(Test { prompt: 0, generate: 128, depth: 64 }.name(), "tg128 @ d64");
    }
}
