//! [`super::gemm`] on the calling thread with a right factor that is packed once for several products, of which a
//! triangle may be all that counts: what attention in training is made of. The chains of sums are the same.

use super::piece::{Panels, Piece, Strip, Strips};
use super::{Into, Mat, PANEL, STEP, Triangle};
use crate::table::Kernels;

/// Values of a packed matrix of these rows and columns.
pub fn packed_len(rows: usize, cols: usize) -> usize {
    rows * cols.next_multiple_of(PANEL)
}

/// Values of scratch memory of a product whose left factor has so many columns, themselves contiguous.
pub fn scratch_len(k: usize) -> usize {
    STEP * k
}

/// A right factor `[k, n]`, packed.
#[derive(Clone, Copy, Debug)]
pub struct PackedMat<'a> {
    /// `[panels, of, PANEL]`.
    data: &'a [f32],
    of: usize,
    from: usize,
    rows: usize,
    cols: usize,
}

impl<'a> PackedMat<'a> {
    /// Packs `b` into memory of any content.
    ///
    /// # Panics
    /// Where the memory holds less than [`packed_len`] values.
    pub fn new(kernels: &Kernels, b: Mat<'_>, memory: &'a mut [f32]) -> PackedMat<'a> {
        let memory = &mut memory[..packed_len(b.rows, b.cols)];
        for (j, panel) in memory.chunks_exact_mut((b.rows * PANEL).max(1)).enumerate() {
            let cols = j * PANEL..((j + 1) * PANEL).min(b.cols);
            (kernels.gemm_pack)(b.block(0..b.rows, cols), panel);
        }
        PackedMat { data: memory, of: b.rows, from: 0, rows: b.rows, cols: b.cols }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// Where they are not there.
    #[must_use]
    pub fn rows_of(self, rows: std::ops::Range<usize>) -> PackedMat<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "gemm: rows that are not there");
        PackedMat { from: self.from + rows.start, rows: rows.len(), ..self }
    }

    /// Its first columns.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn first_cols(self, cols: usize) -> PackedMat<'a> {
        assert!(cols <= self.cols, "gemm: columns that are not there");
        PackedMat { data: &self.data[..packed_len(self.of, cols)], cols, ..self }
    }
}

/// C = A · B, or that added to what `into` says, of which `triangle` counts. `scratch` holds at least [`scratch_len`]
/// values where A's rows are not contiguous.
///
/// # Panics
/// Where a shape does not fit.
pub fn gemm(
    kernels: &Kernels,
    a: Mat<'_>,
    b: PackedMat<'_>,
    (c, c_stride): (&mut [f32], usize),
    into: Into<'_>,
    triangle: Triangle,
    scratch: &mut [f32],
) {
    // Nothing to add up: what C begins with is not asked of this product.
    assert!(a.rows > 0 && a.cols > 0 && b.cols > 0, "gemm: an empty factor");
    let of_b = Mat { data: b.data, rows: b.rows, cols: b.cols, row_stride: PANEL, col_stride: 1 };
    super::nothing_to_add_up((a, of_b), (c, c_stride), into);
    (kernels.gemm_piece)(&mut Piece {
        a,
        b: Panels { data: b.data, of: b.of, from: b.from },
        c: Strip { data: c, stride: c_stride, cols: b.cols },
        start: into.start(0..a.rows, 0..b.cols),
        strips: Strips::InPlace(scratch),
        triangle,
    });
}
