//! `smallmind quantize`: a model in fewer bits.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use smallmind::cpus;
use smallmind::quantize::{Importance, QuantizeOptions, quantize};

use crate::args::QuantizeArgs;
use crate::output::{self, Out};
use crate::progress::Work;
use crate::resolve;

pub(crate) fn run(args: &QuantizeArgs, out: &Out) -> Result<()> {
    let source = resolve::named(Some(&args.input), args.offline, out)?;
    let name = source.name();
    let gguf = source.open()?;
    let threads = if args.threads > 0 { args.threads } else { cpus::choose(gguf.file_len()).threads };
    let options = QuantizeOptions {
        mix: args.mix,
        output: args.output_tensor_type,
        embedding: args.token_embedding_type,
        pure: args.pure,
        importance: args.imatrix.as_deref().map(Importance::open).transpose()?,
        threads,
    };
    let start = Instant::now();
    let mut bar = Work::new(out, &format!("{} → {}", name, args.mix.name));
    let done = quantize(&gguf, &options, &args.output, &mut |p| bar.at(p.tensor, p.done, p.total))?;
    drop(bar);
    let (before, after) = done.bytes;
    let bits = after as f64 * 8.0 / done.elements as f64;
    if done.requantized > 0 && !args.allow_requantize {
        out.note(&format!(
            "{} matrices were quantized already and lose twice: an F16, BF16 or F32 source is better",
            done.requantized
        ));
    }
    if !done.fallbacks.is_empty() {
        let (name, dtype) = &done.fallbacks[0];
        let more = done.fallbacks.len() - 1;
        out.note(&format!(
            "rows that are no whole blocks took another type: `{name}` is {dtype}, {more} more likewise"
        ));
    }
    if done.unweighted > 0 {
        out.note(&format!(
            "{} matrices are not in the importance matrix: quantized without",
            done.unweighted
        ));
    }
    let path = args.output.display().to_string();
    if out.json {
        return output::json(&json!({
            "path": path,
            "type": args.mix.name,
            "bytes_before": before,
            "bytes": after,
            "bits_per_weight": bits,
            "fallbacks": done.fallbacks.iter().map(|(n, t)| json!({"tensor": n, "type": t.name()})).collect::<Vec<_>>(),
            "requantized": done.requantized,
            "seconds": start.elapsed().as_secs_f64(),
        }));
    }
    let (before, after) = (output::bytes(before), output::bytes(after));
    output::print(&format!(
        "{path}: {before} → {after}, {bits:.2} bits per weight, {:.1?}\n",
        start.elapsed()
    ))
}
