//! From the engine's recorders to the figures of a profile: runs are added up by path, and every stage gets the work that
//! the plan says its passes were.

use std::collections::HashMap;

use smallmind::Model;
use smallmind::profile::{Allocated, Node, PassShape, Recorder, Scope, Stage};

use super::model::{NodeFigures, Work};

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// `layer 3` for layers, the stage's name for the rest.
fn segment(scope: Scope) -> String {
    match (scope.stage, scope.layer) {
        (Stage::Layer, Some(layer)) => format!("layer {layer}"),
        (stage, _) => stage.name().to_owned(),
    }
}

/// Adds one run to the figures of those before.
pub(super) fn add(figures: &mut Vec<NodeFigures>, recorder: &Recorder, model: &Model, run: usize) {
    let index: HashMap<String, usize> =
        figures.iter().enumerate().map(|(i, n)| (n.path.clone(), i)).collect();
    let work = works(recorder, model);
    // Nodes come after the one around them, so its place is known.
    let mut places: Vec<usize> = Vec::with_capacity(recorder.nodes().len());
    for (i, node) in recorder.nodes().iter().enumerate() {
        let parent = node.parent().map(|p| places[p]);
        let own = segment(node.scope);
        let path = parent.map_or(own.clone(), |p| format!("{}/{own}", figures[p].path));
        let place = index.get(&path).copied().unwrap_or(figures.len());
        if place == figures.len() {
            figures.push(NodeFigures {
                path,
                stage: node.scope.stage.name().to_owned(),
                layer: node.scope.layer,
                parent,
                least_us: f64::INFINITY,
                ..NodeFigures::default()
            });
        }
        places.push(place);
        add_node(&mut figures[place], node, recorder.allocated(i), work[i], run);
    }
}

fn add_node(n: &mut NodeFigures, node: &Node, allocated: Allocated, work: Option<Work>, run: usize) {
    n.calls += node.calls;
    n.total_us += us(node.total_ns);
    n.exclusive_us += us(node.exclusive_ns());
    n.least_us = n.least_us.min(us(node.least_ns));
    n.most_us = n.most_us.max(us(node.most_ns));
    n.runs_us.resize(run + 1, 0.0);
    n.runs_us[run] += us(node.total_ns);
    n.allocations += allocated.calls;
    n.allocated_bytes += allocated.bytes;
    n.peak_bytes = n.peak_bytes.max(allocated.peak);
    n.work = match (n.work, work) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (a, b) => a.or(b),
    };
}

/// Every node's work: the model's word on it, or the sum of what happens within.
fn works(recorder: &Recorder, model: &Model) -> Vec<Option<Work>> {
    let nodes = recorder.nodes();
    let mut works: Vec<Option<Work>> = vec![None; nodes.len()];
    // Backwards: what happens within is known before what it happens within.
    for i in (0..nodes.len()).rev() {
        let shapes = shapes(recorder, i);
        let within = nodes[i].parent().map(|p| nodes[p].scope.stage);
        let own = shapes.iter().filter_map(|shape| model.cost(within, nodes[i].scope, *shape));
        let own = own.map(|c| Work { flops: c.flops, ops: c.ops, bytes: c.bytes, quantized: c.quantized });
        let parts = recorder.children(Some(i)).filter_map(|child| works[child]);
        works[i] = own.reduce(Work::plus).or_else(|| parts.reduce(Work::plus));
    }
    works
}

/// The passes that a node took part in.
fn shapes(recorder: &Recorder, mut node: usize) -> Vec<PassShape> {
    while recorder.nodes()[node].scope.stage != Stage::Pass {
        match recorder.nodes()[node].parent() {
            Some(parent) => node = parent,
            None => return Vec::new(),
        }
    }
    recorder.passes().iter().filter(|(pass, _)| *pass == node).map(|(_, shape)| *shape).collect()
}
