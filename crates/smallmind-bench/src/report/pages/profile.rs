//! The raw profile: everything that profiles hold.

use super::super::block::{Block, heading, text};
use super::super::bundle::Bundle;
use super::benchmarks::statistics;
use super::{machine, missing};
use crate::results::Kind;

pub(in super::super) fn profile(bundle: &Bundle) -> Vec<Block> {
    let mut out = vec![machine(bundle)];
    for (name, run) in bundle.runs(Kind::Profile) {
        out.push(heading(2, format!("`{name}`")));
        out.push(text(format!("Made by `{}`.", run.command)));
        out.push(Block::Table(statistics(&run.rows)));
    }
    if out.len() == 1 {
        out.push(missing(Kind::Profile));
    }
    out
}
