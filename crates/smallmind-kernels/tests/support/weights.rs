//! Matrices of every weight type with valid bytes of any content, and their packed form.

use smallmind_kernels::DType;
use smallmind_kernels::half::f32_to_f16;
use smallmind_kernels::matmul::{FileRows, PackedRef, RowOrder, pack_rows, packed_bytes};
use smallmind_kernels::quant::{self, Unpacked};

use super::{Aligned, Random};

/// The bytes of the quants and integer scales.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill {
    Random,
    All(u8),
}

/// The sizes of the scales (of the values, where there are none).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scales {
    /// Near a hundredth, as in models.
    Usual,
    /// Anything that F16 holds, its denormals included.
    Any,
}

fn scale(r: &mut Random, scales: Scales) -> f32 {
    match scales {
        Scales::Usual => 0.02 * r.unit(),
        Scales::Any => r.spread(7.0).clamp(-65504.0, 65504.0),
    }
}

/// `[rows, k]` as a file holds it.
pub(crate) fn file(
    dtype: DType,
    rows: usize,
    k: usize,
    fill: Fill,
    scales: Scales,
    r: &mut Random,
) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_of(k).unwrap() * rows];
    if quant::form(dtype).is_none() {
        let x: Vec<f32> = (0..rows * k).map(|_| scale(r, scales)).collect();
        quant::quantize(dtype, &x, &mut bytes).unwrap();
        return bytes;
    }
    let mut integers = Unpacked::default();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for byte in block.iter_mut() {
            *byte = match fill {
                Fill::Random => r.bits() as u8,
                Fill::All(byte) => byte,
            };
        }
        quant::unpack(dtype, block, &mut integers).unwrap();
        integers.d = f32_to_f16(scale(r, scales));
        integers.m = f32_to_f16(scale(r, scales));
        quant::pack(dtype, &integers, block).unwrap();
    }
    bytes
}

/// A packed matrix with the rows it was made of.
pub(crate) struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) file: Vec<u8>,
    packed: DType,
    bytes: Aligned,
}

impl Matrix {
    pub(crate) fn new(dtype: DType, rows: usize, k: usize, file: Vec<u8>) -> Matrix {
        Matrix::packed_as(dtype, dtype, rows, k, file, RowOrder::Natural)
    }

    pub(crate) fn random(dtype: DType, rows: usize, k: usize, r: &mut Random) -> Matrix {
        Matrix::new(dtype, rows, k, file(dtype, rows, k, Fill::Random, Scales::Usual, r))
    }

    pub(crate) fn packed_as(
        dtype: DType,
        packed: DType,
        rows: usize,
        k: usize,
        file: Vec<u8>,
        order: RowOrder,
    ) -> Matrix {
        let mut bytes = Aligned::used(packed_bytes(packed, rows, k).unwrap());
        pack_rows(FileRows { dtype, bytes: &file, rows, k, order }, packed, 0, bytes.bytes_mut());
        Matrix { dtype, rows, k, file, packed, bytes }
    }

    pub(crate) fn view(&self) -> PackedRef<'_> {
        PackedRef::new(self.packed, self.rows, self.k, self.bytes.bytes()).unwrap()
    }

    /// Row `row` of the file.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        let len = self.dtype.bytes_of(self.k).unwrap();
        &self.file[row * len..(row + 1) * len]
    }
}
