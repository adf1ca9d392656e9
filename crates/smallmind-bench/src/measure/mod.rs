//! How figures are taken: a clock, statistics that tell a change from noise, the machine, and its limits.

pub mod bytes;
pub mod clock;
pub mod kernels;
pub mod machine;
pub mod rank;
pub mod roofline;
pub mod stats;
