//! Trains a model from text with the library: `cargo run --release --example train -- SETTINGS.json TEXT OUT.gguf [THREADS]`
//!
//! Goes on from the checkpoint where there is one.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use smallmind_train::{Corpus, Progress, RunOptions, TrainConfig, Trainer, Watch};

struct Lines;

impl Watch for Lines {
    fn step(&mut self, p: &Progress) -> bool {
        if p.step.is_multiple_of(20) || p.valid.is_some() {
            let valid = p.valid.map_or(String::new(), |v| format!(", validation {v:.4}"));
            println!(
                "step {} of {}: loss {:.4}{valid}, {:.0} tokens/s",
                p.step, p.steps, p.loss, p.tokens_per_s
            );
        }
        true
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(settings), Some(text), Some(out)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: train SETTINGS.json TEXT OUT.gguf [THREADS]".into());
    };
    let threads = args.next().map_or(Ok(1), |n| n.parse())?;
    let config = TrainConfig::from_json(&std::fs::read_to_string(settings)?)?;
    let corpus = Corpus::read(&[PathBuf::from(text)])?;
    let options =
        RunOptions { out: out.into(), resume: true, threads, eval_every: 100, save_every: 50, stop_at: None };
    let mut trainer = Trainer::new(config, &corpus, options)?;
    println!("{} parameters, {:?} tokens", trainer.parameters(), trainer.tokens());
    println!("{:?}", trainer.run(&mut Lines)?);
    Ok(())
}
