//! The executive summary: how it stands, bar charts, and the way from the seed to the machine's limit.

use super::super::block::{Block, heading, text};
use super::super::bundle::Bundle;
use super::super::chart::{Bar, Chart};
use super::super::trajectory::{self, headline};
use super::{Count, cautions, machine, missing, threads};
use crate::compare::standing;
use crate::measure::stats::Better;
use crate::results::{Kind, OURS, Row, figure};

/// Parts that have a chart.
const CHARTS: [&str; 7] = ["decode", "prefill", "ttft", "cold", "batch", "memory", "generate"];

pub(in super::super) fn summary(bundle: &Bundle) -> Vec<Block> {
    let rows = bundle.compared();
    let mut out = vec![machine(bundle)];
    out.extend(cautions(bundle));
    if rows.is_empty() {
        out.push(missing(Kind::Compare));
        return out;
    }
    let count = Count::of(&rows);
    out.push(text(count.words()));
    let told = |rows: &[Row]| -> Vec<String> {
        let line = |r: &Row| {
            let (part, test, subject, threads) = (&r.part, &r.test, &r.subject, threads(r.threads));
            format!("{subject}, {threads}, {part} {test}: {} (`{}`)", standing(r).words(), r.id)
        };
        rows.iter().map(line).collect()
    };
    for (title, rows) in [
        ("Ahead", &count.ahead),
        ("Behind", &count.behind),
        ("Level", &count.level),
        ("Not to be told", &count.unclear),
    ] {
        if !rows.is_empty() {
            out.push(heading(2, format!("{title}: {}", rows.len())));
            out.push(Block::List(told(rows)));
        }
    }
    out.push(heading(2, "Side by side"));
    let mut subject = "";
    for row in headline(&rows).into_iter().filter(|r| CHARTS.contains(&r.part.as_str())) {
        if row.subject != subject {
            subject = &row.subject;
            out.push(heading(3, format!("{subject}, {}", threads(row.threads))));
        }
        out.push(Block::Chart(chart(row)));
    }
    if let Some(table) = trajectory::table(&rows) {
        out.push(heading(2, "From the seed to the machine's limit"));
        out.push(text(
            "The seed's figures are those of its own reports, on its own machine. Goals are ratios to a peer of this run, or \
             times. The limit is what the read bandwidth measured in this run allows for the bytes of one token.",
        ));
        out.push(Block::Table(table));
    }
    out
}

/// All sides of a row, the best first.
fn chart(row: &Row) -> Chart {
    let less = if row.unit.better() == Better::Less { ", less is better" } else { "" };
    let sides = row.sides.iter().filter(|s| s.samples.median().is_finite());
    let mut bars: Vec<Bar> = sides
        .map(|side| Bar {
            name: side.name.clone(),
            value: side.samples.median(),
            range: (side.samples.0.len() > 1).then(|| (side.samples.least(), side.samples.most())),
            ours: side.name == OURS,
        })
        .collect();
    bars.sort_by(|a, b| match row.unit.better() {
        Better::More => b.value.total_cmp(&a.value),
        Better::Less => a.value.total_cmp(&b.value),
    });
    let limit = row.of_limit.filter(|s| *s > 0.0);
    let limit =
        limit.map_or(String::new(), |s| format!("; the machine's limit is {}", figure(row.median() / s)));
    Chart {
        title: format!("{} {} ({}{less}{limit})", row.part, row.test, row.unit.name()),
        id: row.id.clone(),
        bars,
    }
}
