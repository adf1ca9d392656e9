//! What may be written behind `smallmind bench`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use smallmind_bench::scenario::Scenario;
use smallmind_bench::speed::Format;

use super::{KvType, Prefill, SourceArgs, batch, chunk, ranged, threads};

#[derive(Args, Debug, Clone)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Prompt lengths to measure; 0 measures none [default: 512; in scenarios 16,128,512]
    #[arg(short = 'p', long, value_delimiter = ',', value_name = "N,…", hide_default_value = true)]
    pub(crate) n_prompt: Option<Vec<usize>>,
    /// Numbers of generated tokens to measure; 0 measures none [default: 128; in scenarios 64]
    #[arg(short = 'n', long, value_delimiter = ',', value_name = "N,…")]
    pub(crate) n_gen: Option<Vec<usize>>,
    /// A prompt and a generation behind it, measured together (also written -pg); may be repeated
    #[arg(long = "pg", action = ArgAction::Append, value_parser = pair, value_name = "PP,TG")]
    pub(crate) pairs: Vec<(usize, usize)>,
    /// Tokens that are in the context before the measurement
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0", value_name = "N,…")]
    pub(crate) n_depth: Vec<usize>,
    /// Sequences computed side by side; speeds are of all together [default: 1; in scenarios 1,2,4,8,16]
    #[arg(short, long, value_delimiter = ',', value_parser = batch, value_name = "N,…")]
    pub(crate) batch: Option<Vec<usize>>,
    /// Threads; 0 takes what suits the machine: fast physical cores, within affinity and quota
    #[arg(short, long, value_delimiter = ',', default_value = "0", value_parser = threads, value_name = "N,…")]
    pub(crate) threads: Vec<usize>,
    /// Measurements of each row; a comparison needs at least 5 [default: 5; in scenarios 5 or what 2 s hold, up to 100]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) repetitions: Option<u32>,
    /// Runs before the first that counts
    #[arg(long, default_value_t = 1, value_parser = warmup, value_name = "N")]
    pub(crate) warmup: usize,
    /// What a user waits for, instead of llama-bench's rows; `all` is every one
    #[arg(long, value_delimiter = ',', value_parser = scenarios, value_name = "NAME,…", help = SCENARIOS)]
    pub(crate) scenario: Vec<Scenarios>,
    /// How rows are written
    #[arg(short, long, value_enum, default_value = "md", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
    /// Keep everything in a file: environment, limits of the machine, every sample
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Compare with a file of --save: what changed beyond the noise
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Storage of K and V [default: i16; f32 with --precise]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) kv_type: Option<KvType>,
    /// How prompts are computed: exact, or fast (bfloat16 with AMX, elsewhere activations of 8 bits)
    #[arg(long, value_enum, default_value = "exact", value_name = "HOW")]
    pub(crate) prefill: Prefill,
    /// Tokens of one prefill pass
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = chunk)]
    pub(crate) chunk: usize,
    /// Weights dequantized and activations in F32
    #[arg(long)]
    pub(crate) precise: bool,
}

const SCENARIOS: &str = "What a user waits for, instead of llama-bench's rows: ttft, steady, latency, memory, \
                         allocations, concurrency, cold-start, or all";

/// One scenario, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenarios(Option<Scenario>);

impl BenchArgs {
    /// The scenarios that were asked for, each once.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let asked = |s: &Scenario| self.scenario.iter().any(|a| a.0.is_none_or(|a| a == *s));
        Scenario::ALL.into_iter().filter(asked).collect()
    }
}

/// llama-bench's formats.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    Md,
    Json,
    Jsonl,
    Csv,
    Sql,
}

impl From<OutputFormat> for Format {
    fn from(format: OutputFormat) -> Format {
        match format {
            OutputFormat::Md => Format::Markdown,
            OutputFormat::Json => Format::Json,
            OutputFormat::Jsonl => Format::JsonLines,
            OutputFormat::Csv => Format::Csv,
            OutputFormat::Sql => Format::Sql,
        }
    }
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let pair = text.split_once(',').and_then(|(pp, tg)| Some((pp.parse().ok()?, tg.parse().ok()?)));
    pair.ok_or_else(|| "not PP,TG, as in 512,128".to_owned())
}

fn warmup(text: &str) -> Result<usize, String> {
    ranged(text, 0, 1000)
}

fn scenarios(text: &str) -> Result<Scenarios, String> {
    if text == "all" {
        return Ok(Scenarios(None));
    }
    let names: Vec<&str> = Scenario::ALL.iter().map(|s| s.name()).collect();
    let found = Scenario::find(text).map(|s| Scenarios(Some(s)));
    found.ok_or_else(|| format!("there are {} and all", names.join(", ")))
}

/// llama-bench writes `-pg`, which is no flag of one letter.
pub(crate) fn with_long_pairs(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Vec<std::ffi::OsString> {
    arguments.map(|a| if a == "-pg" { "--pg".into() } else { a }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_prompt_and_a_generation() {
        assert_eq!(pair("512,128"), Ok((512, 128)));
        assert!(["", "512", "512,", "a,b", "1,2,3"].iter().all(|text| pair(text).is_err()));
        let args = with_long_pairs(["smallmind", "bench", "-pg", "1,2", "-p"].map(Into::into).into_iter());
        assert_eq!(args, ["smallmind", "bench", "--pg", "1,2", "-p"]);
    }

    #[test]
    fn a_scenario_that_is_not_there_is_answered_with_those_that_are() {
        assert_eq!(scenarios("ttft"), Ok(Scenarios(Some(Scenario::Ttft))));
        assert!(scenarios("speed").unwrap_err().contains("cold-start and all"));
    }
}
