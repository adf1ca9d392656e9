//! `cargo xtask peers LLAMA_BENCH MODEL…`: SmallMind against llama.cpp on the same files, threads and tests, alternated
//! (A B A B …) in one run, with the machine's read bandwidth beside. Prints medians, ranges, ratios and the share of the
//! bandwidth that decode reaches. Needs a release build of `smallmind` and a `llama-bench`; build neither here, so that
//! nothing else runs while it measures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Alternations of each row.
const ROUNDS: usize = 3;
/// Threads, prompt tokens, generated tokens, depth.
const TESTS: [(usize, usize, usize, usize); 6] =
    [(2, 512, 0, 0), (2, 0, 128, 0), (1, 512, 0, 0), (1, 0, 128, 0), (2, 0, 64, 1024), (2, 0, 64, 4096)];
/// llama.cpp with and without flash attention: its better one counts.
const LLAMA_FLAGS: [&str; 2] = ["0", "1"];

/// One side's figures of one test, tokens a second.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn show(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(0.0, f64::max);
        format!("{:.1} [{least:.0}..{most:.0}]", self.median())
    }
}

/// Runs the comparison and returns the table, as Markdown.
pub(crate) fn run(arguments: &[&str]) -> Result<(String, bool)> {
    let [llama, models @ ..] = arguments else { bail!("usage: cargo xtask peers LLAMA_BENCH MODEL...") };
    if models.is_empty() {
        bail!("name at least one GGUF file after {llama}");
    }
    let ours = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let ours = ours.join("release/smallmind");
    if !ours.exists() {
        bail!("{} is missing: cargo build --release", ours.display());
    }
    let mut out = String::new();
    let bandwidth: BTreeMap<usize, f64> = [1, 2].map(|t| (t, read_bandwidth(t))).into();
    for (threads, gb) in &bandwidth {
        writeln!(out, "read bandwidth, 256 MB, {threads} threads: {gb:.1} GB/s")?;
    }
    writeln!(out, "\n| model | threads | test | SmallMind | llama.cpp fa 0 | fa 1 | ratio | of bandwidth |")?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for model in models {
        let bytes = std::fs::metadata(model).with_context(|| (*model).to_owned())?.len() as f64;
        for test in TESTS {
            let (threads, prompt, generated, depth) = test;
            let mut sides: [Samples; 3] = Default::default();
            for _ in 0..ROUNDS {
                sides[0].0.push(bench(&ours, &["bench", "--json"], model, test)?);
                for (side, flag) in sides[1..].iter_mut().zip(LLAMA_FLAGS) {
                    side.0.push(bench(Path::new(llama), &["-o", "json", "-fa", flag], model, test)?);
                }
            }
            let best = sides[1].median().max(sides[2].median());
            let name = if prompt > 0 { format!("pp{prompt}") } else { format!("tg{generated} @ {depth}") };
            // Every byte of the file is read once a token, but for the embedding's other rows.
            let share = match (prompt, depth) {
                (0, 0) => format!("{:.0} %", sides[0].median() * bytes / 1e7 / bandwidth[&threads]),
                _ => "–".to_owned(),
            };
            let stem = Path::new(model).file_stem().unwrap_or_default().to_string_lossy();
            let [a, b, c] = sides.each_ref().map(Samples::show);
            let ratio = sides[0].median() / best;
            writeln!(out, "| {stem} | {threads} | {name} | {a} | {b} | {c} | {ratio:.2} | {share} |")?;
        }
    }
    Ok((out, true))
}

/// Tokens a second of one test, by either program: both take llama-bench's flags and answer with its JSON.
fn bench(program: &Path, first: &[&str], model: &str, test: (usize, usize, usize, usize)) -> Result<f64> {
    let (threads, prompt, generated, depth) = test;
    let numbers = [("-t", threads), ("-p", prompt), ("-n", generated), ("-d", depth), ("-r", 1)];
    let mut command = Command::new(program);
    command.args(first).args(["-m", model]);
    for (flag, value) in numbers {
        command.arg(flag).arg(value.to_string());
    }
    let output = command.output().with_context(|| program.display().to_string())?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let rows: Value = serde_json::from_slice(&output.stdout).context("its answer is not JSON")?;
    rows[0]["avg_ts"].as_f64().with_context(|| format!("{} answered without avg_ts", program.display()))
}

/// Bytes a second, in 10⁹, that `threads` threads read from memory at best of several passes.
fn read_bandwidth(threads: usize) -> f64 {
    const WORDS: usize = 32 << 20;
    let words = vec![1u64; WORDS];
    let mut best = 0.0f64;
    for _ in 0..8 {
        let start = Instant::now();
        let total: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = words
                .chunks(WORDS.div_ceil(threads))
                .map(|part| scope.spawn(move || part.iter().fold(0u64, |sum, w| sum.wrapping_add(*w))))
                .collect();
            workers.into_iter().map(|w| w.join().unwrap_or(0)).sum()
        });
        std::hint::black_box(total);
        best = best.max(8.0 * WORDS as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges_are_of_the_samples() {
        let s = Samples(vec![3.0, 1.0, 2.0]);
        assert_eq!((s.median(), s.show().as_str()), (2.0, "2.0 [1..3]"));
    }

    #[test]
    fn without_a_peer_or_a_model_it_says_what_it_needs() {
        assert!(run(&[]).unwrap_err().to_string().contains("usage"));
        assert!(run(&["llama-bench"]).unwrap_err().to_string().contains("at least one GGUF file"));
    }
}
