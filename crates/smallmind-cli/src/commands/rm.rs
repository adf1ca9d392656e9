//! `smallmind rm`: deletes a downloaded model.

use anyhow::Result;
use serde_json::json;

use crate::args::NameArgs;
use crate::output::{self, Out, bytes};
use crate::resolve;

pub(crate) fn run(args: &NameArgs, out: &Out) -> Result<()> {
    let removed = resolve::hub(true)?.remove(&args.model)?;
    if out.json {
        return output::json(&json!({ "name": removed.name, "bytes": removed.bytes }));
    }
    output::print(&format!("{} is deleted, {} are free again\n", removed.name, bytes(removed.bytes)))
}
