//! The rows of `speeds.toml`: what is measured, under which name, and what is asked of it. Measures nothing.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use smallmind_bench::measure::stats::Comparison;
use smallmind_bench::speed::Test;

const SPEEDS: &str = include_str!("../../speeds.toml");

/// All of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    #[serde(rename = "model")]
    pub(super) models: Vec<ModelEntry>,
    #[serde(rename = "row")]
    rows: Vec<RowEntry>,
}

/// A model, and where its file comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    pub(super) name: String,
    pub(super) file: Option<String>,
    pub(super) quantize: Option<Quantized>,
    pub(super) random: Option<Random>,
}

/// Another model's weights in another type: for speed, not for quality.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quantized {
    pub(super) from: String,
    pub(super) to: String,
}

/// Random weights.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Random {
    pub(super) vocabulary: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowEntry {
    model: String,
    #[serde(default)]
    prompt: usize,
    #[serde(default)]
    generate: usize,
    #[serde(default)]
    depth: usize,
    #[serde(default = "one")]
    sequences: usize,
    #[serde(default)]
    prefill: Prefill,
    isa: Option<String>,
    threads: Vec<usize>,
    #[serde(default)]
    asked: Target,
    #[serde(default)]
    goal: Target,
}

fn one() -> usize {
    1
}

/// The numeric class of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Prefill {
    #[default]
    Exact,
    Fast,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// Ours over llama.cpp.
    pub(super) ratio: Option<f64>,
    /// Of the measured roofline.
    pub(super) limit: Option<f64>,
    /// One of the two is enough.
    #[serde(default)]
    either: bool,
}

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// And the whole interval lies above it.
    Surely,
    /// By the median; the interval reaches below, or there are too few samples for one.
    ByMedian,
    /// Not by the median; the interval reaches above, or there are too few samples for one.
    Unclear,
    /// Nor does the interval reach it.
    No,
}

impl Reached {
    pub(super) fn words(self) -> &'static str {
        match self {
            Reached::Surely => "yes",
            Reached::ByMedian => "by the median",
            Reached::Unclear => "not by the median",
            Reached::No => "no",
        }
    }
}

impl Target {
    /// Whether it was reached by a ratio with its interval and a share of the limit; `None` where nothing is asked for or
    /// what it needs was not measured.
    pub(super) fn reached(self, ratio: Option<&Comparison>, of_limit: Option<f64>) -> Option<Reached> {
        let by_ratio = self.ratio.map(|asked| {
            let c = ratio.filter(|c| c.ratio.is_finite())?;
            // Without an interval neither of its ends is known.
            Some(match (c.ratio >= asked, c.low >= asked, c.high < asked) {
                (true, true, _) => Reached::Surely,
                (true, ..) => Reached::ByMedian,
                (false, _, false) => Reached::Unclear,
                (false, ..) => Reached::No,
            })
        });
        // A share is of a median and of the best bandwidth seen: it has no interval.
        let by_limit = self.limit.map(|asked| {
            let share = of_limit.filter(|s| s.is_finite())?;
            Some(if share >= asked { Reached::ByMedian } else { Reached::No })
        });
        let order = [Reached::Surely, Reached::ByMedian, Reached::Unclear, Reached::No];
        let place = |r: Reached| order.iter().position(|o| *o == r);
        match (by_ratio, by_limit) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => one,
            (Some(a), Some(b)) if self.either => a.into_iter().chain(b).min_by_key(|r| place(*r)),
            (Some(a), Some(b)) => Some([a?, b?].into_iter().max_by_key(|r| place(*r))?),
        }
    }

    pub(super) fn words(self) -> String {
        let ratio = self.ratio.map(|r| format!("{r} ×"));
        let limit = self.limit.map(|l| format!("{:.0} % of limit", 100.0 * l));
        let all: Vec<String> = ratio.into_iter().chain(limit).collect();
        if all.is_empty() { "–".to_owned() } else { all.join(if self.either { " or " } else { " and " }) }
    }
}

/// One row: one model, test and number of threads.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) model: String,
    pub(super) test: Test,
    pub(super) prefill: Prefill,
    pub(super) isa: Option<String>,
    pub(super) threads: usize,
    pub(super) asked: Target,
    pub(super) goal: Target,
}

impl Case {
    /// The part of a comparison that it is.
    pub(super) fn part(&self) -> &'static str {
        match self.test {
            Test { prompt: 1.., .. } => "prefill",
            Test { batch: 2.., .. } => "batch",
            _ => "decode",
        }
    }

    /// llama-bench's name of the test, with what limits it.
    pub(super) fn name(&self) -> String {
        let fast = if self.prefill == Prefill::Fast { " fast" } else { "" };
        let isa = self.isa.as_ref().map_or(String::new(), |isa| format!(", {isa}"));
        format!("{}{fast}{isa}", self.test.name())
    }

    /// llama.cpp's build that it is measured against.
    pub(super) fn build(&self) -> &str {
        self.isa.as_deref().unwrap_or("native")
    }
}

impl Table {
    /// The file, checked: every model has one source, and every row names one.
    pub(super) fn read() -> Result<Table> {
        Table::parse(SPEEDS)
    }

    fn parse(text: &str) -> Result<Table> {
        let table: Table = toml::from_str(text).context("speeds.toml")?;
        for model in &table.models {
            let sources = [model.file.is_some(), model.quantize.is_some(), model.random.is_some()];
            if sources.iter().filter(|s| **s).count() != 1 {
                bail!("speeds.toml: `{}` needs one of `file`, `quantize` and `random`", model.name);
            }
        }
        let named = table.rows.iter().map(|r| &r.model);
        let made = table.models.iter().filter_map(|m| m.quantize.as_ref().map(|q| &q.from));
        let drawn = table.models.iter().filter_map(|m| m.random.as_ref().map(|r| &r.vocabulary));
        for name in named.chain(made).chain(drawn) {
            table.model(name)?;
        }
        Ok(table)
    }

    pub(super) fn model(&self, name: &str) -> Result<&ModelEntry> {
        let found = self.models.iter().find(|m| m.name == name);
        found.with_context(|| format!("speeds.toml: there is no model `{name}`"))
    }

    /// Every row, in the order of the file.
    pub(super) fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for row in &self.rows {
            cases.extend(row.threads.iter().map(|threads| Case {
                model: row.model.clone(),
                test: Test {
                    prompt: row.prompt,
                    generate: row.generate,
                    depth: row.depth,
                    batch: row.sequences,
                },
                prefill: row.prefill,
                isa: row.isa.clone(),
                threads: *threads,
                asked: row.asked,
                goal: row.goal,
            }));
        }
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind_bench::measure::stats::Verdict;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_target() {
        let cases = Table::read().unwrap().cases();
        let mut names: Vec<String> =
            cases.iter().map(|c| format!("{} {} {} t{}", c.part(), c.model, c.name(), c.threads)).collect();
        assert!(names.contains(&"prefill SmolLM2-135M Q4_1 pp512 fast t2".to_owned()), "{names:?}");
        assert!(names.contains(&"batch SmolLM2-135M Q4_1 tg64 x16 @ d16 t1".to_owned()), "{names:?}");
        assert!(names.contains(&"decode SmolLM2-135M Q4_1 tg128, avx2 t2".to_owned()), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        assert!(cases.iter().all(|c| c.asked.words() != "–" && c.test.tokens() > 0));
    }

    #[test]
    fn a_table_with_an_unknown_model_or_two_sources_is_refused() {
        let row = "[[row]]\nmodel = \"b\"\nprompt = 1\nthreads = [1]\n";
        let error = |models: &str| Table::parse(&format!("{models}{row}")).unwrap_err().to_string();
        assert!(error("[[model]]\nname = \"a\"\nfile = \"x\"\n").contains("no model `b`"));
        assert!(error("[[model]]\nname = \"b\"\n").contains("needs one of"));
        assert!(Table::parse(&format!("[[model]]\nname = \"b\"\nfile = \"x\"\n{row}")).is_ok());
    }

    #[test]
    fn a_target_is_reached_surely_or_by_the_median_or_not() {
        let of = |ratio: f64, low: f64, high: f64| Comparison {
            ratio,
            low,
            high,
            p: 0.0,
            verdict: Verdict::Improved,
        };
        let ratio = |asked: f64, c: Comparison| {
            Target { ratio: Some(asked), ..Target::default() }.reached(Some(&c), None)
        };
        assert_eq!(ratio(1.5, of(2.0, 1.6, 2.4)), Some(Reached::Surely));
        assert_eq!(ratio(1.5, of(2.0, 1.4, 2.4)), Some(Reached::ByMedian));
        assert_eq!(ratio(1.5, of(2.0, f64::NAN, f64::NAN)), Some(Reached::ByMedian));
        assert_eq!(ratio(2.5, of(2.0, 1.4, 2.6)), Some(Reached::Unclear));
        assert_eq!(ratio(2.5, of(2.0, f64::NAN, f64::NAN)), Some(Reached::Unclear));
        assert_eq!(ratio(2.5, of(2.0, 1.4, 2.4)), Some(Reached::No));
        let both = Target { ratio: Some(1.5), limit: Some(0.9), either: false };
        let c = of(2.0, 1.6, 2.4);
        assert_eq!(both.reached(Some(&c), Some(0.8)), Some(Reached::No));
        assert_eq!(both.reached(Some(&c), Some(0.95)), Some(Reached::ByMedian));
        assert_eq!(both.reached(Some(&c), None), None);
        assert_eq!(Target { either: true, ..both }.reached(Some(&c), Some(0.8)), Some(Reached::Surely));
        assert_eq!(Target::default().reached(Some(&c), None), None);
        assert_eq!(both.words(), "1.5 × and 90 % of limit");
    }
}
