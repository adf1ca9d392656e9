//! GGUF version 2 and 3 (the `gguf` specification of the ggml project): the opened file. Everything structural is
//! checked here before a caller sees a value; what the values mean is the engine's business.

mod header;
mod metadata;
mod tensors;
#[cfg(test)]
mod tests;
mod value;

pub use metadata::Metadata;
pub use tensors::TensorInfo;
pub use value::{Array, ByteStrings, Text, Value, ValueType};

pub(crate) use header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, check_alignment, check_key};
pub(crate) use tensors::{MAX_DIMS, check_name};

use crate::error::FormatError;
use crate::map::Map;
use crate::smq::{self, Part, PartForm};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// An opened GGUF file: its metadata, its tensors' descriptions, and their bytes as slices of the map.
///
/// ```
/// use smallmind_formats::{Gguf, write::GgufWriter};
/// use smallmind_kernels::dtype::DType;
/// let mut writer = GgufWriter::new();
/// writer.set_str("general.architecture", "llama");
/// writer.add_tensor("ones", DType::F32, &[2], [1f32, 1.0].map(f32::to_le_bytes).concat());
/// let file = Gguf::from_bytes("example", writer.to_bytes()?)?;
/// assert_eq!(file.metadata().require_str("general.architecture")?, "llama");
/// let ones = file.tensor("ones").expect("just written");
/// assert_eq!(file.data(ones), [0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Gguf {
    map: Arc<Map>,
    path: Arc<Path>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<usize>,
    /// Where the header lies, as a GGUF file has it.
    header: Range<usize>,
    /// Length of the GGUF file.
    gguf_len: u64,
    /// Of an SMQ file: the parts, and where the index ends.
    packed: Option<(Vec<Part>, usize)>,
}

/// The bytes of an opened file, kept mapped while this lives.
#[derive(Clone, Debug)]
pub struct SharedBytes(Arc<Map>);

impl SharedBytes {
    /// The bytes of a part of the file that they are from.
    pub fn part(&self, part: &Part) -> &[u8] {
        self.0.get(part.range.clone())
    }
}

impl Gguf {
    /// Maps a file, GGUF or [SMQ](crate::Part), and checks its whole header: after this no read of metadata or of tensor
    /// bytes can go wrong. Matrices of an SMQ file are there packed ([`Gguf::packed`]), not as rows.
    ///
    /// The file must stay as it is while it is open: another process that cuts it short ends this one (SIGBUS), and
    /// one that rewrites it in place changes the weights. Replacing it by a rename is harmless.
    ///
    /// # Errors
    /// If the file cannot be read, is not GGUF version 2 or 3 in little-endian order, is cut short, is one part of a
    /// split model, or has any structural fault. The sentence names the key or tensor at fault.
    pub fn open(path: &Path) -> Result<Gguf, FormatError> {
        Gguf::parse(Map::open(path)?, path)
    }

    /// The same for bytes in memory; `name` takes the path's place in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Gguf, FormatError> {
        Gguf::parse(Map::from_bytes(bytes), Path::new(name))
    }

    fn parse(map: Map, path: &Path) -> Result<Gguf, FormatError> {
        let (map, path) = (Arc::new(map), Arc::<Path>::from(path));
        let len = map.bytes().len();
        if map.bytes().starts_with(smq::MAGIC) {
            return Gguf::parse_smq(map, path);
        }
        let header = header::parse(&map, &path, 0..len, len as u64)?;
        Gguf::new(map, path, header, 0..len, len as u64, None)
    }

    fn parse_smq(map: Arc<Map>, path: Arc<Path>) -> Result<Gguf, FormatError> {
        let index = smq::parse(map.bytes(), &path)?;
        let mut header = header::parse(&map, &path, index.gguf.clone(), index.gguf_len)?;
        let parts = index.parts(&path, &header.tensors, map.bytes().len())?;
        let (within, gguf_len, end) = (index.gguf.clone(), index.gguf_len, index.end);
        header.tensors.iter_mut().for_each(|t| t.put(None));
        for part in &parts {
            if let Some(tensor) = header.tensors.get_mut(part.tensor)
                && part.form == PartForm::Rows
                && part.rows == tensor.rows()
            {
                tensor.put(Some(part.range.start));
            }
        }
        Gguf::new(Arc::clone(&map), path, header, within, gguf_len, Some((parts, end)))
    }

    fn new(
        map: Arc<Map>,
        path: Arc<Path>,
        header: header::Header,
        within: Range<usize>,
        gguf_len: u64,
        packed: Option<(Vec<Part>, usize)>,
    ) -> Result<Gguf, FormatError> {
        let by_name = tensors::index_by_name(&path, &header.tensors)?;
        let end = usize::try_from(header.end).unwrap_or(usize::MAX);
        Ok(Gguf {
            map,
            path,
            version: header.version,
            metadata: header.metadata,
            tensors: header.tensors,
            by_name,
            header: within.start..within.start.saturating_add(end),
            gguf_len,
            packed,
        })
    }

    /// The parts of an SMQ file; `None` of a GGUF file.
    pub fn parts(&self) -> Option<&[Part]> {
        self.packed.as_ref().map(|(parts, _)| parts.as_slice())
    }

    /// The bytes of one of this file's parts.
    pub fn part_data(&self, part: &Part) -> &[u8] {
        self.map.get(part.range.clone())
    }

    /// The bytes of the file, shared: what is computed from them may outlive this value.
    pub fn shared(&self) -> SharedBytes {
        SharedBytes(Arc::clone(&self.map))
    }

    /// The part that holds exactly these rows of a tensor packed, whatever its layout and order.
    pub fn packed(&self, tensor: &TensorInfo, rows: &Range<usize>) -> Option<&Part> {
        let index = self.tensors.iter().position(|t| t.name == tensor.name)?;
        self.parts()?.iter().find(|p| {
            p.tensor == index
                && p.form != PartForm::Rows
                && p.first_row == rows.start
                && p.rows == rows.end.saturating_sub(rows.start)
        })
    }

    /// The header, to the end of the last tensor's description, as a GGUF file has it.
    pub fn gguf_header(&self) -> &[u8] {
        self.map.get(self.header.clone())
    }

    /// The length of the GGUF file: this one, or the one that it was made from.
    pub fn gguf_len(&self) -> u64 {
        self.gguf_len
    }

    /// Whether the bytes before, between and behind the tensors are zero, as every writer makes them; an SMQ file keeps
    /// none of them.
    pub fn gaps_are_zero(&self) -> bool {
        if self.parts().is_some() {
            return true;
        }
        let mut places: Vec<Range<usize>> = self.tensors.iter().map(TensorInfo::range).collect();
        places.sort_unstable_by_key(|r| r.start);
        let len = self.map.bytes().len();
        let ends = std::iter::once(self.header.end).chain(places.iter().map(|r| r.end));
        let starts = places.iter().map(|r| r.start).chain(std::iter::once(len));
        ends.zip(starts).all(|(from, to)| self.map.get(from..to).iter().all(|b| *b == 0))
    }

    pub(crate) fn index_end(&self) -> usize {
        self.packed.as_ref().map_or(0, |(_, end)| *end)
    }

    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.map.get(range)
    }

    /// The path (or name) it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version: 2 or 3 (which differ in nothing we read).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.map.bytes().len() as u64
    }

    /// The keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in the order of the file. There is at least one.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that exact name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = |i: &usize| self.tensors.get(*i).map_or("", |t| t.name.as_str()).cmp(name);
        let at = self.by_name.binary_search_by(found).ok()?;
        self.by_name.get(at).and_then(|i| self.tensors.get(*i))
    }

    /// The stored bytes of one of this file's tensors: [`TensorInfo::bytes`] of them, at an address that is a
    /// multiple of 8; none where an SMQ file has it only packed ([`TensorInfo::has_rows`]). (A tensor of another file gets whatever lies there, or nothing.)
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        self.map.get(tensor.range())
    }

    /// Gives the resident memory of a part of a tensor (`part`, in bytes of it; whole pages only) back to the system;
    /// reading it again fetches it from the file. Worth it once that part has been repacked. Does nothing for bytes
    /// that were never a file.
    pub fn release(&self, tensor: &TensorInfo, part: std::ops::Range<usize>) {
        let range = tensor.range();
        let at = |offset: usize| range.start.saturating_add(offset).min(range.end);
        self.map.release(at(part.start)..at(part.end));
    }

    /// Gives the resident memory of the keys and values back to the system, as [`Gguf::release`] does for tensors:
    /// worth it once the vocabulary, which is nearly all of it, has been read.
    pub fn release_metadata(&self) {
        self.map.release(self.header.clone());
    }
}
