//! A checkpoint folder of the field (config.json, tokenizer, safetensors) as GGUF. Every weight is found by the slot
//! table, its shape proven against config.json, and only what changes between the two forms is touched: the order of Q's
//! and K's rows, the orientation of GPT-2's matrices, the 1 that Gemma's norms lack.

mod numbers;
mod sentencepiece;
mod vocabulary;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use smallmind_formats::write::GgufWriter;
use smallmind_formats::{FormatError, SafeTensor, SafeType, SafetensorsFolder, Shard};
use smallmind_kernels::matmul::RowOrder;
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{DType, quant};

use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::arch::{Naming, Position};
use crate::model::slots::{Need, SLOTS, Shape, Slot, Spec};
use crate::quantize::{Mix, Progress, Rows, write_rows};
use numbers::Numbers;

/// Buffers that old checkpoints carry along.
const NO_WEIGHTS: &[&str] = &[".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];
/// What a checkpoint of blocks may put before its names.
const OPTIONAL_PREFIX: &str = "transformer.";

/// Where a tensor's bytes come from.
enum From {
    /// A tensor of the checkpoint, by its name there.
    Checkpoint(String),
    Values(Vec<f32>),
}

/// How a tensor's values change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    /// Rows that RoPE turns as halves, to neighbouring pairs.
    HalvesToPairs(RowOrder),
    /// `[inputs, outputs]` to `[outputs, inputs]`.
    Transpose,
    AddOne,
}

struct Job {
    /// GGUF's name.
    name: String,
    from: From,
    change: Change,
    /// Values a row, as GGUF counts.
    k: usize,
    dtype: DType,
}

/// A checkpoint, checked, ready to be written as GGUF.
pub(super) struct Checkpoint {
    weights: SafetensorsFolder,
    writer: GgufWriter<'static>,
    jobs: Vec<Job>,
    notes: Vec<String>,
}

/// The folder's own name.
fn model_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    full.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Checkpoint {
    /// Reads and checks everything but the weights' values. Matrices are to be stored as `dtype`, or as they are.
    pub(super) fn open(folder: &Path, dtype: Option<DType>) -> Result<Checkpoint> {
        let mut writer = GgufWriter::new();
        let mut numbers = Numbers::read(folder, &mut writer)?;
        writer.set_str("general.name", &model_name(folder));
        let weights = SafetensorsFolder::open(folder)?;
        let find = Names { weights: &weights, naming: numbers.arch.hf.naming };
        let rows = find.embedding(folder)?;
        let config_path = folder.join("config.json");
        let config = Config::from_metadata(&writer.metadata(&config_path)?, rows)?;
        let mut notes = std::mem::take(&mut numbers.notes);
        notes.extend(vocabulary::write(folder, &numbers.json, rows, &mut writer)?);
        let jobs = jobs(&find, folder, &config, &numbers, dtype)?;
        let file_type =
            jobs.iter().find(|j| j.name == "token_embd.weight").and_then(|j| Mix::find(j.dtype.name()));
        writer.set_u32("general.file_type", file_type.map_or(0, |m| m.file_type));
        for job in &jobs {
            let shape = job.shape(&weights);
            writer.declare_tensor(&job.name, job.dtype, &shape);
        }
        Ok(Checkpoint { weights, writer, jobs, notes })
    }

    /// What is not carried over, in sentences.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the model as GGUF; `path` is where, for errors.
    pub(super) fn write(
        &self,
        out: impl Write,
        path: &Path,
        threads: usize,
        progress: &mut dyn FnMut(Progress<'_>) -> bool,
    ) -> Result<()> {
        let pool = Pool::new(threads).map_err(|cause| Error::Threads { threads, cause })?;
        let disk = |e| FormatError::io(path, "write", e);
        let mut stream = self.writer.start(out).map_err(disk)?;
        let bytes_of = |j: &Job| {
            j.stored(&self.weights).map_or(0, |(_, t)| t.shape.iter().product::<usize>() * t.dtype.bytes())
        };
        let total = self.jobs.iter().map(|j| bytes_of(j) as u64).sum();
        let mut before = 0;
        for job in &self.jobs {
            let (source, dtype, bytes): (PathBuf, DType, Cow<'_, [u8]>) = match &job.from {
                From::Values(values) => {
                    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
                    (path.to_owned(), DType::F32, bytes.into())
                }
                From::Checkpoint(_) => {
                    let Some((shard, tensor)) = job.stored(&self.weights) else { continue };
                    let (dtype, bytes) = changed(job, shard, tensor)?;
                    (shard.path.clone(), dtype, bytes)
                }
            };
            let size = bytes.len();
            let rows = Rows { path: &source, name: &job.name, dtype, k: job.k };
            write_rows(rows, &bytes, job.dtype, None, &pool, &mut stream, path, &mut |done| {
                // What was changed is counted as what it was.
                let done = (done as f64 / size as f64 * bytes_of(job) as f64) as u64;
                progress(Progress { tensor: &job.name, done: before + done, total })
            })?;
            before += bytes_of(job) as u64;
            if let Some((shard, tensor)) = job.stored(&self.weights) {
                shard.file.release(tensor);
            }
        }
        stream.finish().map_err(disk)?;
        Ok(())
    }
}

impl Job {
    fn stored<'w>(&self, weights: &'w SafetensorsFolder) -> Option<(&'w Shard, &'w SafeTensor)> {
        match &self.from {
            From::Checkpoint(name) => weights.tensor(name),
            From::Values(_) => None,
        }
    }

    /// In GGUF's order.
    fn shape(&self, weights: &SafetensorsFolder) -> Vec<usize> {
        let elements = match &self.from {
            From::Values(values) => values.len(),
            From::Checkpoint(_) => self.stored(weights).map_or(0, |(_, t)| t.shape.iter().product()),
        };
        match self.stored(weights) {
            Some((_, t)) if t.shape.len() > 1 => vec![self.k, elements / self.k.max(1)],
            _ => vec![elements],
        }
    }
}

/// Finds weights by the checkpoint's names.
struct Names<'w> {
    weights: &'w SafetensorsFolder,
    naming: Naming,
}

impl Names<'_> {
    /// The name that the checkpoint has for a slot, if it has one.
    fn of(&self, spec: &Spec, layer: usize) -> Option<String> {
        let name = spec.hf_name(self.naming, layer)?;
        let with_prefix = format!("{OPTIONAL_PREFIX}{name}");
        [name, with_prefix].into_iter().find(|n| self.weights.tensor(n).is_some())
    }

    /// Rows of the embedding.
    fn embedding(&self, folder: &Path) -> Result<usize> {
        let spec = &SLOTS[Slot::TokenEmbd as usize];
        let found = self.of(spec, 0).and_then(|n| self.weights.tensor(&n));
        match found.map(|(_, t)| t.shape.as_slice()) {
            Some([rows, _]) => Ok(*rows),
            _ => {
                let name = spec.hf_name(self.naming, 0).unwrap_or_default();
                Err(FormatError::tensor(
                    folder,
                    &name,
                    "is missing or no matrix: the checkpoint is incomplete",
                )
                .into())
            }
        }
    }
}

fn jobs(
    find: &Names<'_>,
    folder: &Path,
    config: &Config,
    numbers: &Numbers,
    dtype: Option<DType>,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut used = BTreeSet::new();
    for spec in SLOTS.iter().filter(|s| !s.per_layer()) {
        jobs.extend(job(find, folder, config, numbers, dtype, (spec, 0), &mut used)?);
    }
    for layer in 0..config.layers {
        for spec in SLOTS.iter().filter(|s| s.per_layer()) {
            jobs.extend(job(find, folder, config, numbers, dtype, (spec, layer), &mut used)?);
        }
    }
    let unused = |n: &&str| !used.contains(*n) && !NO_WEIGHTS.iter().any(|end| n.ends_with(end));
    if let Some(name) = find.weights.names().find(unused) {
        let message = format!("is no part of the {} architecture as we know it", config.arch.name);
        let path = find.weights.tensor(name).map_or(folder, |(shard, _)| shard.path.as_path());
        return Err(FormatError::tensor(path, name, message).into());
    }
    Ok(jobs)
}

fn job(
    find: &Names<'_>,
    folder: &Path,
    config: &Config,
    numbers: &Numbers,
    dtype: Option<DType>,
    (spec, layer): (&Spec, usize),
    used: &mut BTreeSet<String>,
) -> Result<Option<Job>> {
    let need = (spec.need)(config.arch);
    if spec.slot == Slot::RopeFreqs {
        let values = numbers.rope_factors.clone().filter(|_| need != Need::Absent);
        return Ok(values.map(|v| Job {
            name: spec.name(layer),
            k: v.len(),
            from: From::Values(v),
            change: Change::None,
            dtype: DType::F32,
        }));
    }
    if need == Need::Absent {
        return Ok(None);
    }
    let Some(name) = find.of(spec, layer) else {
        let required = need == Need::Required || (spec.slot == Slot::Output && numbers.tied == Some(false));
        return match (required, spec.hf_name(find.naming, layer)) {
            (true, Some(name)) => {
                Err(FormatError::tensor(folder, &name, "is missing: the checkpoint is incomplete").into())
            }
            _ => Ok(None),
        };
    };
    used.insert(name.clone());
    if spec.slot == Slot::Output && numbers.tied == Some(true) {
        return Ok(None);
    }
    let Some((shard, tensor)) = find.weights.tensor(&name) else { return Ok(None) };
    let shape = (spec.shape)(config);
    // Positions and embeddings are looked up, so they are rows in every checkpoint.
    let looked_up = matches!(spec.slot, Slot::TokenEmbd | Slot::PositionEmbd | Slot::Output);
    let transposed = config.arch.hf.transposed && !looked_up;
    let (want, k) = match shape {
        Shape::Matrix(rows, k) if transposed => (vec![k, rows], k),
        Shape::Matrix(rows, k) => (vec![rows, k], k),
        Shape::Vector(n) => (vec![n], n),
    };
    if tensor.shape != want {
        let message = format!("has the shape {:?}, and config.json asks for {want:?}", tensor.shape);
        return Err(FormatError::tensor(&shard.path, &name, message).into());
    }
    let stored = stored_type(shard, tensor)?;
    let matrix = matches!(shape, Shape::Matrix(..)) && spec.slot != Slot::PositionEmbd;
    Ok(Some(Job {
        name: spec.name(layer),
        change: change(spec.slot, shape, transposed, config),
        from: From::Checkpoint(name),
        k,
        dtype: if matrix { dtype.unwrap_or(stored) } else { DType::F32 },
    }))
}

fn change(slot: Slot, shape: Shape, transposed: bool, config: &Config) -> Change {
    let turned = matches!(slot, Slot::AttnQ | Slot::AttnK | Slot::AttnQBias | Slot::AttnKBias);
    let norm = matches!(
        slot,
        Slot::OutputNorm
            | Slot::AttnNorm
            | Slot::AttnQNorm
            | Slot::AttnKNorm
            | Slot::PostAttnNorm
            | Slot::MlpNorm
            | Slot::PostMlpNorm
    );
    if config.arch.position == Position::RopePairs && turned {
        let (head_dim, rope_dim) = (config.head_dim, config.rope.dim);
        return Change::HalvesToPairs(RowOrder::PairsToHalves { head_dim, rope_dim });
    }
    if transposed && matches!(shape, Shape::Matrix(..)) {
        return Change::Transpose;
    }
    if norm && config.arch.hf.norms_less_one { Change::AddOne } else { Change::None }
}

fn stored_type(shard: &Shard, tensor: &SafeTensor) -> Result<DType> {
    match tensor.dtype {
        SafeType::F32 => Ok(DType::F32),
        SafeType::F16 => Ok(DType::F16),
        SafeType::BF16 => Ok(DType::BF16),
        other => {
            let message =
                format!("is {}, and weights are converted from F32, F16 and BF16 only", other.name());
            Err(FormatError::tensor(&shard.path, &tensor.name, message).into())
        }
    }
}

/// A tensor's values as GGUF has them, in the order of its rows.
fn changed<'w>(job: &Job, shard: &'w Shard, tensor: &SafeTensor) -> Result<(DType, Cow<'w, [u8]>)> {
    let dtype = stored_type(shard, tensor)?;
    let data = shard.file.data(tensor);
    let size = dtype.block_bytes();
    Ok(match job.change {
        Change::None => (dtype, data.into()),
        Change::HalvesToPairs(order) => {
            let rows = tensor.shape.first().copied().unwrap_or(0).max(1);
            let row = data.len() / rows;
            let mut out = vec![0; data.len()];
            for (half, from) in data.chunks_exact(row.max(1)).enumerate() {
                let at = order.source(half) * row;
                out[at..at + row].copy_from_slice(from);
            }
            (dtype, out.into())
        }
        Change::Transpose => {
            let [k, rows] = [job.k, data.len() / size / job.k.max(1)];
            let mut out = Vec::with_capacity(data.len());
            for r in 0..rows {
                for i in 0..k {
                    let at = (i * rows + r) * size;
                    out.extend_from_slice(&data[at..at + size]);
                }
            }
            (dtype, out.into())
        }
        Change::AddOne => {
            let mut values = vec![0.0f32; data.len() / size];
            if quant::dequantize(dtype, data, &mut values).is_err() {
                unreachable!("sizes were proven when the file was opened");
            }
            (DType::F32, values.iter().flat_map(|v| (v + 1.0).to_le_bytes()).collect::<Vec<u8>>().into())
        }
    })
}
