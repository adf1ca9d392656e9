//! The numbers of one model, read once from its file's metadata and checked before anything is allocated by them.

use smallmind_formats::{FormatError, Gguf, Metadata};

use super::arch::{self, Arch, AttentionScale, Position, Window};
use crate::error::Result;

/// Most layers, heads and the like that we believe: far above any model, low enough that no product overflows.
const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 24;
/// Query heads that one key/value head may serve.
pub(crate) const MAX_GROUP: usize = 64;
pub(crate) const MAX_HEAD_DIM: usize = 1024;

/// Numbers of one model. Names follow `config.json` of the field where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family.
    pub arch: &'static Arch,
    /// `general.name`, or the file's name.
    pub name: String,
    /// Layers (`n_layers`).
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads` (GQA).
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// RoPE.
    pub rope: Rope,
    /// Positions that windowed layers see, the current one included; `None` where no layer is windowed.
    pub window: Option<usize>,
    /// Every n-th layer sees everything.
    pub window_period: usize,
    /// What attention scores are multiplied by.
    pub attention_scale: f32,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Values of a head that are turned (even).
    pub dim: usize,
    /// Base of the wavelengths.
    pub base: f32,
    /// How positions beyond the training length are brought back.
    pub scaling: RopeScaling,
}

/// RoPE scaling.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by a factor (Chen et al. 2023).
    Linear(f32),
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// How much longer than in training.
        factor: f32,
        /// Positions in training.
        original: usize,
        /// Multiplies the magnitude.
        attn_factor: f32,
        /// Turns in the original context above which a dimension is kept.
        beta_fast: f32,
        /// Turns below which it is interpolated.
        beta_slow: f32,
    },
}

impl Config {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of all query heads.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The window of a layer, if it has one.
    pub fn layer_window(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| !(layer + 1).is_multiple_of(self.window_period))
    }

    /// Reads and checks the numbers.
    ///
    /// # Errors
    /// Where a key is missing, of the wrong type or out of range; the sentence names it.
    pub fn read(gguf: &Gguf) -> Result<Config> {
        let Some(embedding) = gguf.tensor("token_embd.weight") else {
            let message = "has no tensor `token_embd.weight`: the file is incomplete";
            return Err(FormatError::file(gguf.path(), message).into());
        };
        Config::from_metadata(gguf.metadata(), embedding.rows())
    }

    /// The same from metadata alone; `vocab` is the embedding's rows.
    pub(crate) fn from_metadata(meta: &Metadata, vocab: usize) -> Result<Config> {
        let path = meta.path();
        let family = meta.require_str("general.architecture")?;
        let Some(arch) = arch::find(family) else {
            let known: Vec<&str> = arch::FAMILIES.iter().map(|a| a.name).collect();
            let message = format!(
                "`{}` is an architecture we do not know: we have {}",
                printable(family),
                known.join(", ")
            );
            return Err(FormatError::invalid(path, "general.architecture", message).into());
        };
        let keys = Keys { meta, prefix: arch.name };

        let layers = keys.count("block_count", 1..=MAX_LAYERS)?;
        let hidden = keys.count("embedding_length", 1..=MAX_WIDTH)?;
        let heads = keys.per_layer("attention.head_count", layers)?;
        let kv_heads = match keys.has("attention.head_count_kv") {
            true => keys.per_layer("attention.head_count_kv", layers)?,
            // GPT-2 has no grouped queries and its files no such key.
            false if arch.position == Position::Learned => heads,
            false => return Err(keys.missing("attention.head_count_kv")),
        };
        if heads % kv_heads != 0 || heads / kv_heads > MAX_GROUP {
            let message = format!("{kv_heads} key/value heads do not serve {heads} query heads");
            return Err(keys.invalid("attention.head_count_kv", message));
        }
        let head_dim = match keys.optional("attention.key_length", 1..=MAX_HEAD_DIM)? {
            Some(d) => d,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let message = format!("{heads} heads do not divide a width of {hidden}");
                return Err(keys.invalid("attention.head_count", message));
            }
        };
        if head_dim > MAX_HEAD_DIM {
            return Err(keys.invalid("attention.head_count", format!("gives heads of {head_dim} values")));
        }
        if keys.optional("attention.value_length", 1..=MAX_HEAD_DIM)?.is_some_and(|v| v != head_dim) {
            let message = format!("differs from the {head_dim} values of a key, which we do not support");
            return Err(keys.invalid("attention.value_length", message));
        }
        if keys.optional("expert_count", 0..=MAX_WIDTH)?.is_some_and(|n| n > 0) {
            return Err(keys.invalid("expert_count", "mixtures of experts are not supported".into()));
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if keys.positive(key)?.is_some() {
                return Err(keys.invalid(key, "capped logits are not supported".into()));
            }
        }
        let ffn = keys.count("feed_forward_length", 1..=MAX_WIDTH)?;
        let context = keys.count("context_length", 1..=u32::MAX as usize)?;
        let eps_key = match arch.norm {
            arch::Norm::Rms => "attention.layer_norm_rms_epsilon",
            arch::Norm::Layer => "attention.layer_norm_epsilon",
        };
        let norm_eps = keys.positive(eps_key)?.ok_or_else(|| keys.missing(eps_key))?;

        if vocab > MAX_VOCAB {
            return Err(
                FormatError::tensor(path, "token_embd.weight", "claims an impossible vocabulary").into()
            );
        }
        // The vocabulary is the embedding's; the key may be left out, but not be nonsense.
        keys.optional("vocab_size", 0..=u32::MAX as usize)?;

        let (window, window_period) = match arch.window {
            Window::Full => (None, 1),
            Window::AllButEvery(period) => {
                let window =
                    keys.optional("attention.sliding_window", 0..=u32::MAX as usize)?.filter(|w| *w > 0);
                (window, keys.optional("attention.sliding_window_pattern", 1..=MAX_LAYERS)?.unwrap_or(period))
            }
        };
        let per_head = match arch.attention_scale {
            AttentionScale::Gemma3 if layers == 62 => hidden as f32 / heads as f32,
            AttentionScale::HeadDim | AttentionScale::Gemma3 => head_dim as f32,
        };
        let name = meta.str("general.name")?.filter(|n| !n.is_empty()).map_or_else(
            || path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            str::to_owned,
        );
        Ok(Config {
            arch,
            name,
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            context,
            norm_eps,
            rope: rope(&keys, arch, head_dim, context)?,
            window,
            window_period,
            attention_scale: 1.0 / per_head.sqrt(),
        })
    }
}

fn rope(keys: &Keys<'_>, arch: &Arch, head_dim: usize, context: usize) -> Result<Rope> {
    if arch.position == Position::Learned {
        return Ok(Rope { dim: 0, base: 1.0, scaling: RopeScaling::None });
    }
    let dim = keys.optional("rope.dimension_count", 0..=MAX_HEAD_DIM)?.filter(|d| *d > 0).unwrap_or(head_dim);
    if dim % 2 != 0 || dim > head_dim {
        let message = format!("RoPE turns pairs within a head of {head_dim} values, so {dim} is impossible");
        return Err(keys.invalid("rope.dimension_count", message));
    }
    let base = keys.positive("rope.freq_base")?.unwrap_or(10_000.0);
    let kind = keys.text("rope.scaling.type")?;
    let factor = keys.positive("rope.scaling.factor")?;
    let old_linear = keys.positive("rope.scale_linear")?;
    let scaling = match kind {
        None => old_linear.filter(|f| *f != 1.0).map_or(RopeScaling::None, RopeScaling::Linear),
        Some("none") => RopeScaling::None,
        // `longrope` and `llama3` carry their factors as a tensor, which the loader applies.
        Some("longrope" | "llama3") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear(factor.unwrap_or(1.0)),
        Some("yarn") => RopeScaling::Yarn {
            factor: factor.unwrap_or(1.0),
            original: keys
                .optional("rope.scaling.original_context_length", 1..=u32::MAX as usize)?
                .unwrap_or(context),
            attn_factor: keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
            beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        },
        Some(other) => {
            let message =
                format!("`{}` is no RoPE scaling we know: none, linear, yarn, llama3", printable(other));
            return Err(keys.invalid("rope.scaling.type", message));
        }
    };
    Ok(Rope { dim, base, scaling })
}

/// A string of the file, safe for a terminal.
fn printable(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// Keys under the family's prefix.
struct Keys<'a> {
    meta: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn has(&self, name: &str) -> bool {
        self.meta.contains(&self.key(name))
    }

    fn invalid(&self, name: &str, message: String) -> crate::Error {
        FormatError::invalid(self.meta.path(), &self.key(name), message).into()
    }

    fn missing(&self, name: &str) -> crate::Error {
        FormatError::missing(self.meta.path(), &self.key(name)).into()
    }

    fn optional(&self, name: &str, range: std::ops::RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.meta.u64(&self.key(name))? else { return Ok(None) };
        match usize::try_from(value).ok().filter(|v| range.contains(v)) {
            Some(v) => Ok(Some(v)),
            None => {
                let message = format!("{value} is not between {} and {}", range.start(), range.end());
                Err(self.invalid(name, message))
            }
        }
    }

    fn count(&self, name: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize> {
        self.optional(name, range)?.ok_or_else(|| self.missing(name))
    }

    /// A count, or an array with the same count for every layer.
    fn per_layer(&self, name: &str, layers: usize) -> Result<usize> {
        let key = self.key(name);
        let meta = self.meta;
        if !matches!(meta.get(&key), Some(smallmind_formats::Value::Array(_))) {
            return self.count(name, 1..=MAX_WIDTH);
        }
        let values = meta.require_u32s(&key)?;
        match values.as_slice() {
            [first, rest @ ..] if values.len() == layers && rest.iter().all(|v| v == first) && *first > 0 => {
                Ok(*first as usize)
            }
            _ => {
                Err(self
                    .invalid(name, format!("must be one positive number, the same for all {layers} layers")))
            }
        }
    }

    /// A finite number above zero.
    fn positive(&self, name: &str) -> Result<Option<f32>> {
        let value = self.meta.f32(&self.key(name))?;
        match value {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.invalid(name, format!("{v} is not a positive number")))
            }
            v => Ok(v),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&str>> {
        Ok(self.meta.str(&self.key(name))?)
    }
}
