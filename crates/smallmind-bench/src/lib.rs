//! Measures SmallMind: repeatable samples with honest statistics, the machine's limits beside every figure, saved results
//! that a later run is compared with, and the views of the profiler.
//!
//! It prints nothing and never exits; what it renders are strings. Only here and in the programs above are results
//! turned into JSON: the engine below knows nothing of it.

pub mod compare;
mod error;
pub mod measure;
pub mod profile;
pub mod report;
pub mod results;
pub mod scenario;
pub mod speed;

pub use error::{Error, Result};
