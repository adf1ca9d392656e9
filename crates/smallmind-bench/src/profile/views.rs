//! A profile seen by operator and by layer: times, shares, and how far each is from what the machine can do.

use serde::Serialize;

use super::model::{NodeFigures, Profile, Work};
use crate::measure::roofline::{Arithmetic, Bound, Limits};

/// An operator over all layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OperatorFigures {
    /// `prefill`, `decode`, or the stage itself where it stands at the top.
    pub phase: String,
    /// `qkv`, `attn_out/product`.
    pub name: String,
    /// Whether there is one in every layer.
    pub of_layers: bool,
    /// Calls.
    pub calls: u64,
    /// Microseconds, with what happens within.
    pub total_us: f64,
    /// Microseconds that nothing within accounts for.
    pub exclusive_us: f64,
    /// Microseconds of each run.
    pub runs_us: Vec<f64>,
    /// Of all time; 1 is all of it.
    pub share: f64,
    /// Calls of the allocator.
    pub allocations: u64,
    /// Bytes they asked for.
    pub allocated_bytes: u64,
    /// The most that one call held more than at its beginning.
    pub peak_bytes: i64,
    /// What it computed and moved.
    pub work: Option<Work>,
    /// 10⁹ operations of the mathematics a second.
    pub gflops: Option<f64>,
    /// 10⁹ bytes a second.
    pub gb_per_s: Option<f64>,
    /// The share of what the machine could do; 1 is all of it.
    pub of_limit: Option<f64>,
    /// What bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// One layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LayerFigures {
    /// `prefill` or `decode`.
    pub phase: String,
    /// Counted from 0.
    pub layer: u32,
    /// Calls.
    pub calls: u64,
    /// Microseconds.
    pub total_us: f64,
    /// Of all layers of the phase.
    pub share: f64,
    /// What it computed and moved.
    pub work: Option<Work>,
    /// Microseconds of every stage in it, in order.
    pub stages: Vec<(String, f64)>,
}

/// Operators in the order in which they first ran; those that hold nothing but others (pass, layer) are left out.
/// `limits` gives the shares of what the machine could do.
pub fn operators(profile: &Profile, limits: Option<&Limits>) -> Vec<OperatorFigures> {
    let mut all: Vec<OperatorFigures> = Vec::new();
    let total = profile.total_us();
    for (i, node) in profile.nodes.iter().enumerate() {
        if ["prefill", "decode", "pass", "layer"].contains(&node.stage.as_str()) {
            continue;
        }
        let (phase, name) = (profile.phase(i), profile.operator(i));
        let at = match all.iter().position(|op| op.phase == phase && op.name == name) {
            Some(at) => at,
            None => {
                let (phase, of_layers) = (phase.to_owned(), node.layer.is_some());
                all.push(OperatorFigures { phase, name, of_layers, ..OperatorFigures::default() });
                all.len() - 1
            }
        };
        add(&mut all[at], node);
    }
    for op in &mut all {
        op.share = op.exclusive_us / total;
        let Some(work) = op.work else { continue };
        let seconds = op.total_us / 1e6;
        op.gflops = (work.flops > 0.0).then_some(work.flops / seconds / 1e9);
        op.gb_per_s = (work.bytes > 0.0).then_some(work.bytes / seconds / 1e9);
        let arithmetic = if work.quantized { Arithmetic::Int8 } else { Arithmetic::F32 };
        let set = profile.working_set;
        let least = limits
            .and_then(|l| l.least_seconds(profile.threads, arithmetic, work.ops, work.bytes, set))
            .filter(|(least, _)| *least > 0.0);
        op.of_limit = least.map(|(least, _)| least / seconds);
        op.bound = least.map(|(_, bound)| bound);
    }
    all
}

fn add(op: &mut OperatorFigures, node: &NodeFigures) {
    op.calls += node.calls;
    op.total_us += node.total_us;
    op.exclusive_us += node.exclusive_us;
    op.runs_us.resize(op.runs_us.len().max(node.runs_us.len()), 0.0);
    op.runs_us.iter_mut().zip(&node.runs_us).for_each(|(sum, us)| *sum += us);
    op.allocations += node.allocations;
    op.allocated_bytes += node.allocated_bytes;
    op.peak_bytes = op.peak_bytes.max(node.peak_bytes);
    op.work = match (op.work, node.work) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (a, b) => a.or(b),
    };
}

/// Every layer of every phase.
pub fn layers(profile: &Profile) -> Vec<LayerFigures> {
    let mut all = Vec::new();
    for (i, node) in profile.nodes.iter().enumerate().filter(|(_, n)| n.stage == "layer") {
        let stages = profile.children(Some(i)).map(|c| &profile.nodes[c]);
        all.push(LayerFigures {
            phase: profile.phase(i).to_owned(),
            layer: node.layer.unwrap_or(0),
            calls: node.calls,
            total_us: node.total_us,
            share: 0.0,
            work: node.work,
            stages: stages.map(|s| (s.stage.clone(), s.total_us)).collect(),
        });
    }
    let sums: Vec<f64> =
        all.iter().map(|l| all.iter().filter(|o| o.phase == l.phase).map(|o| o.total_us).sum()).collect();
    all.iter_mut().zip(sums).for_each(|(layer, sum)| layer.share = layer.total_us / sum);
    all
}
