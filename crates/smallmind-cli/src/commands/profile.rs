//! `smallmind profile`: where time and memory go, how far each operator is from the machine's limit, and what changed.

use std::path::Path;

use anyhow::Result;
use smallmind::{LoadOptions, Model, cpus};
use smallmind_bench::measure::clock::Repeats;
use smallmind_bench::measure::machine::{Environment, ModelFacts};
use smallmind_bench::measure::roofline::Limits;
use smallmind_bench::profile::{self, Depth, Named, Scaled, Workload};
use smallmind_bench::results::{Kind, Results, write_whole};

use crate::alloc;
use crate::args::profile::ProfileArgs;
use crate::interrupt::{self, Guard};
use crate::output::{self, Interrupted, Out};
use crate::resolve::{self, Source};

pub(crate) fn run(args: &ProfileArgs, out: &Out) -> Result<()> {
    if let [before, after] = &args.compare[..] {
        let (against, text) = profile::compare(&Results::load(before)?, &Results::load(after)?);
        return if out.json { output::json(&against) } else { output::print(&text) };
    }
    if args.overhead {
        return overhead(args, out);
    }
    let before = args.against.as_deref().map(Results::load).transpose()?;
    let interrupt = Guard::new();
    let mut results = Results::new(Kind::Profile, &output::command_line(), Environment::here());
    let text = match args.enhanced || args.model_compare {
        true => many(args, &interrupt, out, &mut results)?,
        false => one(args, &interrupt, out, &mut results)?,
    };
    if let Some(path) = &args.save {
        results.save(path)?;
        out.note(&format!("{} rows are kept in {}", results.rows.len(), path.display()));
    }
    if out.json {
        output::json(&results)?;
    } else {
        output::print(&text)?;
    }
    if let Some(before) = before {
        let (_, compared) = profile::compare(&before, &results);
        if out.json { out.note_lines(&compared) } else { output::print(&format!("\n{compared}"))? }
    }
    if interrupt.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}

/// One model under the recorder.
fn one(args: &ProfileArgs, interrupt: &Guard, out: &Out, results: &mut Results) -> Result<String> {
    let source = resolve::source(&args.source, out)?;
    let gguf = source.open()?;
    let (threads, facts) =
        (resolve::threads(args.threads, &gguf, out), ModelFacts::of(&source.name(), &gguf)?);
    let half = smallmind::Config::read(&gguf)?.context / 2;
    results.environment.models.push(facts);
    let workload = Workload {
        name: &source.name(),
        open: &|| source.reopen(),
        threads,
        precise: args.precise,
        prompt: args.n_prompt.unwrap_or_else(|| half.min(128)),
        generate: args.n_gen.unwrap_or_else(|| half.min(64)),
        repeats: repeats(args),
        cancel: interrupt.token(),
        allocations: Some((alloc::watch, alloc::HOOKS)),
    };
    interrupt::settle();
    let recorded = profile::record(&workload);
    alloc::unwatch();
    let recorded = recorded?;
    let profile = &recorded.profile;
    results.complete = profile.iterations == workload.repeats.iterations;
    results.limits = Some(Limits::measure_for(&[profile.threads], profile.working_set as usize));
    profile::fill(results, &recorded);
    let depth = if args.deep { Depth::Deep } else { Depth::Standard };
    if let Some(folder) = &args.out_folder {
        write_files(folder, results, &recorded, depth, out)?;
    }
    Ok(profile::text(results, &recorded, depth))
}

/// What the recorder costs.
fn overhead(args: &ProfileArgs, out: &Out) -> Result<()> {
    const PAIRS: usize = 40;
    let source = resolve::source(&args.source, out)?;
    let gguf = source.open()?;
    let threads = resolve::threads(args.threads, &gguf, out);
    let model = Model::from_gguf(gguf, &LoadOptions { threads, precise: args.precise })?;
    let interrupt = Guard::new();
    // As the profiler counts.
    interrupt::settle();
    alloc::watch();
    let pairs = PAIRS * args.repetitions as usize;
    let found = profile::watching(&source.name(), &model, pairs, Some(alloc::HOOKS), &interrupt.token());
    alloc::unwatch();
    let found = found?;
    if out.json {
        output::json(&found)?
    } else {
        output::print(&found.text())?
    }
    if interrupt.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}

fn write_files(
    folder: &Path,
    results: &Results,
    recorded: &profile::Recorded,
    depth: Depth,
    out: &Out,
) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|why| anyhow::anyhow!("{}: cannot make the folder: {why}", folder.display()))?;
    results.save(&folder.join("profile.json"))?;
    let mut names = vec!["profile.json"];
    for (name, contents) in profile::files(results, recorded, depth) {
        write_whole(&folder.join(name), &contents)?;
        names.push(name);
    }
    out.note(&format!("{}: {}", folder.display(), names.join(", ")));
    Ok(())
}

/// Several models, behind kernels and tensor operations where all of it is asked for.
fn many(args: &ProfileArgs, interrupt: &Guard, out: &Out, results: &mut Results) -> Result<String> {
    // Without a model of the user's, the presets alone: nothing is downloaded for this.
    let asked = args.source.model.is_some() || args.source.preset.is_some();
    let source: Option<Source> = asked.then(|| resolve::source(&args.source, out)).transpose()?;
    let own: Option<Named<'_>> =
        source.as_ref().map(|s| -> Named<'_> { (s.name(), Box::new(move || s.reopen())) });
    let mut bytes = 0;
    if let Some(source) = &source {
        let gguf = source.open()?;
        bytes = gguf.file_len();
        results.environment.models.push(ModelFacts::of(&source.name(), &gguf)?);
    }
    let threads = if args.threads > 0 { args.threads } else { cpus::choose(bytes).threads };
    let counts = if threads == 1 { vec![1] } else { vec![1, threads] };
    // 2,048 × 2,048 in F32 is 17 MB.
    let limits = Limits::measure_for(&counts, usize::try_from(bytes).unwrap_or(usize::MAX).max(20_000_000));
    results.limits = Some(limits.clone());
    let (rounds, token) = (args.repetitions as usize, interrupt.token());
    let mut done = |row: smallmind_bench::results::Row| {
        out.detail(|| format!("{}: {} {}", row.id, row.median(), row.unit.name()));
        results.push(row);
    };
    let scaled: Vec<Scaled> = if args.enhanced {
        profile::enhanced(rounds, &limits, threads, own, &token, &mut done)?
    } else {
        let models = profile::presets().into_iter().chain(own).collect();
        profile::models(models, rounds, &limits, threads, &token, &mut done)?
    };
    results.complete = !interrupt.interrupted();
    results.detail = serde_json::json!({ "scaling": scaled });
    Ok(profile::enhanced_text(results, &scaled))
}

fn repeats(args: &ProfileArgs) -> Repeats {
    Repeats::exactly(args.warmup, args.repetitions as usize)
}
