//! In which form a product takes its activations: part of the numeric contract, so it follows from the weights and never
//! from the number of rows.
//!
//! Quantized weights meet integers of 11 bits, with a scale for 128 values. 8 bits with a scale for 32 would take half of
//! the arithmetic where the CPU has no matrix unit, and cost five times the error; the figures are in
//! `docs/performance.md`.

use smallmind_kernels::matmul::{ActMeta, ActQuants, Acts, TILE, act_len, act_rows, takes_quantized};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{Kernels, matmul};

use super::plan::Linear;

/// How activations are given to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// F32, for unquantized weights.
    Float,
    /// Integers and scales.
    Quantized,
}

/// The form for these weights, which share one input.
pub(super) fn form(linears: &[&Linear]) -> Form {
    form_for(linears.iter().any(|l| takes_quantized(l.w.dtype())))
}

/// The form for quantized or unquantized weights.
pub(super) fn form_for(quantized: bool) -> Form {
    if quantized { Form::Quantized } else { Form::Float }
}

/// The quantized inputs of the product at hand.
#[derive(Debug)]
pub(crate) struct ActBuffer {
    quants: Vec<ActQuants>,
    metas: Vec<ActMeta>,
}

impl ActBuffer {
    /// For at most `rows` rows of at most `k` values. Memory that is never touched is never resident.
    pub(super) fn new(rows: usize, k: usize) -> ActBuffer {
        let len = act_len(rows.next_multiple_of(TILE), k);
        ActBuffer { quants: vec![ActQuants::ZERO; len], metas: vec![ActMeta::ZERO; len] }
    }

    /// `fill(row, x)` makes the first `n` rows of `x`, `[n, k]`, and the form is made of them where it is another.
    pub(super) fn make(
        &mut self,
        (kernels, pool): (&Kernels, &Pool),
        form: Form,
        (x, k): (&mut [f32], usize),
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let n = x.len() / k;
        if form == Form::Float {
            return pool.chunks(x, k, fill);
        }
        let height = act_rows(n).min(TILE);
        let blocks = matmul::act_blocks(k);
        let len = act_len(n, k);
        pool.chunks3(
            (x, height * k),
            (&mut self.quants[..len], height * blocks),
            (&mut self.metas[..len], height * blocks),
            &|tile, x, quants, metas| {
                for (row, x) in x.chunks_exact_mut(k).enumerate() {
                    fill(tile * TILE + row, x);
                    (kernels.quantize)(x, height, row, quants, metas);
                }
            },
        );
    }

    /// What [`ActBuffer::make`] has made of `x`, `[n, k]`.
    pub(super) fn acts<'a>(&'a self, form: Form, x: &'a [f32], k: usize) -> Acts<'a> {
        let tokens = x.len() / k;
        let len = if form == Form::Quantized { act_len(tokens, k) } else { 0 };
        Acts { tokens, x, quants: &self.quants[..len], metas: &self.metas[..len] }
    }
}
