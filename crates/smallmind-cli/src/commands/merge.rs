//! `smallmind merge`: a model with its adapter added, as a file.

use anyhow::Result;
use smallmind_train::{Adapter, merge, write_file};

use crate::args::MergeArgs;
use crate::output::{self, Out, Usage};
use crate::resolve;

pub(crate) fn run(args: &MergeArgs, out: &Out) -> Result<()> {
    let mut source = args.source.clone();
    let Some(adapter) = source.lora.take() else {
        return Err(Usage("there is nothing to add: name the adapter with --lora FILE".into()).into());
    };
    let merged = merge(&resolve::source(&source, out)?.open()?, &Adapter::open(&adapter)?)?;
    write_file(&args.out, &merged)?;
    let path = args.out.display().to_string();
    if out.json {
        return output::json(&serde_json::json!({"path": path, "bytes": merged.len()}));
    }
    output::print(&format!("{path}: {}\n", output::bytes(merged.len() as u64)))
}
