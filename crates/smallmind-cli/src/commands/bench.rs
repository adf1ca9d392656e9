//! `smallmind bench`: how fast prompts are computed (pp) and tokens generated (tg), by llama-bench's method and in its
//! rows.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use smallmind::{KvPrecision, LoadOptions, Model};

use crate::args::BenchArgs;
use crate::interrupt::Guard;
use crate::measure::{Test, cpu, mean_and_deviation, measure, now_utc};
use crate::output::{self, BenchDocument, Out, Usage, bytes, rate};
use crate::resolve;

pub(crate) fn run(args: &BenchArgs, out: &Out) -> Result<()> {
    let tests = tests(args);
    if tests.is_empty() {
        return Err(Usage("there is nothing to measure: give -p or -n a number above 0".into()).into());
    }
    let source = resolve::source(&args.source, out)?;
    let interrupt = Guard::new();
    let mut rows = Vec::new();
    for threads in &args.threads {
        let gguf = source.open()?;
        let threads = match threads {
            // The choice of one row must not keep another row's threads from the remaining CPUs.
            0 if args.threads.len() > 1 => None,
            threads => resolve::threads(*threads, &gguf, out),
        };
        let options = LoadOptions { threads, precise: args.precise };
        let model = Model::from_gguf(gguf, &options)?;
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
    let mut tests = Vec::new();
    for depth in args.n_depth.iter().copied() {
        for batch in args.batch.iter().copied() {
            let prompt = |n: &usize| Test { prompt: *n, generate: 0, depth, batch };
            let generation = |n: &usize| Test { prompt: 0, generate: *n, depth, batch };
            tests.extend(args.n_prompt.iter().map(prompt).chain(args.n_gen.iter().map(generation)));
        }
    }
    tests.retain(|test| test.tokens() > 0);
    tests
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
        n_batch: test.batch,
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
