//! `smallmind finetune`: a LoRA adapter from conversations.

use anyhow::Result;
use smallmind::cpus;
use smallmind_train::{LoraConfig, LoraTrainer};

use super::train::Bar;
use crate::args::FinetuneArgs;
use crate::output::{self, Interrupted, Out};
use crate::resolve;

pub(crate) fn run(args: &FinetuneArgs, out: &Out) -> Result<()> {
    let gguf = resolve::source(&args.source, out)?.open()?;
    let threads = if args.threads > 0 { args.threads } else { cpus::choose(gguf.file_len()).threads };
    let config = LoraConfig {
        rank: args.rank,
        alpha: args.alpha,
        targets: args.targets.clone(),
        steps: args.steps,
        batch: args.batch,
        seq: args.seq,
        lr: args.lr,
        seed: args.seed,
        recompute: args.recompute,
        threads,
        ..LoraConfig::default()
    };
    let mut trainer = LoraTrainer::new(config, gguf, &args.data, &args.out)?;
    let (adapters, numbers, examples) = trainer.sizes();
    out.note(&format!(
        "{adapters} adapters of {numbers} parameters, {examples} conversations, {threads} threads"
    ));
    let mut bar = Bar::new(out, args.steps, 0);
    let outcome = trainer.run(&mut bar);
    bar.clear();
    let Some((before, after)) = outcome? else { return Err(Interrupted.into()) };
    let path = args.out.display().to_string();
    if out.json {
        let document = serde_json::json!({
            "adapter": path, "parameters": numbers, "steps": args.steps, "loss_before": before, "loss_after": after,
        });
        return output::json(&document);
    }
    output::print(&format!("{path}: loss {before:.4} before, {after:.4} after {} steps\n", args.steps))
}
