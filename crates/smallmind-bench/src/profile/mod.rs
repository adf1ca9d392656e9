//! The profiler: a workload runs under the engine's recorder, and what was recorded becomes tables, a call tree, a
//! timeline, graphs, and sentences with a number in each. Views are pure functions of a [`Profile`].

mod bundle;
pub mod counters;
mod diff;
mod enhanced;
mod flame;
mod insights;
mod markdown;
mod model;
mod overhead;
mod plot;
mod scaling;
mod trace;
mod tree;
mod views;
mod workload;

pub use bundle::{NamedFile, enhanced_text, files, fill, text};
pub use diff::compare;
pub use enhanced::{Named, Phase, enhanced, models, presets};
pub use flame::{flame_graph, folded_stacks};
pub use insights::insights;
pub use markdown::{Depth, report};
pub use model::{MemoryLine, NodeFigures, Overhead, Profile, Work};
pub use overhead::{Watching, watching};
pub use plot::roofline_plot;
pub use scaling::{Scaled, scaling};
pub use trace::chrome_trace;
pub use views::{LayerFigures, OperatorFigures, layers, operators};
pub use workload::{Recorded, Workload, record};
