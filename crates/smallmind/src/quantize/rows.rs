//! Rows of one tensor from one type to another, a slab at a time: what quantizing and converting share. Every value is
//! checked: a weight that is no finite number is refused, not hidden.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use smallmind_formats::FormatError;
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{DType, quant};

use crate::error::{Error, Result};

/// Values of a slab: 16 MiB as F32.
const SLAB: usize = 4 << 20;
/// Values that one task takes.
const TASK: usize = 32 << 10;
/// The first size that F16 rounds to infinity.
const F16_BEYOND: f32 = 65_520.0;

/// Where rows come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The file and tensor, for errors.
    pub(crate) path: &'a Path,
    pub(crate) name: &'a str,
    /// The type of the bytes.
    pub(crate) dtype: DType,
    /// Values a row.
    pub(crate) k: usize,
}

/// Writes whole rows of `data` as `dtype`. `done` is told the bytes of `data` that are written, and returns whether to
/// go on.
#[allow(clippy::too_many_arguments, reason = "each is one thing, and there are two callers")]
pub(crate) fn write_rows(
    from: Rows<'_>,
    data: &[u8],
    dtype: DType,
    importance: Option<&[f32]>,
    pool: &Pool,
    out: &mut impl Write,
    out_path: &Path,
    done: &mut dyn FnMut(usize) -> bool,
) -> Result<()> {
    let Rows { k, .. } = from;
    let (Some(row_in), Some(row_out)) = (from.dtype.bytes_of(k), dtype.bytes_of(k)) else {
        unreachable!("rows are whole blocks of both types")
    };
    let at_once = |values: usize| (values / k.max(1)).max(1);
    let (slab, task) = (at_once(SLAB), at_once(TASK));
    let mut values = vec![0.0f32; slab.min(data.len() / row_in.max(1)) * k];
    let mut bytes = vec![0u8; values.len() / k.max(1) * row_out];
    let mut written = 0;
    for (i, part) in data.chunks(slab * row_in).enumerate() {
        let rows = part.len() / row_in;
        let (values, bytes) = (&mut values[..rows * k], &mut bytes[..rows * row_out]);
        let bad = AtomicUsize::new(usize::MAX);
        pool.chunks2(values, task * k, bytes, task * row_out, &|t, values, bytes| {
            let rows = values.len() / k;
            let part = &part[t * task * row_in..][..rows * row_in];
            if let Some(at) = convert(from.dtype, part, dtype, importance, values, bytes) {
                bad.fetch_min(t * task * k + at, Ordering::Relaxed);
            }
        });
        let bad = bad.into_inner();
        if bad != usize::MAX {
            return Err(not_a_number(from, values[bad], i * slab * k + bad, dtype));
        }
        // What stays as it is, is copied: dequantizing it was the check.
        let stored: &[u8] = if dtype == from.dtype { part } else { bytes };
        out.write_all(stored).map_err(|e| FormatError::io(out_path, "write", e))?;
        written += part.len();
        if !done(written) {
            return Err(Error::Cancelled);
        }
    }
    Ok(())
}

/// Some rows; returns the first value that cannot be stored.
fn convert(
    from: DType,
    part: &[u8],
    to: DType,
    importance: Option<&[f32]>,
    values: &mut [f32],
    bytes: &mut [u8],
) -> Option<usize> {
    if quant::dequantize(from, part, values).is_err() {
        unreachable!("sizes were proven when the file was opened");
    }
    let limit = if to == DType::F16 { F16_BEYOND } else { f32::INFINITY };
    let bad = values.iter().position(|v| v.is_nan() || v.abs() >= limit);
    if bad.is_some() || from == to {
        return bad;
    }
    let stored = match importance {
        None => quant::quantize(to, values, bytes),
        Some(columns) => {
            let rows = values.chunks_exact(columns.len());
            let mut out = bytes.chunks_exact_mut(to.bytes_of(columns.len()).unwrap_or(1));
            rows.zip(&mut out).try_for_each(|(x, out)| quant::quantize_weighted(to, x, columns, out))
        }
    };
    if stored.is_err() {
        unreachable!("rows are whole blocks of both types");
    }
    None
}

fn not_a_number(from: Rows<'_>, value: f32, at: usize, to: DType) -> Error {
    let (row, column) = (at / from.k, at % from.k);
    let message = if value.is_finite() {
        format!("row {row}, column {column} is {value}, more than {to} can hold: take BF16 or F32")
    } else {
        format!("row {row}, column {column} is {value}: the weights are damaged, get the model again")
    };
    FormatError::tensor(from.path, from.name, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(x: &[f32], k: usize, dtype: DType, threads: usize) -> Result<Vec<u8>> {
        let data: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rows = Rows { path: Path::new("m.gguf"), name: "t", dtype: DType::F32, k };
        let mut out = Vec::new();
        let pool = Pool::new(threads).unwrap();
        write_rows(rows, &data, dtype, None, &pool, &mut out, Path::new("o"), &mut |_| true)?;
        Ok(out)
    }

    #[test]
    fn slabs_and_threads_change_no_byte() {
        let x: Vec<f32> = (0..1024 * 5000i64).map(|i| ((i * 7919) % 1013) as f32 - 500.0).collect();
        let one = write(&x, 1024, DType::Q4_0, 1).unwrap();
        assert_eq!(one.len(), x.len() / 32 * 18);
        let mut whole = vec![0; one.len()];
        quant::quantize(DType::Q4_0, &x, &mut whole).unwrap();
        assert!(one == whole);
        assert!(write(&x, 1024, DType::Q4_0, 3).unwrap() == one);
    }

    #[test]
    fn a_weight_that_cannot_be_stored_is_named() {
        let mut x = vec![0.5f32; 320];
        x[257] = f32::NAN;
        let text = write(&x, 32, DType::Q8_0, 2).unwrap_err().to_string();
        assert!(text.contains("tensor `t`: row 8, column 1 is NaN"), "{text}");
        x[257] = 70_000.0;
        assert!(write(&x, 32, DType::F16, 1).unwrap_err().to_string().contains("more than F16 can hold"));
        assert!(write(&x, 32, DType::BF16, 1).is_ok());
    }
}
