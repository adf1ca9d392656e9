//! From arguments to settled options: which file, which sampling, how many threads, what context. May read the model;
//! prints nothing but where a download went.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use smallmind::{
    Gguf, KvPrecision, LoadOptions, Model, PrefillClass, SamplingParams, Session, SessionOptions, convert,
    cpus,
};
use smallmind_hub::{Config, DEFAULT_MODEL, Hub, LocalModel, ModelRef};
use smallmind_train::{Adapter, merge};

use crate::args::{KvType, ModelArgs, Prefill, PresetChoice, SamplingArgs, Seed, SessionArgs, SourceArgs};
use crate::output::{Out, Usage, bytes};
use crate::progress::Bar;

/// A model that is ready, and how long that took.
pub(crate) struct Loaded {
    /// As the user named it.
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) load: Duration,
}

/// The hub of this machine.
pub(crate) fn hub(offline: bool) -> Result<Hub> {
    Ok(Hub::new(Config { offline, ..Config::from_env()? }))
}

/// Where presets draw their weights from: the same model for everyone.
const PRESET_SEED: u64 = 1;

/// A model that can be opened.
pub(crate) enum Source {
    File(LocalModel),
    Preset(PresetChoice),
    /// The model inside the program.
    Tiny(&'static [u8]),
    /// Another one with an adapter added.
    Adapted(Box<Source>, PathBuf),
}

impl Source {
    /// As the user named it.
    pub(crate) fn name(&self) -> String {
        match self {
            Source::File(local) => local.name.clone(),
            Source::Preset(choice) => format!("preset {} {}", choice.preset.name, choice.dtype),
            Source::Tiny(_) => "tiny".to_owned(),
            Source::Adapted(base, _) => base.name(),
        }
    }

    /// Maps the file, converts the checkpoint in memory, makes the preset, or adds the adapter.
    pub(crate) fn open(&self) -> Result<Gguf> {
        Ok(match self {
            Source::File(local) if convert::is_checkpoint(&local.path) => {
                convert::open_checkpoint(&local.path)?
            }
            Source::File(local) => Gguf::open(&local.path).map_err(smallmind::Error::from)?,
            Source::Preset(choice) => choice.preset.build(choice.dtype, PRESET_SEED)?,
            Source::Tiny(bytes) => {
                Gguf::from_bytes("tiny", bytes.to_vec()).map_err(smallmind::Error::from)?
            }
            Source::Adapted(base, adapter) => {
                let merged = merge(&base.open()?, &Adapter::open(adapter)?)?;
                let name = format!("{} with {}", base.name(), adapter.display());
                Gguf::from_bytes(&name, merged).map_err(smallmind::Error::from)?
            }
        })
    }
}

impl Source {
    /// [`Source::open`] for what wants the engine's errors: whatever else went wrong becomes one of them.
    pub(crate) fn reopen(&self) -> smallmind::Result<Gguf> {
        self.open().map_err(|error| match error.downcast() {
            Ok(of_engine) => of_engine,
            Err(other) => smallmind::Error::Parameter(format!("{other:#}")),
        })
    }
}

/// The model of the flags; downloads it where it must.
pub(crate) fn source(args: &SourceArgs, out: &Out) -> Result<Source> {
    let base = match args.preset {
        Some(choice) => Source::Preset(choice),
        None => named(args.model.as_deref(), args.offline, out)?,
    };
    Ok(match &args.lora {
        Some(adapter) => Source::Adapted(Box::new(base), adapter.clone()),
        None => base,
    })
}

/// The model behind a name, which may be the one inside the program.
pub(crate) fn named(name: Option<&str>, offline: bool, out: &Out) -> Result<Source> {
    match (name, smallmind_hub::EMBEDDED) {
        (Some("tiny"), Some(bytes)) => Ok(Source::Tiny(bytes)),
        (Some("tiny"), None) => {
            let why = "`tiny` was left out of this program: build it with the feature `tiny`, or name another model";
            Err(Usage(why.into()).into())
        }
        _ => file(name, offline, out).map(Source::File),
    }
}

/// The file behind a name; downloads it where it must.
pub(crate) fn file(name: Option<&str>, offline: bool, out: &Out) -> Result<LocalModel> {
    let name = name.unwrap_or(DEFAULT_MODEL);
    // A local file needs no store, not even a home folder.
    if let ModelRef::Path(path) = ModelRef::parse(name)?
        && let Ok(meta) = std::fs::metadata(&path)
    {
        let (name, source) = (name.to_owned(), "a local file".to_owned());
        return Ok(LocalModel { name, path, bytes: meta.len(), sha256: None, source, pulled: false });
    }
    let local = hub(offline)?.resolve(name, &mut Bar::new(out))?;
    if local.pulled {
        out.note(&format!("{} ({}) is kept at {}", local.name, bytes(local.bytes), local.path.display()));
    }
    Ok(local)
}

/// Threads of a flag; 0 chooses for this machine, and keeps them where the choice was made for.
pub(crate) fn threads(flag: usize, gguf: &Gguf, out: &Out) -> Option<usize> {
    if flag > 0 {
        return Some(flag);
    }
    let choice = cpus::choose(gguf.file_len());
    // Where the system refuses, threads wander, which costs time and no result.
    let kept = choice.confine();
    out.detail(|| {
        format!("{choice}{}", if kept.is_err() { " (the system refuses to keep them there)" } else { "" })
    });
    Some(choice.threads)
}

/// Finds and loads the model.
pub(crate) fn load(args: &ModelArgs, out: &Out) -> Result<Loaded> {
    let source = source(&args.source, out)?;
    let name = source.name();
    let start = Instant::now();
    let gguf = source.open()?;
    let options = LoadOptions { threads: threads(args.threads, &gguf, out), precise: args.precise };
    let model = Model::from_gguf(gguf, &options)?;
    let load = start.elapsed();
    out.detail(|| {
        let (config, threads) = (model.config(), model.threads());
        let family = config.arch.name;
        format!("{name}: {family}, {threads} threads, {}, loaded in {load:.0?}", model.isa())
    });
    Ok(Loaded { name, model, load })
}

/// The model's own sampling, with what the flags change.
pub(crate) fn sampling(model: &Model, args: &SamplingArgs) -> Result<SamplingParams> {
    let own = model.recommended_sampling()?;
    let params = SamplingParams {
        temperature: args.temp.unwrap_or(own.temperature),
        top_k: args.top_k.unwrap_or(own.top_k),
        top_p: args.top_p.unwrap_or(own.top_p),
        min_p: args.min_p.unwrap_or(own.min_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(own.repeat_penalty),
        repeat_last_n: args.repeat_last_n.unwrap_or(own.repeat_last_n),
        presence_penalty: args.presence_penalty.unwrap_or(own.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(own.frequency_penalty),
        logit_bias: args.logit_bias.clone(),
        seed: args.seed.and_then(|Seed(seed)| seed),
    };
    params.validate().map_err(|wrong| Usage(wrong.to_string()))?;
    let vocab = model.config().vocab;
    match params.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
        Some((id, _)) => {
            Err(Usage(format!("--logit-bias names token {id}, and the model has {vocab}")).into())
        }
        None => Ok(params),
    }
}

/// The precision of a flag.
pub(crate) fn kv(flag: Option<KvType>) -> Option<KvPrecision> {
    flag.map(|kv| match kv {
        KvType::I16 => KvPrecision::I16,
        KvType::F16 => KvPrecision::F16,
        KvType::F32 => KvPrecision::F32,
        KvType::Q8_0 => KvPrecision::Q8_0,
    })
}

/// An empty conversation.
pub(crate) fn session(model: &Model, args: &SessionArgs, out: &Out) -> Result<Session> {
    let context = (args.ctx > 0).then_some(args.ctx);
    let prefill = prefill(model, args.prefill, out);
    Ok(Session::new(model, &SessionOptions { context, chunk: args.chunk, prefill, kv: kv(args.kv_type) })?)
}

/// The class of prompts; says where the fast one is not to be had, and what it is.
pub(crate) fn prefill(model: &Model, flag: Prefill, out: &Out) -> PrefillClass {
    if flag == Prefill::Fast {
        match model.fast_prefill() {
            Some(precision) => out.detail(|| format!("prompts are computed {precision}")),
            None => {
                let why = if model.is_precise() {
                    "--precise has none"
                } else {
                    "unquantized weights need a CPU with AMX"
                };
                out.note(&format!("no fast prefill ({why}): prompts are computed exactly"));
            }
        }
    }
    flag.into()
}
