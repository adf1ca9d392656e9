//! A model's parts -> an SMQ file: data first, then the index with their digests, in the place that was kept for it.

use super::WholeFile;
use crate::error::FormatError;
use crate::gguf::Gguf;
use crate::smq::{
    DATA_ALIGNMENT, DIGESTED_BYTES, HEADER_BYTES, MAGIC, PART_ALIGNMENT, PART_BYTES, PartForm, PartOrder,
    REQUIRED, VERSION, padded_section, section,
};
use sha2::{Digest, Sha256};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// One part to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// Index of the tensor in the GGUF header.
    pub tensor: usize,
    /// How the rows are held.
    pub form: PartForm,
    /// The first row.
    pub first_row: usize,
    /// Rows.
    pub rows: usize,
    /// Bytes that it will take.
    pub bytes: usize,
}

/// An SMQ file being written: takes the bytes of the parts in order, then [`SmqWriter::commit`]s.
#[derive(Debug)]
pub struct SmqWriter {
    file: WholeFile,
    gguf_section: Vec<u8>,
    features: u32,
    parts: Vec<(PartSpec, u64, [u8; 32])>,
    specs: std::vec::IntoIter<PartSpec>,
    at: u64,
}

impl SmqWriter {
    /// Starts the file `path` for the model of an opened GGUF (or SMQ) file and these parts, packed ones last.
    /// `features` are the bits that its readers must know ([`crate::PACKED_LOOKUP`]).
    ///
    /// # Errors
    /// As [`WholeFile::create`] and writing.
    pub fn create(
        path: &Path,
        model: &Gguf,
        features: u32,
        specs: Vec<PartSpec>,
    ) -> Result<SmqWriter, FormatError> {
        let mut file = WholeFile::create(path)?;
        let gguf_section =
            padded_section(section::GGUF, REQUIRED, &[&model.gguf_len().to_le_bytes(), model.gguf_header()]);
        let list = vec![0; specs.len().saturating_mul(PART_BYTES)];
        let index = padded_section(section::PARTS, REQUIRED, &[&list]);
        let at = HEADER_BYTES.saturating_add(gguf_section.len()).saturating_add(index.len()) as u64;
        file.seek(SeekFrom::Start(at)).map_err(|e| FormatError::io(path, "write", e))?;
        Ok(SmqWriter { file, gguf_section, features, parts: Vec::new(), specs: specs.into_iter(), at })
    }

    /// The next part's description; `None` where all are written.
    pub fn next_part(&self) -> Option<&PartSpec> {
        self.specs.as_slice().first()
    }

    /// Writes the next part.
    ///
    /// # Errors
    /// If `bytes` are not as many as was said, or the system refuses.
    pub fn part(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let path = self.file.path().to_owned();
        let io = |e| FormatError::io(&path, "write", e);
        let wrong =
            || io(io::Error::new(io::ErrorKind::InvalidInput, "a part of another size than was said"));
        let spec = self.specs.next().filter(|s| s.bytes == bytes.len()).ok_or_else(wrong)?;
        let first_packed = matches!(spec.form, PartForm::Packed { .. })
            && !self.parts.iter().any(|(s, ..)| matches!(s.form, PartForm::Packed { .. }));
        let alignment = if first_packed { DATA_ALIGNMENT } else { PART_ALIGNMENT };
        let offset = self.at.checked_next_multiple_of(alignment).ok_or_else(wrong)?;
        // What is passed over reads as zeros.
        self.file.seek(SeekFrom::Start(offset)).map_err(io)?;
        self.file.write_all(bytes).map_err(io)?;
        self.at = offset.saturating_add(bytes.len() as u64);
        self.parts.push((spec, offset, Sha256::digest(bytes).into()));
        Ok(())
    }

    /// Writes the index and the header and gives the file its name.
    ///
    /// # Errors
    /// If parts are missing, or the system refuses.
    pub fn commit(mut self) -> Result<(), FormatError> {
        let path = self.file.path().to_owned();
        let io = |e| FormatError::io(&path, "write", e);
        if self.specs.next().is_some() {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "parts are missing")));
        }
        let list: Vec<u8> = self.parts.iter().flat_map(|(spec, at, sha)| described(spec, *at, sha)).collect();
        let mut index = std::mem::take(&mut self.gguf_section);
        index.extend(padded_section(section::PARTS, REQUIRED, &[&list]));
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(self.features.to_le_bytes());
        header.extend((index.len() as u64).to_le_bytes());
        header.extend(self.at.to_le_bytes());
        debug_assert_eq!(header.len(), DIGESTED_BYTES);
        let digest = Sha256::new().chain_update(&header).chain_update(&index).finalize();
        header.extend_from_slice(&digest);
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        self.file.write_all(&header).map_err(io)?;
        self.file.write_all(&index).map_err(io)?;
        self.file.commit()
    }
}

fn described(spec: &PartSpec, offset: u64, sha256: &[u8; 32]) -> Vec<u8> {
    let (form, layout, order) = match spec.form {
        PartForm::Rows => (0u32, 0, [0; 3]),
        PartForm::Packed { layout, order: PartOrder::Natural } => (1, layout, [0; 3]),
        PartForm::Packed { layout, order: PartOrder::PairsToHalves { head_dim, rope_dim } } => {
            (1, layout, [1, head_dim, rope_dim])
        }
    };
    let mut bytes = Vec::with_capacity(PART_BYTES);
    bytes.extend(u32::try_from(spec.tensor).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(form.to_le_bytes());
    bytes.extend((spec.first_row as u64).to_le_bytes());
    bytes.extend((spec.rows as u64).to_le_bytes());
    bytes.extend(layout.to_le_bytes());
    order.iter().for_each(|n: &u32| bytes.extend(n.to_le_bytes()));
    bytes.extend(offset.to_le_bytes());
    bytes.extend((spec.bytes as u64).to_le_bytes());
    bytes.extend_from_slice(sha256);
    bytes
}
