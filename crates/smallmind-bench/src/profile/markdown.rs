//! The report of a profile in Markdown, which reads well in a terminal: a conclusion first, then the tables it rests on.

use std::fmt::Write as _;

use super::insights::insights;
use super::model::Profile;
use super::views::{OperatorFigures, layers, operators};
use crate::measure::roofline::{Bound, Limits};
use crate::measure::stats::Samples;
use crate::results::{bytes, figure};

/// How much the report shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Depth {
    /// Operators over all layers.
    #[default]
    Standard,
    /// Every operator of every layer, too.
    Deep,
}

/// The whole report, without the environment.
pub fn report(profile: &Profile, limits: Option<&Limits>, depth: Depth) -> String {
    let all = operators(profile, limits);
    let mut out = format!("## Profile of {}\n\n", profile.model);
    let (prefill, decode) =
        (Samples(profile.prefill_tps.clone()).median(), Samples(profile.decode_tps.clone()).median());
    let _ = writeln!(
        out,
        "{}, {} layers, {} threads, {}; {} runs of {} prompt tokens and {} generated: prefill {} tokens/s, decode {} tokens/s.\n",
        profile.architecture,
        profile.layers,
        profile.threads,
        profile.isa,
        profile.iterations,
        profile.prompt_tokens,
        profile.generated,
        figure(prefill),
        figure(decode)
    );
    out.push_str("### What it means\n\n");
    for sentence in insights(profile, limits) {
        let _ = writeln!(out, "- {sentence}");
    }
    hot_paths(&mut out, &all);
    limits_table(&mut out, &all);
    most_called(&mut out, &all);
    allocators(&mut out, &all);
    call_tree(&mut out, profile, depth);
    layer_table(&mut out, profile);
    if depth == Depth::Deep {
        every_operator(&mut out, profile);
    }
    memory_map(&mut out, profile);
    counters(&mut out, profile);
    out
}

fn ranked(all: &[OperatorFigures], by: impl Fn(&OperatorFigures) -> f64) -> Vec<&OperatorFigures> {
    let mut sorted: Vec<&OperatorFigures> = all.iter().filter(|op| by(op) > 0.0).collect();
    sorted.sort_by(|a, b| by(b).total_cmp(&by(a)));
    sorted
}

fn title(op: &OperatorFigures) -> String {
    if op.phase == op.name { op.name.clone() } else { format!("{} {}", op.phase, op.name) }
}

fn hot_paths(out: &mut String, all: &[OperatorFigures]) {
    out.push_str("\n### Hot paths\n\nInclusive is with what happens within, exclusive without.\n\n");
    out.push_str("| operator | calls | inclusive ms | exclusive ms | average µs | share |\n| --- | ---: | ---: | ---: | ---: | ---: |\n");
    for op in ranked(all, |op| op.exclusive_us).into_iter().take(20) {
        let average = op.total_us / op.calls as f64;
        let _ = writeln!(
            out,
            "| {} | {} | {:.2} | {:.2} | {average:.2} | {:.1} % |",
            title(op),
            op.calls,
            op.total_us / 1e3,
            op.exclusive_us / 1e3,
            100.0 * op.share
        );
    }
}

fn limits_table(out: &mut String, all: &[OperatorFigures]) {
    out.push_str(
        "\n### Against the machine\n\nGFLOP/s are of the mathematics; bytes are the least that must move. The limit is the \
         roofline measured in this run, for the operations that are executed. A small operator's data may sit in a cache \
         that is faster than the memory it is measured against.\n\n",
    );
    out.push_str("| operator | GFLOP/s | GB/s | operations a byte | bound by | of the limit |\n| --- | ---: | ---: | ---: | --- | ---: |\n");
    let cell = |value: Option<f64>| value.map_or("–".to_owned(), figure);
    for op in ranked(all, |op| op.total_us).into_iter().filter(|op| op.work.is_some()) {
        let intensity = op.work.map(|w| w.ops / w.bytes).filter(|i| i.is_finite());
        let bound = op.bound.map_or("–", Bound::words);
        let share = op.of_limit.map_or("–".to_owned(), |s| format!("{:.0} %", 100.0 * s));
        let (gflops, gb) = (cell(op.gflops), cell(op.gb_per_s));
        let _ =
            writeln!(out, "| {} | {gflops} | {gb} | {} | {bound} | {share} |", title(op), cell(intensity));
    }
}

fn most_called(out: &mut String, all: &[OperatorFigures]) {
    out.push_str("\n### Most called\n\n| operator | calls | average µs |\n| --- | ---: | ---: |\n");
    for op in ranked(all, |op| op.calls as f64).into_iter().take(10) {
        let _ = writeln!(out, "| {} | {} | {:.2} |", title(op), op.calls, op.total_us / op.calls as f64);
    }
}

fn allocators(out: &mut String, all: &[OperatorFigures]) {
    out.push_str("\n### Top allocators\n\n");
    let top = ranked(all, |op| op.allocated_bytes as f64);
    if top.is_empty() {
        out.push_str("Nothing was allocated while it was watched, or nobody counted.\n");
        return;
    }
    out.push_str(
        "| operator | calls of the allocator | bytes | peak of one call |\n| --- | ---: | ---: | ---: |\n",
    );
    for op in top.into_iter().take(10) {
        let (all, peak) = (bytes(op.allocated_bytes as f64), bytes(op.peak_bytes.max(0) as f64));
        let _ = writeln!(out, "| {} | {} | {all} | {peak} |", title(op), op.allocations);
    }
}

/// The tree with layers as one, or each by itself.
fn call_tree(out: &mut String, profile: &Profile, depth: Depth) {
    out.push_str("\n### Call tree\n\n```text\n");
    let total = profile.total_us();
    let _ = writeln!(out, "{:>7}  {:>11}  {:>9}  {:>10}", "share", "ms", "calls", "own ms");
    for root in profile.roots() {
        branch(out, profile, &[root], 0, total, depth);
    }
    out.push_str("```\n");
}

/// One line for nodes that are the same but for their layer, and what is within them.
fn branch(out: &mut String, profile: &Profile, nodes: &[usize], indent: usize, total: f64, depth: Depth) {
    let of =
        |f: fn(&super::model::NodeFigures) -> f64| nodes.iter().map(|n| f(&profile.nodes[*n])).sum::<f64>();
    let Some(first) = nodes.first().map(|n| &profile.nodes[*n]) else { return };
    let name = match nodes.len() {
        1 => first.path.rsplit('/').next().unwrap_or(&first.path).to_owned(),
        n if first.stage == "layer" => format!("layer × {n}"),
        _ => first.stage.clone(),
    };
    let time = of(|n| n.total_us);
    let _ = writeln!(
        out,
        "{:>6.1} %  {:>11.3}  {:>9}  {:>10.3}  {}{name}",
        100.0 * time / total,
        time / 1e3,
        of(|n| n.calls as f64),
        of(|n| n.exclusive_us) / 1e3,
        "  ".repeat(indent)
    );
    let children: Vec<usize> = nodes.iter().flat_map(|n| profile.children(Some(*n))).collect();
    let mut seen: Vec<&str> = Vec::new();
    for child in &children {
        let stage = profile.nodes[*child].stage.as_str();
        if depth == Depth::Deep && stage == "layer" {
            branch(out, profile, &[*child], indent + 1, total, depth);
        } else if !seen.contains(&stage) {
            seen.push(stage);
            let alike: Vec<usize> =
                children.iter().copied().filter(|c| profile.nodes[*c].stage == stage).collect();
            branch(out, profile, &alike, indent + 1, total, depth);
        }
    }
}

fn layer_table(out: &mut String, profile: &Profile) {
    let all = layers(profile);
    if all.is_empty() {
        return;
    }
    out.push_str(
        "\n### Layers\n\n| phase | layer | average µs | share of layers | GFLOP/s | GB/s | slowest stage |\n",
    );
    out.push_str("| --- | ---: | ---: | ---: | ---: | ---: | --- |\n");
    for l in all {
        let slowest = l.stages.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let slowest =
            slowest.map_or(String::new(), |(name, us)| format!("{name} ({:.0} %)", 100.0 * us / l.total_us));
        let rate = |of: fn(&super::model::Work) -> f64| {
            l.work.map_or("–".to_owned(), |w| figure(of(&w) / (l.total_us * 1e3)))
        };
        let _ = writeln!(
            out,
            "| {} | {} | {:.2} | {:.1} % | {} | {} | {slowest} |",
            l.phase,
            l.layer,
            l.total_us / l.calls as f64,
            100.0 * l.share,
            rate(|w| w.flops),
            rate(|w| w.bytes)
        );
    }
}

fn every_operator(out: &mut String, profile: &Profile) {
    out.push_str("\n### Every operator of every layer\n\n");
    out.push_str("| path | calls | average µs | least µs | most µs | own ms | GFLOP/s | GB/s |\n");
    out.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for n in profile.nodes.iter().filter(|n| n.layer.is_some() && n.stage != "layer") {
        let rate = |of: fn(&super::model::Work) -> f64| {
            n.work.map_or("–".to_owned(), |w| figure(of(&w) / (n.total_us * 1e3)))
        };
        let _ = writeln!(
            out,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.3} | {} | {} |",
            n.path,
            n.calls,
            n.total_us / n.calls as f64,
            n.least_us,
            n.most_us,
            n.exclusive_us / 1e3,
            rate(|w| w.flops),
            rate(|w| w.bytes)
        );
    }
}

fn memory_map(out: &mut String, profile: &Profile) {
    out.push_str("\n### Memory map\n\n| region | what | bytes | share |\n| --- | --- | ---: | ---: |\n");
    let total: f64 = profile.memory.iter().map(|l| l.bytes as f64).sum();
    for l in &profile.memory {
        let share = 100.0 * l.bytes as f64 / total;
        let _ = writeln!(out, "| {} | {} | {} | {share:.1} % |", l.region, l.what, bytes(l.bytes as f64));
    }
}

fn counters(out: &mut String, profile: &Profile) {
    out.push_str("\n### Counters of processor and kernel\n\n");
    if !profile.counters.is_empty() {
        out.push_str(
            "Over all runs, those that nobody watched included.\n\n| counter | events |\n| --- | ---: |\n",
        );
    }
    for c in &profile.counters {
        let _ = writeln!(out, "| {} | {} |", c.name, c.count);
    }
    let of = |name: &str| profile.counters.iter().find(|c| c.name == name).map(|c| c.count as f64);
    if let (Some(cycles), Some(instructions)) = (of("cycles"), of("instructions"))
        && cycles > 0.0
    {
        let _ = writeln!(out, "\n{:.2} instructions a cycle.", instructions / cycles);
    }
    if !profile.counters_missing.is_empty() {
        let _ = writeln!(out, "\n{}.", profile.counters_missing);
    }
}
