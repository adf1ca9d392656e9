//! The arguments of `smallmind train`: what the settings file says, flag by flag, and how to run.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use smallmind::preset::Preset;
use smallmind_train::{Precision, Schedule, TokenizerKind};

#[derive(Args, Debug, Clone)]
pub(crate) struct TrainArgs {
    /// A text file, or a folder with .txt and .md files; lines of <|endoftext|> end documents; may be repeated
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub(crate) data: Vec<PathBuf>,
    /// The model's file; its checkpoint and loss curve (CSV, SVG) stand beside it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Settings in JSON; flags come on top
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    pub(crate) config: Option<PathBuf>,
    /// A model of this shape: small or medium [default: small]
    #[arg(long, value_name = "SIZE", value_parser = preset)]
    pub(crate) preset: Option<&'static Preset>,
    /// Go on from the checkpoint; the end is the same to the bit as without the interruption
    #[arg(long)]
    pub(crate) resume: bool,
    /// Threads; 0 takes what suits the machine. Changes no weight
    #[arg(short, long, default_value_t = 0, value_parser = super::threads)]
    pub(crate) threads: usize,
    /// Steps between two checkpoints
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub(crate) save_every: u64,
    /// Steps between two measurements of the held-back text
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub(crate) eval_every: u64,
    /// End after this step, though the schedule would go on
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub(crate) stop_at: Option<u64>,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

/// What overrides the settings file.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingArgs {
    /// Steps of the optimizer [default: 1000]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,
    /// Sequences of one pass [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
    /// Tokens of a sequence [default: the model's context]
    #[arg(long, value_name = "N")]
    pub(crate) seq: Option<usize>,
    /// Passes whose gradients make one step [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) accumulate: Option<usize>,
    /// The learning rate at its peak [default: 0.001]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Its course [default: cosine]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) schedule: Option<ScheduleArg>,
    /// Steps of linear warmup [default: 50]
    #[arg(long, value_name = "N")]
    pub(crate) warmup: Option<u64>,
    /// AdamW's decay of matrices [default: 0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) weight_decay: Option<f64>,
    /// The largest norm of the gradient; 0 does not clip [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) clip: Option<f64>,
    /// The part of activations that is dropped [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) dropout: Option<f64>,
    /// Start of all random numbers [default: 1]
    #[arg(short, long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The part of the documents that is held back [default: 0.05]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) valid: Option<f64>,
    /// Tokens of the vocabulary
    #[arg(long, value_name = "N")]
    pub(crate) vocab: Option<usize>,
    /// How text becomes tokens [default: bytes for a vocabulary of at most 256, else bpe]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) tokenizer: Option<TokenizerArg>,
    /// What the model is called in its file
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// Keep only the layers' inputs in memory and compute the rest again: slower, for large models
    #[arg(long)]
    pub(crate) recompute: bool,
    /// In what matrices are multiplied: bf16 is faster and needs a CPU with AMX; weights stay F32 [default: f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) precision: Option<PrecisionArg>,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrecisionArg {
    F32,
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Precision {
        match arg {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScheduleArg {
    Constant,
    Cosine,
    Step,
    Exponential,
    OneCycle,
}

impl From<ScheduleArg> for Schedule {
    fn from(arg: ScheduleArg) -> Schedule {
        match arg {
            ScheduleArg::Constant => Schedule::Constant,
            ScheduleArg::Cosine => Schedule::Cosine,
            ScheduleArg::Step => Schedule::Step,
            ScheduleArg::Exponential => Schedule::Exponential,
            ScheduleArg::OneCycle => Schedule::OneCycle,
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenizerArg {
    Bytes,
    Bpe,
}

impl From<TokenizerArg> for TokenizerKind {
    fn from(arg: TokenizerArg) -> TokenizerKind {
        match arg {
            TokenizerArg::Bytes => TokenizerKind::Bytes,
            TokenizerArg::Bpe => TokenizerKind::Bpe,
        }
    }
}

/// `smallmind finetune`.
#[derive(Args, Debug, Clone)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    pub(crate) source: super::SourceArgs,
    /// Conversations, a JSON line each: {"prompt": …, "response": …} or {"messages": [{"role": …, "content": …}, …]}
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// The adapter's file (safetensors)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Rank of the adapters
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) rank: usize,
    /// Adapters are multiplied by alpha / rank
    #[arg(long, default_value_t = 16.0, value_name = "X")]
    pub(crate) alpha: f32,
    /// Which matrices get one: attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "attn_q,attn_k,attn_v,attn_output",
        value_name = "NAME,…"
    )]
    pub(crate) targets: Vec<String>,
    /// Steps of the optimizer
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) steps: u64,
    /// Conversations of one step
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) batch: usize,
    /// Tokens of a conversation at most
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub(crate) seq: usize,
    /// The learning rate at its peak
    #[arg(long, default_value_t = 1e-3, value_name = "X", allow_negative_numbers = true)]
    pub(crate) lr: f64,
    /// Start of all random numbers
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Keep only the layers' inputs in memory and compute the rest again: slower
    #[arg(long)]
    pub(crate) recompute: bool,
    /// Threads; 0 takes what suits the machine. Changes no weight
    #[arg(short, long, default_value_t = 0, value_parser = super::threads)]
    pub(crate) threads: usize,
}

/// `smallmind merge`.
#[derive(Args, Debug, Clone)]
pub(crate) struct MergeArgs {
    /// The model and its adapter
    #[command(flatten)]
    pub(crate) source: super::SourceArgs,
    /// The file to write, as GGUF
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

fn preset(text: &str) -> Result<&'static Preset, String> {
    super::preset(text).map(|choice| choice.preset)
}
