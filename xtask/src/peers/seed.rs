//! The seed's two models, 50 tokens after 10: ours in this process, PyTorch and ONNX Runtime by a script that reads the
//! weights written here and checks that it computes the same logits.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use smallmind::preset::{PRESETS, Preset};
use smallmind::{DType, LoadOptions, Model, Session, SessionOptions};

use smallmind_bench::measure::bytes::Bytes;
use smallmind_bench::measure::roofline::Limits;
use smallmind_bench::measure::stats::Samples;
use smallmind_bench::results::{OURS, Row, Side as Program, Unit};

use super::options::Options;
use super::programs::answer;

const SEED: u64 = 1;
const PROMPT: std::ops::Range<u32> = 65..75;
const GENERATED: usize = 50;
/// Generations of one sample; the best counts, on every side.
const REPEATS: usize = 20;

/// One side's generation: tokens a second over all of it, and the time to the first token in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    tokens_per_s: f64,
    first_token_us: f64,
}

/// What is measured on one model and thread count.
#[derive(Default)]
struct Side {
    speed: Samples,
    first_token: Samples,
}

impl Side {
    fn push(&mut self, figures: Figures) {
        self.speed.0.push(figures.tokens_per_s);
        self.first_token.0.push(figures.first_token_us);
    }
}

/// The script's names of the peers, and ours of them.
const PEERS: [(&str, &str); 2] = [("torch", "PyTorch"), ("onnx", "ONNX Runtime")];

/// Every row.
pub(crate) fn measure(
    options: &Options,
    limits: &Limits,
    mut done: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    for preset in &PRESETS {
        let weights = options.cache.join(format!("{}.json", preset.name));
        if options.python.is_some() {
            write(preset, &weights)?;
        }
        for &threads in &options.threads {
            let mut ours: [(DType, Side); 2] =
                [DType::F32, DType::Q8_0].map(|dtype| (dtype, Side::default()));
            let mut peers: [Side; 2] = Default::default();
            let mut fault = String::new();
            for _ in 0..options.rounds {
                for (dtype, side) in &mut ours {
                    side.push(generate(preset, *dtype, threads)?);
                }
                if let Some(python) = &options.python {
                    match theirs(python, &weights, threads) {
                        Ok(figures) => peers.iter_mut().zip(figures).for_each(|(side, f)| side.push(f)),
                        Err(error) => fault = format!("{error:#}").replace(['|', '\n'], " "),
                    }
                }
            }
            for (dtype, side) in ours {
                let bytes = Bytes::of(&preset.build(dtype, SEED)?)?.at(PROMPT.len(), GENERATED);
                let of_limit = limits.share(threads, bytes, side.speed.median());
                let row = |test: &str, unit, pick: fn(&Side) -> &Samples| {
                    let of =
                        |name: &str, side: &Side| Program { name: name.into(), samples: pick(side).clone() };
                    let mut sides = vec![of(OURS, &side)];
                    if options.python.is_some() {
                        sides.extend(PEERS.iter().zip(&peers).map(|((_, name), side)| of(name, side)));
                    }
                    let subject = format!("seed's {} {dtype}", preset.name);
                    let note = if fault.is_empty() { "peers in F32".to_owned() } else { fault.clone() };
                    Row { note, ..Row::with_sides("seed", &subject, threads, test, unit, sides) }
                };
                let speed = row("50 after 10", Unit::TokensPerSecond, |s| &s.speed);
                done(Row { of_limit, ..speed })?;
                done(row("first token", Unit::Microseconds, |s| &s.first_token))?;
            }
        }
    }
    Ok(())
}

/// The best of several greedy generations.
fn generate(preset: &Preset, dtype: DType, threads: usize) -> Result<Figures> {
    let options = LoadOptions { threads: Some(threads), precise: false };
    let model = Model::from_gguf(preset.build(dtype, SEED)?, &options)?;
    let mut session = Session::new(&model, &SessionOptions::default())?;
    let prompt: Vec<u32> = PROMPT.collect();
    let (mut best_time, mut best_first) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..=REPEATS {
        session.truncate(0);
        let start = Instant::now();
        let mut next = likeliest(session.prefill(&prompt)?);
        let first = start.elapsed().as_secs_f64();
        for _ in 1..GENERATED {
            next = likeliest(session.prefill(&[next])?);
        }
        std::hint::black_box(next);
        best_time = best_time.min(start.elapsed().as_secs_f64());
        best_first = best_first.min(first);
    }
    Ok(Figures { tokens_per_s: GENERATED as f64 / best_time, first_token_us: 1e6 * best_first })
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token)
}

/// Writes the F32 weights, the prompt and our logits of its last token: `path`, and beside it the values.
fn write(preset: &Preset, path: &Path) -> Result<()> {
    let gguf = preset.build(DType::F32, SEED)?;
    let (mut values, mut tensors) = (Vec::new(), Vec::new());
    for tensor in gguf.tensors() {
        let shape: Vec<usize> = tensor.shape.iter().rev().copied().collect();
        tensors.push(json!({"name": tensor.name, "shape": shape, "offset": values.len()}));
        values.extend_from_slice(gguf.data(tensor));
    }
    let prompt: Vec<u32> = PROMPT.collect();
    let model = Model::from_gguf(gguf, &LoadOptions { threads: Some(1), precise: true })?;
    let logits = Session::new(&model, &SessionOptions::default())?.prefill(&prompt)?.to_vec();
    let about = json!({
        "layers": preset.layers, "heads": preset.heads, "hidden": preset.hidden, "context": preset.context,
        "values": format!("{}.bin", preset.name), "tensors": tensors, "prompt": prompt, "logits": logits,
        "generate": GENERATED, "repeats": REPEATS,
    });
    let folder = path.parent().context("the cache is a folder")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    std::fs::write(path.with_extension("bin"), values).with_context(|| path.display().to_string())?;
    std::fs::write(path, about.to_string()).with_context(|| path.display().to_string())
}

/// PyTorch's and ONNX Runtime's figures.
fn theirs(python: &Path, weights: &Path, threads: usize) -> Result<[Figures; 2]> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/seed_peers.py");
    let mut command = Command::new(python);
    command.arg(script).arg(weights).args(["--threads", &threads.to_string()]);
    figures(&answer(&mut command)?)
}

fn figures(answer: &str) -> Result<[Figures; 2]> {
    let line = answer.lines().rfind(|l| l.starts_with('{')).context("the script's answer has no JSON")?;
    let all: Value = serde_json::from_str(line)?;
    let of = |peer: &str| -> Result<Figures> {
        let number =
            |key: &str| all[peer][key].as_f64().with_context(|| format!("the answer has no {peer}.{key}"));
        Ok(Figures { tokens_per_s: number("tokens_per_s")?, first_token_us: number("first_token_us")? })
    };
    Ok([of(PEERS[0].0)?, of(PEERS[1].0)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_answer_is_read() {
        let answer = "a warning\n{\"torch\": {\"tokens_per_s\": 3844.0, \"first_token_us\": 457.5}, \
                      \"onnx\": {\"tokens_per_s\": 6628.0, \"first_token_us\": 227.0}}\n";
        let want = [(3844.0, 457.5), (6628.0, 227.0)];
        let want = want.map(|(tokens_per_s, first_token_us)| Figures { tokens_per_s, first_token_us });
        assert_eq!(figures(answer).unwrap(), want);
        assert!(figures("{\"torch\": {}}").is_err());
    }

    #[test]
    fn the_weights_written_for_the_peers_are_all_of_the_models() {
        let folder = std::env::temp_dir().join(format!("xtask-seed-{}", std::process::id()));
        let path = folder.join("small.json");
        write(Preset::find("small").unwrap(), &path).unwrap();
        assert_eq!(std::fs::metadata(path.with_extension("bin")).unwrap().len(), 4 * 470_528);
        let about: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(about["tensors"].as_array().unwrap().len(), 29);
        assert_eq!(about["tensors"][0]["shape"], json!([256, 128]));
        assert_eq!(about["logits"].as_array().unwrap().len(), 256);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_generation_has_a_speed_and_a_first_token() {
        let figures = generate(Preset::find("small").unwrap(), DType::Q8_0, 1).unwrap();
        assert!(figures.tokens_per_s > 0.0 && figures.first_token_us.is_finite());
    }
}
