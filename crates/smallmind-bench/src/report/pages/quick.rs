//! The quick reference: one page; and the table of the README, which is the same thing shorter.

use super::super::block::{Block, Table, heading, text};
use super::super::bundle::Bundle;
use super::super::trajectory::headline;
use super::{Count, cautions, commands, machine, missing};
use crate::compare::{Place, standing};
use crate::results::{Kind, Row, figure};

/// Parts that the README shows.
const README: [&str; 6] = ["decode", "prefill", "batch", "generate", "cold", "memory"];

pub(in super::super) fn quick(bundle: &Bundle) -> Vec<Block> {
    let rows = bundle.compared();
    let mut out = vec![machine(bundle)];
    out.extend(cautions(bundle));
    if rows.is_empty() {
        out.push(missing(Kind::Compare));
    } else {
        out.push(text(Count::of(&rows).words()));
        out.push(Block::Table(table(&headline(&rows))));
        out.push(text(
            "Medians; the ratio is SmallMind over the best peer, and for times, memory and perplexity less is better. A verdict \
             needs five samples a side and a rank test with p below 0.01; memory, size and perplexity are counted once.",
        ));
    }
    out.push(heading(2, "The commands that make it again"));
    out.push(commands(bundle));
    out
}

fn table(rows: &[&Row]) -> Table {
    let head = ["model", ">threads", "test", ">SmallMind", ">best peer", "which", ">ratio", "verdict", "row"];
    let mut table = Table::new(&head);
    for row in rows {
        let standing = standing(row);
        let best = standing.best.clone().unwrap_or_default();
        table.row([
            row.subject.clone(),
            row.threads.to_string(),
            format!("{} {}, {}", row.part, row.test, row.unit.name()),
            figure(row.median()),
            figure(row.samples(&best).median()),
            best,
            format!("{:.2}", standing.ratio),
            standing.place.words().to_owned(),
            format!("`{}`", row.id),
        ]);
    }
    table
}

/// The README's table: the best peer of each row, and llama.cpp where it is not the best.
pub(in super::super) fn readme(bundle: &Bundle) -> Vec<Block> {
    let rows = bundle.compared();
    let mut table =
        Table::new(&["model and test", "unit", ">SmallMind", ">best of the others", "which", ">ratio"]);
    for row in headline(&rows).into_iter().filter(|r| README.contains(&r.part.as_str())) {
        let standing = standing(row);
        let best = standing.best.clone().unwrap_or_default();
        let doubt = matches!(standing.place, Place::TooFew | Place::TooNoisy);
        table.row([
            format!("{}, {} {}", row.subject, row.part, row.test),
            row.unit.name().to_owned(),
            figure(row.median()),
            figure(row.samples(&best).median()),
            best,
            format!("{:.2}{}", standing.ratio, if doubt { " (uncertain)" } else { "" }),
        ]);
    }
    let peers: Vec<String> = {
        let mut names: Vec<String> = bundle.sides().into_iter().map(|s| s.peer).collect();
        names.retain(|name| name != crate::results::OURS);
        names.sort();
        names.dedup();
        names
    };
    let mut out = vec![machine(bundle)];
    out.extend(cautions(bundle));
    out.push(text(format!(
        "Against {}, each on the same file or the nearest form that it loads, alternated in one run; medians, and the best \
         of them in each row. For times and memory less is better.",
        peers.join(", ")
    )));
    out.push(Block::Table(table));
    out.push(text(Count::of(&rows).words()));
    out
}
