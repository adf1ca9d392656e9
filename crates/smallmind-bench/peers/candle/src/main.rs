//! The comparison's protocol (docs/adding-a-peer.md) for candle: its quantized llama on a GGUF file, greedy by argmax.
//!
//!     RAYON_NUM_THREADS=N smallmind-peer-candle --model FILE

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Peer {
    model: ModelWeights,
}

impl Peer {
    fn load(path: &str) -> Result<Peer> {
        let mut file = std::fs::File::open(path)?;
        let content = gguf_file::Content::read(&mut file).map_err(|e| e.with_path(path))?;
        Ok(Peer { model: ModelWeights::from_gguf(content, &mut file, &Device::Cpu)? })
    }

    /// The likeliest token after `ids` at `position`.
    fn step(&mut self, ids: &[u32], position: usize) -> Result<u32> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.model.forward(&ids, position)?.squeeze(0)?.argmax(0)?.to_scalar()?)
    }

    /// Milliseconds to the first token and of the others, and the tokens.
    fn generate(&mut self, prompt: &[u32], tokens: usize) -> Result<(f64, f64, Vec<u32>)> {
        self.model.clear_kv_cache();
        let start = Instant::now();
        let mut chosen = vec![self.step(prompt, 0)?];
        let first = start.elapsed();
        for position in prompt.len()..prompt.len() + tokens - 1 {
            chosen.push(self.step(&[chosen[chosen.len() - 1]], position)?);
        }
        let ms = |d: std::time::Duration| 1e3 * d.as_secs_f64();
        Ok((ms(first), ms(start.elapsed() - first), chosen))
    }

    fn answer(&mut self, request: &Value) -> Result<Value> {
        if let Some(what) = request.get("generate") {
            let prompt: Vec<u32> = serde_json::from_value(what["prompt"].clone())?;
            let tokens = usize::try_from(what["tokens"].as_u64().ok_or("tokens are missing")?)?;
            let (first, rest, tokens) = self.generate(&prompt, tokens)?;
            return Ok(json!({"first_ms": first, "decode_ms": rest, "tokens": tokens}));
        }
        // Several prompts at once fail in this version: "input tensor is not contiguous".
        Err("no such request".into())
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned()
    };
    if arguments.iter().any(|a| a == "--version") {
        println!("candle 0.11.1");
        return Ok(());
    }
    let model = option("--model").ok_or("--model is missing")?;
    let mut peer = Peer::load(&model)?;
    let bytes = std::fs::metadata(std::env::current_exe()?)?.len();
    say(&json!({"ready": {"version": "candle 0.11.1", "form": "the file itself", "installed_bytes": bytes,
                          "can": ["generate"]}}))?;
    for line in std::io::stdin().lock().lines() {
        let answer = peer.answer(&serde_json::from_str(&line?)?);
        say(&answer.unwrap_or_else(|error| failure(error.as_ref())))?;
    }
    Ok(())
}

/// An error without the backtrace that candle writes into it.
fn failure(error: &dyn Error) -> Value {
    json!({"error": error.to_string().lines().next().unwrap_or_default()})
}

fn say(document: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{document}")?;
    Ok(out.flush()?)
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Whoever listens is told; where nobody does, there is no one to tell.
            let _ = say(&failure(error.as_ref()));
            std::process::ExitCode::FAILURE
        }
    }
}
