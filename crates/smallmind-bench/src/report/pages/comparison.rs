//! The full comparison: what each side is and ran, every row with every side, and what follows from it.

use super::super::block::{Block, Table, heading, text};
use super::super::bundle::{Bundle, detail};
use super::super::trajectory::{self, headroom};
use super::{Count, cautions, commands, machine, missing, threads};
use crate::compare::{Place, SideFacts, State, standing};
use crate::results::{Kind, OURS, Results, Row, figure};

const METHOD: &str = "Every side is a process of its own that has loaded the model; each is asked in turn for one sample of everything, \
     round by round, so that what disturbs one disturbs all. Prompts are the same tokens, answers are greedy and of one length, \
     threads are the same. Prefill is the prompt's tokens over the time to the first token; decode the other tokens over their \
     time; cold start is from the start of a fresh process to its first token, the files in the page cache; memory is the \
     process's own high-water mark; size is what is installed, dependencies included.";

pub(in super::super) fn comparison(bundle: &Bundle) -> Vec<Block> {
    let mut out = vec![machine(bundle)];
    out.extend(cautions(bundle));
    let rows = bundle.compared();
    if rows.is_empty() {
        out.push(missing(Kind::Compare));
        return out;
    }
    out.push(heading(2, "How it was measured"));
    out.push(text(METHOD));
    for (name, run) in bundle.runs(Kind::Compare) {
        out.push(Block::List(environment(name, run)));
    }
    out.push(commands(bundle));
    out.push(heading(2, "What ran"));
    out.extend(sides(&bundle.sides()));
    out.push(heading(2, "Every figure"));
    out.extend(every(&rows));
    out.push(heading(2, "What follows"));
    out.extend(discussion(&rows));
    out
}

/// The generated part of docs/performance.md: the same without what the page around it says.
pub(in super::super) fn performance(bundle: &Bundle) -> Vec<Block> {
    let rows = bundle.compared();
    let mut out = vec![machine(bundle)];
    out.extend(cautions(bundle));
    if rows.is_empty() {
        out.push(missing(Kind::Compare));
        return out;
    }
    out.push(commands(bundle));
    out.push(text(Count::of(&rows).words()));
    out.extend(every(&rows));
    if let Some(table) = trajectory::table(&rows) {
        out.push(heading(3, "From the seed to the machine's limit"));
        out.push(Block::Table(table));
    }
    out.push(heading(3, "What ran"));
    out.extend(sides(&bundle.sides()));
    out.push(heading(3, "What follows"));
    out.extend(discussion(&rows));
    out
}

fn environment(name: &str, run: &Results) -> Vec<String> {
    let mut all = vec![format!("results: `{name}`, {} rows", run.rows.len())];
    if let Some(detail) = detail(run) {
        let rounds =
            detail.measured.iter().map(|(subject, threads, n)| format!("{subject} on {threads} threads {n}"));
        all.push(format!("rounds: {} (of {})", rounds.collect::<Vec<_>>().join(", "), detail.rounds));
        all.push(format!("text: {}", detail.text));
    }
    let limits = run.limits.as_ref().map(crate::measure::roofline::Limits::described).unwrap_or_default();
    all.extend(run.environment.described().into_iter().chain(limits).map(|(k, v)| format!("{k}: {v}")));
    all
}

fn sides(sides: &[SideFacts]) -> Vec<Block> {
    let head =
        ["model", "side", "version", "what it runs", ">installed MB", ">same tokens as ours", "measured"];
    let mut table = Table::new(&head);
    let mut lacking = Vec::new();
    for side in sides {
        if matches!(side.state, State::Absent | State::Skipped) {
            let line = match side.state {
                State::Absent => format!("{} is not installed; to have it: `{}`", side.name, side.install),
                _ => format!("{}, {}: {}", side.name, side.subject, side.words),
            };
            if !lacking.contains(&line) {
                lacking.push(line);
            }
            continue;
        }
        let same = side.same_tokens.map_or("–".into(), |(same, of)| format!("{same} of {of}"));
        let measured =
            if side.words.is_empty() { "yes".to_owned() } else { format!("failed at {}", side.words) };
        let size = side.installed_bytes.map_or("–".into(), |b| figure(b as f64 / 1e6));
        let version = match side.version.as_str() {
            v if side.pinned.is_empty() || v.contains(&side.pinned) => v.to_owned(),
            v => format!("{v} (the entry was tried with {})", side.pinned),
        };
        table.row([
            side.subject.clone(),
            side.name.clone(),
            version,
            side.form.clone(),
            size,
            same,
            measured,
        ]);
    }
    let mut out = vec![Block::Table(table)];
    if !lacking.is_empty() {
        out.push(text("Not measured:"));
        out.push(Block::List(lacking));
    }
    out
}

fn every(rows: &[&Row]) -> Vec<Block> {
    let mut out = Vec::new();
    let mut groups = Vec::new();
    for row in rows {
        let group = (&row.subject, row.threads);
        // Several runs may hold rows of one.
        if !groups.contains(&group) {
            groups.push(group);
            out.push(heading(3, format!("{}, {}", row.subject, threads(row.threads))));
            let same = |r: &&&Row| r.subject == row.subject && r.threads == row.threads;
            out.push(Block::Table(table(&rows.iter().filter(same).copied().collect::<Vec<_>>())));
        }
    }
    out
}

/// A line for every side of every row.
fn table(rows: &[&Row]) -> Table {
    let head = ["test", "side", ">median", "range", ">n", ">ours over it", "ours against the best", "row"];
    let mut table = Table::new(&head);
    for row in rows {
        for (i, side) in row.sides.iter().enumerate() {
            let s = &side.samples;
            let ratio = row.median() / s.median();
            // What is of the row stands on its first line.
            let first = |text: String| if i == 0 { text } else { String::new() };
            table.row([
                first(format!("{} {}, {}", row.part, row.test, row.unit.name())),
                side.name.clone(),
                figure(s.median()),
                if s.0.len() > 1 {
                    format!("{}..{}", figure(s.least()), figure(s.most()))
                } else {
                    String::new()
                },
                s.0.len().to_string(),
                if side.name == OURS || !ratio.is_finite() { "–".into() } else { format!("{ratio:.2}") },
                first(standing(row).words()),
                first(format!("`{}`", row.id)),
            ]);
        }
    }
    table
}

fn discussion(rows: &[&Row]) -> Vec<Block> {
    let count = Count::of(rows);
    let place = |r: &Row| format!("{}, {}, {} {}", r.subject, threads(r.threads), r.part, r.test);
    let line = |r: &Row| {
        let room = headroom(r).map_or(String::new(), |h| format!("; ours is at {h}"));
        let note = if r.note.is_empty() { String::new() } else { format!(" ({})", r.note) };
        format!("{}: {}{room}{note}. `{}`", place(r), standing(r).words(), r.id)
    };
    let mut out = vec![text(count.words())];
    let groups = [
        ("Where SmallMind is behind", &count.behind),
        ("Where it is ahead", &count.ahead),
        ("Where neither is", &count.level),
        ("Where the samples do not tell", &count.unclear),
    ];
    for (title, rows) in groups {
        if !rows.is_empty() {
            out.push(text(format!("{title}:")));
            out.push(Block::List(rows.iter().map(line).collect()));
        }
    }
    let alone: Vec<String> = rows
        .iter()
        .filter(|r| matches!(standing(r).place, Place::Alone | Place::Missing))
        .map(|r| format!("{}: {}. `{}`", place(r), standing(r).words(), r.id))
        .collect();
    if !alone.is_empty() {
        out.push(text("Without a comparison:"));
        out.push(Block::List(alone));
    }
    out
}
