//! In which form a product takes its activations: part of the numeric contract, so it follows from the weights and never
//! from the number of rows.
//!
//! Quantized weights meet integers of 15 bits with a scale for a token. 8 bits with a scale for 32 values take half of the
//! arithmetic where the CPU has no matrix unit, and cost many times the error: the fast class. The figures are in
//! `docs/performance.md`.

use smallmind_kernels::matmul::{
    ActMeta, ActQuants, Acts, Class, SPAN, TILE, act_len, act_rows, takes_quantized,
};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{DType, FastKernels, Kernels, matmul};

use super::plan::Linear;

/// Values from which on threads share the rows of one tile: the work of some microseconds, several times what a fork and
/// a join take.
const WORTH_SPLITTING: usize = 4096;

/// How activations are given to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// F32, for unquantized weights.
    Float,
    /// Integers and scales.
    Quantized,
    /// What the fast class makes of them: bfloat16, or 8 bits with scales.
    Rounded,
}

impl Form {
    fn class(self) -> Class {
        if self == Form::Rounded { Class::Fast } else { Class::Exact }
    }
}

/// The form for these weights, which share one input; `fast` where the class is the fast one.
pub(super) fn form(fast: Option<&FastKernels>, linears: &[&Linear]) -> Form {
    let any = |of: &dyn Fn(DType) -> bool| linears.iter().any(|l| of(l.w.dtype()));
    match fast {
        Some(fast) if any(&|dtype| fast.takes(dtype)) => Form::Rounded,
        _ => exact_form(any(&takes_quantized)),
    }
}

/// The exact class's form for quantized or unquantized weights.
pub(super) fn exact_form(quantized: bool) -> Form {
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
        let len = act_len(rows, k, Class::Fast);
        ActBuffer { quants: vec![ActQuants::ZERO; len], metas: vec![ActMeta::ZERO; len] }
    }

    /// Bytes that it takes, touched or not.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.quants) + size_of_val(&*self.metas)
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
        let class = form.class();
        let (height, blocks) = (act_rows(n, class).min(TILE), matmul::act_blocks(k));
        let len = act_len(n, k, class);
        let (quants, metas) = (&mut self.quants[..len], &mut self.metas[..len]);
        // Spans of a row from `first` on, as many as the slices hold.
        let form_row = |x: &[f32],
                        first: usize,
                        row: usize,
                        quants: &mut [ActQuants],
                        metas: &mut [ActMeta]| {
            match class {
                Class::Fast => {
                    (kernels.fast.round)(x.get(first * SPAN..).unwrap_or_default(), height, row, quants);
                }
                Class::Exact => (kernels.quantize)(x, first, height, row, quants, metas),
            }
        };
        if n.div_ceil(TILE) < pool.threads() && x.len() >= WORTH_SPLITTING {
            // Fewer tiles than threads: the rows first, then parts of them.
            pool.chunks(x, k, fill);
            let (x, spans) = (&*x, blocks / 2);
            // Whole parts only: of a length that divides a row's.
            let least = spans.div_ceil(pool.threads());
            let part = (least..spans).find(|part| spans.is_multiple_of(*part)).unwrap_or(spans);
            return pool.chunks2(quants, height * 2 * part, metas, height * 2 * part, &|i, quants, metas| {
                let (tile, first) = (i / (spans / part), i % (spans / part) * part);
                for (row, x) in x.chunks_exact(k).skip(tile * TILE).take(TILE).enumerate() {
                    form_row(x, first, row, quants, metas);
                }
            });
        }
        pool.chunks3(
            (x, height * k),
            (quants, height * blocks),
            (metas, height * blocks),
            &|tile, x, quants, metas| {
                for (row, x) in x.chunks_exact_mut(k).enumerate() {
                    fill(tile * TILE + row, x);
                    form_row(x, 0, row, quants, metas);
                }
            },
        );
    }

    /// Room for the rounded form of `n` rows of `k` values.
    pub(super) fn rounded(&mut self, n: usize, k: usize) -> &mut [ActQuants] {
        &mut self.quants[..act_len(n, k, Class::Fast)]
    }

    /// What [`ActBuffer::make`] has made of `x`, `[n, k]`.
    pub(super) fn acts<'a>(&'a self, form: Form, x: &'a [f32], k: usize) -> Acts<'a> {
        let tokens = x.len() / k;
        let class = form.class();
        let len = if form == Form::Float { 0 } else { act_len(tokens, k, class) };
        Acts { tokens, x, quants: &self.quants[..len], metas: &self.metas[..len], class }
    }
}
