//! `smallmind bench`: llama-bench's rows, or what a user waits for; saved, and compared with what was saved before.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use smallmind::{LoadOptions, Model};
use smallmind_bench::measure::bytes::Bytes;
use smallmind_bench::measure::clock::Repeats;
use smallmind_bench::measure::machine::{Environment, ModelFacts};
use smallmind_bench::measure::roofline::Limits;
use smallmind_bench::results::{Kind, Results};
use smallmind_bench::scenario::{AllocationCounter, Setup};
use smallmind_bench::speed::{self, Format, Grid, Settings, SpeedRow};

use crate::alloc;
use crate::args::bench::BenchArgs;
use crate::interrupt::Guard;
use crate::output::{self, Interrupted, Out, Usage};
use crate::resolve::{self, Source};

/// Measurements of each row where nobody says: as many as a comparison needs.
const LEAST: usize = 5;
/// How long each row of a scenario is measured where nobody says how often: all of them, on a model that decodes 260 tokens a
/// second, in 48 s on two cores.
const FILL: Duration = Duration::from_secs(2);
/// Tokens that scenarios generate where nobody says how many.
const GENERATED: usize = 64;

pub(crate) fn run(args: &BenchArgs, out: &Out) -> Result<()> {
    let format = if out.json { Format::Json } else { args.output.into() };
    let before = args.against.as_deref().map(Results::load).transpose()?;
    let source = resolve::source(&args.source, out)?;
    let interrupt = Guard::new();
    let mut results = Results::new(Kind::Bench, &output::command_line(), Environment::here());
    if args.save.is_some() || before.is_some() || !args.scenario.is_empty() {
        results.environment.models.push(ModelFacts::of(&source.name(), &source.open()?)?);
    }
    let text = match args.scenario.is_empty() {
        true => rows(args, &source, &interrupt, out, &mut results, format)?,
        false => scenarios(args, &source, &interrupt, out, &mut results, format)?,
    };
    results.complete = !interrupt.interrupted();
    if let Some(path) = &args.save {
        results.save(path)?;
        out.note(&format!("{} rows are kept in {}", results.rows.len(), path.display()));
    }
    output::print(&text)?;
    if let Some(before) = before {
        let against = results.against(&before).markdown();
        match format {
            Format::Markdown => output::print(&format!("\n{against}"))?,
            _ => out.note_lines(&against),
        }
    }
    if interrupt.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}

fn settings(args: &BenchArgs) -> Settings {
    let prefill = args.prefill.into();
    let repeats = Repeats::exactly(args.warmup, args.repetitions.map_or(LEAST, |r| r as usize));
    Settings { repeats, chunk: args.chunk, prefill, kv: resolve::kv(args.kv_type) }
}

/// llama-bench's rows.
fn rows(
    args: &BenchArgs,
    source: &Source,
    interrupt: &Guard,
    out: &Out,
    results: &mut Results,
    format: Format,
) -> Result<String> {
    let grid = Grid {
        prompts: args.n_prompt.clone().unwrap_or_else(|| vec![512]),
        generations: args.n_gen.clone().unwrap_or_else(|| vec![128]),
        pairs: args.pairs.clone(),
        depths: args.n_depth.clone(),
        batches: args.batch.clone().unwrap_or_else(|| vec![1]),
    };
    if grid.tests().is_empty() {
        return Err(Usage("there is nothing to measure: give -p or -n a number above 0".into()).into());
    }
    let settings = settings(args);
    let mut rows = Vec::new();
    'all: for threads in &args.threads {
        let gguf = source.open()?;
        let threads = match threads {
            // The choice of one row must not keep another row's threads from the remaining CPUs.
            0 if args.threads.len() > 1 => None,
            threads => resolve::threads(*threads, &gguf, out),
        };
        let bytes = Bytes::of(&gguf)?;
        let model = Model::from_gguf(gguf, &LoadOptions { threads, precise: args.precise })?;
        if rows.is_empty() {
            resolve::prefill(&model, args.prefill, out);
        }
        if args.save.is_some() {
            let limits = Limits::measure_for(&[model.threads()], model.weight_bytes());
            results.limits.get_or_insert_default().add(limits);
        }
        for test in grid.tests() {
            let samples = speed::measure(&model, test, settings, &interrupt.token())?;
            if samples.is_empty() {
                break 'all;
            }
            let row = SpeedRow::new(&model, test, settings, &samples);
            out.detail(|| format!("{} on {} threads: {:.2} tokens/s", row.test, row.n_threads, row.avg_ts));
            let mut result = row.result(&source.name());
            if let Some(limits) = results.limits.as_ref().filter(|_| test.prompt == 0) {
                let each = bytes.shared(test.batch, test.depth, test.generate);
                let bandwidth = limits.bandwidth(model.threads(), bytes.weights);
                result.of_limit = bandwidth.map(|b| each * row.avg_ts / b);
            }
            results.push(result);
            rows.push(row);
        }
    }
    Ok(speed::render(&rows, format))
}

/// Every scenario on every number of threads.
fn scenarios(
    args: &BenchArgs,
    source: &Source,
    interrupt: &Guard,
    out: &Out,
    results: &mut Results,
    format: Format,
) -> Result<String> {
    let name = source.name();
    for &threads in &args.threads {
        let setup = Setup {
            name: &name,
            open: &|| source.reopen(),
            first_token: &|threads| first_token(source, threads),
            threads: resolve::threads(threads, &source.open()?, out),
            precise: args.precise,
            generate: args.n_gen.as_ref().and_then(|n| n.first()).copied().unwrap_or(GENERATED),
            prompts: args.n_prompt.clone().unwrap_or_else(|| vec![16, 128, 512]),
            sequences: args.batch.clone().unwrap_or_else(|| vec![1, 2, 4, 8, 16]),
            repeats: match args.repetitions {
                Some(_) => settings(args).repeats,
                None => Repeats { fill: FILL, ..settings(args).repeats },
            },
            cancel: interrupt.token(),
            allocations: Some(AllocationCounter { start: alloc::watch, stop: alloc::unwatch }),
        };
        for scenario in args.scenarios() {
            setup.run(scenario, &mut |row| {
                out.detail(|| format!("{}: {} {}", row.id, row.median(), row.unit.name()));
                results.push(row);
            })?;
        }
    }
    Ok(match format {
        Format::Markdown => format!("{}\n{}", results.environment_markdown(), results.statistics_markdown()),
        Format::Json => serde_json::to_string(results)? + "\n",
        Format::JsonLines => results.rows_as_json_lines(),
        Format::Csv => results.statistics_csv(),
        Format::Sql => {
            return Err(Usage("sql is a format of llama-bench's rows, not of scenarios".into()).into());
        }
    })
}

/// This program, run up to its first token.
fn first_token(source: &Source, threads: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "smallmind".into()));
    command.args(["run", "--raw", "-n", "1", "--temp", "0", "-t", &threads.to_string()]);
    name_to(&mut command, source);
    command.arg("Hello");
    command
}

/// Names a model as a command takes it.
fn name_to(command: &mut Command, source: &Source) {
    match source {
        Source::File(local) => command.arg("-m").arg(&local.path),
        Source::Preset(choice) => {
            command.arg("--preset").arg(format!("{}:{}", choice.preset.name, choice.dtype.name()))
        }
        Source::Tiny(_) => command.args(["-m", "tiny"]),
        Source::Adapted(base, adapter) => {
            name_to(command, base);
            command.arg("--lora").arg(adapter)
        }
    };
}
