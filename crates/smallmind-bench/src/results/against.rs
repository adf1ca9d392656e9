//! A run beside a saved one: what changed beyond the noise, and what cannot be compared.

use std::fmt::Write as _;

use serde::Serialize;

use super::table::figure;
use super::{OURS, Results, Unit};
use crate::measure::stats::{Comparison, Verdict};

/// Two runs beside each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Against {
    /// In what the runs differ that figures depend on: with any of these, a change may not be the program's.
    pub differences: Vec<String>,
    /// Rows that both have.
    pub changed: Vec<Changed>,
    /// Ids of rows that only the run before has.
    pub only_before: Vec<String>,
    /// Ids of rows that only the run after has.
    pub only_after: Vec<String>,
}

/// A row that both have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// The row's id.
    pub id: String,
    /// What its figures count.
    pub unit: Unit,
    /// Median before.
    pub before: f64,
    /// Median after.
    pub after: f64,
    /// What the samples say.
    pub comparison: Comparison,
}

impl Results {
    /// This run beside an earlier one.
    pub fn against(&self, before: &Results) -> Against {
        let mut against =
            Against { differences: self.environment.differences(&before.environment), ..Against::default() };
        if self.kind != before.kind {
            let kinds = (before.kind, self.kind);
            against.differences.push(format!("another kind of run: {:?} then, {:?} now", kinds.0, kinds.1));
        }
        for (run, when) in [(before, "earlier"), (self, "later")] {
            if !run.complete {
                against.differences.push(format!("the {when} run was interrupted: rows are missing"));
            }
        }
        for row in &self.rows {
            let Some(then) = before.row(&row.id).filter(|then| then.unit == row.unit) else {
                against.only_after.push(row.id.clone());
                continue;
            };
            let (old, new) = (then.samples(OURS), row.samples(OURS));
            against.changed.push(Changed {
                id: row.id.clone(),
                unit: row.unit,
                before: old.median(),
                after: new.median(),
                comparison: Comparison::of(old, new, row.unit.better()),
            });
        }
        let gone = before.rows.iter().filter(|r| self.row(&r.id).is_none_or(|now| now.unit != r.unit));
        against.only_before = gone.map(|r| r.id.clone()).collect();
        against
    }
}

impl Against {
    /// Rows with that verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.changed.iter().filter(|c| c.comparison.verdict == verdict).count()
    }

    /// All in one sentence.
    pub fn verdict(&self) -> String {
        let count = |v: Verdict, words: &str| {
            let n = self.count(v);
            (n > 0).then(|| format!("{n} {words}"))
        };
        let parts: Vec<String> = [
            count(Verdict::Improved, "improved"),
            count(Verdict::Regressed, "regressed"),
            count(Verdict::WithinNoise, "within noise"),
            count(Verdict::TooNoisy, "too noisy to tell"),
            count(Verdict::TooFewSamples, "with too few samples to tell"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let rows = match self.changed.len() {
            0 => return "the runs have no row in common: nothing can be compared".to_owned(),
            1 => "1 row".to_owned(),
            n => format!("{n} rows"),
        };
        let caution = match self.differences.is_empty() {
            true => "",
            false => "; the runs differ in more than the program (see above), so this is no verdict on it",
        };
        format!("Of {rows}: {}{caution}.", parts.join(", "))
    }

    /// Notices, a table, and the verdict.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for difference in &self.differences {
            let _ = writeln!(out, "- **not like with like:** {difference}");
        }
        if !self.differences.is_empty() {
            out.push('\n');
        }
        if !self.changed.is_empty() {
            out.push_str("| row | unit | before | after | change of the median [95 % interval] |\n");
            out.push_str("| --- | --- | ---: | ---: | --- |\n");
        }
        for c in &self.changed {
            let (before, after) = (figure(c.before), figure(c.after));
            let _ = writeln!(
                out,
                "| {} | {} | {before} | {after} | {} |",
                c.id,
                c.unit.name(),
                c.comparison.words()
            );
        }
        for (ids, when) in [(&self.only_before, "before"), (&self.only_after, "after")] {
            if !ids.is_empty() {
                let _ = writeln!(out, "\nOnly in the run {when}: {}", ids.join(", "));
            }
        }
        let _ = writeln!(out, "\n{}", self.verdict());
        out
    }
}
