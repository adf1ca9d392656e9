//! Two profiles beside each other: what became faster, what slower, what cannot be told.

use std::fmt::Write as _;

use crate::measure::stats::{Better, Verdict};
use crate::results::{Against, Changed, Results, figure};

/// The comparison of two saved profiles, before and after, in words and tables: regressions first.
pub fn compare(before: &Results, after: &Results) -> (Against, String) {
    let against = after.against(before);
    let mut out = String::from("## Profiles compared\n\n");
    for difference in &against.differences {
        let _ = writeln!(out, "- **not like with like:** {difference}");
    }
    if !against.differences.is_empty() {
        out.push('\n');
    }
    let (then, now) = (&before.environment, &after.environment);
    let _ = writeln!(
        out,
        "Before: {} at {}; after: {} at {}.",
        then.time, then.build.commit, now.time, now.build.commit
    );
    section(&mut out, &against, "Regressions beyond the noise", Verdict::Regressed);
    section(&mut out, &against, "Improvements beyond the noise", Verdict::Improved);
    section(&mut out, &against, "Too noisy to tell", Verdict::TooNoisy);
    section(&mut out, &against, "Too few runs to tell", Verdict::TooFewSamples);
    let same = against.count(Verdict::WithinNoise);
    if same > 0 {
        let _ = writeln!(out, "\n{same} rows are within the noise.");
    }
    for (ids, when) in [(&against.only_before, "before"), (&against.only_after, "after")] {
        if !ids.is_empty() {
            let _ = writeln!(out, "\nOnly {when}: {}.", ids.join(", "));
        }
    }
    let _ = writeln!(out, "\n### Verdict\n\n{} {}", verdict(&against), against.verdict());
    (against, out)
}

fn section(out: &mut String, against: &Against, title: &str, verdict: Verdict) {
    let mut rows: Vec<&Changed> =
        against.changed.iter().filter(|c| c.comparison.verdict == verdict).collect();
    if rows.is_empty() {
        return;
    }
    // What weighs most first: by the time that was won or lost, speeds before times.
    let weight = |c: &Changed| match c.unit.better() {
        Better::More => f64::INFINITY,
        Better::Less => (c.after - c.before).abs(),
    };
    rows.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    let _ = writeln!(
        out,
        "\n### {title}\n\n| row | unit | before | after | change of the median [95 % interval] |"
    );
    out.push_str("| --- | --- | ---: | ---: | --- |\n");
    for c in rows {
        let (before, after) = (figure(c.before), figure(c.after));
        let _ =
            writeln!(out, "| {} | {} | {before} | {after} | {} |", c.id, c.unit.name(), c.comparison.words());
    }
}

/// One sentence on the two speeds that users feel.
fn verdict(against: &Against) -> String {
    let of = |test: &str| {
        let row = against.changed.iter().find(|c| c.unit.better() == Better::More && c.id.ends_with(test))?;
        Some(format!("{test} {}", row.comparison.words()))
    };
    let parts: Vec<String> = ["prefill", "decode"].into_iter().filter_map(of).collect();
    if parts.is_empty() { String::new() } else { format!("{}.", parts.join("; ")) }
}
