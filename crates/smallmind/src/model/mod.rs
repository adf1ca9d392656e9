//! A model: from a checked file to one forward pass for all families.

mod activations;
pub mod arch;
mod attention;
pub(crate) mod config;
pub(crate) mod cost;
pub(crate) mod forward;
pub(crate) mod pass;
pub(crate) mod plan;
pub(crate) mod scratch;
pub mod slots;
mod vocab;
pub(crate) mod weights;

use std::path::Path;
use std::sync::Arc;

use smallmind_formats::Gguf;
use smallmind_kernels::matmul::Class;
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{FastPrecision, Kernels, kernels};
use smallmind_text::{ChatTemplate, Tokenizer};

pub use config::{Config, Rope, RopeScaling};
pub use cost::Cost;
use cost::Costs;
use pass::Pass;
pub use plan::MatrixInfo;
use plan::{Layer, Plan};
use vocab::TemplateState;

use crate::cpus;
use crate::error::{Error, Result};
use crate::kv::KvPrecision;
use crate::profile::{PassShape, Scope, Stage};

/// Calls both, side by side where allowed: a vocabulary takes one thread as long as packing a small model takes two.
fn beside<A: Send, B>(allowed: bool, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    if !allowed {
        return (a(), b());
    }
    std::thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        match a.join() {
            Ok(a) => (a, b),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// How to load.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Threads; `None` takes what [`crate::cpus::choose`] finds right for this machine and model.
    pub threads: Option<usize>,
    /// Weights dequantized to F32 and activations in F32: slow, the reference to judge the fast paths by.
    pub precise: bool,
}

/// A loaded model: immutable, shared by any number of sessions on any threads (cloning is cheap).
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    plan: Plan,
    gguf: Gguf,
    kernels: &'static Kernels,
    pool: Pool,
    tokenizer: Tokenizer,
    template: TemplateState,
    precise: bool,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}, {})", self.config().name, self.config().arch.name)
    }
}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// Where the file cannot be read or is not a whole, consistent model of a family we know; nothing is allocated by a
    /// number that the file merely claims.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Model> {
        Model::from_gguf(Gguf::open(path.as_ref())?, options)
    }

    /// Loads an opened GGUF file.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_gguf(gguf: Gguf, options: &LoadOptions) -> Result<Model> {
        let config = Config::read(&gguf)?;
        let threads = options.threads.unwrap_or_else(|| cpus::choose(gguf.file_len()).threads).max(1);
        let granted = std::thread::available_parallelism().map_or(threads, std::num::NonZero::get);
        let pool = Pool::sharing(threads, granted).map_err(|cause| Error::Threads { threads, cause })?;
        let vocabulary = || -> Result<(Tokenizer, TemplateState)> {
            let tokenizer = vocab::tokenizer(&gguf)?;
            plan::check_vocabulary(&gguf, &config, tokenizer.vocab_len())?;
            let template = vocab::template(&gguf, &config, &tokenizer)?;
            Ok((tokenizer, template))
        };
        // Choosing kernels tries some of them out, which takes as long as a vocabulary: beside it, too.
        let weights = || -> Result<_> {
            let kernels = kernels()?;
            Ok((kernels, plan::build(&gguf, &config, options.precise, &pool)?))
        };
        let (vocabulary, weights) = beside(threads > 1, vocabulary, weights);
        let ((tokenizer, template), (kernels, plan)) = (vocabulary?, weights?);
        gguf.release_metadata();
        let inner =
            Inner { config, plan, gguf, kernels, pool, tokenizer, template, precise: options.precise };
        Ok(Model { inner: Arc::new(inner) })
    }

    /// The tokenizer of an opened file alone, also of a family that cannot be run.
    ///
    /// # Errors
    /// Where the vocabulary is missing or inconsistent, or of a kind we do not know.
    pub fn tokenizer_of(gguf: &Gguf) -> Result<Tokenizer> {
        vocab::tokenizer(gguf)
    }

    /// The model's numbers.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// The checked file behind the model.
    pub fn gguf(&self) -> &Gguf {
        &self.inner.gguf
    }

    /// The chat template: the file's own, or its family's where the file has none.
    ///
    /// # Errors
    /// Where the file's template does not parse, or there is none at all.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        match &self.inner.template {
            TemplateState::Ready(t) => Ok(t),
            TemplateState::Broken(why) => Err(Error::Parameter(why.clone())),
            TemplateState::None => Err(Error::NoChatTemplate),
        }
    }

    /// Whether there is a chat template, sound or not.
    pub fn has_chat_template(&self) -> bool {
        !matches!(self.inner.template, TemplateState::None)
    }

    /// Threads of the model's pool.
    pub fn threads(&self) -> usize {
        self.inner.pool.threads()
    }

    /// The instruction set in use, as `SMALLMIND_ISA` names it.
    pub fn isa(&self) -> &'static str {
        self.inner.kernels.name
    }

    /// Whether weights and activations are F32.
    pub fn is_precise(&self) -> bool {
        self.inner.precise
    }

    /// Bytes of packed weights, which one decoded token reads once.
    pub fn weight_bytes(&self) -> usize {
        self.inner.plan.bytes_per_token()
    }

    /// What a stage computes and moves in a pass of this shape, where it is a stage of the pass that has a cost of its
    /// own; `within` is the stage around it. K and V are taken to be stored as is usual for the model.
    pub fn cost(&self, within: Option<Stage>, scope: Scope, shape: PassShape) -> Option<Cost> {
        let precision = if self.inner.precise { KvPrecision::F32 } else { KvPrecision::I16 };
        let Inner { config, plan, .. } = &*self.inner;
        Costs { config, plan, precision, shape }.of(within, scope)
    }

    /// Every packed matrix, in the order in which a token meets them.
    pub fn matrices(&self) -> Vec<MatrixInfo> {
        self.inner.plan.matrices()
    }

    /// Bytes of norms, biases and learned positions, which are kept in F32 beside the packed matrices.
    pub fn vector_bytes(&self) -> usize {
        self.inner.plan.vector_bytes()
    }

    /// The sampling that the file recommends, or the field's usual where it does not.
    ///
    /// # Errors
    /// Where a recommended value is of the wrong type or out of range.
    pub fn recommended_sampling(&self) -> Result<crate::sample::SamplingParams> {
        vocab::recommended_sampling(&self.inner.gguf)
    }

    /// Whether this is the same loaded model, shared.
    pub(crate) fn is(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// What [`crate::PrefillClass::Fast`] computes in; `None` where it is not to be had: for models that are loaded as
    /// precise, and for those whose layers are unquantized, unless the CPU has matrix units for bfloat16.
    pub fn fast_prefill(&self) -> Option<FastPrecision> {
        let fast = &self.inner.kernels.fast;
        let any = self.inner.plan.layers.iter().flat_map(Layer::linears).any(|l| fast.takes(l.w.dtype()));
        (any && !self.inner.precise).then_some(fast.precision)
    }

    pub(crate) fn pass(&self, class: Class) -> Pass<'_> {
        let i = &*self.inner;
        Pass { config: &i.config, plan: &i.plan, gguf: &i.gguf, kernels: i.kernels, pool: &i.pool, class }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.inner.plan
    }
}
