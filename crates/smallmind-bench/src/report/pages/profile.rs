//! The raw profile: everything that profiles hold, with their flame graphs and roofline plots.

use super::super::block::{Block, heading, text};
use super::super::bundle::Bundle;
use super::super::markdown::parse;
use super::benchmarks::statistics;
use super::{machine, missing};
use crate::profile::{Depth, Profile, flame_graph, report, roofline_plot};
use crate::results::{Kind, Results};

pub(in super::super) fn profile(bundle: &Bundle) -> Vec<Block> {
    let mut out = vec![machine(bundle)];
    for (name, run) in bundle.runs(Kind::Profile) {
        out.push(heading(2, format!("`{name}`")));
        out.push(text(format!("Made by `{}`.", run.command)));
        if !run.complete {
            out.push(text("The run was interrupted: this is what had been measured by then."));
        }
        out.extend(recorded(run).unwrap_or_default());
        out.push(heading(3, "Its rows"));
        out.push(Block::Table(statistics(&run.rows)));
    }
    if out.len() == 1 {
        out.push(missing(Kind::Profile));
    }
    out
}

/// The views of a recorded profile; `None` of a run that has rows alone.
fn recorded(run: &Results) -> Option<Vec<Block>> {
    let profile: Profile = serde_json::from_value(run.detail.get("profile")?.clone()).ok()?;
    // Every operator of every layer is in the file: thousands of lines for a model of 30 layers.
    let mut out = parse(&report(&profile, run.limits.as_ref(), Depth::Standard));
    out.push(Block::Drawing("Flame graph".into(), flame_graph(&profile)));
    if let Some(limits) = &run.limits {
        out.push(Block::Drawing("Roofline".into(), roofline_plot(&profile, limits)));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::machine::Environment;
    use crate::profile::NodeFigures;
    use crate::results::{Row, Unit};

    #[test]
    fn a_recorded_profile_is_shown_with_its_drawings_and_rows() {
        let node = |path: &str, total_us| NodeFigures {
            path: path.into(),
            calls: 3,
            total_us,
            ..NodeFigures::default()
        };
        let nodes = vec![node("decode", 900.0)];
        let profile = Profile { model: "m".into(), threads: 2, iterations: 3, nodes, ..Profile::default() };
        let mut run = Results::new(Kind::Profile, "smallmind profile", Environment::default());
        run.push(Row::ours("decode", "m", 2, "tg8", Unit::TokensPerSecond, [1.0, 2.0]));
        run.detail = serde_json::json!({ "profile": profile });
        let with = super::profile(&Bundle::of(vec![("p.json".into(), run.clone())]).unwrap());
        let drawings = |blocks: &[Block]| blocks.iter().filter(|b| matches!(b, Block::Drawing(..))).count();
        assert_eq!(drawings(&with), 1);
        assert!(
            with.iter().any(
                |b| matches!(b, Block::Table(t) if t.rows.iter().flatten().any(|c| c.contains("decode")))
            )
        );
        run.detail = serde_json::Value::Null;
        let without = super::profile(&Bundle::of(vec![("p.json".into(), run)]).unwrap());
        assert_eq!(drawings(&without), 0);
        assert!(without.len() < with.len() && without.len() >= 4);
    }
}
