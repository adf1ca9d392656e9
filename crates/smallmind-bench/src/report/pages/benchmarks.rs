//! The benchmark results: the statistics of every row.

use super::super::block::{Block, Table, heading, text};
use super::super::bundle::Bundle;
use super::{cautions, machine, missing};
use crate::results::{Kind, OURS, Row, figure};

pub(in super::super) fn benchmarks(bundle: &Bundle) -> Vec<Block> {
    let mut out = vec![machine(bundle)];
    let runs: Vec<_> = bundle.runs(Kind::Bench).collect();
    if runs.is_empty() {
        out.push(missing(Kind::Bench));
        return out;
    }
    out.extend(cautions(bundle));
    for (name, run) in runs {
        out.push(heading(2, format!("`{name}`")));
        out.push(text(format!("Made by `{}`.", run.command)));
        let mut parts: Vec<&str> = run.rows.iter().map(|r| r.part.as_str()).collect();
        parts.dedup();
        for part in parts {
            let rows: Vec<Row> = run.rows.iter().filter(|r| r.part == part).cloned().collect();
            out.push(heading(3, part));
            out.push(Block::Table(statistics(&rows)));
        }
    }
    out
}

/// Order statistics, mean and deviation of our figures.
pub(super) fn statistics(rows: &[Row]) -> Table {
    let head = [
        "model", ">threads", "test", "unit", ">n", ">min", ">P50", ">P90", ">P95", ">P99", ">max", ">mean",
        ">std dev", "row",
    ];
    let mut table = Table::new(&head);
    for row in rows {
        let Some(s) = row.samples(OURS).summary() else { continue };
        let words = [
            row.subject.clone(),
            row.threads.to_string(),
            row.test.clone(),
            row.unit.name().to_owned(),
            s.n.to_string(),
        ];
        let figures = [s.min, s.p50, s.p90, s.p95, s.p99, s.max, s.mean, s.stddev].map(figure);
        table.row(words.into_iter().chain(figures).chain([format!("`{}`", row.id)]));
    }
    table
}
