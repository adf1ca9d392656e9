//! `smallmind compare`: the same work on SmallMind and on the peers of this machine; and `smallmind peer`, ours as one of
//! its sides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use smallmind::cpus;
use smallmind_bench::compare::{self, Plan, SideFacts, State, Subject, TEXT, Text, Watch, Work};
use smallmind_bench::results::Results;

use crate::args::compare::{CompareArgs, PeerArgs};
use crate::interrupt::Guard;
use crate::output::{self, Interrupted, Out};
use crate::{prompt, resolve};

pub(crate) fn run(args: &CompareArgs, out: &Out) -> Result<()> {
    let subjects = if args.list { Vec::new() } else { subjects(args, out)? };
    let plan = plan(args, subjects)?;
    let interrupt = Guard::new();
    let cancel = interrupt.token();
    if args.list {
        let facts = compare::found(&plan, &cancel)?;
        return if out.json { output::json(&facts) } else { output::print(&listed(&facts)) };
    }
    let mut save = |results: &Results| args.save.as_deref().map_or(Ok(()), |path| results.save(path));
    let mut say = |line: &str| out.note(line);
    let mut watch = Watch { say: &mut say, save: &mut save, cancel: &cancel };
    let results = compare::run(&plan, &mut watch)?;
    save(&results)?;
    if out.json {
        output::json(&results)?
    } else {
        output::print(&compare::table(&results))?
    }
    if let Some(path) = &args.save {
        out.note(&format!("{} rows are kept in {}", results.rows.len(), path.display()));
    }
    if interrupt.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Answers the comparison's requests on stdin.
pub(crate) fn peer(args: &PeerArgs, out: &Out) -> Result<()> {
    let loaded = resolve::load(&args.model, out)?;
    let prefill = resolve::prefill(&loaded.model, args.prefill, out);
    Ok(compare::serve(&loaded.model, prefill, std::io::stdin().lock(), std::io::stdout().lock())?)
}

fn subjects(args: &CompareArgs, out: &Out) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    let default = args.model.is_empty() && args.preset.is_empty();
    for name in args.model.iter().map(|name| Some(name.as_str())).chain(default.then_some(None)) {
        let local = resolve::file(name, args.offline, out)?;
        // Some peers take a name without a folder for a model of the network.
        subjects.push(Subject::File { name: local.name, path: absolute(&local.path) });
    }
    let presets = args.preset.iter().map(|p| Subject::Preset { preset: p.preset, dtype: p.dtype });
    subjects.extend(presets);
    Ok(subjects)
}

fn plan(args: &CompareArgs, subjects: Vec<Subject>) -> Result<Plan> {
    let folder = resolve::hub(true)?.home().to_owned();
    let text = match &args.text {
        Some(path) => Text { name: shown(path), text: prompt::text(None, Some(path), "with -f FILE")? },
        None => Text { name: "the Apache licence, version 2.0".into(), text: TEXT.into() },
    };
    let mut threads = Vec::with_capacity(args.threads.len());
    for &n in &args.threads {
        threads.push(match subjects.first() {
            // The number alone: no side is kept on the processors that the choice was made for.
            Some(subject) if n == 0 => cpus::choose(subject.open()?.file_len()).threads,
            _ => n.max(1),
        });
    }
    let seconds = |n: usize| Duration::from_secs(n as u64);
    let none = |names: &Vec<String>| names.iter().any(|n| n == "none");
    Ok(Plan {
        subjects,
        work: Work {
            threads,
            prompts: args.prompt_tokens.clone(),
            prefill: args.prefill.into(),
            tokens: args.tokens,
            sequences: args.sequences,
            rounds: args.rounds,
            only: args.only.clone(),
            budget: seconds(args.budget),
            timeout: seconds(args.timeout),
            ..Work::default()
        },
        text,
        peers: args.peers.clone().map(|names| if none(&names) { Vec::new() } else { names }),
        homes: args.peer.iter().map(|(name, home)| (name.clone(), absolute(home))).collect(),
        peers_folder: absolute(&peers_folder(args, &folder)),
        cache: absolute(&folder.join("compare")),
        program: std::env::current_exe().context("cannot find this program's own file")?,
        command: output::command_line(),
    })
}

fn peers_folder(args: &CompareArgs, store: &Path) -> PathBuf {
    let set = || std::env::var_os("SMALLMIND_PEERS").filter(|v| !v.is_empty()).map(PathBuf::from);
    args.peers_folder.clone().or_else(set).unwrap_or_else(|| store.join("peers"))
}

/// Peers run in our folder, and may go elsewhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn listed(facts: &[SideFacts]) -> String {
    let line = |f: &SideFacts| match f.state {
        State::Absent => format!("{}: not here; to have it:\n    {}\n", f.name, f.install),
        _ => format!("{}: {}\n", f.name, f.version),
    };
    facts.iter().map(line).collect()
}
