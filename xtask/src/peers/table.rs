//! Measured rows, and how they are shown: Markdown, and JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One side's figures of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The middle value, or the mean of the two middle ones.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(low), Some(high)) =
            (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2))
        else {
            return f64::NAN;
        };
        (low + high) / 2.0
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    fn show(&self) -> String {
        let median = self.median();
        // Three digits that mean something, whatever the size.
        let digits = if median < 1.0 {
            3
        } else if median < 10.0 {
            2
        } else {
            usize::from(median < 1000.0)
        };
        format!("{median:.digits$} [{:.digits$}..{:.digits$}]", self.least(), self.most())
    }
}

/// What a figure counts, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    TokensPerSecond,
    Gflops,
    GigabytesPerSecond,
    Seconds,
    Microseconds,
    Megabytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::TokensPerSecond => "tok/s",
            Unit::Gflops => "GFLOP/s",
            Unit::GigabytesPerSecond => "GB/s",
            Unit::Seconds => "s",
            Unit::Microseconds => "µs",
            Unit::Megabytes => "MB",
        }
    }

    fn less_is_better(self) -> bool {
        matches!(self, Unit::Seconds | Unit::Microseconds | Unit::Megabytes)
    }
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The part of the table, as `--only` calls it.
    pub(crate) part: &'static str,
    pub(crate) subject: String,
    pub(crate) threads: usize,
    pub(crate) test: String,
    pub(crate) unit: Unit,
    pub(crate) ours: Samples,
    pub(crate) peers: Vec<(String, Samples)>,
    /// The share of what the machine's measured limit allows; 1 is all of it.
    pub(crate) of_limit: Option<f64>,
    /// What else is to be known, or why the row has no figures.
    pub(crate) note: String,
}

impl Row {
    /// Ours over the best peer's, by medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let medians = self.peers.iter().map(|(_, s)| s.median()).filter(|m| m.is_finite());
        let better = if self.unit.less_is_better() { f64::min } else { f64::max };
        let ratio = self.ours.median() / medians.reduce(better)?;
        ratio.is_finite().then_some(ratio)
    }

    /// As a row of the table under [`HEAD`].
    pub(crate) fn markdown(&self) -> String {
        let cell = |s: &Samples| if s.0.is_empty() { "–".to_owned() } else { s.show() };
        let peers: Vec<String> = self.peers.iter().map(|(name, s)| format!("{name}: {}", cell(s))).collect();
        let peers = if peers.is_empty() { "–".to_owned() } else { peers.join("<br>") };
        let ratio = self.ratio().map_or("–".to_owned(), |r| format!("{r:.2}"));
        let share = self.of_limit.map_or("–".to_owned(), |s| format!("{:.0} %", 100.0 * s));
        let (subject, threads, test, unit) = (&self.subject, self.threads, &self.test, self.unit.name());
        let ours = cell(&self.ours);
        format!(
            "| {subject} | {threads} | {test} | {unit} | {ours} | {peers} | {ratio} | {share} | {} |",
            self.note
        )
    }

    fn json(&self) -> Value {
        let side = |s: &Samples| match s.0.is_empty() {
            true => Value::Null,
            false => json!({"median": s.median(), "min": s.least(), "max": s.most(), "samples": s.0}),
        };
        let peers: Vec<Value> =
            self.peers.iter().map(|(name, s)| json!({"name": name, "figures": side(s)})).collect();
        json!({
            "part": self.part, "subject": self.subject, "threads": self.threads, "test": self.test,
            "unit": self.unit.name(), "less_is_better": self.unit.less_is_better(), "smallmind": side(&self.ours),
            "peers": peers, "ratio": self.ratio(), "of_limit": self.of_limit, "note": self.note,
        })
    }
}

const HEAD: &str = "| subject | threads | test | unit | SmallMind | peers | ratio | of the limit | |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

/// The whole run: what it ran on, and its rows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Bandwidths and peaks, for programs; the environment says them in words.
    pub(crate) limits: Value,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.environment {
            let _ = writeln!(out, "- {name}: {value}");
        }
        out.push_str(
            "\nMedian [least..most]. Ratio: SmallMind over the best peer; for times and memory less is better. Of the \
             limit: decode's bytes a token (weights and KV as stored) times tokens a second over the read bandwidth \
             measured at the nearest working set; kernels against the measured FMA peak or the cache's bandwidth.\n\n",
        );
        out.push_str(HEAD);
        for row in &self.rows {
            let _ = writeln!(out, "{}", row.markdown());
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let environment: serde_json::Map<String, Value> =
            self.environment.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({"environment": environment, "limits": self.limits, "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unit: Unit, ours: &[f64], peers: &[(&str, &[f64])]) -> Row {
        Row {
            part: "decode",
            subject: "m".into(),
            threads: 2,
            test: "tg128".into(),
            unit,
            ours: Samples(ours.to_vec()),
            peers: peers.iter().map(|(n, s)| ((*n).to_owned(), Samples(s.to_vec()))).collect(),
            of_limit: None,
            note: String::new(),
        }
    }

    #[test]
    fn medians_and_ranges_are_of_the_samples() {
        let s = Samples(vec![30.0, 10.0, 20.0]);
        assert_eq!((s.median(), s.show().as_str()), (20.0, "20.0 [10.0..30.0]"));
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 8.0]).median(), 3.0);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn the_ratio_is_against_the_best_peer_whichever_way_is_better() {
        assert_eq!(
            row(Unit::TokensPerSecond, &[300.0], &[("a", &[100.0]), ("b", &[150.0])]).ratio(),
            Some(2.0)
        );
        assert_eq!(row(Unit::Seconds, &[1.0], &[("a", &[2.0]), ("b", &[4.0])]).ratio(), Some(0.5));
        assert_eq!(row(Unit::Gflops, &[1.0], &[]).ratio(), None);
        assert_eq!(row(Unit::TokensPerSecond, &[1.0], &[("failed", &[])]).ratio(), None);
    }

    #[test]
    fn a_row_shows_every_side_and_its_share_of_the_limit() {
        let mut r = row(Unit::TokensPerSecond, &[300.0], &[("fa 0", &[100.0]), ("fa 1", &[])]);
        r.of_limit = Some(0.856);
        let want = "| m | 2 | tg128 | tok/s | 300.0 [300.0..300.0] | fa 0: 100.0 [100.0..100.0]<br>fa 1: – | 3.00 | 86 % |  |";
        assert_eq!(r.markdown(), want);
        let report = Report { environment: vec![("CPU", "x".into())], limits: Value::Null, rows: vec![r] };
        assert_eq!(report.json()["rows"][0]["peers"][1]["figures"], Value::Null);
        assert!(report.markdown().starts_with("- CPU: x\n") && report.markdown().ends_with("|\n"));
    }
}
