//! `smallmind show`: what a model file holds, for any GGUF file, also of families that this version does not run.

use anyhow::Result;
use smallmind::Gguf;

use crate::args::ShowArgs;
use crate::describe::{Facts, document, text};
use crate::output::{self, Out};
use crate::resolve;

pub(crate) fn run(args: &ShowArgs, out: &Out) -> Result<()> {
    let name = args.model.as_deref().or(args.model_flag.as_deref());
    let local = resolve::file(name, args.offline, out)?;
    let gguf = Gguf::open(&local.path).map_err(smallmind::Error::from)?;
    let facts = Facts::of(&gguf, args.ctx);
    if out.json {
        return output::json(&document(&gguf, &facts, &local.name, args));
    }
    output::print(&text(&gguf, &facts, &local.name, args)?)
}
