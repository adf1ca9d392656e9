//! One file a report: what it says, as blocks. Adjectives have numbers.

mod benchmarks;
mod comparison;
mod profile;
mod quick;
mod summary;

pub(super) use benchmarks::benchmarks;
pub(super) use comparison::{comparison, performance};
pub(super) use profile::profile;
pub(super) use quick::{quick, readme};
pub(super) use summary::summary;

use super::block::{Block, text};
use super::bundle::Bundle;
use crate::compare::{Place, standing};
use crate::results::{Kind, Results, Row};

/// The machine, the build and the time of the first run, in a sentence.
fn machine(bundle: &Bundle) -> Block {
    let Some((_, run)) = bundle.all().next() else { return text("Nothing was measured.") };
    let e = &run.environment;
    let (cpu, cores, memory) = (&e.machine.cpu, e.machine.processors, e.machine.memory_bytes as f64 / 1e9);
    let (version, commit, day) =
        (&e.build.version, &e.build.commit, e.time.get(..10).unwrap_or("an unknown day"));
    text(format!(
        "Measured on {day} on {cores} processors of {cpu}, {memory:.0} GB, {}, with SmallMind {version} at `{commit}`, \
         instruction set {}; load before the run {}.",
        e.system, e.isa, e.load
    ))
}

/// What runs lack, to be said before anything that is made of them.
fn cautions(bundle: &Bundle) -> Vec<Block> {
    let cut = bundle.all().filter(|(_, r)| !r.complete).map(|(name, _)| {
        text(format!(
            "The run in `{name}` was interrupted: what follows holds what had been measured by then."
        ))
    });
    cut.collect()
}

/// How to get what is not there.
fn missing(kind: Kind) -> Block {
    let (what, command) = match kind {
        Kind::Compare => ("comparison", "smallmind compare --save compare.json"),
        Kind::Bench => ("benchmark", "smallmind bench --save bench.json"),
        Kind::Profile => ("profile", "smallmind profile --save profile.json"),
    };
    text(format!("The results hold no {what}. `{command}` makes one; name its file to `smallmind report`."))
}

/// Rows with a peer's figure, by where ours stands.
struct Count {
    ahead: Vec<Row>,
    behind: Vec<Row>,
    level: Vec<Row>,
    unclear: Vec<Row>,
}

impl Count {
    fn of(rows: &[&Row]) -> Count {
        let with = |places: &[Place]| {
            let matching = rows.iter().filter(|r| places.contains(&standing(r).place));
            matching.map(|r| (*r).clone()).collect()
        };
        Count {
            ahead: with(&[Place::Ahead]),
            behind: with(&[Place::Behind]),
            level: with(&[Place::Level]),
            unclear: with(&[Place::TooFew, Place::TooNoisy]),
        }
    }

    fn words(&self) -> String {
        let all = self.ahead.len() + self.behind.len() + self.level.len() + self.unclear.len();
        if all == 0 {
            return "No peer has a figure.".to_owned();
        }
        format!(
            "Of {all} rows in which a peer has a figure, against the best peer of each: ahead in {}, behind in {}, level in \
             {}, not to be told in {}.",
            self.ahead.len(),
            self.behind.len(),
            self.level.len(),
            self.unclear.len()
        )
    }
}

/// `1 thread`, `2 threads`.
fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

/// The commands that made the runs.
fn commands(bundle: &Bundle) -> Block {
    let of = |(_, run): (&str, &Results)| run.command.clone();
    let mut all: Vec<String> = bundle.all().map(of).collect();
    all.dedup();
    Block::Verbatim(all.join("\n"))
}
