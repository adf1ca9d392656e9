//! From the seed to today to the goal to the machine's limit. Where the seed had a figure it is the one of its own reports;
//! goals are ratios to a peer of the same run, or times.

use super::block::Table;
use crate::compare::standing;
use crate::measure::stats::Better;
use crate::results::{Row, figure};

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    /// So many times the best of the sides whose name begins so.
    Times(&'static [(f64, &'static str)]),
    /// The row's unit.
    Value(f64),
}

/// A row of the table.
struct Milestone {
    part: &'static str,
    /// How the subject's name begins, in small letters.
    subject: &'static str,
    /// How the test's name begins.
    test: &'static str,
    what: &'static str,
    seed: &'static str,
    goal: Goal,
}

const fn row(
    part: &'static str,
    subject: &'static str,
    test: &'static str,
    what: &'static str,
    seed: &'static str,
    goal: Goal,
) -> Milestone {
    Milestone { part, subject, test, what, seed, goal }
}

const MILESTONES: &[Milestone] = &[
    row(
        "generate",
        "preset small f32",
        "",
        "small F32, 50 tokens after 10",
        "81.5",
        Goal::Times(&[(8.0, "PyTorch"), (5.0, "ONNX Runtime")]),
    ),
    row(
        "generate",
        "preset small q8_0",
        "",
        "small Q8_0, 50 tokens after 10",
        "–",
        Goal::Times(&[(12.0, "PyTorch")]),
    ),
    row("ttft", "preset small f32", "", "small F32, first token", "–", Goal::Value(100.0)),
    row(
        "generate",
        "preset medium f32",
        "",
        "medium F32, 50 tokens after 10",
        "24.5, and 678",
        Goal::Times(&[(2.0, "PyTorch")]),
    ),
    row(
        "generate",
        "preset medium q8_0",
        "",
        "medium Q8_0, 50 tokens after 10",
        "–",
        Goal::Times(&[(6.0, "PyTorch")]),
    ),
    row("ttft", "preset medium f32", "", "medium F32, first token", "2790", Goal::Value(400.0)),
    row("decode", "smollm2", "tg128 @ d512", "SmolLM2, decode", "–", Goal::Times(&[(1.8, "llama.cpp")])),
    row("prefill", "smollm2", "pp512", "SmolLM2, prefill", "–", Goal::Times(&[(3.0, "llama.cpp")])),
    row("batch", "smollm2", "", "SmolLM2, 16 sequences at once", "–", Goal::Times(&[(6.0, "llama.cpp")])),
    row(
        "cold",
        "smollm2",
        "",
        "SmolLM2, process start to first token",
        "–",
        Goal::Times(&[(0.5, "llama.cpp")]),
    ),
    row("decode", "gemma", "tg128 @ d512", "gemma-3-270m, decode", "–", Goal::Times(&[(2.0, "llama.cpp")])),
    row("prefill", "gemma", "pp512", "gemma-3-270m, prefill", "–", Goal::Times(&[(5.0, "llama.cpp")])),
];

impl Goal {
    /// The value in the row's unit, where the peers that it needs have figures.
    fn value(self, row: &Row) -> Option<f64> {
        let Goal::Times(all) = self else {
            let Goal::Value(value) = self else { return None };
            return Some(value);
        };
        let more = row.unit.better() == Better::More;
        let best = |a: f64, b: f64| if more { a.max(b) } else { a.min(b) };
        let each = all.iter().filter_map(|(times, peer)| {
            let sides = row.peers().filter(|side| side.name.starts_with(peer));
            Some(times * sides.map(|s| s.samples.median()).filter(|m| m.is_finite()).reduce(best)?)
        });
        // All of them are to be reached.
        each.reduce(if more { f64::max } else { f64::min })
    }

    fn words(self) -> String {
        match self {
            Goal::Value(_) => String::new(),
            Goal::Times(all) => {
                let each: Vec<String> = all.iter().map(|(times, peer)| format!("{times} × {peer}")).collect();
                format!(" ({})", each.join(", "))
            }
        }
    }
}

/// The table; `None` where no row has a goal.
pub(super) fn table(rows: &[&Row]) -> Option<Table> {
    let head = ["what", ">threads", "unit", ">seed", ">today", ">goal", "reached", ">machine's limit", "row"];
    let mut table = Table::new(&head);
    for milestone in MILESTONES {
        let is = |row: &&&Row| {
            row.part == milestone.part
                && row.subject.to_lowercase().starts_with(milestone.subject)
                && row.test.starts_with(milestone.test)
                && row.median().is_finite()
        };
        for row in rows.iter().filter(is) {
            let today = row.median();
            let goal = milestone.goal.value(row);
            let more = row.unit.better() == Better::More;
            let reached = goal.map(|goal| if more { today >= goal } else { today <= goal });
            let reached = match reached {
                None => "no figure to tell by".to_owned(),
                Some(true) => "yes".to_owned(),
                Some(false) => format!(
                    "no: {:.0} % of it",
                    100.0 * goal.map_or(f64::NAN, |g| if more { today / g } else { g / today })
                ),
            };
            let limit =
                row.of_limit.filter(|share| *share > 0.0).map_or("–".into(), |share| figure(today / share));
            table.row([
                milestone.what.to_owned(),
                row.threads.to_string(),
                row.unit.name().to_owned(),
                milestone.seed.to_owned(),
                figure(today),
                goal.map_or("–".into(), figure) + &milestone.goal.words(),
                reached,
                limit,
                format!("`{}`", row.id),
            ]);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// How much faster the machine would allow ours to be, in words; `None` without a limit.
pub(super) fn headroom(row: &Row) -> Option<String> {
    let share = row.of_limit.filter(|share| *share > 0.0)?;
    let factor = 1.0 / share;
    Some(if factor > 1.0 {
        format!(
            "{:.0} % of the read bandwidth measured in the run; at most {factor:.2} × more is possible",
            100.0 * share
        )
    } else {
        format!(
            "{:.0} % of the read bandwidth: the limit was measured in a worse moment than the row",
            100.0 * share
        )
    })
}

/// The rows that a first look is for: of each model, the largest number of threads.
pub(super) fn headline<'a>(rows: &[&'a Row]) -> Vec<&'a Row> {
    let most = |subject: &str| rows.iter().filter(|r| r.subject == subject).map(|r| r.threads).max();
    let with_peers = rows.iter().filter(|r| standing(r).best.is_some());
    with_peers.filter(|r| Some(r.threads) == most(&r.subject)).copied().collect()
}
