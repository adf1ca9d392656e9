//! `smallmind perplexity`: how well a model predicts a text.

use anyhow::{Result, anyhow};
use smallmind::{Encode, SessionOptions, perplexity};

use crate::args::PerplexityArgs;
use crate::interrupt::Guard;
use crate::output::{self, Interrupted, Out, PerplexityDocument};
use crate::{prompt, resolve};

/// llama-perplexity's window.
const WINDOW: usize = 512;

pub(crate) fn run(args: &PerplexityArgs, out: &Out) -> Result<()> {
    let text = prompt::text(None, args.file.as_deref(), "with -f FILE or on stdin")?;
    let loaded = resolve::load(&args.model, out)?;
    let model = &loaded.model;
    let context = args.ctx.unwrap_or(WINDOW.min(model.config().context));
    let tokens = model.tokenizer().encode(&text, Encode { add_special: true, parse_special: false });
    let kv = resolve::kv(args.kv_type);
    let prefill = resolve::prefill(model, args.prefill, out);
    let options = SessionOptions { kv, prefill, ..SessionOptions::default() };
    let interrupt = Guard::new();
    let result = perplexity(model, &tokens, context, &options, &mut |done, of, so_far| {
        out.detail(|| format!("window {done} of {of}: perplexity {so_far:.4}"));
        !interrupt.interrupted()
    })?;
    if interrupt.interrupted() {
        return Err(Interrupted.into());
    }
    let (value, stderr, tokens) = (result.perplexity, result.stderr, result.tokens);
    if !value.is_finite() {
        return Err(anyhow!("the perplexity of {} is not a number: its weights are damaged", loaded.name));
    }
    if out.json {
        let stderr = if stderr.is_finite() { stderr } else { 0.0 };
        return output::json(&PerplexityDocument { perplexity: value, stderr, tokens });
    }
    output::print(&format!("perplexity {value:.4} ± {stderr:.4} over {tokens} tokens\n"))
}
