//! Buffers on 64-byte boundaries, and the one cast from bytes to packed units.
#![allow(
    unsafe_code,
    reason = "the cast from bytes to plain-integer structs, checked for size and alignment"
)]

use crate::matmul::format::Pod;

/// Alignment of every packed matrix, in bytes: one cache line, one AVX-512 register.
pub const ALIGN: usize = 64;

/// `bytes` as a slice of `T`; `None` where they do not start on `T`'s alignment or are not a whole number of `T`.
pub(crate) fn cast<T: Pod>(bytes: &[u8]) -> Option<&[T]> {
    let fits =
        bytes.len().is_multiple_of(size_of::<T>()) && bytes.as_ptr().addr().is_multiple_of(align_of::<T>());
    // SAFETY: `T: Pod` takes any bits; size and alignment were checked on the line above; the lifetime is kept.
    fits.then(|| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
}

/// [`cast`] for writing.
pub(crate) fn cast_mut<T: Pod>(bytes: &mut [u8]) -> Option<&mut [T]> {
    let fits =
        bytes.len().is_multiple_of(size_of::<T>()) && bytes.as_ptr().addr().is_multiple_of(align_of::<T>());
    // SAFETY: as in `cast`, and `T: Pod` has no padding, so any `T` written leaves valid bytes behind.
    fits.then(|| unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>())
    })
}
