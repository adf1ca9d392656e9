//! Peers that are a program, started for every sample: its command is filled in, numbers are read from what it prints.

use std::collections::BTreeMap;

use super::driver::{Decoded, Generated};
use super::pattern::Pattern;
use super::process::{self, Fault, Finished, Patience};
use super::recipe::{Fill, Program};
use super::work::{Prompt, Scored};

/// The programs of a side, with everything filled in that does not change from sample to sample.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) programs: BTreeMap<String, Program>,
    pub(super) fill: Fill,
    pub(super) threads: usize,
}

/// Numbers by name.
struct Numbers(Vec<(String, f64)>);

impl Numbers {
    fn get(&self, name: &str) -> Result<f64, Fault> {
        let found = self.0.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        found.ok_or_else(|| Fault::Failed(format!("its output does not tell `{name}`")))
    }
}

impl Programs {
    pub(super) fn can(&self, what: &str) -> bool {
        self.programs.contains_key(what)
    }

    fn run(&self, what: &str, fill: &Fill, patience: Patience<'_>) -> Result<(Numbers, Finished), Fault> {
        let failed = |error: crate::Error| Fault::Failed(error.to_string());
        let program = self.programs.get(what).ok_or_else(|| Fault::Failed(format!("it has no {what}")))?;
        let command = fill.command(&program.command).map_err(failed)?;
        let finished = process::run(&command, self.threads, patience)?;
        let mut numbers = Vec::new();
        for read in &program.read {
            let pattern = Pattern::parse(read).map_err(failed)?;
            let found = pattern.find(&finished.output).map(|f| f.into_iter().map(|(n, v)| (n.to_owned(), v)));
            numbers.extend(found.into_iter().flatten());
        }
        Ok((Numbers(numbers), finished))
    }

    fn for_prompt(&self, prompt: &Prompt, tokens: usize) -> Fill {
        let context = prompt.ids.len() + tokens + 8;
        self.fill.with("prompt_file", prompt.file.display()).with("tokens", tokens).with("context", context)
    }

    /// A generation, and the peak of its memory.
    pub(super) fn generate(
        &self,
        prompt: &Prompt,
        tokens: usize,
        patience: Patience<'_>,
    ) -> Result<(Generated, Option<u64>), Fault> {
        let (numbers, finished) = self.run("generate", &self.for_prompt(prompt, tokens), patience)?;
        let counted = numbers.get("prompt_tokens")?;
        if counted != prompt.ids.len() as f64 {
            let ours = prompt.ids.len();
            return Err(Fault::Failed(format!("it reads the prompt as {counted} tokens, we as {ours}")));
        }
        // With one token to make there is nothing behind the prompt.
        let decode_ms = if tokens > 1 { numbers.get("decode_ms")? } else { 0.0 };
        if tokens > 1 && numbers.get("decoded")? != (tokens - 1) as f64 {
            return Err(Fault::Failed(format!(
                "it decoded {} of {} tokens",
                numbers.get("decoded")?,
                tokens - 1
            )));
        }
        let generated = Generated { first_ms: numbers.get("first_ms")?, decode_ms, tokens: Vec::new() };
        Ok((generated, finished.peak_bytes))
    }

    /// Seconds from the process's start to the end of its first token.
    pub(super) fn cold(&self, prompt: &Prompt, patience: Patience<'_>) -> Result<f64, Fault> {
        Ok(self.run("cold", &self.for_prompt(prompt, 1), patience)?.1.seconds)
    }

    pub(super) fn batch(
        &self,
        prompt: &Prompt,
        sequences: usize,
        tokens: usize,
        patience: Patience<'_>,
    ) -> Result<Decoded, Fault> {
        let fill = self.for_prompt(prompt, tokens).with("sequences", sequences);
        let fill = fill
            .with("prompt_tokens", prompt.ids.len())
            .with("batch_context", sequences * (prompt.ids.len() + tokens));
        let (numbers, _) = self.run("batch", &fill, patience)?;
        let (decode_ms, decoded) = (1e3 * numbers.get("decode_s")?, (sequences * tokens) as f64);
        Ok(Decoded { decode_ms, decoded })
    }

    pub(super) fn perplexity(&self, scored: &Scored, patience: Patience<'_>) -> Result<f64, Fault> {
        let fill = self.fill.with("text_file", scored.file.display());
        let fill = fill.with("window", scored.window).with("windows", scored.windows.len());
        self.run("perplexity", &fill, patience)?.0.get("perplexity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::CancelToken;
    use std::time::Duration;

    fn programs(script: &str, read: &[&str]) -> Programs {
        let command = ["sh", "-c", script, "x", "{tokens}"].map(str::to_owned).to_vec();
        let program = Program { command, read: read.iter().map(|r| (*r).to_owned()).collect() };
        let programs = ["generate", "cold"].map(|name| (name.to_owned(), program.clone()));
        Programs { programs: programs.into(), fill: Fill::default(), threads: 1 }
    }

    #[test]
    fn figures_are_read_and_counts_are_checked() {
        let cancel = CancelToken::default();
        let patience = Patience { timeout: Duration::from_secs(60), cancel: &cancel };
        let read = ["prompt {first_ms} ms / {prompt_tokens} tokens", "eval {decode_ms} ms / {decoded} runs"];
        let peer = programs("echo prompt 5.5 ms / 3 tokens; echo eval 9 ms / 7 runs", &read);
        let prompt = Prompt::of_ids(vec![1, 2, 3]);
        let (generated, _) = peer.generate(&prompt, 8, patience).unwrap();
        assert_eq!((generated.first_ms, generated.decode_ms), (5.5, 9.0));
        assert!(peer.cold(&prompt, patience).unwrap() > 0.0 && !peer.can("batch"));
        let words = |result: Result<(Generated, Option<u64>), Fault>| format!("{:?}", result.unwrap_err());
        assert!(words(peer.generate(&prompt, 9, patience)).contains("decoded 7 of 8"));
        let other = Prompt::of_ids(vec![1, 2]);
        assert!(words(peer.generate(&other, 8, patience)).contains("3 tokens, we as 2"));
        let silent = programs("echo nothing", &read);
        assert!(words(silent.generate(&prompt, 8, patience)).contains("does not tell `prompt_tokens`"));
    }
}
