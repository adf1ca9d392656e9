//! The flags of `compare` and `report`, and of `peer`, which `compare` starts.

use std::path::PathBuf;

use clap::Args;

use super::{ModelArgs, Prefill, PresetChoice, preset, ranged, threads};

#[derive(Args, Debug, Clone)]
pub(crate) struct CompareArgs {
    /// A model; may be repeated [default: smollm2:135m, where no preset is named]
    #[arg(short, long, help_heading = "Model")]
    pub(crate) model: Vec<String>,
    /// Random models made on the spot, 50 tokens after 10: small or medium, in f32 or q8_0
    #[arg(long, value_name = "SIZE[:TYPE],…", value_delimiter = ',', value_parser = preset, help_heading = "Model")]
    pub(crate) preset: Vec<PresetChoice>,
    /// Never touch the network
    #[arg(long, help_heading = "Model")]
    pub(crate) offline: bool,
    /// Threads of every side; 0 takes what suits the machine
    #[arg(short, long, value_delimiter = ',', default_value = "0", value_parser = threads, value_name = "N,…")]
    pub(crate) threads: Vec<usize>,
    /// Lengths of the prompts in tokens; what is generated behind a long one is the decode at depth
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512", value_parser = tokens, value_name = "N,…")]
    pub(crate) prompt_tokens: Vec<usize>,
    /// Tokens generated behind each prompt
    #[arg(short = 'n', long, default_value_t = 128, value_parser = tokens, value_name = "N")]
    pub(crate) tokens: usize,
    /// How our side computes prompts: exact, or fast (bfloat16 with AMX, elsewhere activations of 8 bits)
    #[arg(long, value_enum, default_value = "exact", value_name = "HOW")]
    pub(crate) prefill: Prefill,
    /// Sequences decoded together; 1 leaves that out
    #[arg(short = 'b', long, default_value_t = 16, value_parser = sequences, value_name = "N")]
    pub(crate) sequences: usize,
    /// Alternations; a verdict needs five
    #[arg(short, long, default_value_t = 5, value_parser = rounds, value_name = "N")]
    pub(crate) rounds: usize,
    /// Seconds after which no further round is begun
    #[arg(long, default_value_t = 600, value_parser = seconds, value_name = "SECONDS")]
    pub(crate) budget: usize,
    /// Seconds that one sample of a peer, or loading its model, may take
    #[arg(long, default_value_t = 300, value_parser = seconds, value_name = "SECONDS")]
    pub(crate) timeout: usize,
    /// Of prefill, decode, ttft, cold, memory, size, batch, perplexity [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    pub(crate) only: Vec<String>,
    /// A text file that prompts and perplexity are taken from [default: the Apache licence]
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Peers by name [default: all that are known]; `none` measures SmallMind alone
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", help_heading = "Peers")]
    pub(crate) peers: Option<Vec<String>>,
    /// Where a peer is that lies elsewhere; may be repeated
    #[arg(long, value_name = "NAME=FOLDER", value_parser = home, help_heading = "Peers")]
    pub(crate) peer: Vec<(String, PathBuf)>,
    /// Where peers lie [default: SMALLMIND_PEERS, else `peers` in the store's folder]
    #[arg(long, value_name = "FOLDER", help_heading = "Peers")]
    pub(crate) peers_folder: Option<PathBuf>,
    /// Say which peers are here, and how to install the others
    #[arg(long, help_heading = "Peers")]
    pub(crate) list: bool,
    /// Keep the results in a file, written after every round
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ReportArgs {
    /// Saved results, or folders of them [default: bench-results]
    pub(crate) results: Vec<PathBuf>,
    /// Write the five reports and their page into this folder
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
    /// Make the generated parts of a document anew; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) update: Vec<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct PeerArgs {
    /// How prompts are computed
    #[arg(long, value_enum, default_value = "exact", value_name = "HOW")]
    pub(crate) prefill: Prefill,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

fn tokens(text: &str) -> Result<usize, String> {
    ranged(text, 1, 1 << 20)
}

fn sequences(text: &str) -> Result<usize, String> {
    ranged(text, 1, 1024)
}

fn rounds(text: &str) -> Result<usize, String> {
    ranged(text, 1, 1000)
}

fn seconds(text: &str) -> Result<usize, String> {
    ranged(text, 1, 1_000_000)
}

fn home(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("write a peer's name, =, and its folder")?;
    Ok((name.to_owned(), folder.into()))
}
