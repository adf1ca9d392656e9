//! C[m, n] = A[m, k] · B[n, k]ᵀ for packed weights B: the driver that checks shapes once and splits rows over threads.
//!
//! Rows are split, never `k`: an output is one chain of sums whatever the threads and the number of tokens.

/// The one table from a stored type to its packed layout: `$quantized` with `$F` naming the [`format::Format`], or
/// `$unquantized` with `$G` naming the [`float::FloatFormat`].
macro_rules! by_format {
    ($dtype:expr, $F:ident => $quantized:expr, $G:ident => $unquantized:expr) => {{
        use $crate::dtype::DType;
        use $crate::matmul::{float, format, kquant};
        macro_rules! quantized {
            ($format:path) => {{
                type $F = $format;
                $quantized
            }};
        }
        macro_rules! unquantized {
            ($format:path) => {{
                #[allow(dead_code, reason = "to some all of these types are alike")]
                type $G = $format;
                $unquantized
            }};
        }
        match $dtype {
            DType::F32 => unquantized!(float::F32),
            DType::F16 => unquantized!(float::F16),
            DType::BF16 => unquantized!(float::BF16),
            DType::Q8_0 => quantized!(format::Q8),
            DType::Q4_0 => quantized!(format::Q40),
            DType::Q4_1 => quantized!(format::Q41),
            DType::Q5_0 => quantized!(format::Q50),
            DType::Q5_1 => quantized!(format::Q51),
            DType::Q2_K => quantized!(kquant::Q2K),
            DType::Q3_K => quantized!(kquant::Q3K),
            DType::Q4_K => quantized!(kquant::Q4K),
            DType::Q5_K => quantized!(kquant::Q5K),
            DType::Q6_K => quantized!(kquant::Q6K),
        }
    }};
}

pub(crate) use by_format;

pub(crate) mod acts;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub(crate) mod float;
pub(crate) mod format;
mod gated;
#[cfg(target_arch = "aarch64")]
mod i8mm;
pub(crate) mod int8;
pub(crate) mod kquant;
mod many;
mod pack;
pub(crate) mod tile;
mod unpack;

pub use acts::{
    ActBlock, ActMeta, ActQuants, BLOCK, QuantizedActs, SPAN, TILE, act_blocks, act_len, act_rows,
};
pub use format::GROUP;
pub use gated::{Gated, gated_room, matmul_gated};
pub use pack::{FileRows, RowOrder, pack_rows};
pub use unpack::{LAYOUT, dequantize_row, unpack_row};

use std::ops::Range;

use crate::aligned::ALIGN;
use crate::dtype::DType;
use crate::isa::stream::Stream;
use crate::table::Kernels;
use crate::threads::Pool;
use float::{FloatFormat, FloatUnit};
use format::Format;
use tile::{OutPtr, Piece};

/// Row groups of a matrix of `rows` rows.
pub fn groups(rows: usize) -> usize {
    rows.div_ceil(GROUP)
}

/// Bytes that one row group of `k` values a row takes in the packed layout of `dtype`; `None` on overflow.
pub fn group_bytes(dtype: DType, k: usize) -> Option<usize> {
    let (head, unit_k, unit_bytes) = by_format!(dtype,
        F => (format::HEAD, F::BLOCKS * BLOCK, size_of::<<F as Format>::Unit>()),
        G => (0, float::UNIT_K, size_of::<FloatUnit<<G as FloatFormat>::Item>>()));
    k.div_ceil(unit_k).checked_mul(unit_bytes)?.checked_add(head)
}

/// Bytes of a packed `[rows, k]` matrix, a multiple of [`ALIGN`]; `None` on overflow.
pub fn packed_bytes(dtype: DType, rows: usize, k: usize) -> Option<usize> {
    group_bytes(dtype, k)?.checked_mul(groups(rows))
}

/// The numeric class of a product: which bits it has. (docs/determinism.md)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Class {
    /// The bits of the contract, the same on every instruction set.
    #[default]
    Exact,
    /// That of [`Kernels::fast`]: fewer bits of activations, and of weights.
    Fast,
}

/// Whether the weights multiply quantized activations (or else F32 ones).
pub fn takes_quantized(dtype: DType) -> bool {
    !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// A packed `[rows, k]` matrix.
#[derive(Clone, Copy, Debug)]
pub struct PackedRef<'a> {
    dtype: DType,
    rows: usize,
    k: usize,
    bytes: &'a [u8],
}

impl<'a> PackedRef<'a> {
    /// A view of packed bytes; `None` where their length or alignment is not that of the shape.
    pub fn new(dtype: DType, rows: usize, k: usize, bytes: &'a [u8]) -> Option<PackedRef<'a>> {
        let fits = packed_bytes(dtype, rows, k) == Some(bytes.len())
            && bytes.as_ptr().addr().is_multiple_of(ALIGN)
            && k.is_multiple_of(dtype.block_len());
        fits.then_some(PackedRef { dtype, rows, k, bytes })
    }

    /// The packed type: that of the file, or F32.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Values a row: inputs.
    pub fn k(&self) -> usize {
        self.k
    }
    /// The packed bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// The inputs of one or more products, `tokens` rows: quantized, as they are, or both, as the weights need.
#[derive(Clone, Copy, Debug)]
pub struct Acts<'a> {
    /// Rows of the input.
    pub tokens: usize,
    /// `[tokens, k]`, for unquantized weights.
    pub x: &'a [f32],
    /// [`act_len`] blocks for quantized weights, with what belongs to them.
    pub quants: &'a [ActQuants],
    /// As many as `quants`.
    pub metas: &'a [ActMeta],
    /// Of the fast class `quants` hold what [`FastKernels::round`](crate::FastKernels::round) makes, for the weights that
    /// it takes.
    pub class: Class,
}

/// One product of a [`matmul`] call.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights, `[rows, k]`.
    pub w: PackedRef<'a>,
    /// Added to every token's outputs, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// `[tokens, stride]` with `stride >= rows`: the first `rows` of each token are written.
    pub out: &'a mut [f32],
    /// Values from one token's outputs to the next one's.
    pub stride: usize,
    /// Adds to `out` (a residual) where it would overwrite.
    pub accumulate: bool,
}

/// Computes several products of the same input in one fork and join.
///
/// # Panics
/// Where a shape does not fit: the model's plan proves them at load, so that would be a defect of ours.
pub fn matmul(kernels: &Kernels, pool: &Pool, acts: Acts<'_>, products: &mut [Product<'_>]) {
    if acts.tokens == 0 {
        return;
    }
    assert!(products.len() <= MAX_PRODUCTS, "matmul: too many products at once");
    products.iter().for_each(|p| check(kernels, acts, p, p.out.len()));
    let total_bytes = products.iter().map(|p| p.w.bytes().len()).sum::<usize>();
    let outs: [OutPtr; MAX_PRODUCTS] = std::array::from_fn(|i| {
        OutPtr(products.get_mut(i).map_or(std::ptr::null_mut(), |p| p.out.as_mut_ptr()))
    });
    let products = &*products;
    let threads = pool.threads();
    let of_class = of_class(kernels, acts.class);
    // Each thread begins with an equal share of the bytes, in whole row groups, across all products.
    let all_groups = products.iter().map(|p| groups(p.w.rows())).sum::<usize>();
    let start = |thread: usize| {
        let mut left = total_bytes * thread / threads;
        let mut start = 0;
        for p in products {
            let (bytes, count) = (p.w.bytes().len(), groups(p.w.rows()));
            start += left.div_ceil((bytes / count.max(1)).max(1)).min(count);
            left = left.saturating_sub(bytes);
        }
        start
    };
    let (at_once, least) = least(acts, products.iter(), all_groups, total_bytes);
    let start = |thread| if thread < threads { start(thread) / at_once * at_once } else { start(thread) };
    let work = |_: usize, range: Range<usize>| {
        let mut first = 0;
        for (p, out) in products.iter().zip(outs) {
            let count = groups(p.w.rows());
            let cut = |at: usize| at.saturating_sub(first).min(count);
            let own = cut(range.start)..cut(range.end);
            if !own.is_empty() {
                of_class(&piece(acts, p, own, out, p.stride, 0));
            }
            first += count;
        }
    };
    share_out(pool, acts.tokens, &start, least, &work);
}

/// Few tokens take microseconds.
fn share_out(
    pool: &Pool,
    tokens: usize,
    start: &(dyn Fn(usize) -> usize + Sync),
    least: usize,
    work: &(dyn Fn(usize, Range<usize>) + Sync),
) {
    if tokens <= FEW_TOKENS { pool.short(start, least, work) } else { pool.balanced(start, least, work) }
}

/// Tokens that make a product no longer than its weights take to come from memory.
const FEW_TOKENS: usize = 2;

/// Panics where a product does not fit the input or an output of `len` values.
fn check(kernels: &Kernels, acts: Acts<'_>, p: &Product<'_>, len: usize) {
    let (rows, k) = (p.w.rows(), p.w.k());
    assert!(p.stride >= rows && len >= (acts.tokens - 1) * p.stride + rows, "matmul: output too small");
    assert!(p.bias.is_none_or(|b| b.len() == rows), "matmul: bias of another length");
    let of_class = match acts.class {
        Class::Exact => takes_quantized(p.w.dtype()),
        Class::Fast => kernels.fast.takes(p.w.dtype()),
    };
    if of_class {
        assert!(quantized(acts, k).is_some(), "matmul: quantized input of another shape");
    } else {
        assert!(acts.x.len() == acts.tokens * k, "matmul: input of another shape");
    }
}

/// What computes pieces.
fn of_class(kernels: &Kernels, class: Class) -> fn(&Piece<'_>) {
    match class {
        Class::Exact => kernels.matmul_piece,
        Class::Fast => kernels.fast.matmul_piece,
    }
}

/// Groups that shares begin at multiples of, and the fewest that are worth taking at once.
fn least<'a>(
    acts: Acts<'_>,
    mut products: impl Iterator<Item = &'a Product<'a>>,
    groups: usize,
    bytes: usize,
) -> (usize, usize) {
    // Matrix units unpack several groups before they multiply, and unquantized weights are multiplied as many at once.
    let floats = acts.class == Class::Exact && products.any(|p| !takes_quantized(p.w.dtype()));
    let at_once = if acts.tokens > TILE || floats { tile::PANEL } else { 1 };
    let least = (LEAST_BYTES * groups).div_ceil(acts.tokens * bytes.max(1)).next_multiple_of(at_once);
    (if floats { at_once } else { 1 }, least)
}

/// A piece of a product whose output begins with row group `first`.
fn piece<'a>(
    acts: Acts<'a>,
    p: &Product<'a>,
    groups: Range<usize>,
    out: OutPtr,
    out_stride: usize,
    first: usize,
) -> Piece<'a> {
    Piece {
        w: p.w,
        groups,
        tokens: acts.tokens,
        acts: quantized(acts, p.w.k()).unwrap_or(QuantizedActs {
            height: 0,
            blocks: 0,
            quants: &[],
            metas: &[],
        }),
        x: acts.x,
        bias: p.bias,
        accumulate: p.accumulate,
        out,
        out_stride,
        first,
        stream: Stream::of_this_cpu(),
    }
}

/// The quantized activations, where they are of this shape.
fn quantized(acts: Acts<'_>, k: usize) -> Option<QuantizedActs<'_>> {
    QuantizedActs::new((acts.tokens, k, acts.class), acts.quants, acts.metas)
}

/// Weights that are worth the taking of a part of the work, for one token: a microsecond's.
const LEAST_BYTES: usize = 16 << 10;

/// Most products in one [`matmul`] call: Q, K and V.
pub const MAX_PRODUCTS: usize = 3;
