//! `smallmind train`: a model from text.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smallmind::cpus;
use smallmind_train::{
    Corpus, Outcome, Progress, RunOptions, TrainConfig, TrainError, Trainer, Watch, checkpoint_path,
};

use crate::args::{SettingArgs, TrainArgs};
use crate::interrupt::Guard;
use crate::output::{self, Interrupted, Out, TrainDocument, Usage};

pub(crate) fn run(args: &TrainArgs, out: &Out) -> Result<()> {
    let config = config(args)?;
    let corpus = Corpus::read(&args.data)?;
    let threads = match args.threads {
        0 => {
            let choice = cpus::choose(0);
            // Where the system refuses, threads wander, which costs time and no result.
            let _ = choice.confine();
            choice.threads
        }
        n => n,
    };
    let options = RunOptions {
        out: args.out.clone(),
        resume: args.resume,
        threads,
        eval_every: args.eval_every,
        save_every: args.save_every,
        stop_at: args.stop_at,
    };
    let mut trainer = Trainer::new(config.clone(), &corpus, options)?;
    drop(corpus);
    let (train, valid) = trainer.tokens();
    let begun = trainer.step();
    out.note(&format!(
        "{} parameters, {train} tokens to learn from, {valid} held back, {threads} threads{}",
        trainer.parameters(),
        if begun > 0 { format!(", going on after step {begun}") } else { String::new() }
    ));
    let steps = args.stop_at.unwrap_or(u64::MAX).min(config.steps);
    let mut watch = Bar::new(out, steps, begun);
    let outcome = trainer.run(&mut watch);
    watch.clear();
    let path = args.out.display();
    match outcome? {
        Outcome::Stopped(step) => {
            let at = checkpoint_path(&args.out);
            out.note(&format!("stopped after step {step}: --resume goes on from {}", at.display()));
            Err(Interrupted.into())
        }
        Outcome::Already => {
            out.note(&format!("{path} is complete: there is nothing left to do"));
            document(args, &trainer, watch.last, None, out)
        }
        Outcome::Done { valid, tokens_per_s } => {
            let perplexity = valid
                .map_or(String::new(), |v| format!(", validation loss {v:.4} (perplexity {:.2})", v.exp()));
            out.note(&format!("{path}: {steps} steps, {tokens_per_s:.0} tokens/s{perplexity}"));
            document(args, &trainer, watch.last, valid, out)
        }
    }
}

/// The file's settings or the preset's, with the flags on top.
fn config(args: &TrainArgs) -> Result<TrainConfig> {
    let mut config = match (&args.config, args.preset) {
        (Some(path), _) => from_file(path)?,
        (None, Some(preset)) => TrainConfig::preset(preset),
        (None, None) => TrainConfig { name: "small".to_owned(), ..TrainConfig::default() },
    };
    let SettingArgs {
        steps,
        batch,
        seq,
        accumulate,
        lr,
        schedule,
        warmup,
        weight_decay,
        clip,
        dropout,
        seed,
        valid,
        vocab,
        tokenizer,
        name,
        recompute,
        precision,
    } = args.settings.clone();
    let c = &mut config;
    set(&mut c.steps, steps);
    set(&mut c.batch, batch);
    set(&mut c.seq, seq);
    set(&mut c.accumulate, accumulate);
    set(&mut c.lr, lr);
    set(&mut c.schedule, schedule.map(Into::into));
    set(&mut c.warmup, warmup);
    set(&mut c.weight_decay, weight_decay);
    set(&mut c.clip, clip);
    set(&mut c.dropout, dropout);
    set(&mut c.seed, seed);
    set(&mut c.valid, valid);
    set(&mut c.model.vocab, vocab);
    set(&mut c.name, name);
    c.tokenizer = tokenizer.map(Into::into).or(c.tokenizer);
    c.recompute |= recompute;
    set(&mut c.precision, precision.map(Into::into));
    config.check().map_err(|e| usage(args.config.as_deref(), &e))?;
    Ok(config)
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

fn from_file(path: &Path) -> Result<TrainConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    TrainConfig::from_json(&text).map_err(|e| usage(Some(path), &e))
}

fn usage(path: Option<&Path>, error: &TrainError) -> anyhow::Error {
    let file = path.map_or(String::new(), |p| format!("{}: ", p.display()));
    Usage(format!("{file}{error}")).into()
}

fn document(
    args: &TrainArgs,
    trainer: &Trainer,
    last: Option<Progress>,
    valid: Option<f64>,
    out: &Out,
) -> Result<()> {
    if !out.json {
        return Ok(());
    }
    output::json(&TrainDocument {
        model: args.out.display().to_string(),
        parameters: trainer.parameters(),
        steps: trainer.step(),
        loss: last.map(|p| p.loss),
        valid_loss: valid,
        tokens_per_s: last.map(|p| p.tokens_per_s),
    })
}

/// The steps as the terminal shows them: a bar where someone is watching, some lines where not.
pub(super) struct Bar<'a> {
    out: &'a Out,
    bar: Option<ProgressBar>,
    interrupt: Guard,
    last: Option<Progress>,
}

impl Bar<'_> {
    pub(super) fn new(out: &Out, steps: u64, begun: u64) -> Bar<'_> {
        let bar = out.watched().then(|| {
            let template = "{wide_bar} {pos}/{len} {msg} {eta}";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style);
            bar.set_position(begun);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Bar { out, bar, interrupt: Guard::new(), last: None }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Bar<'_> {
    fn step(&mut self, p: &Progress) -> bool {
        let valid = p.valid.map_or(String::new(), |v| format!(", validation {v:.4}"));
        let left = (p.steps - p.step) as f64;
        if let Some(bar) = &self.bar {
            bar.set_position(p.step);
            bar.set_message(format!("loss {:.4} {:.0} tokens/s", p.loss, p.tokens_per_s));
            if p.valid.is_some() {
                bar.suspend(|| self.out.note(&format!("step {}: loss {:.4}{valid}", p.step, p.loss)));
            }
        } else if p.valid.is_some() || p.step == 1 || p.step.is_multiple_of((p.steps / 20).max(1)) {
            self.out.note(&format!(
                "step {} of {}: loss {:.4}{valid}, lr {:.2e}, {:.0} tokens/s, {:.0} s left",
                p.step,
                p.steps,
                p.loss,
                p.lr,
                p.tokens_per_s,
                left * p.step_tokens as f64 / p.tokens_per_s.max(1e-9)
            ));
        }
        self.last = Some(*p);
        !self.interrupt.interrupted()
    }
}
