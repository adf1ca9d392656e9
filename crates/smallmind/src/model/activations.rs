//! In which form each product of a layer takes its activations: part of the numeric contract, so it is decided by the
//! product's role and never by the number of rows.
//!
//! 8 bits everywhere cost an average of 0.10 in the ten largest log-probabilities of SmolLM2 Q4_1 against F32
//! activations (0.07 on Gemma 3 Q4_K_M). Every product adds its share, so the shares were measured one by one: 16 bits
//! for QKV, the MLP's second product and the output halve the error for 0.4 of the arithmetic of a prefill. Decode reads
//! the same bytes either way. The figures are in `docs/performance.md`.

use smallmind_kernels::Kernels;
use smallmind_kernels::matmul::{ActBlock, act_blocks, takes_quantized};

use super::plan::Linear;

/// What multiplies activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Qkv,
    AttnOut,
    MlpUp,
    MlpDown,
    Output,
}

/// How activations are given to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// F32, for unquantized weights.
    Float,
    /// Blocks of 8-bit integers.
    Bits8,
    /// Two such blocks for the upper and the lower part of 16-bit integers.
    Bits16,
}

impl Role {
    /// The form for these weights, which share one input.
    pub(super) fn form(self, linears: &[&Linear]) -> Form {
        self.form_for(linears.iter().any(|l| takes_quantized(l.w.dtype())))
    }

    /// The form for quantized or unquantized weights.
    pub(super) fn form_for(self, quantized: bool) -> Form {
        match self {
            _ if !quantized => Form::Float,
            Role::Qkv | Role::MlpDown | Role::Output => Form::Bits16,
            Role::AttnOut | Role::MlpUp => Form::Bits8,
        }
    }
}

impl Form {
    /// Blocks that one row of `k` activations takes.
    pub(super) fn blocks(self, k: usize) -> usize {
        match self {
            Form::Float => 0,
            Form::Bits8 => act_blocks(k),
            Form::Bits16 => 2 * act_blocks(k),
        }
    }

    /// Fills one row's blocks.
    pub(super) fn quantize(self, kernels: &Kernels, x: &[f32], blocks: &mut [ActBlock]) {
        match self {
            Form::Float => {}
            Form::Bits8 => (kernels.quantize)(x, blocks),
            Form::Bits16 => (kernels.quantize_wide)(x, blocks),
        }
    }
}
