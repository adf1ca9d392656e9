//! Our own side of the comparison: answers the protocol of docs/adding-a-peer.md on the model that it is given.

use std::io::{BufRead, Write};
use std::time::Instant;

use serde_json::{Value, json};
use smallmind::{
    Batch, GenerateOptions, Model, PrefillClass, SamplingParams, Session, SessionOptions, perplexity,
};

use crate::{Error, Result};

/// Says that the model is ready and answers requests until `input` ends, with prompts of this class. What goes wrong with
/// one is its answer.
///
/// # Errors
/// Where the other side cannot be written to.
pub fn serve(
    model: &Model,
    prefill: PrefillClass,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<()> {
    let mut say = |document: Value| -> Result<()> {
        let written = writeln!(output, "{document}").and_then(|()| output.flush());
        written.map_err(|cause| Error::System { what: "standard output".into(), cause })
    };
    let program = std::env::current_exe().and_then(std::fs::metadata);
    let precise = if model.is_precise() { ", weights dequantized" } else { "" };
    let fast = model.fast_prefill().filter(|_| prefill == PrefillClass::Fast);
    let prompts = fast.map_or_else(String::new, |precision| format!(", prompts {precision}"));
    say(json!({"ready": {
        "version": format!("SmallMind {}, {}", env!("CARGO_PKG_VERSION"), model.isa()),
        "form": format!("the file itself{precise}{prompts}"),
        "installed_bytes": program.ok().map(|p| p.len()),
        "can": ["generate", "batch", "perplexity"],
    }}))?;
    for line in input.lines() {
        let line = line.map_err(|cause| Error::System { what: "standard input".into(), cause })?;
        let answer = serde_json::from_str(&line).map_err(|e| Error::Usage(format!("no request: {e}")));
        let answer = answer.and_then(|request| answer_to(model, prefill, &request));
        say(answer.unwrap_or_else(|error| json!({"error": error.to_string()})))?;
    }
    Ok(())
}

fn answer_to(model: &Model, prefill: PrefillClass, request: &Value) -> Result<Value> {
    let options = SessionOptions { prefill, ..SessionOptions::default() };
    if let Some(what) = request.get("generate") {
        let repeats = what["repeats"].as_u64().map_or(Ok(1), |_| number(what, "repeats"))?;
        return generate(model, options, &ids(&what["prompt"])?, number(what, "tokens")?, repeats);
    }
    if let Some(what) = request.get("batch") {
        let (sequences, tokens) = (number(what, "sequences")?, number(what, "tokens")?);
        return batch(model, options, &ids(&what["prompt"])?, sequences, tokens);
    }
    if let Some(what) = request.get("perplexity") {
        let windows = what["windows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let windows: Vec<Vec<u32>> = windows.iter().map(ids).collect::<Result<_>>()?;
        let window = windows.first().map_or(0, Vec::len);
        let scored = perplexity(model, &windows.concat(), window, &options, &mut |_, _, _| true)?;
        return Ok(json!({"perplexity": scored.perplexity, "scored": scored.tokens}));
    }
    Err(Error::Usage("there is no such request".into()))
}

fn number(what: &Value, name: &str) -> Result<usize> {
    let value = what[name].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    value.ok_or_else(|| Error::Usage(format!("`{name}` is no number above 0")))
}

fn ids(value: &Value) -> Result<Vec<u32>> {
    serde_json::from_value(value.clone()).map_err(|_| Error::Usage("tokens are numbers".into()))
}

fn generate(
    model: &Model,
    session: SessionOptions,
    prompt: &[u32],
    tokens: usize,
    repeats: usize,
) -> Result<Value> {
    let options = GenerateOptions {
        max_tokens: Some(tokens),
        sampling: SamplingParams::greedy(),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let context = prompt.len() + tokens;
    let mut session = Session::new(model, &SessionOptions { context: Some(context), ..session })?;
    let (mut first, mut decode, mut made) = (Vec::new(), Vec::new(), Vec::with_capacity(tokens));
    // A generation that is over in milliseconds is repeated within one sample, after one that does not count.
    for run in 0..repeats + usize::from(repeats > 1) {
        made.clear();
        session.truncate(0);
        let mut generation = session.generate(prompt, &options)?;
        while let Some(piece) = generation.next_piece()? {
            made.push(piece.id);
        }
        let timings = generation.timings();
        if run > 0 || repeats == 1 {
            first.push(1e3 * timings.first_token.as_secs_f64());
            decode.push(1e3 * timings.decode.as_secs_f64());
        }
    }
    let median = |times: Vec<f64>| crate::measure::stats::Samples(times).median();
    Ok(json!({"first_ms": median(first), "decode_ms": median(decode), "tokens": made}))
}

fn batch(
    model: &Model,
    session: SessionOptions,
    prompt: &[u32],
    sequences: usize,
    tokens: usize,
) -> Result<Value> {
    let options = SessionOptions { context: Some(prompt.len() + tokens), ..session };
    let mut sessions = Vec::with_capacity(sequences);
    let mut next = Vec::with_capacity(sequences);
    for _ in 0..sequences {
        let mut session = Session::new(model, &options)?;
        next.push(likeliest(session.prefill(prompt)?));
        sessions.push(session);
    }
    let mut batch = Batch::new(model, sequences)?;
    let vocab = model.config().vocab;
    let start = Instant::now();
    for _ in 1..tokens {
        let logits = batch.decode(&mut sessions, &next)?;
        next.clear();
        next.extend(logits.chunks_exact(vocab).map(likeliest));
    }
    let decode_ms = 1e3 * start.elapsed().as_secs_f64();
    Ok(json!({"decode_ms": decode_ms, "decoded": sequences * (tokens - 1)}))
}

/// The token with the largest logit, the first of equals.
fn likeliest(logits: &[f32]) -> u32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let at = logits.iter().position(|l| *l == most);
    at.and_then(|i| u32::try_from(i).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::preset::Preset;
    use smallmind::{DType, LoadOptions};

    fn answers(requests: &str) -> Vec<Value> {
        answers_of(DType::F32, PrefillClass::Exact, requests)
    }

    fn answers_of(dtype: DType, prefill: PrefillClass, requests: &str) -> Vec<Value> {
        let gguf = Preset::find("small").unwrap().build(dtype, 1).unwrap();
        let model = Model::from_gguf(gguf, &LoadOptions { threads: Some(1), precise: false }).unwrap();
        let mut out = Vec::new();
        serve(&model, prefill, requests.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn every_request_has_its_answer() {
        let windows = vec![(0..32).collect::<Vec<u32>>(); 2];
        let requests = format!(
            "{}\n{}\n{}\n{}\n{}\n",
            r#"{"generate": {"prompt": [65, 66], "tokens": 5}}"#,
            r#"{"generate": {"prompt": [65, 66], "tokens": 5, "repeats": 3}}"#,
            r#"{"batch": {"prompt": [65, 66], "sequences": 3, "tokens": 4}}"#,
            json!({"perplexity": {"windows": windows, "first": 16}}),
            r#"{"generate": {"prompt": [65, 66], "tokens": 5}}"#
        );
        let all = answers(&requests);
        assert!(all[0]["ready"]["version"].as_str().unwrap().starts_with("SmallMind "));
        assert_eq!(all[1]["tokens"].as_array().unwrap().len(), 5);
        assert_eq!((&all[1]["tokens"], &all[1]["tokens"]), (&all[2]["tokens"], &all[5]["tokens"]));
        assert!(all[1]["first_ms"].as_f64().unwrap() > 0.0 && all[1]["decode_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(all[3]["decoded"], 9);
        // A model that knows nothing guesses one of its 256 tokens.
        assert!((200.0..330.0).contains(&all[4]["perplexity"].as_f64().unwrap()), "{}", all[4]);
    }

    #[test]
    fn the_class_of_prompts_is_said_and_used() {
        let windows = vec![(0..32).collect::<Vec<u32>>(); 2];
        let request = json!({"perplexity": {"windows": windows, "first": 16}});
        let [exact, fast] = [PrefillClass::Exact, PrefillClass::Fast]
            .map(|class| answers_of(DType::Q8_0, class, &format!("{request}\n")));
        assert_eq!(exact[0]["ready"]["form"], "the file itself");
        assert!(fast[0]["ready"]["form"].as_str().unwrap().contains("prompts"), "{}", fast[0]);
        let of = |all: &[Value]| all[1]["perplexity"].as_f64().unwrap();
        assert!(of(&exact) != of(&fast) && (of(&exact) / of(&fast) - 1.0).abs() < 0.05, "{exact:?} {fast:?}");
    }

    #[test]
    fn what_goes_wrong_is_an_answer_and_not_the_end() {
        let all = answers(
            "nonsense\n{\"sing\": {}}\n{\"generate\": {\"prompt\": [], \"tokens\": 2}}\n\
             {\"generate\": {\"prompt\": [999], \"tokens\": 2}}\n{\"generate\": {\"prompt\": [1], \"tokens\": 0}}\n",
        );
        assert_eq!(all.len(), 6);
        assert!(all[1..].iter().all(|a| a["error"].is_string()), "{all:?}");
    }
}
