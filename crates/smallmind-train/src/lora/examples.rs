//! Instructions to learn from: JSON lines, each a conversation, as tokens of which only the answers count.

use std::path::Path;

use serde::Deserialize;
use smallmind::{Encode, Message, Model, RenderOptions};
use smallmind_formats::fs::read_to_string;

use crate::error::{Result, TrainError};
use crate::ops::loss::IGNORED;
use crate::rng::Key;

/// The largest file that is read.
const LARGEST: usize = 1 << 30;

/// One line: `{"messages": [{"role": "user", "content": "…"}, …]}`, or short `{"prompt": "…", "response": "…"}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Messages { messages: Vec<Turn> },
    Pair { prompt: String, response: String },
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// A conversation: inputs, and the token after each where it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) ids: Vec<u32>,
    pub(crate) targets: Vec<u32>,
}

/// Reads conversations of at most `longest` tokens each.
pub(crate) fn read(path: &Path, model: &Model, longest: usize) -> Result<Vec<Example>> {
    let text = read_to_string(path, LARGEST)?;
    let bad = |line: usize, why: String| TrainError::Data {
        path: path.to_owned(),
        why: format!("line {}: {why}", line + 1),
    };
    let mut examples = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let parsed: Line = serde_json::from_str(line).map_err(|_| {
            bad(
                i,
                r#"is not {"messages": [{"role": …, "content": …}, …]} nor {"prompt": …, "response": …}"#
                    .into(),
            )
        })?;
        let messages: Vec<Message> = match parsed {
            Line::Messages { messages } => {
                messages.into_iter().map(|m| Message::new(m.role, m.content)).collect()
            }
            Line::Pair { prompt, response } => {
                vec![Message::new("user", prompt), Message::new("assistant", response)]
            }
        };
        let example = tokens(model, &messages).map_err(|e| bad(i, e.to_string()))?;
        if example.targets.iter().all(|t| *t == IGNORED) {
            return Err(bad(i, "has no answer of the role assistant to learn".into()));
        }
        if example.ids.len() > longest {
            let why = format!(
                "has {} tokens, and a sequence holds {longest}: shorten it, or raise --seq",
                example.ids.len()
            );
            return Err(bad(i, why));
        }
        examples.push(example);
    }
    if examples.is_empty() {
        let why = "is empty: there is nothing to learn from".to_owned();
        return Err(TrainError::Data { path: path.to_owned(), why });
    }
    Ok(examples)
}

/// The conversation by the model's template; what an assistant says, and the end of it, counts.
fn tokens(model: &Model, messages: &[Message]) -> smallmind::Result<Example> {
    let template = model.chat_template()?;
    let encode =
        |text: &str| model.tokenizer().encode(text, Encode { add_special: false, parse_special: true });
    let render = |n: usize, generation: bool| {
        let options = RenderOptions { add_generation_prompt: generation, ..RenderOptions::default() };
        template.render(&messages[..n], options)
    };
    let (mut ids, mut counts) = (Vec::new(), Vec::new());
    let mut done = String::new();
    for n in 1..=messages.len() {
        let answers = messages[n - 1].role == "assistant";
        if answers {
            // What stands before the answer is the prompt.
            let before = render(n - 1, true)?;
            let part = encode(before.get(done.len()..).unwrap_or_default());
            counts.extend(vec![false; part.len()]);
            ids.extend(part);
            done = before;
        }
        let whole = render(n, false)?;
        let part = encode(whole.get(done.len()..).unwrap_or_default());
        counts.extend(vec![answers; part.len()]);
        ids.extend(part);
        done = whole;
    }
    let next = ids.iter().zip(&counts).skip(1).map(|(id, counts)| if *counts { *id } else { IGNORED });
    let targets: Vec<u32> = next.collect();
    ids.pop();
    Ok(Example { ids, targets })
}

/// Some examples side by side, filled up to the longest with what does not count.
pub(crate) fn batch(examples: &[Example], key: Key, size: usize) -> (Vec<u32>, Vec<u32>, usize) {
    let chosen: Vec<&Example> = (0..size as u64).map(|i| &examples[key.below(i, examples.len())]).collect();
    let seq = chosen.iter().map(|e| e.ids.len()).max().unwrap_or(1);
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for e in chosen {
        ids.extend_from_slice(&e.ids);
        ids.resize(ids.len() + seq - e.ids.len(), 0);
        targets.extend_from_slice(&e.targets);
        targets.resize(targets.len() + seq - e.targets.len(), IGNORED);
    }
    (ids, targets, seq)
}
