//! `smallmind convert`: a model from one form into another.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use smallmind::convert::{ConvertOptions, convert};
use smallmind::cpus;

use crate::args::ConvertArgs;
use crate::output::{self, Out};
use crate::progress::Work;

pub(crate) fn run(args: &ConvertArgs, out: &Out) -> Result<()> {
    let threads = if args.threads > 0 { args.threads } else { cpus::choose(0).threads };
    let options = ConvertOptions { dtype: args.dtype, threads };
    let (input, path) = (args.input.display().to_string(), args.output.display().to_string());
    let start = Instant::now();
    let mut bar = Work::new(out, &input);
    let notes = convert(&args.input, &args.output, &options, &mut |p| bar.at(p.tensor, p.done, p.total))?;
    drop(bar);
    notes.iter().for_each(|note| out.note(note));
    let bytes = std::fs::metadata(&args.output)?.len();
    if out.json {
        let seconds = start.elapsed().as_secs_f64();
        return output::json(&json!({ "path": path, "bytes": bytes, "notes": notes, "seconds": seconds }));
    }
    output::print(&format!("{path}: {}, {:.1?}\n", output::bytes(bytes), start.elapsed()))
}
