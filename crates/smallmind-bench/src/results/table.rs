//! Rows as tables of Markdown, which read well in a terminal, too.

use std::fmt::Write as _;

use super::{OURS, Results, Row};
use crate::measure::stats::Samples;

/// Head of the table of sides beside each other.
const SIDES: &str = "| subject | threads | test | unit | SmallMind | peers | ratio | of the limit | |\n\
                     | --- | ---: | --- | --- | --- | --- | ---: | ---: | --- |\n";

/// What the table of sides means.
const SIDES_LEGEND: &str = "Median [least..most]. Ratio: SmallMind over the best peer; for times and memory less is better. Of the limit: decode's \
     bytes a token (weights and KV as stored) times tokens a second over the read bandwidth measured at the nearest working \
     set; kernels against the measured FMA peak or the cache's bandwidth.";

impl Results {
    /// The environment and the limits, an item a line.
    pub fn environment_markdown(&self) -> String {
        let mut out = String::new();
        let limits =
            self.limits.as_ref().map(crate::measure::roofline::Limits::described).unwrap_or_default();
        for (name, value) in self.environment.described().into_iter().chain(limits) {
            let _ = writeln!(out, "- {name}: {value}");
        }
        out
    }

    /// The environment, and all rows with their sides beside each other.
    pub fn sides_markdown(&self) -> String {
        let mut out = self.environment_markdown();
        let _ = write!(out, "\n{SIDES_LEGEND}\n\n{SIDES}");
        for row in &self.rows {
            let _ = writeln!(out, "{}", row.sides_markdown());
        }
        out
    }

    /// Every row's statistics.
    pub fn statistics_markdown(&self) -> String {
        statistics_markdown(&self.rows)
    }

    /// A row a line, with every sample.
    pub fn rows_as_json_lines(&self) -> String {
        self.rows.iter().map(|r| serde_json::to_string(r).unwrap_or_default() + "\n").collect()
    }

    /// Every row's statistics as CSV.
    pub fn statistics_csv(&self) -> String {
        let records = self.rows.iter().filter_map(|row| {
            let s = row.samples(OURS).summary()?;
            let text = |name: &str, value: &str| (name.to_owned(), serde_json::json!(value));
            let number = |name: &str, value: f64| (name.to_owned(), serde_json::json!(value));
            Some(vec![
                text("id", &row.id),
                text("scenario", &row.part),
                text("subject", &row.subject),
                number("threads", row.threads as f64),
                text("test", &row.test),
                text("unit", row.unit.name()),
                number("n", s.n as f64),
                number("min", s.min),
                number("p50", s.p50),
                number("p90", s.p90),
                number("p95", s.p95),
                number("p99", s.p99),
                number("max", s.max),
                number("mean", s.mean),
                number("stddev", s.stddev),
            ])
        });
        crate::speed::csv(&records.collect::<Vec<_>>())
    }
}

impl Row {
    /// As a row of the table of sides.
    pub fn sides_markdown(&self) -> String {
        let cell = |s: &Samples| if s.0.is_empty() { "–".to_owned() } else { range(s) };
        let peers: Vec<String> =
            self.peers().map(|side| format!("{}: {}", side.name, cell(&side.samples))).collect();
        let peers = if peers.is_empty() { "–".to_owned() } else { peers.join("<br>") };
        let ratio = self.ratio().map_or("–".to_owned(), |r| format!("{r:.2}"));
        let share = self.of_limit.map_or("–".to_owned(), |s| format!("{:.0} %", 100.0 * s));
        let (subject, threads, test, unit) = (&self.subject, self.threads, &self.test, self.unit.name());
        let (ours, note) = (cell(self.samples(OURS)), &self.note);
        format!("| {subject} | {threads} | {test} | {unit} | {ours} | {peers} | {ratio} | {share} | {note} |")
    }
}

impl Row {
    /// Head of the table of [`Row::limit_markdown`].
    pub const LIMIT_HEAD: &str = "| subject | threads | test | unit | median [least..most] | of the limit | |\n\
                                  | --- | ---: | --- | --- | --- | ---: | --- |\n";

    /// Ours alone, beside the machine's limit.
    pub fn limit_markdown(&self) -> String {
        let share = self.of_limit.map_or("–".to_owned(), |s| format!("{:.0} %", 100.0 * s));
        let (subject, threads, test, unit) = (&self.subject, self.threads, &self.test, self.unit.name());
        let ours = range(self.samples(OURS));
        format!("| {subject} | {threads} | {test} | {unit} | {ours} | {share} | {} |", self.note)
    }
}

/// A table of ours alone: order statistics, mean and deviation.
pub(super) fn statistics_markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| scenario | subject | threads | test | unit | n | min | P50 | P90 | P95 | P99 | max | mean | std dev |\n\
         | --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let Some(s) = row.samples(OURS).summary() else { continue };
        let _ = write!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            row.part,
            row.subject,
            row.threads,
            row.test,
            row.unit.name(),
            s.n
        );
        for value in [s.min, s.p50, s.p90, s.p95, s.p99, s.max, s.mean, s.stddev] {
            let _ = write!(out, " {} |", figure(value));
        }
        out.push('\n');
    }
    out
}

/// Median and range.
fn range(s: &Samples) -> String {
    let median = s.median();
    let digits = digits(median);
    format!("{median:.digits$} [{:.digits$}..{:.digits$}]", s.least(), s.most())
}

/// Three digits that mean something, whatever the size.
fn digits(value: f64) -> usize {
    match value.abs() {
        v if v < 1.0 => 3,
        v if v < 10.0 => 2,
        v if v < 1000.0 => 1,
        _ => 0,
    }
}

/// A figure with as many digits as mean something.
pub fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = digits(value);
    format!("{value:.digits$}")
}

/// Bytes for a human, decimal units as disks and downloads have them.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}
