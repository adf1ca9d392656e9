//! `smallmind imatrix`: which weights matter over a text.

use anyhow::Result;
use serde_json::json;
use smallmind::Encode;
use smallmind::imatrix::imatrix;

use crate::args::ImatrixArgs;
use crate::output::{self, Out};
use crate::progress::Work;
use crate::{prompt, resolve};

/// llama-imatrix's window.
const WINDOW: usize = 512;

pub(crate) fn run(args: &ImatrixArgs, out: &Out) -> Result<()> {
    let text = prompt::text(None, args.file.as_deref(), "with -f FILE or on stdin")?;
    let loaded = resolve::load(&args.model, out)?;
    let model = &loaded.model;
    let context = args.ctx.unwrap_or(WINDOW.min(model.config().context));
    let mut tokens = model.tokenizer().encode(&text, Encode { add_special: true, parse_special: false });
    if args.chunks > 0 {
        tokens.truncate(args.chunks.saturating_mul(context));
    }
    let dataset = args.file.as_deref().map_or("stdin".into(), |f| f.to_string_lossy().into_owned());
    let mut bar = Work::counting(out, &format!("{}: windows", loaded.name));
    let done = imatrix(model, &tokens, context, &dataset, &args.output, &mut |done, of| {
        bar.at("", done as u64, of as u64)
    })?;
    drop(bar);
    let path = args.output.display().to_string();
    if out.json {
        return output::json(&json!({ "path": path, "matrices": done.matrices, "windows": done.windows }));
    }
    output::print(&format!(
        "{path}: {} matrices over {} windows of {context} tokens\n",
        done.matrices, done.windows
    ))
}
