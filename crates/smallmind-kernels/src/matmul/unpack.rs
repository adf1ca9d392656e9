//! From the packed layout back to a file's rows, or to their values: the inverse of `pack.rs`, for files that hold packed
//! weights. Reads nothing but the layouts' own units; plain Rust, one row at a time.

use super::PackedRef;
use super::acts::BLOCK;
use super::float::{FloatFormat, FloatUnit, UNIT_K};
use super::format::{Format, GROUP, Pod, RowGroup};
use super::format::{Q8, Q40, Q41, Q50, Q51};
use super::kquant::{Q2K, Q3K, Q4K, Q5K, Q6K};
use crate::aligned::cast;
use crate::dtype::DType;
use crate::isa::scalar::Scalar;
use crate::quant::{self, Unpacked};

/// The packed layouts' version: raised with every change of what [`super::pack_rows`] writes for any type, so that
/// stored weights of another layout are told apart. A test compares digests of what is written.
pub const LAYOUT: u32 = 2;

/// What a packed format keeps of a block besides its quants.
trait Integers: Format {
    /// Scales and mins of the `block`-th block of the file's type in the unit, row `lane`.
    fn factors(unit: &Self::Unit, lane: usize, block: usize, to: &mut Unpacked);
}

/// Writes one row of a packed matrix as the file's type stores it: the bytes that were packed into row `row`.
///
/// # Panics
/// Where `row` is not one of the matrix or `out` is not the size of a row.
pub fn unpack_row(from: PackedRef<'_>, row: usize, out: &mut [u8]) {
    let dtype = from.dtype();
    assert!(dtype.bytes_of(from.k()) == Some(out.len()), "unpack: sizes");
    let (group, lane) = lane_of(from, row);
    by_format!(dtype,
        F => integers::<F, _>(dtype, group, lane, out.chunks_exact_mut(dtype.block_bytes()), |integers, block| {
            if quant::pack(dtype, integers, block).is_err() {
                unreachable!("a whole block of a quantized type");
            }
        }),
        G => floats::<G>(dtype.block_bytes(), group, lane, out));
}

/// Writes the values of one row of a packed matrix: the bits that [`quant::dequantize`] makes of the bytes that were
/// packed into row `row`. Allocates nothing.
///
/// # Panics
/// Where `row` is not one of the matrix or `out` has not `k` values.
pub fn dequantize_row(from: PackedRef<'_>, row: usize, out: &mut [f32]) {
    let dtype = from.dtype();
    assert!(out.len() == from.k(), "dequantize: sizes");
    let (group, lane) = lane_of(from, row);
    by_format!(dtype,
    F => {
        let Some(form) = quant::form(dtype) else { unreachable!("a quantized type") };
        integers::<F, _>(dtype, group, lane, out.chunks_exact_mut(form.len), |integers, block| {
            quant::values(form, integers, block);
        });
    },
    G => {
        let size = dtype.block_bytes();
        let mut stored = [0; UNIT_K * size_of::<f32>()];
        for (out, unit) in out.chunks_mut(UNIT_K).zip(group.chunks_exact(UNIT_K * GROUP * size)) {
            let stored = &mut stored[..out.len() * size];
            floats::<G>(size, unit, lane, stored);
            if quant::dequantize(dtype, stored, out).is_err() {
                unreachable!("as many bytes as values");
            }
        }
    });
}

/// The bytes of the group that holds a row, and the row's place in it.
fn lane_of(from: PackedRef<'_>, row: usize) -> (&[u8], usize) {
    assert!(row < from.rows(), "unpack: row");
    let per_group = super::group_bytes(from.dtype(), from.k()).unwrap_or(0);
    (&from.bytes()[row / GROUP * per_group..][..per_group], row % GROUP)
}

/// Passes the integers of a row's blocks on, each with what is to be made of it.
fn integers<'a, F: Integers, T: 'a + ?Sized>(
    dtype: DType,
    group: &[u8],
    lane: usize,
    blocks: impl Iterator<Item = &'a mut T>,
    make: impl Fn(&Unpacked, &mut T),
) {
    let units = RowGroup::<F::Unit>::view(group).units;
    let len = dtype.block_len();
    let per_unit = F::BLOCKS * BLOCK / len;
    let mut integers = Unpacked::default();
    for (i, out) in blocks.enumerate() {
        let (unit, block) = (&units[i / per_unit], i % per_unit);
        for (part, q) in integers.q[..len].chunks_exact_mut(BLOCK).enumerate() {
            let vectors = F::unpack(Scalar::assume(), unit, block * (len / BLOCK) + part);
            for (four, vector) in q.chunks_exact_mut(4).zip(&vectors) {
                four.copy_from_slice(&vector[4 * lane..4 * lane + 4]);
            }
        }
        F::factors(unit, lane, block, &mut integers);
        make(&integers, out);
    }
}

fn floats<F: FloatFormat>(size: usize, group: &[u8], lane: usize, out: &mut [u8])
where
    FloatUnit<F::Item>: Pod,
{
    let Some(units) = cast::<FloatUnit<F::Item>>(group) else {
        unreachable!("a view of packed bytes is aligned")
    };
    for (k, bytes) in out.chunks_exact_mut(size).enumerate() {
        F::put(units[k / UNIT_K].w[k % UNIT_K][lane], bytes);
    }
}

/// Types whose blocks of 32 have a scale, and some a minimum; `$d` and `$m` say where of unit `u`, block `b`, row `l`.
macro_rules! plain_factors {
    ($($format:ty: |$u:ident, $b:ident, $l:ident| $d:expr, $m:expr;)*) => {$(
        impl Integers for $format {
            fn factors($u: &Self::Unit, $l: usize, $b: usize, to: &mut Unpacked) {
                (to.d, to.m) = ($d, $m);
            }
        }
    )*};
}

plain_factors! {
    Q8: |u, b, l| u.d[b][l], 0;
    Q40: |u, b, l| u.d[b][l], 0;
    Q41: |u, _b, l| u.d[l], u.m[l];
    Q50: |u, b, l| u.d[b][l], 0;
    Q51: |u, _b, l| u.d[l], u.m[l];
}

impl Integers for Q2K {
    fn factors(u: &Self::Unit, lane: usize, _block: usize, to: &mut Unpacked) {
        for (i, (s, m)) in to.scales.iter_mut().zip(&mut to.mins).enumerate() {
            *s = u.s[i / 2][i % 2][lane].cast_signed();
            *m = u.m[i / 2][i % 2][lane];
        }
        (to.d, to.m) = (u.d[lane], u.dmin[lane]);
    }
}

/// Types with signed scales per 16 values.
macro_rules! signed_factors {
    ($($format:ty),*) => {$(
        impl Integers for $format {
            fn factors(u: &Self::Unit, lane: usize, _block: usize, to: &mut Unpacked) {
                for (i, s) in to.scales.iter_mut().enumerate() {
                    *s = u.s[i / 2][i % 2][lane];
                }
                to.d = u.d[lane];
            }
        }
    )*};
}

signed_factors!(Q3K, Q6K);

/// Types with scales and mins per 32 values.
macro_rules! affine_factors {
    ($($format:ty),*) => {$(
        impl Integers for $format {
            fn factors(u: &Self::Unit, lane: usize, _block: usize, to: &mut Unpacked) {
                for (b, (s, m)) in u.s.iter().zip(&u.m).enumerate() {
                    (to.scales[b], to.mins[b]) = (s[lane].cast_signed(), m[lane]);
                }
                (to.d, to.m) = (u.d[lane], u.dmin[lane]);
            }
        }
    )*};
}

affine_factors!(Q4K, Q5K);
