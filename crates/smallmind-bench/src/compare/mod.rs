//! `smallmind compare`: the same work on SmallMind and on the programs found on this machine, alternated in one run.
//!
//! Every side is a process of its own, ours included. Peers are entries of `peers/peers.toml` (`recipe`); a side speaks
//! the protocol of docs/adding-a-peer.md (`driver`, and [`serve`] for ours) or is a program that is started for every
//! sample (`program`). Nothing here downloads or installs anything, and only processes that it started are ended.

mod driver;
mod forms;
mod pattern;
pub mod process;
mod program;
mod recipe;
mod runner;
mod serve;
mod sides;
mod table;
mod work;

pub use recipe::Recipe;
pub use runner::{Plan, Watch, found, run};
pub use serve::serve;
pub use sides::{Detail, SideFacts, State};
pub use table::{Place, Standing, standing, table};
pub use work::{PARTS, Subject, TEXT, Text, Work};
