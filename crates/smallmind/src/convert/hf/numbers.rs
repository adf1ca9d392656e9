//! config.json -> the keys of GGUF: the numbers of a model in the field's words, each checked, nothing passed over that
//! would change what the model computes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use smallmind_formats::write::GgufWriter;
use smallmind_formats::{FormatError, fs};

use crate::error::Result;
use crate::model::arch::{self, Activation, Arch, AttentionScale, Mlp, Norm, Position, Window};

/// Far more than any config.
const MAX_JSON_BYTES: usize = 16 << 20;

/// A JSON object of a file.
pub(super) struct Object {
    pub(super) path: PathBuf,
    pub(super) map: Map<String, Value>,
}

impl Object {
    /// Reads a file that holds one object.
    pub(super) fn open(path: &Path, limit: usize) -> Result<Object> {
        let bytes = fs::read(path, limit)?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| FormatError::file(path, format!("is not JSON ({e}); download it again")))?;
        match value {
            Value::Object(map) => Ok(Object { path: path.to_owned(), map }),
            _ => Err(FormatError::file(path, "is JSON, but no object; download it again").into()),
        }
    }

    /// The same, empty where there is no such file.
    pub(super) fn open_optional(path: &Path, limit: usize) -> Result<Object> {
        match path.exists() {
            true => Object::open(path, limit),
            false => Ok(Object { path: path.to_owned(), map: Map::new() }),
        }
    }

    /// Null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn invalid(&self, key: &str, message: impl Into<String>) -> crate::Error {
        FormatError::invalid(&self.path, key, message).into()
    }

    /// A count, under the first of these names that is there.
    pub(super) fn count(&self, keys: &[&str]) -> Result<Option<u32>> {
        let Some((key, value)) = keys.iter().find_map(|k| Some((k, self.get(k)?))) else { return Ok(None) };
        match value.as_u64().and_then(|v| u32::try_from(v).ok()) {
            Some(v) => Ok(Some(v)),
            None => Err(self.invalid(key, format!("is {}, not a count", shown(value)))),
        }
    }

    fn required(&self, keys: &[&str]) -> Result<u32> {
        self.count(keys)?.ok_or_else(|| {
            let key = keys.first().copied().unwrap_or_default();
            self.invalid(key, "is missing: the file is no config of this family, or not all of it")
        })
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(v) => Ok(Some(v as f32)),
            None => Err(self.invalid(key, format!("is {}, not a number", shown(value)))),
        }
    }

    /// A number of the object that `parent` names.
    fn needed(&self, parent: &str, key: &str) -> Result<f32> {
        self.number(key)?.ok_or_else(|| self.invalid(parent, format!("has no `{key}`")))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// An object within.
    fn object(&self, key: &str) -> Option<Object> {
        let map = self.get(key)?.as_object()?.clone();
        Some(Object { path: self.path.clone(), map })
    }
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

/// What config.json says.
pub(super) struct Numbers {
    pub(super) json: Object,
    pub(super) arch: &'static Arch,
    pub(super) head_dim: usize,
    /// Frequency factors of RoPE, where it is scaled as Llama 3's.
    pub(super) rope_factors: Option<Vec<f32>>,
    /// Whether the embedding is the output matrix; `None` where the weights tell.
    pub(super) tied: Option<bool>,
    /// What is not carried over and does no harm within limits.
    pub(super) notes: Vec<String>,
}

impl Numbers {
    /// Reads the file and sets the family's keys.
    pub(super) fn read(folder: &Path, writer: &mut GgufWriter<'_>) -> Result<Numbers> {
        let json = Object::open(&folder.join("config.json"), MAX_JSON_BYTES)?;
        let arch = family(&json)?;
        let heads = json.required(&["num_attention_heads", "n_head"])?;
        let hidden = json.required(&["hidden_size", "n_embd"])?;
        let layers = json.required(&["num_hidden_layers", "n_layer"])?;
        if heads == 0 || hidden == 0 || layers == 0 {
            return Err(json.invalid("num_attention_heads", "is a model without heads, width or layers"));
        }
        let own_head_dim = json.count(&["head_dim"])?.map(|d| d as usize).or(arch.hf.head_dim);
        let head_dim = match own_head_dim {
            Some(d) => d,
            None if hidden.is_multiple_of(heads) => (hidden / heads) as usize,
            None => {
                let message = format!("{heads} heads do not divide a width of {hidden}");
                return Err(json.invalid("num_attention_heads", message));
            }
        };
        let mut n = Numbers { arch, head_dim, rope_factors: None, tied: None, notes: Vec::new(), json };
        n.check_meaning()?;
        let json = &n.json;
        let ffn = match json.count(&["intermediate_size", "n_inner"])? {
            Some(ffn) => ffn,
            // GPT-2's MLP is four times as wide unless it says otherwise.
            None if arch.mlp == Mlp::Plain => hidden.saturating_mul(4),
            None => json.required(&["intermediate_size"])?,
        };
        let key = |name: &str| format!("{}.{name}", arch.name);
        writer.set_str("general.architecture", arch.name);
        writer.set_u32(&key("block_count"), layers);
        let context = json.required(&["max_position_embeddings", "n_positions", "n_ctx"])?;
        writer.set_u32(&key("context_length"), context);
        writer.set_u32(&key("embedding_length"), hidden);
        writer.set_u32(&key("feed_forward_length"), ffn);
        writer.set_u32(&key("attention.head_count"), heads);
        if arch.position != Position::Learned {
            let kv_heads = json.count(&["num_key_value_heads"])?.unwrap_or(heads);
            writer.set_u32(&key("attention.head_count_kv"), kv_heads);
        }
        if own_head_dim.is_some() {
            writer.set_u32(&key("attention.key_length"), small(head_dim));
            writer.set_u32(&key("attention.value_length"), small(head_dim));
        }
        let (name, eps) = match arch.norm {
            Norm::Rms => ("attention.layer_norm_rms_epsilon", json.number("rms_norm_eps")?),
            Norm::Layer => ("attention.layer_norm_epsilon", json.number("layer_norm_epsilon")?),
        };
        // 1e-6 and 1e-5 are the classes' own defaults.
        let default = if arch.norm == Norm::Rms { 1e-6 } else { 1e-5 };
        writer.set_f32(&key(name), eps.unwrap_or(default));
        if let Some(vocab) = json.count(&["vocab_size"])? {
            writer.set_u32(&key("vocab_size"), vocab);
        }
        let factors = n.rope(writer, context as usize)?;
        n.rope_factors = factors;
        n.window(writer, layers as usize)?;
        n.tied = n.json.flag("tie_word_embeddings");
        Ok(n)
    }

    /// Refuses what the family's forward pass does not compute.
    fn check_meaning(&self) -> Result<()> {
        let (json, arch) = (&self.json, self.arch);
        let keys = ["hidden_activation", "hidden_act", "activation_function"];
        if let Some((key, name)) = keys.iter().find_map(|k| Some((k, json.text(k)?))) {
            let ours = match arch.activation {
                Activation::Silu => ["silu", "swish"],
                Activation::Gelu => ["gelu_pytorch_tanh", "gelu_new"],
            };
            if !ours.contains(&name) {
                let message =
                    format!("is `{name}`, and the {} family is computed with {}", arch.name, ours[0]);
                return Err(json.invalid(key, message));
            }
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if json.get(key).is_some() {
                return Err(json.invalid(key, "capped logits are not supported"));
            }
        }
        if json.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
            return Err(
                json.invalid("partial_rotary_factor", "RoPE over a part of the head is not supported")
            );
        }
        if json.get("quantization_config").is_some() {
            let message = "the weights are quantized; get the model in F32, F16 or BF16";
            return Err(json.invalid("quantization_config", message));
        }
        if let Some(scale) = json.number("query_pre_attn_scalar")?
            && arch.attention_scale == AttentionScale::Gemma3
            && json.count(&["num_hidden_layers"])? != Some(62)
            && scale != self.head_dim as f32
        {
            let message =
                format!("is {scale}, and attention is scaled by the {} values of a head", self.head_dim);
            return Err(json.invalid("query_pre_attn_scalar", message));
        }
        for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
            if json.flag(key) == Some(true) {
                return Err(json.invalid(key, "is not supported"));
            }
        }
        Ok(())
    }

    /// RoPE's base and scaling; returns frequency factors.
    fn rope(&self, writer: &mut GgufWriter<'_>, context: usize) -> Result<Option<Vec<f32>>> {
        let (json, arch) = (&self.json, self.arch);
        if arch.position == Position::Learned {
            return Ok(None);
        }
        let key = |name: &str| format!("{}.{name}", arch.name);
        writer.set_u32(&key("rope.dimension_count"), small(self.head_dim));
        // Newer files have all in `rope_parameters`, by kind of layer where the kinds differ.
        let parameters = json.object("rope_parameters");
        let (local, scaling) = match parameters {
            Some(p) => match p.object("full_attention") {
                Some(full) => (p.object("sliding_attention"), Some(full)),
                None => (None, Some(p)),
            },
            None => (None, json.object("rope_scaling")),
        };
        let scaling = scaling.unwrap_or_else(|| Object { path: json.path.clone(), map: Map::new() });
        let base = match json.number("rope_theta")? {
            Some(base) => base,
            None => scaling.number("rope_theta")?.unwrap_or(arch.hf.rope_base),
        };
        writer.set_f32(&key("rope.freq_base"), base);
        let local = match &local {
            Some(local) => local.number("rope_theta")?,
            None => json.number("rope_local_base_freq")?,
        };
        if let (Some(found), Some(ours)) = (local, arch.window_rope_base)
            && found != ours
        {
            let message = format!("is {found} on windowed layers, and the family is computed with {ours}");
            return Err(json.invalid("rope_local_base_freq", message));
        }
        let kind = scaling.text("rope_type").or_else(|| scaling.text("type")).unwrap_or("default");
        let need = |key: &str| scaling.needed("rope_scaling", key);
        match kind {
            "default" => Ok(None),
            "linear" => {
                writer
                    .set_str(&key("rope.scaling.type"), kind)
                    .set_f32(&key("rope.scaling.factor"), need("factor")?);
                Ok(None)
            }
            "yarn" => {
                let factor = need("factor")?;
                let original = scaling.count(&["original_max_position_embeddings"])?;
                writer.set_str(&key("rope.scaling.type"), kind).set_f32(&key("rope.scaling.factor"), factor);
                writer.set_u32(
                    &key("rope.scaling.original_context_length"),
                    original.unwrap_or(small(context)),
                );
                if let Some(attention) = scaling.number("attention_factor")? {
                    // The file's own multiplies what YaRN's formula gives.
                    writer.set_f32(&key("rope.scaling.attn_factor"), attention / (1.0 + 0.1 * factor.ln()));
                }
                for (from, to) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                    if let Some(beta) = scaling.number(from)? {
                        writer.set_f32(&key(&format!("rope.scaling.{to}")), beta);
                    }
                }
                Ok(None)
            }
            "llama3" => Ok(Some(self.llama3_factors(&scaling, base, need("factor")?)?)),
            other => {
                let message = format!("`{other}` is no RoPE scaling we know: linear, yarn, llama3");
                Err(json.invalid("rope_scaling", message))
            }
        }
    }

    /// By how much each frequency is lowered: long waves by the factor, short ones not, a ramp between (Llama 3.1).
    fn llama3_factors(&self, scaling: &Object, base: f32, factor: f32) -> Result<Vec<f32>> {
        let need = |key: &str| scaling.needed("rope_scaling", key);
        let (low, high) = (f64::from(need("low_freq_factor")?), f64::from(need("high_freq_factor")?));
        let original = f64::from(need("original_max_position_embeddings")?);
        if !(high > low && low > 0.0 && factor > 0.0) {
            return Err(scaling.invalid("rope_scaling", "has factors that do not add up"));
        }
        let (factor, d) = (f64::from(factor), self.head_dim as f64);
        let of = |i: usize| {
            let wave = std::f64::consts::TAU * f64::from(base).powf(2.0 * i as f64 / d);
            let smooth = ((original / wave - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        };
        Ok((0..self.head_dim / 2).map(of).collect())
    }

    fn window(&mut self, writer: &mut GgufWriter<'_>, layers: usize) -> Result<()> {
        let (json, arch) = (&self.json, self.arch);
        let window =
            json.count(&["sliding_window"])?.filter(|_| json.flag("use_sliding_window") != Some(false));
        let Window::AllButEvery(usual) = arch.window else {
            if let Some(window) = window {
                self.notes.push(format!(
                    "each token of this model was to see {window} positions back; here it sees all, as in llama.cpp"
                ));
            }
            return Ok(());
        };
        let key = |name: &str| format!("{}.{name}", arch.name);
        let Some(window) = window else { return Err(json.invalid("sliding_window", "is missing")) };
        writer.set_u32(&key("attention.sliding_window"), window);
        let period = match json.get("layer_types").and_then(Value::as_array) {
            Some(types) => period(types, layers).ok_or_else(|| {
                json.invalid("layer_types", "is no pattern of windowed layers and every n-th full one")
            })?,
            None => json
                .count(&["sliding_window_pattern", "_sliding_window_pattern"])?
                .unwrap_or(small(usual)) as usize,
        };
        if period != usual {
            writer.set_u32(&key("attention.sliding_window_pattern"), small(period));
        }
        Ok(())
    }
}

/// n, where all layers but every n-th are windowed.
fn period(types: &[Value], layers: usize) -> Option<usize> {
    let full = |t: &Value| match t.as_str()? {
        "full_attention" => Some(true),
        "sliding_attention" => Some(false),
        _ => None,
    };
    let full: Vec<bool> = types.iter().map(full).collect::<Option<_>>()?;
    // A short model may have no full layer at all: then any longer period says so.
    let n = full.iter().position(|f| *f).map_or(layers + 1, |i| i + 1);
    let fits = full.len() == layers && full.iter().enumerate().all(|(i, f)| *f == (i + 1).is_multiple_of(n));
    fits.then_some(n)
}

fn family(json: &Object) -> Result<&'static Arch> {
    let classes: Vec<&str> = json
        .get("architectures")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if let Some(arch) = classes.iter().find_map(|c| arch::find_class(c)) {
        return Ok(arch);
    }
    let known: Vec<&str> = arch::FAMILIES.iter().flat_map(|a| a.hf.classes).copied().collect();
    let message = match classes.first() {
        Some(class) => format!("`{}` is not converted: we know {}", shown_text(class), known.join(", ")),
        None => format!("names no architecture: we know {}", known.join(", ")),
    };
    Err(json.invalid("architectures", message))
}

fn shown_text(text: &str) -> String {
    text.chars().take(60).collect()
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Vec<Value> {
        let name = |c| if c == 'f' { "full_attention" } else { "sliding_attention" };
        text.chars().map(|c| Value::from(name(c))).collect()
    }

    #[test]
    fn a_pattern_of_layers_is_its_period() {
        assert_eq!(period(&types("sssssfsssss"), 11), Some(6));
        assert_eq!(period(&types("sfsf"), 4), Some(2));
        assert_eq!(period(&types("ff"), 2), Some(1));
        assert_eq!(period(&types("sss"), 3), Some(4));
        assert_eq!(period(&types("sffs"), 4), None);
        assert_eq!(period(&types("sf"), 3), None);
    }
}
