//! Importance matrices: how much each input channel of each matrix carries over a text, the sum of its squared values.
//! Watches ordinary passes through a probe; stores llama.cpp's form ([`crate::quantize::Importance`] reads it).

use std::collections::BTreeMap;
use std::path::Path;

use smallmind_formats::write::GgufWriter;
use smallmind_kernels::DType;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::slots::{self, Slot};
use crate::profile::{PassShape, Probe, Scope, Stage};
use crate::quantize::{COUNTS, SUMS};
use crate::session::{Session, SessionOptions};

/// The stages whose inputs are watched, and the matrices that take them.
const TAKERS: [(Stage, &[Slot]); 4] = [
    (Stage::Qkv, &[Slot::AttnQ, Slot::AttnK, Slot::AttnV, Slot::AttnQkv]),
    (Stage::AttnOut, &[Slot::AttnOut]),
    (Stage::MlpUp, &[Slot::MlpGate, Slot::MlpUp]),
    (Stage::MlpDown, &[Slot::MlpDown]),
];

/// What was seen of one stage of one layer.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// Of the squares of each channel.
    squares: Vec<f64>,
    rows: u64,
}

/// Adds up squares. In the order of the rows, so that no result depends on threads.
#[derive(Debug, Default)]
struct Collector {
    sums: BTreeMap<(usize, Stage), Sums>,
}

impl Probe for Collector {
    const SEES_INPUTS: bool = true;

    fn begin(&mut self, _scope: Scope) {}
    fn end(&mut self) {}
    fn pass(&mut self, _shape: PassShape) {}

    fn input(&mut self, stage: Stage, layer: usize, x: &[f32], k: usize) {
        let sums = self.sums.entry((layer, stage)).or_default();
        sums.squares.resize(k, 0.0);
        for row in x.chunks_exact(k) {
            sums.squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            sums.rows += 1;
        }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImatrixSummary {
    /// Matrices that the file knows.
    pub matrices: usize,
    /// Windows of the text that were computed.
    pub windows: usize,
}

/// Computes `tokens` in windows of `context` and writes the importance matrix at `out`; `dataset` is the text's name.
/// `progress` is told windows done and of how many, and returns whether to go on.
///
/// # Errors
/// Where the text is shorter than a window, the context is too large, the activations are no numbers, or the disk
/// refuses; [`Error::Cancelled`] where `progress` says so.
pub fn imatrix(
    model: &Model,
    tokens: &[u32],
    context: usize,
    dataset: &str,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<ImatrixSummary> {
    if context < 2 || tokens.len() < context {
        return Err(Error::Parameter(format!(
            "the text has {} tokens, and one window of {context} is needed: take a longer text or a smaller context",
            tokens.len()
        )));
    }
    let options = SessionOptions { context: Some(context), ..SessionOptions::default() };
    let mut session = Session::new(model, &options)?;
    let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
    let windows = tokens.len() / context;
    let mut collector = Collector::default();
    for (done, window) in tokens.chunks_exact(context).enumerate() {
        let mut window = window.to_vec();
        if let (Some(bos), Some(start)) = (bos, window.first_mut()) {
            *start = bos;
        }
        session.truncate(0);
        session.prefill_watched(&window, &mut collector, &|| false)?;
        if !progress(done + 1, windows) {
            return Err(Error::Cancelled);
        }
    }
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut writer = GgufWriter::new();
    writer.set_str("general.type", "imatrix").set_strings("imatrix.datasets", &[dataset]);
    writer.set_u32("imatrix.chunk_count", small(windows)).set_u32("imatrix.chunk_size", small(context));
    let mut entries = BTreeMap::new();
    for ((layer, stage), sums) in &collector.sums {
        let takers = TAKERS.iter().find(|(s, _)| s == stage).map_or(&[][..], |(_, slots)| slots);
        for slot in takers {
            let name = slots::spec_of(*slot).name(*layer);
            if model.gguf().tensor(&name).is_some() {
                entries.insert(name, sums);
            }
        }
    }
    for (name, sums) in &entries {
        let values: Vec<f32> = sums.squares.iter().map(|v| *v as f32).collect();
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotANumber);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.add_tensor(&format!("{name}{SUMS}"), DType::F32, &[values.len()], bytes);
        writer.add_tensor(
            &format!("{name}{COUNTS}"),
            DType::F32,
            &[1],
            (sums.rows as f32).to_le_bytes().to_vec(),
        );
    }
    writer.write_file(out)?;
    Ok(ImatrixSummary { matrices: entries.len(), windows })
}
