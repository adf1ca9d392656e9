//! Adapter files: safetensors with PEFT's names (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), and
//! their addition to a model's weights.
//!
//! An adapter is added when a model is loaded: the matrices that it touches become F16, the others stay as they are. So
//! the forward pass has one path, `--lora` and `merge` give the same bits, and a token costs what it did.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use smallmind::model::Config;
use smallmind::model::arch::Position;
use smallmind::{Gguf, stored_rows};
use smallmind_formats::write::{GgufWriter, WholeFile};
use smallmind_formats::{FormatError, SafeType, Safetensors};
use smallmind_kernels::{DType, quant};

use crate::error::{Result, TrainError};
use crate::model::TrainModel;

/// PEFT's name of a matrix, by GGUF's.
const NAMES: &[(&str, &str)] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const PREFIX: &str = "base_model.model.model.layers.";

/// `blk.3.attn_q` to PEFT's path.
fn peft_name(gguf: &str) -> Option<String> {
    let (layer, matrix) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let (_, peft) = NAMES.iter().find(|(g, _)| *g == matrix)?;
    Some(format!("{PREFIX}{layer}.{peft}"))
}

/// PEFT's path to `blk.3.attn_q`.
fn gguf_name(peft: &str) -> Option<String> {
    let (layer, matrix) = peft.strip_prefix(PREFIX)?.split_once('.')?;
    let (gguf, _) = NAMES.iter().find(|(_, p)| *p == matrix)?;
    layer.parse::<usize>().ok().map(|layer| format!("blk.{layer}.{gguf}"))
}

/// Where row `row` of a head-wise matrix in PEFT's order (halves) is in the file's: families that turn neighbouring pairs
/// store the rows of Q and K that way.
fn row_in_file(config: &Config, matrix: &str, row: usize) -> usize {
    let turned = config.arch.position == Position::RopePairs && ["attn_q", "attn_k"].contains(&matrix);
    let (d, half) = (config.head_dim, config.rope.dim / 2);
    match row % d {
        r if !turned || r >= 2 * half => row,
        r => row - r + if r < half { 2 * r } else { 2 * (r - half) + 1 },
    }
}

/// Writes a trained model's adapters.
pub(super) fn save(path: &Path, model: &TrainModel, rank: usize, alpha: f32) -> Result<()> {
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for p in &model.params {
        for (end, peft_end) in [(".lora_a", "lora_A.weight"), (".lora_b", "lora_B.weight")] {
            let Some(matrix) = p.name.strip_suffix(end) else { continue };
            let Some(name) = peft_name(matrix) else {
                let why = format!("{matrix} has no name in PEFT's files");
                return Err(TrainError::config(why));
            };
            let kind = matrix.rsplit('.').next().unwrap_or_default();
            let mut data = p.data.clone();
            if end == ".lora_b" {
                for (row, out) in data.chunks_exact_mut(p.cols).enumerate() {
                    let from = row_in_file(&model.config, kind, row) * p.cols;
                    out.copy_from_slice(&p.data[from..from + p.cols]);
                }
            }
            tensors.insert(format!("{name}.{peft_end}"), (vec![p.rows, p.cols], data));
        }
    }
    let mut header = serde_json::Map::new();
    let metadata = json!({"format": "pt", "lora_alpha": alpha.to_string(), "lora_rank": rank.to_string()});
    header.insert("__metadata__".into(), metadata);
    let mut at = 0;
    for (name, (shape, data)) in &tensors {
        let end = at + 4 * data.len();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Json::Object(header).to_string();
    // The data begins on 8 bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = WholeFile::create(path)?;
    let io = |e| FormatError::io(path, "write", e);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(header.as_bytes()).map_err(io)?;
    for (_, data) in tensors.values() {
        file.write_all(&crate::export::bytes_of(data)).map_err(io)?;
    }
    Ok(file.commit()?)
}

/// One matrix's A `[rank, k]` and B `[n, rank]`, as PEFT has them.
#[derive(Clone, Debug, Default)]
struct Pair {
    a: Option<(Vec<usize>, Vec<f32>)>,
    b: Option<(Vec<usize>, Vec<f32>)>,
}

/// An adapter file that was read.
#[derive(Clone, Debug)]
pub struct Adapter {
    path: PathBuf,
    /// By GGUF's name of the matrix.
    pairs: BTreeMap<String, Pair>,
    alpha: Option<f32>,
}

impl Adapter {
    /// Reads an adapter: ours, or PEFT's `adapter_model.safetensors`, whose `adapter_config.json` beside it tells alpha.
    ///
    /// # Errors
    /// Where the file is damaged, or a tensor in it is no part of an adapter that we know.
    pub fn open(path: &Path) -> Result<Adapter> {
        let file = Safetensors::open(path)?;
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for t in file.tensors() {
            let unknown = |why: &str| FormatError::tensor(path, &t.name, why);
            let (base, is_a) =
                match (t.name.strip_suffix(".lora_A.weight"), t.name.strip_suffix(".lora_B.weight")) {
                    (Some(base), _) => (base, true),
                    (_, Some(base)) => (base, false),
                    _ => return Err(unknown("is no lora_A or lora_B: this is no LoRA adapter").into()),
                };
            let name =
                gguf_name(base).ok_or_else(|| unknown("belongs to no matrix of a family that we adapt"))?;
            if t.dtype != SafeType::F32 || t.shape.len() != 2 {
                return Err(unknown("is not a matrix in F32: save the adapter in F32").into());
            }
            let values = file.data(t).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let pair = pairs.entry(name).or_default();
            *if is_a { &mut pair.a } else { &mut pair.b } = Some((t.shape.clone(), values));
        }
        if pairs.is_empty() {
            return Err(FormatError::file(path, "holds no adapter").into());
        }
        Ok(Adapter { path: path.to_owned(), pairs, alpha: alpha_of(path) })
    }

    /// scale · B A for the matrix of that name: `[n, k]`, rows in the file's order.
    fn delta(&self, config: &Config, name: &str, n: usize, k: usize) -> Result<Option<Vec<f32>>> {
        let Some(pair) = self.pairs.get(name) else { return Ok(None) };
        let wrong = |why: String| TrainError::from(FormatError::tensor(&self.path, name, why));
        let (Some((sa, a)), Some((sb, b))) = (&pair.a, &pair.b) else {
            return Err(wrong("has only one of lora_A and lora_B".to_owned()));
        };
        let rank = sa[0];
        if sa[..] != [rank, k] || sb[..] != [n, rank] || rank == 0 {
            return Err(wrong(format!(
                "is {sa:?} and {sb:?}, and the model's matrix is [{n}, {k}]: it is of another model"
            )));
        }
        if a.iter().chain(b).any(|v| !v.is_finite()) {
            return Err(wrong("holds values that are no numbers".to_owned()));
        }
        // PEFT's own default alpha is 8.
        let scale = self.alpha.unwrap_or(8.0) / rank as f32;
        let kind = name.rsplit('.').next().unwrap_or_default();
        let mut delta = vec![0.0; n * k];
        for (row, b) in b.chunks_exact(rank).enumerate() {
            let at = row_in_file(config, kind, row) * k;
            let out = &mut delta[at..at + k];
            for (b, a) in b.iter().zip(a.chunks_exact(k)) {
                out.iter_mut().zip(a).for_each(|(d, a)| *d += scale * b * a);
            }
        }
        Ok(Some(delta))
    }
}

/// Alpha, from the file itself or PEFT's settings beside it.
fn alpha_of(path: &Path) -> Option<f32> {
    let head = std::fs::read(path).ok()?;
    let len = u64::from_le_bytes(*head.first_chunk::<8>()?) as usize;
    let header: Json = serde_json::from_slice(head.get(8..8 + len)?).ok()?;
    let own = header["__metadata__"]["lora_alpha"].as_str().and_then(|t| t.parse().ok());
    own.or_else(|| {
        let beside = std::fs::read(path.with_file_name("adapter_config.json")).ok()?;
        let settings: Json = serde_json::from_slice(&beside).ok()?;
        settings["lora_alpha"].as_f64().map(|a| a as f32)
    })
}

/// A model's file with an adapter added: touched matrices in F16, all else as it is.
///
/// # Errors
/// Where the adapter is of another model.
pub fn merge(gguf: &Gguf, adapter: &Adapter) -> Result<Vec<u8>> {
    let config = Config::read(gguf)?;
    let mut w = GgufWriter::new();
    w.copy_metadata(gguf.metadata());
    let mut touched = 0;
    for t in gguf.tensors() {
        let name = t.name.trim_end_matches(".weight");
        let Some(delta) = adapter.delta(&config, name, t.rows(), t.row_len())? else {
            w.add_tensor(&t.name, t.dtype, &t.shape, stored_rows(gguf, t)?);
            continue;
        };
        let mut values = vec![0.0; t.elements()];
        let bad = |_| FormatError::tensor(gguf.path(), &t.name, "cannot be dequantized");
        quant::dequantize(t.dtype, &stored_rows(gguf, t)?, &mut values).map_err(bad)?;
        values.iter_mut().zip(&delta).for_each(|(v, d)| *v += d);
        let dtype = if t.dtype == DType::F32 { DType::F32 } else { DType::F16 };
        let mut bytes = vec![0; dtype.bytes_of(values.len()).unwrap_or(0)];
        quant::quantize(dtype, &values, &mut bytes)
            .map_err(|why| FormatError::tensor(gguf.path(), &t.name, why.to_string()))?;
        w.add_tensor(&t.name, dtype, &t.shape, bytes);
        touched += 1;
    }
    if touched < adapter.pairs.len() {
        let absent = adapter.pairs.keys().find(|k| gguf.tensor(&format!("{k}.weight")).is_none());
        let name = absent.map_or("", String::as_str);
        return Err(
            FormatError::tensor(&adapter.path, name, "is no matrix of this model: it is of another").into()
        );
    }
    w.to_bytes().map_err(|e| FormatError::io(gguf.path(), "copy", e).into())
}
