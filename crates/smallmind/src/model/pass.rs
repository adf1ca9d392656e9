//! What one pass of the model is given: the new tokens of some sequences, and everything it reads.

use smallmind_formats::Gguf;
use smallmind_kernels::matmul::Class;
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{FastKernels, Kernels};

use super::config::Config;
use super::plan::Plan;
use crate::kv::KvCache;

/// New tokens of one sequence.
pub(crate) struct Span<'a> {
    /// Ids, all below the vocabulary's size.
    pub(crate) tokens: &'a [u32],
    /// The sequence's cache, with room for them.
    pub(crate) kv: &'a mut KvCache,
    /// Rows (the last ones) whose logits are wanted.
    pub(crate) logits: usize,
}

/// What a pass reads.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a Config,
    pub(crate) plan: &'a Plan,
    pub(crate) gguf: &'a Gguf,
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: &'a Pool,
    /// Of all products but the output's, which is always exact.
    pub(crate) class: Class,
}

impl Pass<'_> {
    /// The kernels of the fast class, where the pass is of it.
    pub(super) fn fast(&self) -> Option<&'static FastKernels> {
        (self.class == Class::Fast).then_some(&self.kernels.fast)
    }
}
