//! Metadata and tensors -> a GGUF file of version 3. It writes only what [`crate::Gguf`] reads.

use super::WholeFile;
use crate::error::FormatError;
use crate::gguf::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, Metadata, Value, ValueType, check_alignment,
    check_key, check_name,
};
use smallmind_kernels::dtype::DType;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::path::Path;

const VERSION: u32 = 3;

/// Collects keys and tensors, then writes them in the order they came. Setting a key again replaces its value.
/// Faults (a bad key, a tensor whose bytes are not those of its shape) show when it is written.
#[derive(Debug, Default)]
pub struct GgufWriter<'a> {
    entries: Vec<Entry>,
    by_key: BTreeMap<String, usize>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    value_type: ValueType,
    /// The value as stored.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// `None` where they come through a [`GgufStream`].
    bytes: Option<Cow<'a, [u8]>>,
}

impl Tensor<'_> {
    /// Bytes that type and shape ask for; `None` where a reader would refuse them.
    fn stored_bytes(&self) -> Option<usize> {
        let (row, rows) = self.shape.split_first()?;
        if rows.len() >= MAX_DIMS
            || rows.contains(&0)
            || *row == 0
            || !row.is_multiple_of(self.dtype.block_len())
        {
            return None;
        }
        let elements = rows.iter().try_fold(*row, |product, d| product.checked_mul(*d))?;
        self.dtype.bytes_of(elements)
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    for entry in entries {
        put_string(out, entry.key.as_bytes());
        out.extend(entry.value_type.id().to_le_bytes());
        out.extend_from_slice(&entry.bytes);
    }
}

fn array_head(elem: ValueType, len: usize) -> Vec<u8> {
    let mut bytes = elem.id().to_le_bytes().to_vec();
    bytes.extend((len as u64).to_le_bytes());
    bytes
}

macro_rules! setters {
    ($($name:ident, $type:ty, $value_type:ident, $what:literal;)*) => {$(
        #[doc = concat!("Sets a key to ", $what, ".")]
        pub fn $name(&mut self, key: &str, value: $type) -> &mut Self {
            self.set(key, ValueType::$value_type, value.to_le_bytes().to_vec())
        }
    )*};
}

macro_rules! array_setters {
    ($($name:ident, $type:ty, $value_type:ident, $what:literal;)*) => {$(
        #[doc = concat!("Sets a key to an array of ", $what, ".")]
        pub fn $name(&mut self, key: &str, values: &[$type]) -> &mut Self {
            let mut bytes = array_head(ValueType::$value_type, values.len());
            values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            self.set(key, ValueType::Array, bytes)
        }
    )*};
}

impl<'a> GgufWriter<'a> {
    /// Nothing yet.
    pub fn new() -> GgufWriter<'a> {
        GgufWriter::default()
    }

    fn set(&mut self, key: &str, value_type: ValueType, bytes: Vec<u8>) -> &mut Self {
        let entry = Entry { key: key.to_owned(), value_type, bytes };
        let at = self.by_key.get(key).copied();
        match at.and_then(|at| self.entries.get_mut(at)) {
            Some(old) => *old = entry,
            None => {
                self.by_key.insert(key.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
        self
    }

    setters! {
        set_u8, u8, U8, "an 8-bit integer";
        set_u32, u32, U32, "a 32-bit integer";
        set_u64, u64, U64, "a 64-bit integer";
        set_i32, i32, I32, "a signed 32-bit integer";
        set_i64, i64, I64, "a signed 64-bit integer";
        set_f32, f32, F32, "a 32-bit floating-point number";
        set_f64, f64, F64, "a 64-bit floating-point number";
    }

    array_setters! {
        set_u32s, u32, U32, "32-bit integers";
        set_i32s, i32, I32, "signed 32-bit integers";
        set_f32s, f32, F32, "32-bit floating-point numbers";
    }

    /// Sets a key to a boolean.
    pub fn set_bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.set(key, ValueType::Bool, vec![value.into()])
    }

    /// Sets a key to an array of booleans.
    pub fn set_bools(&mut self, key: &str, values: &[bool]) -> &mut Self {
        let mut bytes = array_head(ValueType::Bool, values.len());
        bytes.extend(values.iter().map(|v| u8::from(*v)));
        self.set(key, ValueType::Array, bytes)
    }

    /// Sets a key to a text.
    pub fn set_str(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        put_string(&mut bytes, value.as_bytes());
        self.set(key, ValueType::String, bytes)
    }

    /// Sets a key to an array of texts; bytes that are not UTF-8 are written as they are.
    pub fn set_strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let mut bytes = array_head(ValueType::String, values.len());
        values.iter().for_each(|v| put_string(&mut bytes, v.as_ref()));
        self.set(key, ValueType::Array, bytes)
    }

    /// Sets a key to a value read from a file.
    pub fn set_value(&mut self, key: &str, value: &Value) -> &mut Self {
        let bytes = match value {
            Value::U8(v) => v.to_le_bytes().to_vec(),
            Value::I8(v) => v.to_le_bytes().to_vec(),
            Value::U16(v) => v.to_le_bytes().to_vec(),
            Value::I16(v) => v.to_le_bytes().to_vec(),
            Value::U32(v) => v.to_le_bytes().to_vec(),
            Value::I32(v) => v.to_le_bytes().to_vec(),
            Value::F32(v) => v.to_le_bytes().to_vec(),
            Value::U64(v) => v.to_le_bytes().to_vec(),
            Value::I64(v) => v.to_le_bytes().to_vec(),
            Value::F64(v) => v.to_le_bytes().to_vec(),
            Value::Bool(v) => vec![u8::from(*v)],
            Value::String(text) => {
                let mut bytes = Vec::new();
                put_string(&mut bytes, text.as_bytes());
                bytes
            }
            Value::Array(array) => {
                let mut bytes = array_head(array.elem_type(), array.len());
                bytes.extend_from_slice(array.raw());
                bytes
            }
        };
        self.set(key, value.value_type(), bytes)
    }

    /// Sets every key of a file's metadata.
    pub fn copy_metadata(&mut self, metadata: &Metadata) -> &mut Self {
        for (key, value) in metadata.iter() {
            self.set_value(key, value);
        }
        self
    }

    /// The keys as a reader would see them; `name` takes the path's place in its errors.
    ///
    /// # Errors
    /// Where a reader would refuse one.
    pub fn metadata(&self, name: &Path) -> Result<Metadata, FormatError> {
        let mut entries = Vec::new();
        put_entries(&mut entries, &self.entries);
        Metadata::from_entries(entries, self.entries.len() as u64, name)
    }

    /// Adds a tensor. `shape` is in GGML's order (`shape[0]` is the length of a row), `bytes` are as stored.
    pub fn add_tensor(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> &mut Self {
        let bytes = Some(bytes.into());
        self.tensors.push(Tensor { name: name.to_owned(), dtype, shape: shape.to_owned(), bytes });
        self
    }

    /// Announces a tensor whose bytes are made only when they are written, by [`GgufWriter::start`].
    pub fn declare_tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> &mut Self {
        self.tensors.push(Tensor { name: name.to_owned(), dtype, shape: shape.to_owned(), bytes: None });
        self
    }

    /// Writes the header and returns where the tensors' bytes go, in the order of their declaration.
    ///
    /// # Errors
    /// As [`GgufWriter::write`].
    pub fn start<W: Write>(&self, mut out: W) -> io::Result<GgufStream<W>> {
        let (alignment, sizes) = self.check()?;
        let header = self.header(alignment, &sizes)?;
        out.write_all(&header)?;
        pad(&mut out, header.len() as u64, alignment)?;
        Ok(GgufStream { out, alignment, sizes: sizes.into(), written: 0 })
    }

    /// Writes the whole file.
    ///
    /// # Errors
    /// `InvalidInput` if a key, name, shape or `general.alignment` is not what a reader accepts, if a tensor's bytes
    /// are not those of its type and shape, or if there is no tensor; otherwise what `out` refuses.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut stream = self.start(out)?;
        for tensor in &self.tensors {
            stream.write_all(tensor.bytes.as_deref().unwrap_or_default())?;
        }
        stream.finish().map(drop)
    }

    fn header(&self, alignment: u64, sizes: &[u64]) -> io::Result<Vec<u8>> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.entries.len() as u64).to_le_bytes());
        put_entries(&mut header, &self.entries);
        let mut offset = 0u64;
        for (tensor, size) in self.tensors.iter().zip(sizes) {
            put_string(&mut header, tensor.name.as_bytes());
            let n_dims = u32::try_from(tensor.shape.len()).map_err(|e| invalid(e.to_string()))?;
            header.extend(n_dims.to_le_bytes());
            tensor.shape.iter().for_each(|d| header.extend((*d as u64).to_le_bytes()));
            header.extend(tensor.dtype.gguf_id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(*size)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| invalid("the tensors are too large".to_owned()))?;
        }
        Ok(header)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// As [`GgufWriter::write`].
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the file at `path`, where it appears only when it is complete.
    ///
    /// # Errors
    /// As [`GgufWriter::write`] and [`WholeFile`], naming the path.
    pub fn write_file(&self, path: &Path) -> Result<(), FormatError> {
        let mut file = WholeFile::create(path)?;
        self.write(&mut file).map_err(|e| FormatError::io(path, "write", e))?;
        file.commit()
    }

    /// Checks everything and tells the alignment, and each tensor's bytes.
    fn check(&self) -> io::Result<(u64, Vec<u64>)> {
        if self.tensors.is_empty() {
            return Err(invalid("there is no tensor to write".to_owned()));
        }
        for entry in &self.entries {
            check_key(entry.key.as_bytes())
                .map_err(|fault| invalid(format!("key `{}` {fault}", entry.key)))?;
        }
        let mut names = BTreeSet::new();
        let mut sizes = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let error = |message: &str| invalid(format!("tensor `{}` {message}", tensor.name));
            check_name(tensor.name.as_bytes()).map_err(|fault| error(&format!("has a name that {fault}")))?;
            if !names.insert(tensor.name.as_str()) {
                return Err(error("is there twice"));
            }
            let (shape, dtype) = (&tensor.shape, tensor.dtype);
            let expected = tensor.stored_bytes();
            if let Some(bytes) = &tensor.bytes
                && expected != Some(bytes.len())
            {
                return Err(error(&format!("cannot be {dtype} of shape {shape:?} in {} bytes", bytes.len())));
            }
            let Some(expected) = expected else {
                return Err(error(&format!("cannot be {dtype} of shape {shape:?}")));
            };
            sizes.push(expected as u64);
        }
        Ok((self.alignment()?, sizes))
    }

    fn alignment(&self) -> io::Result<u64> {
        let Some(entry) = self.by_key.get(ALIGNMENT_KEY).and_then(|at| self.entries.get(*at)) else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        let fault = || invalid(format!("key `{ALIGNMENT_KEY}` must be a u32"));
        let bytes = entry.bytes.as_slice().try_into().map_err(|_| fault())?;
        if entry.value_type != ValueType::U32 {
            return Err(fault());
        }
        let alignment = u32::from_le_bytes(bytes).into();
        check_alignment(alignment).map_err(|e| invalid(format!("key `{ALIGNMENT_KEY}` {e}")))?;
        Ok(alignment)
    }
}

/// A GGUF file whose header is written: takes the tensors' bytes in order, in pieces of any size, and pads between them.
#[derive(Debug)]
pub struct GgufStream<W> {
    out: W,
    alignment: u64,
    /// Of the tensors that are not complete, the first one's included.
    sizes: VecDeque<u64>,
    /// Bytes of the first of them that are written.
    written: u64,
}

impl<W: Write> GgufStream<W> {
    /// Ends the file and gives back where it was written.
    ///
    /// # Errors
    /// `InvalidInput` where bytes are missing; otherwise what the writer refuses.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(size) = self.sizes.front() {
            let missing = size.saturating_sub(self.written);
            return Err(invalid(format!(
                "{missing} bytes of a tensor are missing, and {} tensors after it",
                self.sizes.len().saturating_sub(1)
            )));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for GgufStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(size) = self.sizes.front().copied() else {
            return if bytes.is_empty() {
                Ok(0)
            } else {
                Err(invalid("bytes beyond the last tensor".to_owned()))
            };
        };
        let room = usize::try_from(size.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let taken = self.out.write(bytes.get(..room).unwrap_or(bytes))?;
        self.written = self.written.saturating_add(taken as u64);
        if self.written == size {
            pad(&mut self.out, size, self.alignment)?;
            self.sizes.pop_front();
            self.written = 0;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Zeros from `len` to the next multiple of `alignment`.
fn pad(out: &mut impl Write, len: u64, alignment: u64) -> io::Result<()> {
    let padding = len.checked_next_multiple_of(alignment).map_or(0, |end| end.saturating_sub(len));
    io::copy(&mut io::Read::take(io::repeat(0), padding), out).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gguf;

    fn fault(build: impl for<'w> Fn(&'w mut GgufWriter<'static>) -> &'w mut GgufWriter<'static>) -> String {
        let mut writer = GgufWriter::new();
        writer.add_tensor("t", DType::F32, &[1], vec![0; 4]);
        build(&mut writer);
        let error = writer.to_bytes().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        error.to_string()
    }

    #[test]
    fn what_a_reader_would_refuse_is_not_written() {
        assert_eq!(GgufWriter::new().to_bytes().unwrap_err().to_string(), "there is no tensor to write");
        assert_eq!(fault(|w| w.set_u32("", 1)), "key `` is empty");
        assert_eq!(fault(|w| w.add_tensor("t", DType::F32, &[1], vec![0; 4])), "tensor `t` is there twice");
        let wrong = [(DType::F32, vec![2], 4), (DType::Q8_0, vec![31, 32], 1054), (DType::F32, vec![], 0)];
        for (dtype, shape, len) in
            wrong.into_iter().chain([(DType::F32, vec![0], 0), (DType::F32, vec![1; 5], 4)])
        {
            let text = fault(|w| w.add_tensor("x", dtype, &shape, vec![0; len]));
            assert!(text.starts_with("tensor `x` cannot be"), "{text}");
        }
        assert!(fault(|w| w.set_u32("general.alignment", 12)).contains("is 12, not a power of two"));
        assert!(fault(|w| w.set_i32("general.alignment", 32)).contains("must be a u32"));
    }

    #[test]
    fn setting_a_key_again_replaces_it_in_place() {
        let mut writer = GgufWriter::new();
        writer.add_tensor("t", DType::F32, &[1], vec![0; 4]);
        writer.set_u32("a", 1).set_u32("b", 2).set_str("a", "x");
        let file = Gguf::from_bytes("x", writer.to_bytes().unwrap()).unwrap();
        let keys: Vec<_> = file.metadata().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(keys, ["a=x", "b=2"]);
    }

    #[test]
    fn a_written_file_opens_with_the_same_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let data: Vec<u8> = (0..68).collect();
        let mut writer = GgufWriter::new();
        writer.set_u32("general.alignment", 4096).add_tensor("t", DType::Q8_0, &[32, 2], &data[..]);
        writer.add_tensor("u", DType::F32, &[1], &[0u8, 0, 128, 63][..]);
        writer.write_file(&path).unwrap();
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.data(file.tensor("t").unwrap()), data);
        assert_eq!(file.tensor("u").unwrap().offset(), 8192);
        let mut copy = GgufWriter::new();
        copy.copy_metadata(file.metadata());
        for t in file.tensors() {
            copy.add_tensor(&t.name, t.dtype, &t.shape, file.data(t));
        }
        assert_eq!(copy.to_bytes().unwrap(), std::fs::read(&path).unwrap());
    }
    #[test]
    fn a_stream_takes_pieces_of_any_size_and_gives_the_same_file() {
        let data: Vec<u8> = (0..68).collect();
        let mut whole = GgufWriter::new();
        whole.set_u32("k", 1).add_tensor("t", DType::Q8_0, &[32, 2], &data[..]);
        whole.add_tensor("u", DType::F32, &[1], &[0u8, 0, 128, 63][..]);
        let mut declared = GgufWriter::new();
        declared.set_u32("k", 1).declare_tensor("t", DType::Q8_0, &[32, 2]).declare_tensor(
            "u",
            DType::F32,
            &[1],
        );
        for piece in [1, 7, 72] {
            let mut stream = declared.start(Vec::new()).unwrap();
            for bytes in [&data[..], &[0, 0, 128, 63]].concat().chunks(piece) {
                stream.write_all(bytes).unwrap();
            }
            assert!(stream.write_all(&[1]).unwrap_err().to_string().contains("beyond the last tensor"));
            assert_eq!(stream.finish().unwrap(), whole.to_bytes().unwrap());
        }
        let stream = declared.start(Vec::new()).unwrap();
        assert!(stream.finish().unwrap_err().to_string().contains("68 bytes of a tensor are missing, and 1"));
        assert!(declared.to_bytes().is_err());
        assert!(GgufWriter::new().declare_tensor("t", DType::Q8_0, &[31]).start(Vec::new()).is_err());
    }
}
