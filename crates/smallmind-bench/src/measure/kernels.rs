//! Single operations on one thread: products in F32 against the measured peak of fused multiply-adds, element-wise
//! operations against the bandwidth of the cache that their data sits in.

use std::hint::black_box;
use std::time::{Duration, Instant};

use smallmind_kernels::attention::{PAGE, PageRef, PageTask, Partial, padded, page_len};
use smallmind_kernels::matmul::{
    Acts, Class, FileRows, PackedRef, Product, RowOrder, matmul, pack_rows, packed_bytes,
};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{ALIGN, DType, Kernels, kernels};

use super::roofline::{Arithmetic, Limits};
use super::stats::Samples;
use crate::results::{Row, Unit};
use crate::{Error, Result};

/// Sides of the square products.
const SIDES: [usize; 4] = [128, 256, 512, 1024];
/// Values a row of the element-wise operations, and rows: 64 rows of 2,048 are 0.5 MB, within a core's second cache.
const WIDTH: usize = 2048;
const ROWS: usize = 64;
/// How long one sample lasts at least.
const LEAST: Duration = Duration::from_millis(20);

/// Every row, `rounds` samples each.
///
/// # Errors
/// Where `SMALLMIND_ISA` names what this CPU lacks, or the first error of `done`.
pub fn measure(rounds: usize, limits: &Limits, mut done: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let kernels = kernels().map_err(smallmind::Error::from)?;
    let peak = limits.peak(1, Arithmetic::F32);
    for side in SIDES {
        let (samples, operations) = (product(kernels, side, rounds)?, 2.0 * (side as f64).powi(3));
        let gflops: Samples = samples.iter().map(|s| operations / s / 1e9).collect();
        let of_limit = peak.map(|peak| gflops.median() / peak.gops);
        let note =
            peak.map_or(String::new(), |p| format!("FMA peak {:.0} GFLOP/s with {}", p.gops, p.instructions));
        done(row(&format!("MatMul {side} F32"), Unit::Gflops, gflops, of_limit, note))?;
    }
    for (name, streams, operation) in operations() {
        let samples = elementwise(kernels, operation, rounds);
        let bytes = (streams * 4 * WIDTH * ROWS) as f64;
        let rates: Samples = samples.iter().map(|s| bytes / s / 1e9).collect();
        let of_limit = limits.bandwidth(1, bytes).map(|b| rates.median() * 1e9 / b);
        let note = format!("{streams} streams of {ROWS} × {WIDTH}; the limit is read-only");
        done(row(name, Unit::GigabytesPerSecond, rates, of_limit, note))?;
    }
    let (samples, bytes) = attention(kernels, rounds);
    let rates: Samples = samples.iter().map(|s| bytes / s / 1e9).collect();
    let of_limit = limits.bandwidth(1, bytes).map(|b| rates.median() * 1e9 / b);
    let note = "one query of 64 values, 2,048 positions in F16".to_owned();
    done(row("attention with softmax", Unit::GigabytesPerSecond, rates, of_limit, note))?;
    Ok(())
}

fn row(test: &str, unit: Unit, ours: Samples, of_limit: Option<f64>, note: String) -> Row {
    Row { of_limit, note, ..Row::ours("kernels", "kernels", 1, test, unit, ours.0) }
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

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5).collect()
}

fn product(kernels: &Kernels, side: usize, rounds: usize) -> Result<Vec<f64>> {
    let bytes: Vec<u8> = values(side * side).iter().flat_map(|v| v.to_le_bytes()).collect();
    let len =
        packed_bytes(DType::F32, side, side).ok_or_else(|| Error::Usage("the matrix is too large".into()))?;
    let mut memory = vec![0u8; len + ALIGN];
    let from = memory.as_ptr().align_offset(ALIGN);
    let packed = &mut memory[from..from + len];
    let rows = FileRows { dtype: DType::F32, bytes: &bytes, rows: side, k: side, order: RowOrder::Natural };
    pack_rows(rows, DType::F32, 0, packed);
    let Some(w) = PackedRef::new(DType::F32, side, side, packed) else {
        unreachable!("packed rows have the size of their shape");
    };
    let (x, mut out, pool) = (
        values(side * side),
        vec![0.0; side * side],
        Pool::new(1).map_err(|cause| Error::System { what: "a thread".into(), cause })?,
    );
    let call = |out: &mut Vec<f32>| {
        let acts = Acts { tokens: side, x: black_box(&x), quants: &[], metas: &[], class: Class::Exact };
        matmul(kernels, &pool, acts, &mut [Product { w, bias: None, out, stride: side, accumulate: false }]);
        black_box(out);
    };
    Ok(time(rounds, &mut out, |_| (), call))
}

/// One operation on a row: what is read and written, and what is only read.
type Operation = fn(&Kernels, &mut [f32], &[f32]);

/// Name, streams that go between core and cache (read or written), and the call.
fn operations() -> [(&'static str, usize, Operation); 5] {
    [
        ("add", 3, |k, x, y| (k.add)(x, y)),
        ("RMSNorm", 2, |k, x, y| (k.rms_norm)(y, &ONES, 1e-5, x)),
        ("GELU", 2, |k, x, _| (k.gelu)(x)),
        ("SwiGLU", 3, |k, x, y| (k.silu_mul)(x, y)),
        ("scale", 2, |k, x, _| (k.scale)(x, 1.0)),
    ]
}

static ONES: [f32; WIDTH] = [1.0; WIDTH];

/// Seconds of one pass over all rows. Operations that change their input begin from the same values every time: what is
/// applied again and again to its own result ends in denormal numbers.
fn elementwise(kernels: &Kernels, operation: Operation, rounds: usize) -> Vec<f64> {
    let (mut x, y) = (values(WIDTH * ROWS), values(WIDTH * ROWS));
    let ready = |x: &mut Vec<f32>| x.copy_from_slice(&y);
    time(rounds, &mut x, ready, |x| {
        for (x, y) in x.chunks_exact_mut(WIDTH).zip(y.chunks_exact(WIDTH)) {
            operation(kernels, x, y);
        }
        black_box(x);
    })
}

/// Seconds in which one query attends to all pages, softmax included, and the bytes of K and V it reads.
fn attention(kernels: &Kernels, rounds: usize) -> (Vec<f64>, f64) {
    const HEAD_DIM: usize = 64;
    const PAGES: usize = 8;
    // Half precision of 0.25.
    let pages = vec![0x3400u16; PAGES * page_len(HEAD_DIM)];
    let (q, mut out) = (values(HEAD_DIM), vec![0.0; padded(HEAD_DIM)]);
    let call = |out: &mut Vec<f32>| {
        for page in pages.chunks_exact(page_len(HEAD_DIM)) {
            let mut state = [Partial::EMPTY];
            let page = PageRef::F16(page);
            let seen = std::slice::from_ref(&(0..PAGE));
            (kernels.attend_page)(&mut PageTask {
                page,
                q: &q,
                head_dim: HEAD_DIM,
                seen,
                state: &mut state,
                out,
            });
        }
        black_box(out);
    };
    (time(rounds, &mut out, |_| (), call), (2 * pages.len()) as f64)
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
        assert_eq!(rows.len(), SIDES.len() + operations().len() + 1);
        assert!(rows.iter().all(|r| r.median() > 0.0 && r.median().is_finite()));
    }
}
