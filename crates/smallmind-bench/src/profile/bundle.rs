//! Everything that one profile run leaves: the saved results, and the files made from them.

use serde_json::json;

use super::enhanced::Phase;
use super::insights::insights;
use super::markdown::{Depth, report};
use super::scaling::{Scaled, scaling};
use super::views::{layers, operators};
use super::workload::Recorded;
use super::{chrome_trace, flame_graph, folded_stacks, roofline_plot};
use crate::results::Results;

/// A file to write: its name and contents.
pub type NamedFile = (&'static str, String);

/// Puts a recorded profile into the results: rows to compare by, and the whole of it as detail.
pub fn fill(results: &mut Results, recorded: &Recorded) {
    let profile = &recorded.profile;
    profile.rows(results);
    let limits = results.limits.as_ref();
    results.detail = json!({
        "profile": profile, "operators": operators(profile, limits), "layers": layers(profile),
        "insights": insights(profile, limits),
    });
}

/// The report of a recorded profile, environment last.
pub fn text(results: &Results, recorded: &Recorded, depth: Depth) -> String {
    let report = report(&recorded.profile, results.limits.as_ref(), depth);
    format!("{report}\n### Environment\n\n{}", results.environment_markdown())
}

/// The report of an enhanced run: a table for each phase, how models scale, and the environment.
pub fn enhanced_text(results: &Results, scaled: &[Scaled]) -> String {
    let mut out = String::from("## Enhanced profile\n");
    for phase in Phase::ALL {
        let rows = results.rows.iter().filter(|r| r.part == phase.part());
        let rows: Vec<String> = rows.map(crate::results::Row::limit_markdown).collect();
        if !rows.is_empty() {
            out += &format!(
                "\n### {}\n\n{}{}\n",
                phase.title(),
                crate::results::Row::LIMIT_HEAD,
                rows.join("\n")
            );
        }
    }
    if scaled.len() > 1 {
        out += &format!("\n#{}", scaling(scaled));
    }
    out + &format!("\n### Environment\n\n{}", results.environment_markdown())
}

/// The files of a recorded profile.
pub fn files(results: &Results, recorded: &Recorded, depth: Depth) -> Vec<NamedFile> {
    let profile = &recorded.profile;
    let mut files = vec![
        ("profile.md", text(results, recorded, depth)),
        ("trace.json", chrome_trace(&recorded.timeline, &profile.model).to_string()),
        ("stacks.folded", folded_stacks(profile)),
        ("flame.svg", flame_graph(profile)),
    ];
    if let Some(limits) = &results.limits {
        files.push(("roofline.svg", roofline_plot(profile, limits)));
    }
    files
}
