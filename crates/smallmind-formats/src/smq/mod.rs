//! SMQ: a GGUF model whose matrices lie in the layout that the kernels read, so that it is mapped and ready. The format's
//! description is `docs/smq.md`. Here is the container: header, index, and proof that every part lies in the file, aligned
//! and apart from every other; what a packed layout means is the kernels' business.
//!
//! An SMQ file carries the whole header of the GGUF file it was made from, byte for byte: keys, values and tensor
//! descriptions are read from there by GGUF's own reader, and the way back loses nothing.

mod index;
mod verify;

#[cfg(test)]
mod tests;

pub(crate) use index::{DATA_ALIGNMENT, padded_section, parse};
pub use verify::Verified;

use std::ops::Range;

/// The first eight bytes: a file that was changed as text, or cut to seven bits, has others.
pub(crate) const MAGIC: &[u8; 8] = b"\x89SMQ\r\n\x1a\n";
/// The version of the container that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the fixed header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of the fixed header that its digest covers, with the index.
pub(crate) const DIGESTED_BYTES: usize = 32;
/// Bytes of a section's head: kind, flags, length.
pub(crate) const SECTION_HEAD_BYTES: usize = 16;
/// Feature bit: a tensor that is looked up row by row may be there packed only. Every set bit must be known to the reader.
pub const PACKED_LOOKUP: u32 = 1;
/// The feature bits that are read.
pub(crate) const FEATURES: u32 = PACKED_LOOKUP;
/// A section that a reader who does not know it must not pass over.
pub(crate) const REQUIRED: u32 = 1;
/// Sections and parts begin at multiples of this.
pub(crate) const PART_ALIGNMENT: u64 = 64;
/// Bytes of the description of one part.
pub(crate) const PART_BYTES: usize = 88;

/// Kinds of sections.
pub(crate) mod section {
    /// The GGUF file's header, and the length that the file had.
    pub(crate) const GGUF: u32 = 1;
    /// The descriptions of all parts.
    pub(crate) const PARTS: u32 = 2;
}

/// In which order a tensor's rows were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartOrder {
    /// As in the tensor.
    Natural,
    /// Within each head of `head_dim` rows the first `rope_dim`, which come as pairs (2i, 2i + 1), as two halves.
    PairsToHalves {
        /// Rows a head.
        head_dim: u32,
        /// Rows of a head that are reordered.
        rope_dim: u32,
    },
}

/// How a part holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartForm {
    /// As the tensor's type stores them, in order: GGUF's bytes.
    Rows,
    /// Packed for the kernels.
    Packed {
        /// The version of the packed layouts.
        layout: u32,
        /// Which row of the tensor became which row of the matrix.
        order: PartOrder,
    },
}

/// One stretch of the file that holds rows of a tensor. A tensor may have several: a fused matrix is packed in three
/// parts, and a tensor may be there both as rows and packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the tensor in the header.
    pub tensor: usize,
    /// How the rows are held.
    pub form: PartForm,
    /// The first row of the tensor that is held.
    pub first_row: usize,
    /// Rows.
    pub rows: usize,
    pub(crate) range: Range<usize>,
    pub(crate) sha256: [u8; 32],
}

impl Part {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}
