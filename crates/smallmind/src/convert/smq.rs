//! GGUF to SMQ and back: packs every matrix as loading would, or unpacks it and puts every byte where it was.

use std::io::Write;
use std::path::Path;

use memmap2::MmapMut;
use smallmind_formats::write::{PartSpec, SmqWriter, WholeFile};
use smallmind_formats::{FormatError, Gguf, PACKED_LOOKUP, PartForm, TensorInfo};
use smallmind_kernels::matmul::{LAYOUT, packed_bytes};
use smallmind_kernels::threads::Pool;

use crate::error::{Error, Result};
use crate::model::weights::{Job, part_order, stored_rows};
use crate::model::{Config, plan};
use crate::quantize::Progress;

/// The tensor whose rows are looked up by token: packed where it doubles as output matrix, else as rows.
const LOOKED_UP: &str = "token_embd.weight";

/// Writes the model of a GGUF file as SMQ.
pub(super) fn pack(
    gguf: &Gguf,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<String>> {
    let config = Config::read(gguf)?;
    let pool = Pool::new(threads).map_err(|cause| Error::Threads { threads, cause })?;
    let jobs = plan::matrices(gguf, &config)?;
    let index = |name: &str| gguf.tensors().iter().position(|t| t.name == name).unwrap_or(0);
    let packed = |name: &str| jobs.iter().any(|j| j.tensor.name == name);
    let features = if packed(LOOKED_UP) { PACKED_LOOKUP } else { 0 };
    let mut specs: Vec<PartSpec> = Vec::new();
    for (i, t) in gguf.tensors().iter().enumerate().filter(|(_, t)| !packed(&t.name)) {
        specs.push(PartSpec {
            tensor: i,
            form: PartForm::Rows,
            first_row: 0,
            rows: t.rows(),
            bytes: t.bytes(),
        });
    }
    for job in &jobs {
        let form = PartForm::Packed { layout: LAYOUT, order: part_order(job.order) };
        let (first_row, rows) = (job.rows.start, job.rows.len());
        specs.push(PartSpec { tensor: index(&job.tensor.name), form, first_row, rows, bytes: size(job) });
    }
    let total = specs.iter().map(|s| s.bytes as u64).sum();
    let largest = jobs.iter().map(size).max().unwrap_or(1);
    let memory = |cause| Error::Memory { what: "a packed matrix", bytes: largest, cause };
    let mut buffer = MmapMut::map_anon(largest.max(1)).map_err(memory)?;
    let mut writer = SmqWriter::create(out, gguf, features, specs)?;
    let mut done = 0;
    let mut jobs = jobs.iter();
    while let Some(spec) = writer.next_part().cloned() {
        let tensor = &gguf.tensors()[spec.tensor];
        match spec.form {
            PartForm::Rows => writer.part(&stored_rows(gguf, tensor)?)?,
            PartForm::Packed { .. } => {
                let Some(job) = jobs.next() else { unreachable!("packed parts are the jobs in order") };
                let matrix = &mut buffer[..spec.bytes];
                job.pack(gguf, matrix, &pool)?;
                writer.part(matrix)?;
            }
        }
        done += spec.bytes as u64;
        if !progress(Progress { tensor: &tensor.name, done, total }) {
            return Err(Error::Cancelled);
        }
    }
    writer.commit()?;
    Ok(padding_note(gguf).into_iter().collect())
}

fn size(job: &Job<'_>) -> usize {
    match packed_bytes(job.dtype, job.rows.len(), job.tensor.row_len()) {
        Some(bytes) => bytes,
        None => unreachable!("the loader laid the matrix out by the same size"),
    }
}

/// The way back makes the bytes between tensors zero, as every writer does.
fn padding_note(gguf: &Gguf) -> Option<String> {
    let zero = gguf.gaps_are_zero();
    (!zero).then(|| {
        "the GGUF file has bytes between its tensors that are not kept: the way back gives the same keys and tensors, \
         and zeros there"
            .to_owned()
    })
}

/// Writes the GGUF file that an SMQ file was made from.
pub(super) fn unpack(
    smq: &Gguf,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<String>> {
    let mut file = WholeFile::create(out)?;
    let disk = |e| FormatError::io(out, "write", e);
    file.write_all(smq.gguf_header()).map_err(disk)?;
    let mut at = smq.gguf_header().len() as u64;
    let total = smq.gguf_len();
    let mut tensors: Vec<&TensorInfo> = smq.tensors().iter().collect();
    tensors.sort_unstable_by_key(|t| t.offset());
    for tensor in tensors {
        zeros(&mut file, tensor.offset() - at).map_err(disk)?;
        file.write_all(&stored_rows(smq, tensor)?).map_err(disk)?;
        at = tensor.offset() + tensor.bytes() as u64;
        if !progress(Progress { tensor: &tensor.name, done: at, total }) {
            return Err(Error::Cancelled);
        }
    }
    zeros(&mut file, total - at).map_err(disk)?;
    file.commit()?;
    Ok(Vec::new())
}

fn zeros(out: &mut impl Write, count: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), count), out).map(drop)
}
