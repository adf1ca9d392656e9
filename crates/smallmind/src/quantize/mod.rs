//! A model in fewer bits: reads a GGUF file tensor by tensor, quantizes rows in parallel, and writes a GGUF file that
//! appears only whole. Holds a few megabytes of a tensor at a time, and gives the same bytes for any number of threads.

mod importance;
mod mix;
mod rows;

use std::path::Path;

use smallmind_formats::write::{GgufWriter, WholeFile};
use smallmind_formats::{FormatError, Gguf};
use smallmind_kernels::DType;
use smallmind_kernels::threads::Pool;

pub use importance::Importance;
pub(crate) use importance::{COUNTS, SUMS};
pub use mix::{MIXES, Mix};
pub(crate) use rows::{Rows, write_rows};

use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::slots::{self, Slot};
use crate::model::weights::stored_rows;
use mix::Place;

/// How to quantize.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// The mix of types.
    pub mix: &'static Mix,
    /// Type of the output matrix, where not the mix's; of the embedding where that is the output too.
    pub output: Option<DType>,
    /// Type of the token embedding, where not the mix's.
    pub embedding: Option<DType>,
    /// One type for all matrices: the mix's base.
    pub pure: bool,
    /// How much each column matters.
    pub importance: Option<Importance>,
    /// Threads.
    pub threads: usize,
}

impl QuantizeOptions {
    /// A mix with nothing changed, on one thread.
    pub fn new(mix: &'static Mix) -> QuantizeOptions {
        QuantizeOptions { mix, output: None, embedding: None, pure: false, importance: None, threads: 1 }
    }
}

/// How far a file is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor at hand.
    pub tensor: &'a str,
    /// Bytes of the source that are done.
    pub done: u64,
    /// Bytes of the source.
    pub total: u64,
}

/// What became of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantized {
    /// Bytes of the tensors before and after.
    pub bytes: (u64, u64),
    /// Weights.
    pub elements: u64,
    /// Matrices whose rows are no whole blocks of the type that the mix has for them, with the type they got.
    pub fallbacks: Vec<(String, DType)>,
    /// Matrices that were quantized already and lost some more.
    pub requantized: usize,
    /// Matrices that the importance file does not know.
    pub unweighted: usize,
}

/// GGUF's version of the quantized layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes `gguf` at `out` in the types of a mix. `progress` returns whether to go on.
///
/// # Errors
/// Where the model is of no family we know, a weight is no finite number (the tensor is named), the importances are of
/// another model, or the disk refuses; `out` is as it was then. [`Error::Cancelled`] where `progress` says so.
pub fn quantize(
    gguf: &Gguf,
    options: &QuantizeOptions,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Quantized> {
    let mut file = WholeFile::create(out)?;
    let summary = quantize_to(gguf, options, &mut file, out, progress)?;
    file.commit()?;
    Ok(summary)
}

fn quantize_to(
    gguf: &Gguf,
    options: &QuantizeOptions,
    file: &mut WholeFile,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Quantized> {
    let threads = options.threads.max(1);
    let pool = Pool::new(threads).map_err(|cause| Error::Threads { threads, cause })?;
    let config = Config::read(gguf)?;
    let mut summary = Quantized::default();
    let targets = targets(gguf, &config, options, &mut summary)?;
    let mut writer = GgufWriter::new();
    writer.copy_metadata(gguf.metadata());
    writer.set_u32("general.quantization_version", QUANTIZATION_VERSION);
    writer.set_u32("general.file_type", options.mix.file_type);
    if let Some(importance) = &options.importance {
        describe(importance, &mut writer);
    }
    for (tensor, dtype) in gguf.tensors().iter().zip(&targets) {
        writer.declare_tensor(&tensor.name, *dtype, &tensor.shape);
        summary.bytes.0 += tensor.bytes() as u64;
        summary.bytes.1 += dtype.bytes_of(tensor.elements()).unwrap_or(0) as u64;
        summary.elements += tensor.elements() as u64;
    }
    let disk = |e| FormatError::io(out, "write", e);
    let mut stream = writer.start(file).map_err(disk)?;
    let total = summary.bytes.0;
    let mut before = 0;
    for (tensor, dtype) in gguf.tensors().iter().zip(targets) {
        let importance = match &options.importance {
            Some(i) if dtype != tensor.dtype => i.columns(&tensor.name, tensor.row_len())?,
            _ => None,
        };
        let rows = Rows { path: gguf.path(), name: &tensor.name, dtype: tensor.dtype, k: tensor.row_len() };
        let data = stored_rows(gguf, tensor)?;
        write_rows(rows, &data, dtype, importance, &pool, &mut stream, out, &mut |done| {
            gguf.release(tensor, 0..done);
            progress(Progress { tensor: &tensor.name, done: before + done as u64, total })
        })?;
        before += tensor.bytes() as u64;
    }
    stream.finish().map_err(disk)?;
    Ok(summary)
}

/// Each tensor's type, in the order of the file.
fn targets(
    gguf: &Gguf,
    config: &Config,
    options: &QuantizeOptions,
    summary: &mut Quantized,
) -> Result<Vec<DType>> {
    let tied = gguf.tensor("output.weight").is_none();
    let mut targets = Vec::with_capacity(gguf.tensors().len());
    for tensor in gguf.tensors() {
        let place =
            slots::find(&tensor.name).filter(|(spec, _)| mix::quantizable(spec.slot, (spec.shape)(config)));
        let Some((spec, layer)) = place else {
            targets.push(tensor.dtype);
            continue;
        };
        let k = tensor.row_len();
        let at = Place {
            slot: spec.slot,
            layer,
            layers: config.layers,
            group: config.group(),
            importance: options.importance.is_some(),
            tied,
        };
        let asked = match spec.slot {
            Slot::TokenEmbd if options.embedding.is_some() => options.embedding,
            Slot::TokenEmbd if tied && !options.pure => options.output,
            Slot::Output => options.output,
            _ => None,
        };
        let wanted = match asked {
            Some(dtype) => dtype,
            None if options.pure => options.mix.base,
            None => options.mix.dtype(at, k),
        };
        let dtype = mix::fitting(wanted, k);
        if dtype != wanted {
            summary.fallbacks.push((tensor.name.clone(), dtype));
        }
        if dtype != tensor.dtype {
            summary.requantized += usize::from(tensor.dtype.block_len() > 1);
            let known = match &options.importance {
                Some(i) => i.columns(&tensor.name, k)?.is_some(),
                None => true,
            };
            summary.unweighted += usize::from(!known);
        }
        targets.push(dtype);
    }
    Ok(targets)
}

/// Where the importances came from, in llama.cpp's keys.
fn describe(importance: &Importance, writer: &mut GgufWriter<'_>) {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let name = importance.path().file_name().unwrap_or_default().to_string_lossy();
    writer.set_str("quantize.imatrix.file", &name);
    if let Some(dataset) = importance.datasets.first() {
        writer.set_str("quantize.imatrix.dataset", dataset);
    }
    writer.set_i32("quantize.imatrix.entries_count", count(importance.matrices()));
    writer.set_i32("quantize.imatrix.chunks_count", count(importance.chunks as usize));
}
