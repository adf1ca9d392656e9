//! The protocol from our side: a line of JSON with a request, a line of JSON with the answer (docs/adding-a-peer.md).

use serde::Deserialize;
use serde_json::{Value, json};

use super::process::{Fault, Patience, Talker};
use super::work::Prompt;

/// What a driver says once its model is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Ready {
    pub(super) version: String,
    pub(super) form: String,
    #[serde(default)]
    pub(super) installed_bytes: Option<u64>,
    #[serde(default)]
    pub(super) can: Vec<String>,
}

/// A generation's times and tokens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Generated {
    /// From the prompt's arrival to the first token.
    pub(super) first_ms: f64,
    /// Of the other tokens.
    pub(super) decode_ms: f64,
    /// All of them; empty where the side does not tell.
    #[serde(default)]
    pub(super) tokens: Vec<u32>,
}

/// A decode of several sequences.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(super) struct Decoded {
    pub(super) decode_ms: f64,
    /// Tokens of all sequences in that time.
    pub(super) decoded: f64,
}

/// A driver that has loaded its model.
#[derive(Debug)]
pub(super) struct Driver {
    talker: Talker,
    pub(super) ready: Ready,
}

impl Driver {
    /// Starts a driver and waits for its model.
    pub(super) fn start(command: &[String], threads: usize, patience: Patience<'_>) -> Result<Driver, Fault> {
        let mut talker = Talker::start(command, threads)?;
        let mut first = answer(&talker.hear(patience)?)?;
        let ready = read(first["ready"].take())?;
        Ok(Driver { talker, ready })
    }

    pub(super) fn generate(
        &mut self,
        prompt: &Prompt,
        tokens: usize,
        repeats: usize,
        patience: Patience<'_>,
    ) -> Result<Generated, Fault> {
        let request = json!({"generate": {"prompt": prompt.ids, "tokens": tokens, "repeats": repeats}});
        let generated: Generated = read(self.ask(&request, patience)?)?;
        // A side that cannot tell which tokens it made has counted them.
        if !generated.tokens.is_empty() && generated.tokens.len() != tokens {
            let made = generated.tokens.len();
            return Err(Fault::Failed(format!("it made {made} tokens where {tokens} were asked for")));
        }
        Ok(generated)
    }

    pub(super) fn batch(
        &mut self,
        prompt: &Prompt,
        sequences: usize,
        tokens: usize,
        patience: Patience<'_>,
    ) -> Result<Decoded, Fault> {
        let what = json!({"prompt": prompt.ids, "sequences": sequences, "tokens": tokens});
        read(self.ask(&json!({ "batch": what }), patience)?)
    }

    pub(super) fn perplexity(
        &mut self,
        windows: &[Vec<u32>],
        first: usize,
        patience: Patience<'_>,
    ) -> Result<f64, Fault> {
        let answer = self.ask(&json!({"perplexity": {"windows": windows, "first": first}}), patience)?;
        read(answer["perplexity"].clone())
    }

    pub(super) fn peak_bytes(&self) -> Option<u64> {
        self.talker.peak_bytes()
    }

    fn ask(&mut self, request: &Value, patience: Patience<'_>) -> Result<Value, Fault> {
        self.talker.say(&request.to_string())?;
        answer(&self.talker.hear(patience)?)
    }
}

/// An answer that is no error.
fn answer(line: &str) -> Result<Value, Fault> {
    let document: Value = serde_json::from_str(line).map_err(|_| {
        let shown = smallmind::escaped(line.as_bytes(), 200);
        Fault::Failed(format!("its answer is no JSON: {shown}"))
    })?;
    match document["error"].as_str() {
        Some(words) => Err(Fault::Failed(smallmind::escaped(words.as_bytes(), 400).to_string())),
        None => Ok(document),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Fault> {
    serde_json::from_value(value)
        .map_err(|error| Fault::Failed(format!("its answer is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::CancelToken;
    use std::time::Duration;

    fn start(script: &str) -> Result<Driver, Fault> {
        let command = ["sh", "-c", script].map(str::to_owned);
        let cancel = CancelToken::default();
        Driver::start(&command, 1, Patience { timeout: Duration::from_secs(60), cancel: &cancel })
    }

    const READY: &str = r#"echo '{"ready": {"version": "1", "form": "f", "can": ["generate"]}}';"#;

    #[test]
    fn a_driver_is_ready_and_answers() {
        let script = format!(
            r#"{READY} read r; echo '{{"first_ms": 1, "decode_ms": 2.5, "tokens": [7, 8]}}'; read r"#
        );
        let mut driver = start(&script).unwrap();
        assert_eq!((driver.ready.version.as_str(), driver.ready.installed_bytes), ("1", None));
        let cancel = CancelToken::default();
        let patience = Patience { timeout: Duration::from_secs(60), cancel: &cancel };
        let prompt = Prompt::of_ids(vec![1, 2]);
        let generated = driver.generate(&prompt, 2, 1, patience).unwrap();
        assert_eq!(generated, Generated { first_ms: 1.0, decode_ms: 2.5, tokens: vec![7, 8] });
    }

    #[test]
    fn too_few_tokens_errors_and_nonsense_are_failures_with_words() {
        let cancel = CancelToken::default();
        let patience = Patience { timeout: Duration::from_secs(60), cancel: &cancel };
        let words = |answer: &str| {
            let script = format!("{READY} read r; echo '{answer}'; read r");
            let fault =
                start(&script).unwrap().generate(&Prompt::of_ids(vec![1]), 2, 1, patience).unwrap_err();
            let Fault::Failed(words) = fault else { panic!("{fault:?}") };
            words
        };
        assert!(words(r#"{"first_ms": 1, "decode_ms": 2, "tokens": [7]}"#).contains("made 1 tokens"));
        assert_eq!(words(r#"{"error": "out of memory"}"#), "out of memory");
        assert!(words("Segmentation fault").contains("no JSON: Segmentation fault"));
        assert!(words(r#"{"tokens": 3}"#).contains("not understood"));
        assert!(matches!(start("echo '{}'"), Err(Fault::Failed(_))));
        assert!(matches!(start("exit 1"), Err(Fault::Failed(_))));
    }
}
