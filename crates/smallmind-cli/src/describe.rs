//! What a GGUF file holds, in words and as JSON. Reads the header only, and shows nothing that could harm a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value as Json, json};
use smallmind::{Config, Gguf, KvCache, KvPrecision, Value};

use crate::args::ShowArgs;
use crate::output::bytes;

/// The context that memory is estimated for unless `-c` says otherwise.
const USUAL_CONTEXT: usize = 4096;

/// Sums over the file.
pub(crate) struct Facts {
    parameters: u64,
    weight_bytes: u64,
    /// Tensors and bytes of each type.
    types: BTreeMap<String, (usize, u64)>,
    /// The numbers of the model, or why this version does not run it.
    memory: std::result::Result<Memory, String>,
}

struct Memory {
    config: Config,
    context: usize,
    kv_bytes: u64,
}

impl Facts {
    /// Reads them; memory is estimated for `context` tokens, else for the usual.
    pub(crate) fn of(gguf: &Gguf, context: Option<usize>) -> Facts {
        let mut types: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for tensor in gguf.tensors() {
            let of_type = types.entry(tensor.dtype.to_string()).or_default();
            *of_type = (of_type.0 + 1, of_type.1 + tensor.bytes() as u64);
        }
        let memory = Config::read(gguf).map_err(|why| why.to_string()).map(|config| {
            let context = context.unwrap_or(config.context.min(USUAL_CONTEXT));
            let per_token = KvCache::bytes_per_token(&config, KvPrecision::I16) as u64;
            Memory { kv_bytes: per_token.saturating_mul(context as u64), context, config }
        });
        let elements = gguf.tensors().iter().map(|t| t.elements() as u64);
        let weight_bytes = types.values().map(|(_, bytes)| bytes).sum();
        Facts { parameters: elements.fold(0, u64::saturating_add), weight_bytes, types, memory }
    }
}

/// The description for humans.
pub(crate) fn text(gguf: &Gguf, facts: &Facts, name: &str, args: &ShowArgs) -> Result<String> {
    let mut s = String::new();
    writeln!(s, "{}", smallmind::escaped(name.as_bytes(), 400))?;
    writeln!(
        s,
        "  file        {} ({}GGUF v{})",
        bytes(gguf.file_len()),
        if gguf.parts().is_some() { "SMQ of a " } else { "" },
        gguf.version()
    )?;
    writeln!(s, "  parameters  {} in {} tensors", grouped(facts.parameters), gguf.tensors().len())?;
    for (dtype, (count, size)) in &facts.types {
        writeln!(s, "    {dtype:<8}  {count:>4} tensors  {:>8}", bytes(*size))?;
    }
    match &facts.memory {
        Ok(m) => {
            let c = &m.config;
            let (family, heads) =
                (c.arch.name, format!("{} heads ({} KV) of {}", c.heads, c.kv_heads, c.head_dim));
            writeln!(
                s,
                "  model       {family}: {} layers of {}, {heads}, MLP {}",
                c.layers, c.hidden, c.ffn
            )?;
            writeln!(s, "  vocabulary  {} tokens; context {}", c.vocab, c.context)?;
            let (weights, kv) = (facts.weight_bytes, m.kv_bytes);
            let total = bytes(weights.saturating_add(kv));
            let parts = format!("{} weights + {} KV cache (F16)", bytes(weights), bytes(kv));
            writeln!(s, "  memory      about {total} at a context of {}: {parts}", m.context)?;
        }
        Err(why) => writeln!(s, "  not run by this version: {}", smallmind::escaped(why.as_bytes(), 400))?,
    }
    writeln!(s, "\nmetadata")?;
    for (key, value) in gguf.metadata().iter() {
        let key = smallmind::escaped(key.as_bytes(), 200).to_string();
        match (args.all, value) {
            (true, Value::String(v)) => {
                writeln!(s, "  {key} = {}", smallmind::escaped(v.as_bytes(), usize::MAX))?
            }
            (true, Value::Array(_)) => {
                let all = json_value(value, true).to_string();
                writeln!(s, "  {key} = {}", smallmind::escaped(all.as_bytes(), usize::MAX))?;
            }
            _ => writeln!(s, "  {key} = {value}")?,
        }
    }
    if args.tensors {
        writeln!(s, "\ntensors")?;
        for t in gguf.tensors() {
            let shape: Vec<String> = t.shape.iter().map(ToString::to_string).collect();
            writeln!(
                s,
                "  {:<40} {:<6} {:>20} {:>8}",
                t.name,
                t.dtype,
                shape.join(" x "),
                bytes(t.bytes() as u64)
            )?;
        }
    }
    Ok(s)
}

/// A count with a comma before every three digits.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut s = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            s.push(',');
        }
        s.push(digit);
    }
    s
}

/// The description as JSON.
pub(crate) fn document(gguf: &Gguf, facts: &Facts, name: &str, args: &ShowArgs) -> Json {
    let metadata: serde_json::Map<String, Json> =
        gguf.metadata().iter().map(|(key, value)| (key.to_owned(), json_value(value, args.all))).collect();
    let tensors = gguf.tensors().iter().map(|t| {
        json!({ "name": t.name, "type": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes(), "offset": t.offset() })
    });
    let mut document = json!({
        "model": name, "path": gguf.path().display().to_string(), "size_bytes": gguf.file_len(),
        "format": if gguf.parts().is_some() { "smq" } else { "gguf" }, "version": gguf.version(), "parameters": facts.parameters,
        "weight_bytes": facts.weight_bytes, "metadata": metadata, "tensors": tensors.collect::<Vec<_>>(),
    });
    match &facts.memory {
        Ok(m) => {
            document["architecture"] = m.config.arch.name.into();
            document["context"] = m.config.context.into();
            document["memory"] = json!({ "context": m.context, "kv_bytes": m.kv_bytes,
                "total_bytes": facts.weight_bytes.saturating_add(m.kv_bytes) });
        }
        Err(why) => document["unsupported"] = why.as_str().into(),
    }
    document
}

/// A value as JSON; texts and arrays that are long are shown as `show` shows them, unless all is asked for.
fn json_value(value: &Value, all: bool) -> Json {
    match value {
        Value::String(text) if all => String::from_utf8_lossy(text.as_bytes()).into(),
        Value::Array(array) if all || array.len() <= 16 => match array.byte_strings() {
            Some(texts) => texts.map(|text| Json::from(String::from_utf8_lossy(text))).collect(),
            None if array.scalars().next().is_some() => {
                array.scalars().map(|v| json_value(&v, all)).collect()
            }
            None => value.to_string().into(),
        },
        Value::Bool(v) => (*v).into(),
        Value::F64(v) => (*v).into(),
        _ => match (value.as_integer(), value.as_f32()) {
            (Some(v), _) => i64::try_from(v).map_or_else(|_| Json::from(u64::try_from(v).ok()), Json::from),
            (_, Some(v)) => v.into(),
            _ => value.to_string().into(),
        },
    }
}
