//! Bit planes: how quants narrower than a byte lie in the bytes of a block. Reads and writes fields, knows no type.
//!
//! All types pack alike. A plane of `BITS`-bit fields is cut into runs of `RUN` bytes; the first `RUN` values of a
//! run are the lowest fields of its bytes, the next `RUN` values the fields above, and so on up to bit 7.

/// Fields of `plane` into bits `AT..AT + BITS` of `q`, whose bits there must be 0.
#[inline]
pub(super) fn read<const BITS: usize, const RUN: usize, const AT: usize>(plane: &[u8], q: &mut [u8]) {
    let mask = (1_u16 << BITS) as u8 - 1;
    let runs = plane.chunks_exact(RUN).zip(q.chunks_exact_mut(RUN * 8 / BITS));
    for (bytes, values) in runs {
        for (field, values) in values.chunks_exact_mut(RUN).enumerate() {
            for (value, byte) in values.iter_mut().zip(bytes) {
                *value |= ((byte >> (field * BITS)) & mask) << AT;
            }
        }
    }
}

/// Bits `AT..AT + BITS` of `q` into the fields of `plane`, all of whose bytes are overwritten.
#[inline]
pub(super) fn write<const BITS: usize, const RUN: usize, const AT: usize>(q: &[u8], plane: &mut [u8]) {
    let mask = (1_u16 << BITS) as u8 - 1;
    let runs = plane.chunks_exact_mut(RUN).zip(q.chunks_exact(RUN * 8 / BITS));
    for (bytes, values) in runs {
        bytes.fill(0);
        for (field, values) in values.chunks_exact(RUN).enumerate() {
            for (byte, value) in bytes.iter_mut().zip(values) {
                *byte |= ((value >> AT) & mask) << (field * BITS);
            }
        }
    }
}

/// The F16 bits (or any little-endian `u16`) at `at`.
#[inline]
pub(super) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Stores `bits` at `at`, little-endian.
#[inline]
pub(super) fn put_u16(block: &mut [u8], at: usize, bits: u16) {
    block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
}
