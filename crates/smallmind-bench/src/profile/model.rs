//! What a profile holds: figures of every node of the tree, and what surrounds them. This is what is saved.

use serde::{Deserialize, Serialize};

use super::counters::Counted;
use crate::measure::stats::Comparison;
use crate::results::{Results, Row, Unit};

/// Everything that was recorded of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// As the user named it.
    pub model: String,
    /// The family and what the file calls it.
    pub architecture: String,
    /// Threads.
    pub threads: usize,
    /// The instruction set in use.
    pub isa: String,
    /// Layers of the model.
    pub layers: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were generated behind it.
    pub generated: usize,
    /// Runs of that, all recorded.
    pub iterations: usize,
    /// Bytes that a pass goes through, which decide the cache that they come from.
    pub working_set: f64,
    /// Tokens a second of each run's prefill.
    pub prefill_tps: Vec<f64>,
    /// Tokens a second of each run's decode.
    pub decode_tps: Vec<f64>,
    /// The tree, each node behind the one around it.
    pub nodes: Vec<NodeFigures>,
    /// What is in memory.
    pub memory: Vec<MemoryLine>,
    /// What recording cost.
    pub overhead: Option<Overhead>,
    /// The kernel's counters over all runs.
    pub counters: Vec<Counted>,
    /// Why there are fewer of them, where there are.
    pub counters_missing: String,
}

/// A stage at its place, over all runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// `decode/pass/layer 3/qkv`.
    pub path: String,
    /// `qkv`.
    pub stage: String,
    /// The layer, where it has one.
    pub layer: Option<u32>,
    /// Index of the node around it.
    pub parent: Option<usize>,
    /// Calls in all runs.
    pub calls: u64,
    /// Microseconds in all runs, with what happens within.
    pub total_us: f64,
    /// Microseconds that no node within accounts for.
    pub exclusive_us: f64,
    /// The shortest call.
    pub least_us: f64,
    /// The longest call.
    pub most_us: f64,
    /// Microseconds of each run, with what happens within.
    pub runs_us: Vec<f64>,
    /// Calls of the allocator meanwhile.
    pub allocations: u64,
    /// Bytes they asked for.
    pub allocated_bytes: u64,
    /// The most that one call of the stage held more than at its beginning.
    pub peak_bytes: i64,
    /// What it computed and moved in all runs, where that is known.
    pub work: Option<Work>,
}

/// Operations and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Of the mathematics: a multiply-add is two.
    pub flops: f64,
    /// Executed.
    pub ops: f64,
    /// Read and written, at least.
    pub bytes: f64,
    /// Whether most operations are of 8-bit integers.
    pub quantized: bool,
}

impl Work {
    /// Both together.
    pub(crate) fn plus(self, other: Work) -> Work {
        Work {
            flops: self.flops + other.flops,
            ops: self.ops + other.ops,
            bytes: self.bytes + other.bytes,
            quantized: if other.ops > self.ops { other.quantized } else { self.quantized },
        }
    }
}

/// A part of the memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryLine {
    /// `weights`, `KV cache`, `workspace`.
    pub region: String,
    /// What of it.
    pub what: String,
    /// Bytes.
    pub bytes: u64,
}

/// What recording costs: the same runs with and without, in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// Milliseconds of runs that nobody watched.
    pub off_ms: Vec<f64>,
    /// Milliseconds of runs that were recorded.
    pub on_ms: Vec<f64>,
    /// Time on over time off.
    pub comparison: Comparison,
}

impl Profile {
    /// The nodes at the top, in order.
    pub fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        self.children(None)
    }

    /// The nodes within one, in order.
    pub fn children(&self, of: Option<usize>) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter(move |(_, n)| n.parent == of).map(|(i, _)| i)
    }

    /// Microseconds of everything.
    pub fn total_us(&self) -> f64 {
        self.nodes.iter().filter(|n| n.parent.is_none()).map(|n| n.total_us).sum()
    }

    /// `decode`, `prefill`: the top of the branch that a node is on.
    pub fn phase(&self, mut node: usize) -> &str {
        while let Some(parent) = self.nodes[node].parent {
            node = parent;
        }
        &self.nodes[node].stage
    }

    /// The name of a node among all layers: `qkv`, `attn_out/product`.
    pub fn operator(&self, node: usize) -> String {
        let n = &self.nodes[node];
        match n.parent.map(|p| &self.nodes[p]) {
            Some(parent) if !["prefill", "decode", "pass", "layer"].contains(&parent.stage.as_str()) => {
                format!("{}/{}", parent.stage, n.stage)
            }
            _ => n.stage.clone(),
        }
    }

    /// Every node's time as a row of saved results, so that two profiles can be compared.
    pub fn rows(&self, results: &mut Results) {
        let figures = [("prefill", &self.prefill_tps), ("decode", &self.decode_tps)];
        for (test, tps) in figures {
            let figures = tps.iter().copied();
            results.push(Row::ours(
                "profile",
                &self.model,
                self.threads,
                test,
                Unit::TokensPerSecond,
                figures,
            ));
        }
        for n in self.nodes.iter().filter(|n| n.layer.is_none()) {
            let us = n.runs_us.iter().copied();
            let mut row = Row::ours("profile", &self.model, self.threads, &n.path, Unit::Microseconds, us);
            row.note = format!("{} calls in {} runs", n.calls, self.iterations);
            results.push(row);
        }
        for op in super::views::operators(self, None).into_iter().filter(|op| op.of_layers) {
            let test = format!("{}/all layers/{}", op.phase, op.name);
            let us = op.runs_us.iter().copied();
            results.push(Row::ours("profile", &self.model, self.threads, &test, Unit::Microseconds, us));
        }
    }
}
