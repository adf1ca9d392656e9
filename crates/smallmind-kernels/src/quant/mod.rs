//! Block formats: the reference dequantizer and quantizer of every type, and the integers a block holds.
//! Scalar and slow on purpose: fast kernels are judged by it. It may not allocate, and it looks at no CPU feature.
//!
//! A quantized type stores `len` consecutive values of one row in a block of fixed size. All of them are the same
//! thing with other numbers, told by a [`Form`]: quant `q` of sub-block `g` stands for
//!
//! ```text
//! value = (d * scales[g]) * (q - zero)  -  offset(g),     offset = 0  |  -m  |  m * mins[g]
//! ```
//!
//! with `d` and `m` in F16, each operation rounded to `f32` in this order and never fused: bit-exact with the
//! dequantizer of the `gguf` Python package. Layouts: ggml's `ggml-common.h`, repeated in the file of each type.

mod legacy;
mod plain;
mod planes;
mod search;

pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

#[cfg(test)]
mod tests;

use crate::DType;
use crate::half::f16_to_f32;

/// Values in the longest block (the K types' super-block).
pub const MAX_BLOCK_LEN: usize = 256;
/// Sub-blocks in the block that has most of them.
pub const MAX_GROUPS: usize = 16;

/// What is subtracted from every value of a sub-block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// Nothing: the block has a scale only.
    None,
    /// `-m`: the smallest value is stored and added (Q4_1, Q5_1).
    AddM,
    /// `m * mins[g]` (Q2_K, Q4_K, Q5_K).
    SubMinTimesM,
}

/// How the integers of a block become values; see the module's formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Values in a block.
    pub len: usize,
    /// Consecutive values that share a scale: a sub-block.
    pub group: usize,
    /// Bits of a quant.
    pub bits: u32,
    /// What a stored quant of zero value is: 8 for Q4_0, 0 where quants start at the minimum. 0 for Q8_0 too,
    /// whose quants are signed.
    pub zero: u8,
    /// The quant is an `i8` in two's complement (Q8_0), not an unsigned number.
    pub signed: bool,
    /// What is subtracted.
    pub offset: Offset,
    /// Range of the integer scales of sub-blocks, inclusive; `(1, 1)` where there are none.
    pub scale_range: (i32, i32),
}

impl Form {
    /// Sub-blocks in a block.
    pub const fn groups(&self) -> usize {
        self.len / self.group
    }

    /// The integer that quant `q` stands for, before it is scaled: `q - zero`.
    #[inline]
    pub const fn integer(&self, q: u8) -> i32 {
        if self.signed { q as i8 as i32 } else { q as i32 - self.zero as i32 }
    }
}

/// The exact integers of one block, out of their packing. Entries beyond the type's length mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Quants in the order of the values, unsigned as stored: 0..=3 for Q2_K, 0..=7 for Q3_K (value + 4), 0..=15
    /// for 4-bit, 0..=31 for 5-bit, 0..=63 for 6-bit types; the bit pattern of an `i8` for Q8_0.
    pub q: [u8; MAX_BLOCK_LEN],
    /// Integer scale of each sub-block (Q3_K: after 32 is subtracted); 1 for types without sub-blocks.
    pub scales: [i8; MAX_GROUPS],
    /// Integer minimum of each sub-block; 0 for types without.
    pub mins: [u8; MAX_GROUPS],
    /// F16 bits of the block's scale.
    pub d: u16,
    /// F16 bits of the block's minimum (`m` of Q4_1 and Q5_1, `dmin` of K types); 0 for types without.
    pub m: u16,
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { q: [0; MAX_BLOCK_LEN], scales: [1; MAX_GROUPS], mins: [0; MAX_GROUPS], d: 0, m: 0 }
    }
}

/// A quantized type: how its block is packed. Everything else follows from [`Block::FORM`].
///
/// `block` is always `DTYPE.block_bytes()` bytes and `x`, `out` are `FORM.len` values; other lengths may panic,
/// so callers with unchecked lengths go through [`dequantize`], [`quantize`], [`unpack`] or [`pack`].
pub trait Block {
    /// The type.
    const DTYPE: DType;
    /// What its integers mean.
    const FORM: Form;

    /// Takes the integers out of a block. Writes every field up to the type's length.
    fn unpack(block: &[u8], out: &mut Unpacked);

    /// Inverse of [`Block::unpack`]: `pack(unpack(block))` gives the same bytes, whatever they are.
    fn pack(from: &Unpacked, block: &mut [u8]);

    /// The block nearest to `x` that a reasonable search finds, each value's error weighted by its `importance` where
    /// that is known (as many as there are values, finite, not negative). NaN counts as 0; what the type cannot reach
    /// is clamped to its range, so the block never holds a non-finite scale.
    fn quantize(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]);

    /// The values of a block.
    fn dequantize(block: &[u8], out: &mut [f32]) {
        let mut integers = Unpacked::default();
        Self::unpack(block, &mut integers);
        values(&Self::FORM, &integers, out);
    }
}

/// Values of unpacked integers by the module's formula; the order of operations is part of the format.
pub(crate) fn values(form: &Form, from: &Unpacked, out: &mut [f32]) {
    let (d, m) = (f16_to_f32(from.d), f16_to_f32(from.m));
    let groups = out.chunks_exact_mut(form.group).zip(from.q.chunks_exact(form.group));
    for ((out, q), (&scale, &min)) in groups.zip(from.scales.iter().zip(&from.mins)) {
        let scale = d * f32::from(scale);
        let offset = match form.offset {
            Offset::None => 0.0,
            Offset::AddM => -m,
            Offset::SubMinTimesM => m * f32::from(min),
        };
        for (value, &q) in out.iter_mut().zip(q) {
            *value = scale * form.integer(q) as f32 - offset;
        }
    }
}

/// Why bytes and values do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The values are not a whole number of blocks.
    PartialBlock {
        /// The type.
        dtype: DType,
        /// Number of values.
        len: usize,
    },
    /// The bytes are not the size of that many values.
    WrongBytes {
        /// The type.
        dtype: DType,
        /// Number of values.
        len: usize,
        /// Bytes those values take.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// There is not one importance for every value.
    WrongImportance {
        /// Number of values.
        len: usize,
        /// Number of importances.
        found: usize,
    },
    /// F32, F16 or BF16, which have no blocks, where integers of a block were asked for.
    NotQuantized {
        /// The type.
        dtype: DType,
    },
}

impl std::fmt::Display for BlockError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            BlockError::PartialBlock { dtype, len } => write!(
                f,
                "{len} values are not a whole number of {dtype} blocks: give a multiple of {} or another type",
                dtype.block_len()
            ),
            BlockError::WrongBytes { dtype, len, expected, found } => {
                write!(
                    f,
                    "{len} values of {dtype} take {expected} bytes, but there are {found}: give a buffer of that size"
                )
            }
            BlockError::WrongImportance { len, found } => {
                write!(f, "{len} values have {found} importances: give one for each")
            }
            BlockError::NotQuantized { dtype } => {
                write!(f, "{dtype} has no blocks to unpack: read its values directly")
            }
        }
    }
}

impl std::error::Error for BlockError {}

/// One row of the table of types.
struct Format {
    dtype: DType,
    form: Option<Form>,
    dequantize: fn(&[u8], &mut [f32]),
    quantize: fn(&[f32], Option<&[f32]>, &mut [u8]),
    unpack: fn(&[u8], &mut Unpacked),
    pack: fn(&Unpacked, &mut [u8]),
}

const fn blocks<B: Block>() -> Format {
    Format {
        dtype: B::DTYPE,
        form: Some(B::FORM),
        dequantize: |bytes, out| {
            let blocks = bytes.chunks_exact(B::DTYPE.block_bytes());
            blocks.zip(out.chunks_exact_mut(B::FORM.len)).for_each(|(block, out)| B::dequantize(block, out));
        },
        quantize: |x, importance, out| {
            let blocks = out.chunks_exact_mut(B::DTYPE.block_bytes());
            for (i, (x, block)) in x.chunks_exact(B::FORM.len).zip(blocks).enumerate() {
                B::quantize(x, importance.map(|all| &all[i * B::FORM.len..][..B::FORM.len]), block);
            }
        },
        unpack: B::unpack,
        pack: B::pack,
    }
}

const fn plain(
    dtype: DType,
    dequantize: fn(&[u8], &mut [f32]),
    quantize: fn(&[f32], Option<&[f32]>, &mut [u8]),
) -> Format {
    Format { dtype, form: None, dequantize, quantize, unpack: |_, _| {}, pack: |_, _| {} }
}

/// In the order of [`DType`], so that a type indexes its own row.
static FORMATS: [Format; 13] = [
    plain(DType::F32, plain::f32_from_bytes, plain::f32_to_bytes),
    plain(DType::F16, plain::f16_from_bytes, plain::f16_to_bytes),
    plain(DType::BF16, plain::bf16_from_bytes, plain::bf16_to_bytes),
    blocks::<q8_0::Q8_0>(),
    blocks::<q4_0::Q4_0>(),
    blocks::<q4_1::Q4_1>(),
    blocks::<q5_0::Q5_0>(),
    blocks::<q5_1::Q5_1>(),
    blocks::<q2_k::Q2_K>(),
    blocks::<q3_k::Q3_K>(),
    blocks::<q4_k::Q4_K>(),
    blocks::<q5_k::Q5_K>(),
    blocks::<q6_k::Q6_K>(),
];

const _: () = {
    let mut i = 0;
    while i < FORMATS.len() {
        assert!(FORMATS[i].dtype as usize == i, "FORMATS is in the order of DType");
        i += 1;
    }
};

fn format(dtype: DType) -> &'static Format {
    &FORMATS[dtype as usize]
}

fn check(dtype: DType, len: usize, found: usize) -> Result<(), BlockError> {
    let expected = dtype.bytes_of(len).ok_or(BlockError::PartialBlock { dtype, len })?;
    if expected != found {
        return Err(BlockError::WrongBytes { dtype, len, expected, found });
    }
    Ok(())
}

/// Values of `bytes` stored as `dtype`, little-endian.
///
/// # Errors
/// `out.len()` is no multiple of the block length, or `bytes` is not the size of that many values.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    check(dtype, out.len(), bytes.len())?;
    (format(dtype).dequantize)(bytes, out);
    Ok(())
}

/// Stores `x` as `dtype`, little-endian. Deterministic: the same values give the same bytes on every machine.
///
/// Plain types are rounded to nearest even and keep non-finite values. Quantized types take NaN for 0 and clamp
/// to what they can hold.
///
/// # Errors
/// `x.len()` is no multiple of the block length, or `out` is not the size of that many values.
pub fn quantize(dtype: DType, x: &[f32], out: &mut [u8]) -> Result<(), BlockError> {
    check(dtype, x.len(), out.len())?;
    (format(dtype).quantize)(x, None, out);
    Ok(())
}

/// [`quantize`] for values whose errors do not matter alike: `importance` has one finite weight of zero or more for
/// every value, for a model's matrix the mean square of the activations of that input channel. Only their ratios
/// matter; keep their mean near 1. Q8_0 and the plain types take no notice of them.
///
/// # Errors
/// As [`quantize`], and where there are not as many weights as values.
pub fn quantize_weighted(
    dtype: DType,
    x: &[f32],
    importance: &[f32],
    out: &mut [u8],
) -> Result<(), BlockError> {
    check(dtype, x.len(), out.len())?;
    if importance.len() != x.len() {
        return Err(BlockError::WrongImportance { len: x.len(), found: importance.len() });
    }
    (format(dtype).quantize)(x, Some(importance), out);
    Ok(())
}

/// What the integers of a quantized type mean; `None` for F32, F16 and BF16.
pub fn form(dtype: DType) -> Option<&'static Form> {
    format(dtype).form.as_ref()
}

/// The integers of one block.
///
/// # Errors
/// The type is not quantized, or `block` is not one block of it.
pub fn unpack(dtype: DType, block: &[u8], out: &mut Unpacked) -> Result<(), BlockError> {
    let form = form(dtype).ok_or(BlockError::NotQuantized { dtype })?;
    check(dtype, form.len, block.len())?;
    (format(dtype).unpack)(block, out);
    Ok(())
}

/// Packs integers into one block: the inverse of [`unpack`]. Quants and scales beyond the type's range lose their
/// upper bits.
///
/// # Errors
/// The type is not quantized, or `block` is not one block of it.
pub fn pack(dtype: DType, from: &Unpacked, block: &mut [u8]) -> Result<(), BlockError> {
    let form = form(dtype).ok_or(BlockError::NotQuantized { dtype })?;
    check(dtype, form.len, block.len())?;
    (format(dtype).pack)(from, block);
    Ok(())
}
