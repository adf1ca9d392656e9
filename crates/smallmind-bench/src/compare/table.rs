//! What a comparison's rows say: where we stand in each, and the table for a terminal.

use std::fmt::Write as _;

use super::runner::told;
use super::sides::{Detail, State};
use crate::measure::stats::{Better, Comparison, LEAST_SAMPLES, Samples, Verdict};
use crate::results::{OURS, Results, Row, Unit, figure};

/// Differences below this are none: for figures that are the same every time.
const SAME: f64 = 0.01;

/// Where ours stands in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Better than the best peer, beyond the noise.
    Ahead,
    /// Worse, beyond the noise.
    Behind,
    /// No difference can be told, and one of a tenth would have been.
    Level,
    /// Too few samples to tell.
    TooFew,
    /// The samples scatter too much to tell.
    TooNoisy,
    /// No peer has a figure.
    Alone,
    /// Ours has none.
    Missing,
}

impl Place {
    /// In a word or two.
    pub fn words(self) -> &'static str {
        match self {
            Place::Ahead => "ahead",
            Place::Behind => "behind",
            Place::Level => "level",
            Place::TooFew => "too few samples to tell",
            Place::TooNoisy => "too noisy to tell",
            Place::Alone => "no peer has a figure",
            Place::Missing => "ours has no figure",
        }
    }
}

/// A row's verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The best peer, by its median.
    pub best: Option<String>,
    /// Our median over the best peer's.
    pub ratio: f64,
    /// The 95 % interval of the ratio, where there are samples enough.
    pub interval: Option<(f64, f64)>,
    /// What follows.
    pub place: Place,
}

/// Whether a figure is counted and the same every time, so that one sample says it.
fn counted(unit: Unit) -> bool {
    matches!(unit, Unit::Megabytes | Unit::Perplexity | Unit::Count)
}

/// Where ours stands in a row.
pub fn standing(row: &Row) -> Standing {
    let ours = row.samples(OURS);
    let better = row.unit.better();
    let alone = |place| Standing { best: None, ratio: f64::NAN, interval: None, place };
    if !ours.median().is_finite() {
        return alone(Place::Missing);
    }
    let peers = row.peers().filter(|side| side.samples.median().is_finite());
    let order = |a: &Samples, b: &Samples| match better {
        Better::More => a.median().total_cmp(&b.median()),
        Better::Less => b.median().total_cmp(&a.median()),
    };
    let Some(best) = peers.max_by(|a, b| order(&a.samples, &b.samples)) else { return alone(Place::Alone) };
    let comparison = Comparison::of(&best.samples, ours, better);
    let ratio = ours.median() / best.samples.median();
    let place = if counted(row.unit) {
        match (ratio - 1.0).abs() < SAME {
            true => Place::Level,
            false if (ratio > 1.0) == (better == Better::More) => Place::Ahead,
            false => Place::Behind,
        }
    } else {
        match comparison.verdict {
            Verdict::Improved => Place::Ahead,
            Verdict::Regressed => Place::Behind,
            Verdict::WithinNoise => Place::Level,
            Verdict::TooFewSamples => Place::TooFew,
            Verdict::TooNoisy => Place::TooNoisy,
        }
    };
    let interval = Some((comparison.low, comparison.high)).filter(|(low, _)| low.is_finite());
    Standing { best: Some(best.name.clone()), ratio, interval, place }
}

impl Standing {
    /// `1.89 × llama.cpp fa on [1.71, 2.05]: ahead`.
    pub fn words(&self) -> String {
        let Some(best) = &self.best else { return self.place.words().to_owned() };
        let interval = self.interval.map_or(String::new(), |(low, high)| format!(" [{low:.2}, {high:.2}]"));
        format!("{:.2} × {best}{interval}: {}", self.ratio, self.place.words())
    }
}

/// The rows as blocks for a terminal, then what was not measured and why.
pub fn table(results: &Results) -> String {
    let mut out = String::new();
    let width = results.rows.iter().flat_map(|r| &r.sides).map(|s| s.name.chars().count()).max().unwrap_or(0);
    let mut group = None;
    for row in &results.rows {
        if group != Some((&row.subject, row.threads)) {
            group = Some((&row.subject, row.threads));
            let plural = if row.threads == 1 { "" } else { "s" };
            let apart = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{apart}{}, {} thread{plural}", row.subject, row.threads);
        }
        let less = if row.unit.better() == Better::Less { ", less is better" } else { "" };
        let _ = writeln!(out, "\n  {} {} ({}{less})", row.part, row.test, row.unit.name());
        for side in &row.sides {
            let s = &side.samples;
            let range = match s.0.len() {
                0 | 1 => String::new(),
                n => format!("  [{}..{}] of {n}", figure(s.least()), figure(s.most())),
            };
            let _ = writeln!(out, "    {:width$}  {:>8}{range}", side.name, figure(s.median()));
        }
        let limit =
            row.of_limit.map_or(String::new(), |s| format!("; {:.0} % of the machine's limit", 100.0 * s));
        let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
        let _ = writeln!(out, "    {}{limit}{note}", standing(row).words());
    }
    if let Ok(detail) = serde_json::from_value::<Detail>(results.detail.clone()) {
        let rounds = detail.measured.iter().filter(|(_, _, n)| *n < LEAST_SAMPLES);
        for (subject, threads, n) in rounds {
            let _ = writeln!(
                out,
                "\n{subject}, {threads} threads: {n} rounds were measured; a verdict needs {LEAST_SAMPLES}"
            );
        }
        let mut said: Vec<String> =
            detail.sides.iter().filter(|s| s.state != State::Measured).map(told).collect();
        said.dedup();
        if !said.is_empty() {
            let _ = writeln!(out, "\n{}", said.join("\n"));
        }
    }
    if !results.complete {
        out.push_str("\nInterrupted: this is what had been measured.\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::machine::Environment;
    use crate::results::{Kind, Side};

    fn row(unit: Unit, sides: &[(&str, &[f64])]) -> Row {
        let side =
            |(name, s): &(&str, &[f64])| Side { name: (*name).to_owned(), samples: Samples(s.to_vec()) };
        Row::with_sides("decode", "m", 2, "tg8", unit, sides.iter().map(side).collect())
    }

    const FAST: &[f64] = &[20.0, 20.1, 19.9, 20.2, 19.8];
    const SLOW: &[f64] = &[10.0, 10.1, 9.9, 10.2, 9.8];

    #[test]
    fn we_stand_against_the_best_peer_whichever_way_is_better() {
        let of = |unit, sides: &[(&str, &[f64])]| standing(&row(unit, sides));
        let s = of(Unit::TokensPerSecond, &[(OURS, FAST), ("a", SLOW), ("b", &[1.0])]);
        assert_eq!((s.place, s.best.as_deref(), s.ratio), (Place::Ahead, Some("a"), 2.0));
        assert!(s.words().starts_with("2.00 × a [1.9") && s.words().ends_with("]: ahead"), "{}", s.words());
        assert_eq!(of(Unit::Seconds, &[(OURS, FAST), ("a", SLOW)]).place, Place::Behind);
        assert_eq!(of(Unit::Seconds, &[(OURS, FAST), ("a", FAST)]).place, Place::Level);
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let of = |sides: &[(&str, &[f64])]| standing(&row(Unit::TokensPerSecond, sides));
        assert_eq!(of(&[(OURS, &[9.0, 9.0]), ("a", SLOW)]).place, Place::TooFew);
        let wild: &[f64] = &[1.0, 30.0, 2.0, 25.0, 11.0];
        assert_eq!(of(&[(OURS, wild), ("a", SLOW)]).place, Place::TooNoisy);
        assert_eq!(of(&[(OURS, FAST)]).place, Place::Alone);
        assert_eq!(of(&[("a", FAST)]).place, Place::Missing);
    }

    #[test]
    fn counted_figures_need_no_second_sample() {
        let of = |ours, theirs| standing(&row(Unit::Megabytes, &[(OURS, &[ours]), ("a", &[theirs])])).place;
        assert_eq!(
            (of(7.0, 14.0), of(14.0, 7.0), of(100.0, 100.5)),
            (Place::Ahead, Place::Behind, Place::Level)
        );
    }

    #[test]
    fn the_terminal_shows_every_side_and_the_verdict() {
        let mut results = Results::new(Kind::Compare, "smallmind compare", Environment::default());
        let mut fast = row(Unit::TokensPerSecond, &[(OURS, FAST), ("llama.cpp", SLOW)]);
        fast.of_limit = Some(0.5);
        results.push(fast);
        results.complete = false;
        let text = table(&results);
        assert!(
            text.starts_with(
                "m, 2 threads\n\n  decode tg8 (tok/s)\n    SmallMind      20.0  [19.8..20.2] of 5\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(": ahead; 50 % of the machine's limit\n") && text.contains("Interrupted"),
            "{text}"
        );
    }
}
