//! The element types a tensor can have: one row of the table per type, nothing else knows their numbers.

/// Element type of a stored tensor. Quantized types are stored in blocks of [`DType::block_len`] values.
///
/// Layouts and ids: ggml's `ggml-common.h` and `gguf` specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types, reason = "the field's own names, explained by the table below")]
pub enum DType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

struct Row {
    dtype: DType,
    name: &'static str,
    gguf_id: u32,
    block_len: usize,
    block_bytes: usize,
}

const fn row(dtype: DType, name: &'static str, gguf_id: u32, block_len: usize, block_bytes: usize) -> Row {
    Row { dtype, name, gguf_id, block_len, block_bytes }
}

/// In the order of the enum, so that a type indexes its own row.
const TABLE: [Row; 13] = [
    row(DType::F32, "F32", 0, 1, 4),
    row(DType::F16, "F16", 1, 1, 2),
    row(DType::BF16, "BF16", 30, 1, 2),
    row(DType::Q8_0, "Q8_0", 8, 32, 2 + 32),
    row(DType::Q4_0, "Q4_0", 2, 32, 2 + 16),
    row(DType::Q4_1, "Q4_1", 3, 32, 2 + 2 + 16),
    row(DType::Q5_0, "Q5_0", 6, 32, 2 + 4 + 16),
    row(DType::Q5_1, "Q5_1", 7, 32, 2 + 2 + 4 + 16),
    row(DType::Q2_K, "Q2_K", 10, 256, 16 + 64 + 2 + 2),
    row(DType::Q3_K, "Q3_K", 11, 256, 32 + 64 + 12 + 2),
    row(DType::Q4_K, "Q4_K", 12, 256, 2 + 2 + 12 + 128),
    row(DType::Q5_K, "Q5_K", 13, 256, 2 + 2 + 12 + 32 + 128),
    row(DType::Q6_K, "Q6_K", 14, 256, 128 + 64 + 16 + 2),
];

/// Names of GGUF tensor types that we do not read, so that an error can say what the file holds.
const UNREAD: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl DType {
    /// Every type, in the table's order.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|r| r.dtype)
    }

    /// The type of a GGUF tensor-type id, if we read it.
    pub fn from_gguf_id(id: u32) -> Option<DType> {
        TABLE.iter().find(|r| r.gguf_id == id).map(|r| r.dtype)
    }

    /// The type of that GGUF name (`Q4_1`, in either case).
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|r| r.name.eq_ignore_ascii_case(name)).map(|r| r.dtype)
    }

    /// What a GGUF tensor-type id is called, read by us or not.
    pub fn gguf_type_name(id: u32) -> Option<&'static str> {
        Self::from_gguf_id(id)
            .map(DType::name)
            .or_else(|| UNREAD.iter().find(|(i, _)| *i == id).map(|(_, n)| *n))
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// GGUF's name of the type.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// GGUF's tensor-type id.
    pub fn gguf_id(self) -> u32 {
        self.row().gguf_id
    }

    /// Values in one block (1 for the plain types).
    pub fn block_len(self) -> usize {
        self.row().block_len
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// Bytes of `len` consecutive values; `None` where `len` is not a whole number of blocks or the size overflows.
    pub fn bytes_of(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_finds_its_own_row() {
        for t in DType::all() {
            assert_eq!(t.row().dtype, t);
            assert_eq!(DType::from_gguf_id(t.gguf_id()), Some(t));
            assert_eq!(DType::from_name(t.name()), Some(t));
            assert_eq!(t.bytes_of(t.block_len() * 3), Some(t.block_bytes() * 3));
        }
        assert_eq!(DType::gguf_type_name(20), Some("IQ4_NL"));
        assert_eq!(DType::gguf_type_name(4), None);
    }
}
