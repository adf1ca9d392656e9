//! `smallmind pull`: brings a model to this machine.

use anyhow::Result;

use crate::args::PullArgs;
use crate::output::{self, ModelDocument, Out, bytes};
use crate::progress::Bar;
use crate::resolve;

pub(crate) fn run(args: &PullArgs, out: &Out) -> Result<()> {
    let local = resolve::hub(args.offline)?.pull(&args.model, &mut Bar::new(out))?;
    let path = local.path.display().to_string();
    if out.json {
        return output::json(&ModelDocument {
            name: &local.name,
            bytes: local.bytes,
            installed: true,
            path: Some(path),
            sha256: local.sha256.as_deref(),
            source: Some(local.source.clone()),
            licence: None,
            pulled_at: None,
            description: None,
        });
    }
    let how = if local.pulled { "is now" } else { "is already" };
    output::print(&format!("{} ({}) {how} at {path}\n", local.name, bytes(local.bytes)))
}
