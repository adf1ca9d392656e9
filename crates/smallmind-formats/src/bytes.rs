//! A checked cursor over little-endian bytes. It may not read beyond its slice, allocate, or panic.

/// The slice ended first: `wanted` bytes were needed where `left` remained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    pub(crate) wanted: u64,
    pub(crate) left: u64,
}

/// Reads from the front of a slice; after an error it stays where it was.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

macro_rules! number {
    ($($name:ident: $type:ty),*) => {$(
        pub(crate) fn $name(&mut self) -> Result<$type, Short> {
            self.array().map(<$type>::from_le_bytes)
        }
    )*};
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, pos: 0 }
    }

    /// Reads from a place within the slice on.
    pub(crate) fn at(bytes: &'a [u8], pos: usize) -> Cursor<'a> {
        Cursor { bytes, pos }
    }

    /// Bytes read so far, those before the start included.
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// Bytes not yet read.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.pos)
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8], Short> {
        let short = Short { wanted: len, left: self.left() as u64 };
        let len = usize::try_from(len).map_err(|_| short)?;
        let end = self.pos.checked_add(len).ok_or(short)?;
        let taken = self.bytes.get(self.pos..end).ok_or(short)?;
        self.pos = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let short = Short { wanted: N as u64, left: self.left() as u64 };
        let (array, _) = self.bytes.get(self.pos..).and_then(<[u8]>::split_first_chunk).ok_or(short)?;
        self.pos = self.pos.saturating_add(N); // proven to lie inside the slice by the line above
        Ok(*array)
    }

    number!(u8: u8, i8: i8, u16: u16, i16: i16, u32: u32, i32: i32, u64: u64, i64: i64, f32: f32, f64: f64);

    /// A 64-bit length and that many bytes, which is how GGUF stores text.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Short> {
        let start = self.pos;
        let len = self.u64()?;
        self.take(len).inspect_err(|_| self.pos = start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian() {
        let mut cursor = Cursor::new(&[1, 0, 2, 0xff, 0xff, 0xff, 0xff, 9]);
        assert_eq!((cursor.u16(), cursor.u8(), cursor.i32()), (Ok(1), Ok(2), Ok(-1)));
        assert_eq!((cursor.pos(), cursor.left()), (7, 1));
        assert_eq!(cursor.u16(), Err(Short { wanted: 2, left: 1 }));
        assert_eq!(cursor.u8(), Ok(9));
    }

    #[test]
    fn a_claim_beyond_the_end_reads_nothing() {
        for claim in [4u64, 1 << 31, 1 << 63, u64::MAX, u64::MAX - 8] {
            let mut bytes = claim.to_le_bytes().to_vec();
            bytes.extend([1, 2, 3]);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.string(), Err(Short { wanted: claim, left: 3 }));
            assert_eq!(cursor.pos(), 0);
        }
    }

    #[test]
    fn a_string_may_end_where_the_slice_ends() {
        let mut cursor = Cursor::new(&[2, 0, 0, 0, 0, 0, 0, 0, b'o', b'k']);
        assert_eq!(cursor.string(), Ok(&b"ok"[..]));
        assert_eq!(cursor.left(), 0);
    }
}
