//! A model from one form into another: a checkpoint folder of the field to GGUF. What is written appears only whole.

mod hf;

use std::path::Path;

use smallmind_formats::write::WholeFile;
use smallmind_formats::{FormatError, Gguf};
use smallmind_kernels::DType;

use crate::error::{Error, Result};
use crate::quantize::Progress;

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// Type of the matrices: F32, F16 or BF16; `None` keeps the checkpoint's.
    pub dtype: Option<DType>,
    /// Threads; 0 counts as 1.
    pub threads: usize,
}

/// Whether a path is a checkpoint folder.
pub fn is_checkpoint(path: &Path) -> bool {
    path.is_dir() && path.join("config.json").exists()
}

/// Writes the checkpoint folder `input` as GGUF at `out`; returns what is worth knowing, in sentences. `progress` returns
/// whether to go on.
///
/// # Errors
/// Where a file is missing or not sound, config.json does not add up or is of no family we know, a tensor is missing, of
/// another shape than config.json asks for, or holds what is no finite number; `out` is as it was then.
pub fn convert(
    input: &Path,
    out: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<String>> {
    if !input.is_dir() {
        return Err(FormatError::file(input, "is no folder with config.json and safetensors").into());
    }
    check(options)?;
    let checkpoint = hf::Checkpoint::open(input, options.dtype)?;
    let mut file = WholeFile::create(out)?;
    checkpoint.write(&mut file, out, options.threads.max(1), progress)?;
    file.commit()?;
    Ok(checkpoint.notes().to_vec())
}

/// A checkpoint folder as a GGUF file in memory, to be run as it is.
///
/// # Errors
/// As [`convert`].
pub fn open_checkpoint(folder: &Path) -> Result<Gguf> {
    let threads = crate::cpus::choose(0).threads;
    let mut bytes = Vec::new();
    hf::Checkpoint::open(folder, None)?.write(&mut bytes, folder, threads, &mut |_| true)?;
    Ok(Gguf::from_bytes(&folder.display().to_string(), bytes)?)
}

fn check(options: &ConvertOptions) -> Result<()> {
    match options.dtype {
        Some(dtype) if dtype.block_len() > 1 => Err(Error::Parameter(format!(
            "a checkpoint is converted to F32, F16 or BF16, not to {dtype}: quantize the GGUF file afterwards"
        ))),
        _ => Ok(()),
    }
}
