//! What may be written behind `smallmind profile`.

use std::path::PathBuf;

use clap::Args;

use super::{SourceArgs, ranged, threads};

#[derive(Args, Debug, Clone)]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Tokens of the prompt [default: 128, or half the model's context]
    #[arg(short = 'p', long, value_parser = count, value_name = "N")]
    pub(crate) n_prompt: Option<usize>,
    /// Tokens to generate behind it [default: 64, or half the model's context]
    #[arg(short = 'n', long, value_parser = count, value_name = "N")]
    pub(crate) n_gen: Option<usize>,
    /// Threads; 0 takes what suits the machine: fast physical cores, within affinity and quota
    #[arg(short, long, default_value_t = 0, value_parser = threads)]
    pub(crate) threads: usize,
    /// Runs that are recorded, each beside one that nobody watches; a comparison needs at least 5
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: u32,
    /// Runs before the first that counts
    #[arg(long, default_value_t = 1, value_parser = warmup, value_name = "N")]
    pub(crate) warmup: usize,
    /// Weights dequantized and activations in F32
    #[arg(long)]
    pub(crate) precise: bool,
    /// Every operator of every layer
    #[arg(long)]
    pub(crate) deep: bool,
    /// Single kernels, tensor operations, whole models
    #[arg(long, conflicts_with_all = ["deep", "model_compare"])]
    pub(crate) enhanced: bool,
    /// How cost grows with the model: the presets, and -m where it is given
    #[arg(long, conflicts_with = "deep")]
    pub(crate) model_compare: bool,
    /// What watching costs: short samples with and without, in turn, 40 pairs for each of -r
    #[arg(long, conflicts_with_all = ["deep", "enhanced", "model_compare", "out_folder", "save", "against"])]
    pub(crate) overhead: bool,
    /// Compare two files of --save instead of measuring
    #[arg(
        long,
        num_args = 2,
        value_names = ["BEFORE", "AFTER"],
        conflicts_with_all = ["deep", "enhanced", "model_compare", "overhead", "out_folder", "save", "against"]
    )]
    pub(crate) compare: Vec<PathBuf>,
    /// Write report, trace (Perfetto), folded stacks, flame graph and roofline plot into a folder
    #[arg(long = "out", value_name = "FOLDER", conflicts_with_all = ["enhanced", "model_compare"])]
    pub(crate) out_folder: Option<PathBuf>,
    /// Keep everything in a file: environment, limits of the machine, every figure
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Compare this run with a file of --save
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
}

fn count(text: &str) -> Result<usize, String> {
    ranged(text, 1, 1_000_000)
}

fn warmup(text: &str) -> Result<usize, String> {
    ranged(text, 0, 1000)
}
