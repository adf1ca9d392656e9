//! A model from one form into another: a checkpoint folder of the field to GGUF, GGUF to SMQ and back. What is written
//! appears only whole.

mod hf;
mod smq;

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

/// Whether a path is to be an SMQ file.
fn wants_smq(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("smq"))
}

/// Writes `input` at `out`, as SMQ where that ends in `.smq` and else as GGUF; returns what is worth knowing, in sentences.
/// `input` is a checkpoint folder, a GGUF or an SMQ file. `progress` returns whether to go on.
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
    check(options)?;
    let threads = options.threads.max(1);
    if !input.is_dir() {
        let model = Gguf::open(input)?;
        if options.dtype.is_some() {
            let message =
                "a model file keeps its types when it is converted: `smallmind quantize` changes them";
            return Err(Error::Parameter(message.into()));
        }
        return match (model.parts().is_some(), wants_smq(out)) {
            (false, true) => smq::pack(&model, out, threads, progress),
            (true, true) => Err(FormatError::file(input, "is SMQ already: name the output `….gguf`").into()),
            (true, false) => smq::unpack(&model, out, progress),
            (false, false) => {
                Err(FormatError::file(input, "is GGUF already: name the output `….smq`").into())
            }
        };
    }
    if wants_smq(out) {
        return smq::pack(&open_checkpoint(input)?, out, threads, progress);
    }
    let checkpoint = hf::Checkpoint::open(input, options.dtype)?;
    let mut file = WholeFile::create(out)?;
    checkpoint.write(&mut file, out, threads, progress)?;
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
