//! Single operations on one thread: products against the measured peaks and the bandwidth, element-wise operations
//! against the bandwidth of the cache that their data sits in.

use std::hint::black_box;
use std::time::{Duration, Instant};

use smallmind_kernels::attention::{PAGE, PageRef, PageTask, Partial, Queries, integer_page_len, padded};
use smallmind_kernels::matmul::{
    ActMeta, ActQuants, Acts, Class, FileRows, PackedRef, Product, RowOrder, TILE, act_blocks, act_len,
    act_rows, matmul, pack_rows, packed_bytes, takes_quantized,
};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{ALIGN, DType, Kernels, kernels, quant};

use super::roofline::{Arithmetic, Limits};
use super::stats::Samples;
use crate::results::{Row, Unit};
use crate::{Error, Result};

/// Sides of the square products of [`measure`].
const SIDES: [usize; 4] = [128, 256, 512, 1024];
/// Values a row of the element-wise operations, and rows: 64 rows of 2,048 are 0.5 MB, within a core's second cache.
const WIDTH: usize = 2048;
const ROWS: usize = 64;
/// Positions of [`measure`]'s attention.
const POSITIONS: usize = 2048;
/// How long one sample lasts at least.
const LEAST: Duration = Duration::from_millis(20);

/// The usual rows, `rounds` samples each.
///
/// # Errors
/// Where `SMALLMIND_ISA` names what this CPU lacks, or the first error of `done`.
pub fn measure(rounds: usize, limits: &Limits, mut done: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let bench = Kernel::new(rounds, limits)?;
    for side in SIDES {
        done(bench.product(DType::F32, side, side, side, &format!("MatMul {side} F32"))?)?;
    }
    for operation in ["add", "RMSNorm", "GELU", "SwiGLU", "scale"] {
        done(bench.elementwise(operation, operation, WIDTH, ROWS)?)?;
    }
    done(bench.attention("attention with softmax", 64, POSITIONS))
}

/// Measures single operations.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    kernels: &'static Kernels,
    rounds: usize,
    limits: &'a Limits,
}

impl<'a> Kernel<'a> {
    /// With so many samples each, against these limits of one thread.
    ///
    /// # Errors
    /// Where `SMALLMIND_ISA` names what this CPU lacks.
    pub fn new(rounds: usize, limits: &'a Limits) -> Result<Kernel<'a>> {
        Ok(Kernel { kernels: kernels().map_err(smallmind::Error::from)?, rounds, limits })
    }

    /// C[tokens, rows] = A[tokens, k] · B[rows, k]ᵀ with B stored as `dtype`.
    ///
    /// # Errors
    /// Where `k` is no whole number of the type's blocks.
    pub fn product(&self, dtype: DType, tokens: usize, rows: usize, k: usize, test: &str) -> Result<Row> {
        let usage = || Error::Usage(format!("no {dtype} matrix of {rows} × {k}"));
        let len = packed_bytes(dtype, rows, k).ok_or_else(usage)?;
        let bytes = stored(dtype, rows, k).ok_or_else(usage)?;
        let mut memory = vec![0u8; len + ALIGN];
        let from = memory.as_ptr().align_offset(ALIGN);
        let packed = &mut memory[from..from + len];
        pack_rows(FileRows { dtype, bytes: &bytes, rows, k, order: RowOrder::Natural }, dtype, 0, packed);
        let w = PackedRef::new(dtype, rows, k, packed).ok_or_else(usage)?;
        let x = values(tokens * k);
        let (quants, metas) = self.quantized(&x, k);
        let pool = Pool::new(1).map_err(|cause| Error::System { what: "a thread".into(), cause })?;
        let mut out = vec![0.0; tokens * rows];
        let quantized = takes_quantized(dtype);
        let seconds = time(
            self.rounds,
            &mut out,
            |_| (),
            |out| {
                let (quants, metas) = if quantized { (&quants[..], &metas[..]) } else { Default::default() };
                let acts = Acts { tokens, x: black_box(&x), quants, metas, class: Class::Exact };
                let product = Product { w, bias: None, out, stride: rows, accumulate: false };
                matmul(self.kernels, &pool, acts, &mut [product]);
                black_box(out);
            },
        );
        let ops = 2.0 * tokens as f64 * rows as f64 * k as f64;
        let moved = len as f64 + 4.0 * (tokens * (rows + k)) as f64;
        let arithmetic = if quantized { Arithmetic::Int8 } else { Arithmetic::F32 };
        let rates = seconds.iter().map(|s| ops / s / 1e9);
        let mut row = Row::ours("kernels", "kernels", 1, test, Unit::Gflops, rates);
        let median = Samples(seconds).median();
        // Activations are two bytes, and each is multiplied.
        let executed = if quantized { 2.0 * ops } else { ops };
        if let Some((least, bound)) = self.limits.least_seconds(1, arithmetic, executed, moved, moved) {
            row.of_limit = Some(least / median);
            let (us, gb) = (1e6 * median, moved / median / 1e9);
            row.note = format!("{us:.1} µs, {gb:.1} GB/s, bound by {}", bound.words());
        }
        Ok(row)
    }

    /// Activations as products with quantized weights take them.
    fn quantized(&self, x: &[f32], k: usize) -> (Vec<ActQuants>, Vec<ActMeta>) {
        let tokens = x.len() / k;
        let len = act_len(tokens, k, Class::Exact);
        let (mut quants, mut metas) = (vec![ActQuants::ZERO; len], vec![ActMeta::ZERO; len]);
        let height = act_rows(tokens, Class::Exact).min(TILE);
        let tile = height * act_blocks(k);
        for (t, x) in x.chunks_exact(k).enumerate() {
            let at = t / TILE * tile..(t / TILE + 1) * tile;
            (self.kernels.quantize)(x, 0, height, t % TILE, &mut quants[at.clone()], &mut metas[at]);
        }
        (quants, metas)
    }

    /// One operation on `rows` rows of `width` values, named as `operation` knows it.
    ///
    /// # Errors
    /// Where there is no such operation.
    pub fn elementwise(&self, name: &str, test: &str, width: usize, rows: usize) -> Result<Row> {
        let (streams, call) = operation(name)
            .ok_or_else(|| Error::Usage(format!("there is no element-wise operation {name}")))?;
        let (mut x, y) = (values(width * rows), values(width * rows));
        let ones = vec![1.0; width];
        // Operations that change their input begin from the same values every time: what is applied again and again to its
        // own result ends in denormal numbers.
        let seconds = time(
            self.rounds,
            &mut x,
            |x| x.copy_from_slice(&y),
            |x| {
                for (x, y) in x.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
                    call(self.kernels, x, y, &ones);
                }
                black_box(x);
            },
        );
        let note = format!("{streams} streams of {rows} × {width}; the limit is read-only");
        Ok(self.rates(test, (streams * 4 * width * rows) as f64, &seconds, note))
    }

    /// One query attends to `positions` positions, softmax included.
    pub fn attention(&self, test: &str, head_dim: usize, positions: usize) -> Row {
        let (words, units) = integer_page_len(head_dim);
        let pages = vec![(vec![4000; words], vec![1e-4; units]); positions.div_ceil(PAGE)];
        let (q, mut out) = (values(head_dim), vec![0.0; padded(head_dim)]);
        let seconds = time(
            self.rounds,
            &mut out,
            |_| (),
            |out| {
                for (words, units) in &pages {
                    let mut state = [Partial::EMPTY];
                    let page = PageRef::I16 { words, units };
                    let seen = std::slice::from_ref(&(0..PAGE));
                    let task = &mut PageTask {
                        page,
                        q: Queries { rows: &q, group: 1, stride: head_dim },
                        head_dim,
                        seen,
                        state: &mut state,
                        out,
                    };
                    (self.kernels.attend_page)(task);
                }
                black_box(out);
            },
        );
        let note = format!("one query of {head_dim} values, {positions} positions in 16 bits");
        self.rates(test, ((2 * words + 4 * units) * pages.len()) as f64, &seconds, note)
    }

    /// A call that moves so many bytes.
    pub fn call(&self, test: &str, bytes: f64, note: &str, mut call: impl FnMut(&Kernels)) -> Row {
        let seconds = time(self.rounds, &mut (), |()| (), |()| call(self.kernels));
        self.rates(test, bytes, &seconds, note.to_owned())
    }

    fn rates(&self, test: &str, bytes: f64, seconds: &[f64], note: String) -> Row {
        let rates: Samples = seconds.iter().map(|s| bytes / s / 1e9).collect();
        let of_limit = self.limits.bandwidth(1, bytes).map(|b| rates.median() * 1e9 / b);
        let row = Row::ours("kernels", "kernels", 1, test, Unit::GigabytesPerSecond, rates.0);
        Row { of_limit, note, ..row }
    }
}

/// A call on one row: what is read and written, what is only read, and ones.
type Operation = fn(&Kernels, &mut [f32], &[f32], &[f32]);

/// Streams that go between core and cache (read or written), and the call.
fn operation(name: &str) -> Option<(usize, Operation)> {
    Some(match name {
        "add" => (3, |k, x, y, _| (k.add)(x, y)),
        "RMSNorm" => (2, |k, x, y, ones| (k.rms_norm)(y, ones, 1e-5, x)),
        "LayerNorm" => (2, |k, x, y, ones| (k.layer_norm)(y, ones, ones, 1e-5, x)),
        "GELU" => (2, |k, x, _, _| (k.gelu)(x)),
        "SiLU" => (2, |k, x, _, _| (k.silu)(x)),
        "SwiGLU" => (3, |k, x, y, _| (k.silu_mul)(x, y)),
        "GeGLU" => (3, |k, x, y, _| (k.gelu_mul)(x, y)),
        "scale" => (2, |k, x, _, _| (k.scale)(x, 1.0)),
        // The ones stand for cosines and sines: the arithmetic is the same.
        "RoPE" => (2, |k, x, _, ones| {
            let half = x.len() / 2;
            (k.rope)(x, &ones[..half], &ones[..half]);
        }),
        _ => return None,
    })
}

/// Seconds of one call, `rounds` times: the best of the calls within each sample, each on a state made ready before.
fn time<S>(rounds: usize, state: &mut S, ready: impl Fn(&mut S), mut call: impl FnMut(&mut S)) -> Vec<f64> {
    let one = |_| {
        let (start, mut best) = (Instant::now(), f64::INFINITY);
        while start.elapsed() < LEAST {
            ready(state);
            let call_start = Instant::now();
            call(state);
            best = best.min(call_start.elapsed().as_secs_f64());
        }
        best
    };
    // The first sample warms up.
    (0..=rounds).map(one).skip(1).collect()
}

/// Numbers all over ±0.5, always the same.
pub(crate) fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5).collect()
}

/// A matrix as a file stores it: some rows, repeated, because finding the best scales of a type may take long.
pub(crate) fn stored(dtype: DType, rows: usize, k: usize) -> Option<Vec<u8>> {
    const DISTINCT: usize = 16;
    let distinct = rows.min(DISTINCT);
    let values = values(distinct * k);
    let bytes = if takes_quantized(dtype) {
        let mut bytes = vec![0; dtype.bytes_of(distinct * k)?];
        quant::quantize(dtype, &values, &mut bytes).ok()?;
        bytes
    } else {
        match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            // The upper half of an F32 is a BF16; as an F16 the same bits are some other number of the same cost.
            _ => values.iter().flat_map(|v| [v.to_le_bytes()[2], v.to_le_bytes()[3]]).collect(),
        }
    };
    let row = dtype.bytes_of(k)?;
    Some(bytes.chunks_exact(row).cycle().take(rows).flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_the_table_gives_a_row_with_a_figure() {
        let mut rows = Vec::new();
        measure(1, &Limits::default(), |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows.len(), SIDES.len() + 5 + 1);
        assert!(rows.iter().all(|r| r.median() > 0.0 && r.median().is_finite()));
    }

    #[test]
    fn every_stored_type_can_be_multiplied_by_one_token_and_by_many() {
        let limits = Limits::default();
        let bench = Kernel::new(1, &limits).unwrap();
        for dtype in DType::all() {
            for tokens in [1, 3] {
                let row = bench.product(dtype, tokens, 32, 256, dtype.name()).unwrap();
                assert!(row.median() > 0.0, "{dtype}");
            }
        }
        assert!(bench.product(DType::Q4_K, 1, 32, 100, "x").unwrap_err().to_string().contains("Q4_K"));
        assert!(bench.elementwise("sigmoid", "x", 8, 1).is_err());
    }
}
