//! Arithmetic on slices. A kernel reads and writes the slices it was given; it allocates nothing, does no I/O and looks
//! at no clock.
//!
//! - [`dtype`], [`quant`], [`half`]: the stored element types and their reference conversions
//! - [`matmul`]: packed weights and the one product, C = A · Bᵀ
//! - [`gemm`]: products of plain F32 matrices in any orientation, for training
//! - [`attention`] and the entries of [`Kernels`]: the other operations of a transformer
//! - [`threads`]: the pool, the only place of the engine that creates threads
//! - `isa`: the instruction sets; [`kernels`] chooses one table of functions once

#![allow(
    clippy::needless_range_loop,
    reason = "arrays of registers are indexed by constant ranges, so that they stay in registers"
)]

mod aligned;
pub mod dtype;
pub mod gemm;
pub mod half;
mod isa;
pub mod matmul;
mod ops;
pub mod quant;
mod table;
pub mod threads;

/// What a caller of the attention kernels needs to know: page layout and task types.
pub mod attention {
    pub use crate::ops::attention::{PageTask, Partial, Queries};
    pub use crate::ops::integer_attention::integer_page_len;
    pub use crate::ops::pages::{PAGE, PageMut, PageRef, padded, page_len, q8_page_len};
}

pub use aligned::ALIGN;
pub use dtype::DType;
pub use ops::backward::AdamStep;
pub use table::{Bf16Kernels, FastKernels, FastPrecision, Kernels, UnknownIsa, available, kernels};
