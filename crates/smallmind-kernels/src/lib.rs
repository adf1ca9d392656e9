//! Arithmetic on slices. A kernel reads and writes the slices it was given; it allocates nothing, does no I/O
//! and looks at no clock.

pub mod dtype;
pub mod quant;

pub use dtype::DType;
