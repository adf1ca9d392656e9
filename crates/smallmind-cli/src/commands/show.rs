//! `smallmind show`: what a model file holds, for any GGUF file, also of families that this version does not run.

use anyhow::Result;

use crate::args::ShowArgs;
use crate::describe::{Facts, document, text};
use crate::output::{self, Out};
use crate::resolve;

pub(crate) fn run(args: &ShowArgs, out: &Out) -> Result<()> {
    let source = match &args.name {
        Some(name) => resolve::named(Some(name), args.source.offline, out)?,
        None => resolve::source(&args.source, out)?,
    };
    let (name, gguf) = (source.name(), source.open()?);
    let facts = Facts::of(&gguf, args.ctx);
    if out.json {
        return output::json(&document(&gguf, &facts, &name, args));
    }
    output::print(&text(&gguf, &facts, &name, args)?)
}
