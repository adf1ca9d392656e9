//! The enhanced profile's three phases, each a step up: single kernels, operations on the engine's own layouts, whole
//! models.

use std::hint::black_box;

use smallmind::preset::{PRESETS, Preset};
use smallmind::{CancelToken, Gguf, LoadOptions, Model, PrefillClass};
use smallmind_kernels::attention::{PAGE, PageMut, Partial, integer_page_len};
use smallmind_kernels::matmul::{
    ActMeta, ActQuants, FileRows, RowOrder, act_blocks, pack_rows, packed_bytes,
};
use smallmind_kernels::{ALIGN, DType, quant};

use super::scaling::Scaled;
use crate::measure::bytes::Bytes;
use crate::measure::clock::Repeats;
use crate::measure::kernels::{Kernel, stored, values};
use crate::measure::roofline::Limits;
use crate::measure::stats::Samples;
use crate::results::{Row, Unit};
use crate::speed::{Settings, Test, measure};
use crate::{Error, Result};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Products, activations, norms, RoPE, attention, each type's products.
    Kernels,
    /// What surrounds them: quantizing activations, packing and unpacking weights, the KV cache.
    Tensors,
    /// The presets, and the user's own model.
    Models,
}

impl Phase {
    /// In a report's heading.
    pub fn title(self) -> &'static str {
        match self {
            Phase::Kernels => "Phase 1: SIMD kernels, one thread",
            Phase::Tensors => "Phase 2: tensor operations, one thread",
            Phase::Models => "Phase 3: whole models",
        }
    }

    /// The part of its rows.
    pub fn part(self) -> &'static str {
        match self {
            Phase::Kernels => "kernels",
            Phase::Tensors => "tensors",
            Phase::Models => "models",
        }
    }

    /// In order.
    pub const ALL: [Phase; 3] = [Phase::Kernels, Phase::Tensors, Phase::Models];
}

/// Sides of square F32 products.
const SIDES: [usize; 6] = [64, 128, 256, 512, 1024, 2048];
/// Lengths of GELU.
const LENGTHS: [usize; 6] = [1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20];
/// The matrix of each type's products: of a small model's layer.
const MATRIX: (usize, usize) = (1024, 1024);
/// Tokens of a GEMM.
const TOKENS: usize = 64;

/// A model of the third phase: its name, and how to open it.
pub type Named<'a> = (String, Box<dyn Fn() -> smallmind::Result<Gguf> + 'a>);

/// Runs the phases; every row is handed over as soon as it is measured. Returns the models' figures, for their scaling.
/// `threads` are those of the limits and of the presets; a user's model takes them too.
///
/// # Errors
/// Where a model cannot be loaded.
pub fn enhanced(
    rounds: usize,
    limits: &Limits,
    threads: usize,
    own: Option<Named<'_>>,
    cancel: &CancelToken,
    done: &mut dyn FnMut(Row),
) -> Result<Vec<Scaled>> {
    let bench = Kernel::new(rounds, limits)?;
    let mut next = |phase: Phase, row: Result<Row>| -> Result<bool> {
        let row = row?;
        done(Row { part: phase.part().into(), id: row.id.replacen("kernels", phase.part(), 1), ..row });
        Ok(!cancel.is_cancelled())
    };
    kernels(&bench, &mut |row| next(Phase::Kernels, row))?;
    tensors(&bench, &mut |row| next(Phase::Tensors, row))?;
    models(presets().into_iter().chain(own).collect(), rounds, limits, threads, cancel, done)
}

/// The presets in their types.
pub fn presets() -> Vec<Named<'static>> {
    let types = |preset: &'static Preset| [DType::F32, DType::Q8_0].map(|dtype| (preset, dtype));
    let named = |(preset, dtype): (&'static Preset, DType)| -> Named<'static> {
        (format!("{} {dtype}", preset.name), Box::new(move || preset.build(dtype, 1)))
    };
    PRESETS.iter().flat_map(types).map(named).collect()
}

/// Prefill and decode of each model, on so many threads.
///
/// # Errors
/// Where a model cannot be loaded.
pub fn models(
    models: Vec<Named<'_>>,
    rounds: usize,
    limits: &Limits,
    threads: usize,
    cancel: &CancelToken,
    done: &mut dyn FnMut(Row),
) -> Result<Vec<Scaled>> {
    let options = LoadOptions { threads: Some(threads), precise: false };
    let mut scaled = Vec::new();
    for (name, open) in &models {
        if cancel.is_cancelled() {
            break;
        }
        scaled.extend(model(name, &**open, &options, rounds, limits, cancel, done)?);
    }
    Ok(scaled)
}

/// Hands a row over; whether to go on.
type Next<'a> = &'a mut dyn FnMut(Result<Row>) -> Result<bool>;

fn kernels(bench: &Kernel<'_>, next: Next<'_>) -> Result<()> {
    for side in SIDES {
        if !next(bench.product(DType::F32, side, side, side, &format!("MatMul {side} F32")))? {
            return Ok(());
        }
    }
    for length in LENGTHS {
        next(bench.elementwise("GELU", &format!("GELU {length}"), length, 1))?;
    }
    for name in ["SiLU", "SwiGLU", "GeGLU"] {
        next(bench.elementwise(name, name, 2048, 64))?;
    }
    for width in [256, 1024, 4096] {
        next(bench.elementwise("RMSNorm", &format!("RMSNorm {width}"), width, 64))?;
        next(bench.elementwise("LayerNorm", &format!("LayerNorm {width}"), width, 64))?;
    }
    for head in [64, 128] {
        next(bench.elementwise("RoPE", &format!("RoPE of heads of {head}"), head, 512))?;
    }
    // The engine has no softmax by itself: attention computes it page by page.
    for positions in [256, 1024, 4096, 16_384] {
        next(Ok(bench.attention(&format!("attention with softmax, {positions} positions"), 64, positions)))?;
    }
    let (rows, k) = MATRIX;
    for dtype in DType::all() {
        if !next(bench.product(dtype, 1, rows, k, &format!("GEMV {rows} × {k} {dtype}")))? {
            return Ok(());
        }
        next(bench.product(dtype, TOKENS, rows, k, &format!("GEMM {TOKENS} × {rows} × {k} {dtype}")))?;
    }
    Ok(())
}

fn tensors(bench: &Kernel<'_>, next: Next<'_>) -> Result<()> {
    const WIDTH: usize = 2048;
    for name in ["add", "scale"] {
        next(bench.elementwise(name, name, WIDTH, 64))?;
    }
    let x = values(WIDTH);
    let mut quants = vec![ActQuants::ZERO; act_blocks(WIDTH)];
    let mut metas = vec![ActMeta::ZERO; act_blocks(WIDTH)];
    let moved = (4 * WIDTH + size_of_val(&*quants) + size_of_val(&*metas)) as f64;
    next(Ok(bench.call("quantize activations", moved, "2,048 values", |k| {
        (k.quantize)(black_box(&x), 0, 1, 0, &mut quants, &mut metas);
        black_box((&quants, &metas));
    })))?;
    let (rows, k) = (64, 2048);
    for dtype in [DType::F32, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K] {
        let usage = || Error::Usage(format!("no {dtype} matrix of {rows} × {k}"));
        let bytes = stored(dtype, rows, k).ok_or_else(usage)?;
        let len = packed_bytes(dtype, rows, k).ok_or_else(usage)?;
        let mut memory = vec![0u8; len + ALIGN];
        let from = memory.as_ptr().align_offset(ALIGN);
        let note = format!("{rows} × {k}");
        let row = bench.call(&format!("pack {dtype} rows"), (bytes.len() + len) as f64, &note, |_| {
            let file = FileRows { dtype, bytes: black_box(&bytes), rows, k, order: RowOrder::Natural };
            pack_rows(file, dtype, 0, &mut memory[from..from + len]);
            black_box(&memory);
        });
        next(Ok(row))?;
        let mut out = vec![0.0f32; rows * k];
        let moved = (bytes.len() + 4 * out.len()) as f64;
        let row = bench.call(&format!("dequantize {dtype} rows"), moved, &note, |_| {
            // Sizes are those of the type, so it cannot refuse.
            let _ = quant::dequantize(dtype, black_box(&bytes), &mut out);
            black_box(&out);
        });
        next(Ok(row))?;
    }
    const HEAD: usize = 64;
    let (words, units) = integer_page_len(HEAD);
    let (head, mut words, mut units) = (values(HEAD), vec![0; words], vec![0.0; units]);
    let moved = (PAGE * HEAD * 2 * (4 + 2)) as f64;
    let row = bench.call("write K and V of one page", moved, "256 positions of one head of 64", |k| {
        for slot in 0..PAGE {
            (k.write_kv)(
                PageMut::I16 { words: &mut words, units: &mut units },
                slot,
                black_box(&head),
                &head,
            );
        }
    });
    next(Ok(row))?;
    let (part, mut out) = (values(HEAD), vec![0.0; HEAD]);
    let moved = (16 * 3 * 4 * HEAD) as f64;
    let row = bench.call("merge 16 pages' attention", moved, "one head of 64", |k| {
        let mut state = Partial::EMPTY;
        for _ in 0..16 {
            let page = Partial { max: 1.0, sum: 2.0 };
            (k.merge_partial)(&mut state, &mut out, page, black_box(&part));
        }
        (k.finish_attention)(state, &mut out);
        black_box(&out);
    });
    next(Ok(row))?;
    Ok(())
}

/// Prefill and decode of one model; its figures, unless it was stopped.
fn model(
    name: &str,
    open: &dyn Fn() -> smallmind::Result<Gguf>,
    options: &LoadOptions,
    rounds: usize,
    limits: &Limits,
    cancel: &CancelToken,
    done: &mut dyn FnMut(Row),
) -> Result<Option<Scaled>> {
    let gguf = open()?;
    let parameters = gguf.tensors().iter().map(|t| t.elements() as u64).sum();
    let bytes = Bytes::of(&gguf)?;
    let model = Model::from_gguf(gguf, options)?;
    let room = model.config().context;
    let (prompt, generate) = (128.min(room / 2), 32.min(room / 2));
    let repeats = Repeats::exactly(1, rounds);
    let settings = Settings { repeats, chunk: 512, prefill: PrefillClass::Exact, kv: None };
    let mut medians = [f64::NAN; 2];
    let tests = [(prompt, 0), (0, generate)];
    for ((prompt, generate), median) in tests.into_iter().zip(&mut medians) {
        let test = Test { prompt, generate, depth: 0, batch: 1 };
        let times = measure(&model, test, settings, cancel)?;
        let tps: Samples = times.iter().map(|t| test.tokens() as f64 / t.as_secs_f64()).collect();
        if tps.0.is_empty() {
            return Ok(None);
        }
        *median = tps.median();
        let mut row = Row::ours("models", name, model.threads(), &test.name(), Unit::TokensPerSecond, tps.0);
        if generate > 0 {
            row.of_limit = limits.share(model.threads(), bytes.at(0, generate), *median);
        }
        done(row);
    }
    let [prefill_tps, decode_tps] = medians;
    let weight_bytes = model.weight_bytes() as u64;
    Ok(Some(Scaled { name: name.to_owned(), parameters, weight_bytes, prefill_tps, decode_tps }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_gives_a_prefill_and_a_decode_and_its_size() {
        let open = || PRESETS[0].build(DType::Q8_0, 1);
        let options = LoadOptions { threads: Some(1), precise: false };
        let mut rows = Vec::new();
        let (limits, cancel) = (Limits::default(), CancelToken::default());
        let scaled = model("small", &open, &options, 2, &limits, &cancel, &mut |row| rows.push(row));
        let scaled = scaled.unwrap().unwrap();
        assert_eq!((scaled.parameters, rows.len()), (470_528, 2));
        assert_eq!((rows[0].test.as_str(), rows[1].test.as_str()), ("pp32", "tg32"));
        assert!(scaled.decode_tps > 0.0 && scaled.prefill_tps > 0.0);
        cancel.cancel();
        assert_eq!(model("small", &open, &options, 2, &limits, &cancel, &mut |_| ()).unwrap(), None);
    }
}
