//! What is profiled: a model is loaded, a prompt prefilled and tokens generated, again and again.

use std::time::Instant;

use smallmind::profile::{AllocationHooks, Probe, Recorder, Stage};
use smallmind::{
    CancelToken, GenerateOptions, Gguf, LoadOptions, Model, SamplingParams, Session, SessionOptions,
};

use super::counters::Counters;
use super::model::{MemoryLine, Overhead, Profile};
use super::tree;
use crate::measure::clock::Repeats;
use crate::measure::stats::{Better, Comparison, Samples};
use crate::speed::arbitrary_tokens;
use crate::{Error, Result};

/// Calls that a timeline keeps: 60,000 are a trace of about 8 MB.
const EVENTS: usize = 60_000;

/// What to run.
pub struct Workload<'a> {
    /// As the user named the model.
    pub name: &'a str,
    /// Opens the model.
    pub open: &'a dyn Fn() -> smallmind::Result<Gguf>,
    /// Threads; `None` takes what suits the machine.
    pub threads: Option<usize>,
    /// Weights and activations in F32.
    pub precise: bool,
    /// Tokens of the prompt; arbitrary ones.
    pub prompt: usize,
    /// Tokens to generate behind it.
    pub generate: usize,
    /// Runs.
    pub repeats: Repeats,
    /// Stops between runs.
    pub cancel: CancelToken,
    /// Where the program counts its allocations: starts it, and looks.
    pub allocations: Option<(fn(), AllocationHooks)>,
}

impl std::fmt::Debug for Workload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workload({}, {} + {})", self.name, self.prompt, self.generate)
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Recorded {
    /// The figures.
    pub profile: Profile,
    /// The first run that counts, call by call.
    pub timeline: Recorder,
}

/// Runs the workload under the recorder, in turn with runs that nobody watches.
///
/// # Errors
/// Where the model cannot be loaded or the workload does not fit it, and where Ctrl-C came before the first run's end.
pub fn record(workload: &Workload<'_>) -> Result<Recorded> {
    if let Some((start, _)) = workload.allocations {
        start();
    }
    // Before the model's threads are made: counters follow threads to those they make.
    let counters = Counters::open();
    let recorder = || match workload.allocations {
        Some((_, hooks)) => Recorder::new().with_allocations(hooks),
        None => Recorder::new(),
    };
    let mut setup = recorder();
    let model = setup.stage(Stage::Load.into(), || -> Result<Model> {
        let options = LoadOptions { threads: workload.threads, precise: workload.precise };
        Ok(Model::from_gguf((workload.open)()?, &options)?)
    })?;
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(32);
    setup.stage(Stage::Tokenize.into(), || {
        std::hint::black_box(model.tokenizer().encode(&text, smallmind::Encode::default()));
    });
    let room = model.config().context;
    if workload.prompt == 0 || workload.generate < 2 || workload.prompt + workload.generate > room {
        let (prompt, generate) = (workload.prompt, workload.generate);
        return Err(Error::Usage(format!(
            "a prompt of {prompt} and {generate} generated tokens do not fit {}: at least 1 and 2, together at most its \
             context of {room}",
            workload.name
        )));
    }
    let prompt = arbitrary_tokens(&model, workload.prompt);
    let mut session = Session::new(&model, &SessionOptions::default())?;
    let mut profile = head(workload, &model);
    tree::add(&mut profile.nodes, &setup, &model, 0);
    for _ in 0..workload.repeats.warmup {
        run(&mut session, &prompt, workload, &mut smallmind::profile::Off)?;
    }
    let (mut off, mut on, mut timeline) = (Vec::new(), Vec::new(), None);
    let before = counters.read();
    for i in 0..workload.repeats.iterations {
        if workload.cancel.is_cancelled() {
            break;
        }
        let recorder = recorder().with_room(model.config().layers, workload.prompt + workload.generate);
        let mut recorder = if i == 0 { recorder.with_events(EVENTS) } else { recorder };
        // Who goes first takes turns: what drifts is on both sides alike.
        let mut plain = None;
        if i % 2 == 0 {
            plain = Some(run(&mut session, &prompt, workload, &mut smallmind::profile::Off)?);
        }
        let times = run(&mut session, &prompt, workload, &mut recorder)?;
        let plain = match plain {
            Some(plain) => plain,
            None => run(&mut session, &prompt, workload, &mut smallmind::profile::Off)?,
        };
        off.push(1e3 * plain.total());
        on.push(1e3 * times.total());
        profile.prefill_tps.push(workload.prompt as f64 / times.prefill);
        profile.decode_tps.push((workload.generate - 1) as f64 / times.decode);
        tree::add(&mut profile.nodes, &recorder, &model, i);
        profile.iterations += 1;
        timeline.get_or_insert(recorder);
    }
    (profile.counters, profile.counters_missing) = counters.since(&before);
    let Some(timeline) = timeline else { return Err(Error::Interrupted) };
    profile.memory = memory(&model, &session);
    let comparison = Comparison::of(&Samples(off.clone()), &Samples(on.clone()), Better::Less);
    profile.overhead = Some(Overhead { off_ms: off, on_ms: on, comparison });
    Ok(Recorded { profile, timeline })
}

fn head(workload: &Workload<'_>, model: &Model) -> Profile {
    let config = model.config();
    let kv = smallmind::KvCache::bytes_per_token(config, smallmind::KvPrecision::I16);
    let name = smallmind::escaped(config.name.as_bytes(), 60);
    Profile {
        model: workload.name.to_owned(),
        architecture: format!("{} {name}", config.arch.name),
        threads: model.threads(),
        isa: model.isa().to_owned(),
        layers: config.layers,
        prompt_tokens: workload.prompt,
        generated: workload.generate,
        working_set: (model.weight_bytes() + kv * (workload.prompt + workload.generate)) as f64,
        ..Profile::default()
    }
}

/// Seconds of one run's parts.
#[derive(Clone, Copy, Debug)]
struct Times {
    prefill: f64,
    decode: f64,
}

impl Times {
    fn total(self) -> f64 {
        self.prefill + self.decode
    }
}

fn run<P: Probe>(session: &mut Session, prompt: &[u32], workload: &Workload<'_>, probe: P) -> Result<Times> {
    session.truncate(0);
    let options = GenerateOptions {
        max_tokens: Some(workload.generate),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let start = Instant::now();
    let mut generation = session.generate_watched(prompt, &options, probe)?;
    generation.next_piece()?;
    let prefill = start.elapsed();
    while generation.next_piece()?.is_some() {}
    let decode = start.elapsed() - prefill;
    Ok(Times { prefill: prefill.as_secs_f64(), decode: decode.as_secs_f64() })
}

/// Weights by the stage that multiplies by them, then what the session took.
fn memory(model: &Model, session: &Session) -> Vec<MemoryLine> {
    let line = |region: &str, what: String, bytes: usize| MemoryLine {
        region: region.to_owned(),
        what,
        bytes: bytes as u64,
    };
    let mut lines: Vec<MemoryLine> = Vec::new();
    for m in model.matrices() {
        let what = format!("{} in {}", m.stage.name(), m.dtype);
        match lines.iter_mut().find(|l| l.what == what) {
            Some(l) => l.bytes += m.bytes as u64,
            None => lines.push(line("weights", what, m.bytes)),
        }
    }
    lines.push(line("weights", "norms, biases, positions in F32".into(), model.vector_bytes()));
    let positions = format!("{} positions", session.tokens().len());
    lines.push(line("KV cache", positions, session.kv_bytes()));
    lines.push(line("workspace", "buffers of a pass".into(), session.workspace_bytes()));
    lines
}
