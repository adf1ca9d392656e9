//! The tape: operations in the order in which they were computed, with their results, and the walk back that gives every
//! parameter its gradient. Knows operations, not models.

use crate::compute::Compute;
use crate::ops::activation::{self, Middle};
use crate::ops::attention::{self, Shape};
use crate::ops::linear::{self, Part};
use crate::ops::loss;
use crate::ops::rope::{self, Rope};
use crate::ops::{add, dropout, embed, norm};
use crate::param::{Param, ParamId};
use crate::rng::Key;

/// A result on the tape: `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Var(usize);

/// An operation and its inputs.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Embed {
        table: ParamId,
        positions: Option<ParamId>,
        ids: Vec<u32>,
        seq: usize,
    },
    Linear {
        x: Var,
        parts: Vec<Part>,
        residual: Option<Var>,
    },
    Norm {
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        eps: f32,
    },
    /// In place: takes `x`'s memory, whose content nothing else needs.
    Rope {
        x: Var,
        rope: Rope,
    },
    Attention {
        qkv: Var,
        shape: Shape,
    },
    Middle {
        x: Var,
        middle: Middle,
    },
    /// In place.
    Dropout {
        x: Var,
        keep: f32,
        key: Key,
    },
    Add {
        a: Var,
        b: Var,
    },
}

#[derive(Debug)]
struct Node {
    op: Op,
    rows: usize,
    /// Empty where it was given up: to an operation in place, or to be computed again.
    value: Vec<f32>,
    grad: Option<Vec<f32>>,
}

/// Operations and their results.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    nodes: Vec<Node>,
    /// Ranges of nodes whose results are computed again when the walk back reaches their end.
    forgotten: Vec<std::ops::Range<usize>>,
}

impl Tape {
    /// Computes an operation.
    pub(crate) fn push(&mut self, c: &mut Compute, params: &[Param], rows: usize, op: Op) -> Var {
        self.nodes.push(Node { op, rows, value: Vec::new(), grad: None });
        let at = self.nodes.len() - 1;
        self.compute(c, params, at);
        Var(at)
    }

    /// The result of `v`.
    pub(crate) fn value(&self, v: Var) -> &[f32] {
        &self.nodes[v.0].value
    }

    /// Where the next operation goes.
    pub(crate) fn here(&self) -> usize {
        self.nodes.len()
    }

    /// Gives the memory of all results from `from` on back but the last one's: gradient checkpointing (Chen et al. 2016).
    /// They may depend on nothing but each other and the result before `from`.
    pub(crate) fn forget(&mut self, c: &mut Compute, from: usize) {
        let end = self.nodes.len() - 1;
        for node in &mut self.nodes[from..end] {
            c.give(std::mem::take(&mut node.value));
        }
        self.forgotten.push(from..end);
    }

    fn compute(&mut self, c: &mut Compute, params: &[Param], at: usize) {
        let op = self.nodes[at].op.clone();
        let rows = self.nodes[at].rows;
        let value = |v: Var| &self.nodes[v.0].value;
        let result = match &op {
            Op::Embed { table, positions, ids, seq } => {
                embed::forward(c, params, *table, *positions, ids, *seq)
            }
            Op::Linear { x, parts, residual } => {
                let residual = residual.map(|r| value(r).as_slice());
                linear::forward(c, params, value(*x), rows, parts, residual)
            }
            Op::Norm { x, weight, bias, eps } => norm::forward(c, params, value(*x), *weight, *bias, *eps),
            Op::Rope { x, rope } => {
                let mut x = std::mem::take(&mut self.nodes[x.0].value);
                let width = x.len() / rows;
                rope::turn(c, rope, &mut x, width, false);
                x
            }
            Op::Attention { qkv, shape } => attention::forward(c, *shape, value(*qkv)),
            Op::Middle { x, middle } => activation::forward(c, value(*x), rows, *middle),
            Op::Dropout { x, keep, key } => {
                let mut x = std::mem::take(&mut self.nodes[x.0].value);
                dropout::apply(c, &mut x, *keep, *key);
                x
            }
            Op::Add { a, b } => {
                let mut sum = c.copy(value(*a));
                add(c, &mut sum, value(*b));
                sum
            }
        };
        self.nodes[at].value = result;
    }

    /// The loss of `logits`, summed in nats, whose memory becomes their gradient times `weight`.
    pub(crate) fn cross_entropy(
        &mut self,
        c: &mut Compute,
        logits: Var,
        targets: &[u32],
        weight: f32,
    ) -> f64 {
        let mut values = std::mem::take(&mut self.nodes[logits.0].value);
        let sum = loss::cross_entropy(c, &mut values, targets, weight);
        self.nodes[logits.0].grad = Some(values);
        sum
    }

    /// Walks back from the gradients that are there and adds to those of the parameters. The tape is empty afterwards.
    pub(crate) fn backward(&mut self, c: &mut Compute, params: &mut [Param]) {
        for at in (0..self.nodes.len()).rev() {
            if let Some(i) = self.forgotten.iter().position(|f| f.end == at) {
                let range = self.forgotten.swap_remove(i);
                range.for_each(|i| self.compute(c, params, i));
            }
            if let Some(grad) = self.nodes[at].grad.take() {
                self.step_back(c, params, at, grad);
            }
            c.give(std::mem::take(&mut self.nodes[at].value));
        }
        self.clear(c);
    }

    fn step_back(&mut self, c: &mut Compute, params: &mut [Param], at: usize, mut dy: Vec<f32>) {
        let op = self.nodes[at].op.clone();
        let rows = self.nodes[at].rows;
        match op {
            Op::Embed { table, positions, ids, seq } => {
                embed::backward(c, params, table, positions, &ids, seq, &dy);
                c.give(dy);
            }
            Op::Linear { x, parts, residual } => {
                let node = &mut self.nodes[x.0];
                let dx = node.grad.take();
                node.grad = Some(linear::backward(c, params, &node.value, rows, &parts, &dy, dx));
                match residual {
                    Some(r) => self.pass_on(c, r, dy),
                    None => c.give(dy),
                }
            }
            Op::Norm { x, weight, bias, eps } => {
                let node = &mut self.nodes[x.0];
                let mut dx = node.grad.take().unwrap_or_else(|| c.zeros(node.value.len()));
                norm::backward(c, params, &node.value, weight, bias, eps, &dy, &mut dx);
                node.grad = Some(dx);
                c.give(dy);
            }
            Op::Rope { x, rope } => {
                let width = dy.len() / rows;
                rope::turn(c, &rope, &mut dy, width, true);
                self.pass_on(c, x, dy);
            }
            Op::Attention { qkv, shape } => {
                let dx = attention::backward(c, shape, &self.nodes[qkv.0].value, &dy);
                self.pass_on(c, qkv, dx);
                c.give(dy);
            }
            Op::Middle { x, middle } => {
                let dx = activation::backward(c, &self.nodes[x.0].value, rows, middle, dy);
                self.pass_on(c, x, dx);
            }
            Op::Dropout { x, keep, key } => {
                dropout::apply(c, &mut dy, keep, key);
                self.pass_on(c, x, dy);
            }
            Op::Add { a, b } => {
                let copy = c.copy(&dy);
                self.pass_on(c, a, copy);
                self.pass_on(c, b, dy);
            }
        }
    }

    /// Adds to the gradient of `to`.
    fn pass_on(&mut self, c: &mut Compute, to: Var, dy: Vec<f32>) {
        match &mut self.nodes[to.0].grad {
            Some(grad) => {
                add(c, grad, &dy);
                c.give(dy);
            }
            none => *none = Some(dy),
        }
    }

    /// Gives everything back.
    pub(crate) fn clear(&mut self, c: &mut Compute) {
        for node in self.nodes.drain(..) {
            c.give(node.value);
            node.grad.into_iter().for_each(|g| c.give(g));
        }
        self.forgotten.clear();
    }

    /// What the first result is that holds something else than numbers.
    pub(crate) fn first_bad(&self, params: &[Param]) -> Option<String> {
        let bad = self.nodes.iter().find(|n| n.value.iter().any(|v| !v.is_finite()))?;
        let name = |p: ParamId| params[p.0].name.clone();
        Some(match &bad.op {
            Op::Embed { table, .. } => format!("the result of {}", name(*table)),
            Op::Linear { parts, .. } => {
                format!("the result of {}", parts.first().map(|p| name(p.weight)).unwrap_or_default())
            }
            Op::Norm { weight, .. } => format!("the result of {}", name(*weight)),
            Op::Attention { .. } => "an attention's result".to_owned(),
            Op::Middle { .. } => "an activation".to_owned(),
            Op::Rope { .. } | Op::Dropout { .. } | Op::Add { .. } => "the residual stream".to_owned(),
        })
    }
}
