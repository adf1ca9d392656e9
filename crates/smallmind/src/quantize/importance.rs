//! Importance matrices: the mean square of every input channel of every matrix over some text, in llama.cpp's GGUF form
//! (`general.type` is `imatrix`; tensors `NAME.in_sum2` and `NAME.counts`). Reads them; `imatrix.rs` makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use smallmind_formats::{FormatError, Gguf};
use smallmind_kernels::DType;

use crate::error::Result;

/// Ends of the names of the two tensors of each matrix.
pub(crate) const SUMS: &str = ".in_sum2";
pub(crate) const COUNTS: &str = ".counts";

/// Importances of the columns of a model's matrices.
#[derive(Clone, Debug)]
pub struct Importance {
    path: PathBuf,
    /// By the matrix's name; mean 1.
    columns: BTreeMap<String, Vec<f32>>,
    pub(super) chunks: u32,
    pub(super) datasets: Vec<String>,
}

impl Importance {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// Where the file is no importance matrix, or a value is not finite or negative.
    pub fn open(path: &Path) -> Result<Importance> {
        Importance::read(&Gguf::open(path)?)
    }

    /// The same of an opened file.
    ///
    /// # Errors
    /// As [`Importance::open`].
    pub fn read(gguf: &Gguf) -> Result<Importance> {
        let meta = gguf.metadata();
        if meta.str("general.type")? != Some("imatrix") {
            let message = "is not `imatrix`: make an importance matrix with `smallmind imatrix`";
            return Err(FormatError::invalid(gguf.path(), "general.type", message).into());
        }
        let mut columns = BTreeMap::new();
        for sums in gguf.tensors() {
            let Some(name) = sums.name.strip_suffix(SUMS) else { continue };
            let error = |message: &str| FormatError::tensor(gguf.path(), &sums.name, message);
            let counts = gguf
                .tensor(&format!("{name}{COUNTS}"))
                .ok_or_else(|| error("has no `.counts` beside it: make the file again"))?;
            if counts.elements() != 1 || sums.rows() != 1 {
                return Err(error("is of a mixture of experts, which is not supported").into());
            }
            if sums.dtype != DType::F32 || counts.dtype != DType::F32 {
                return Err(error("and its counts must be F32: make the file again").into());
            }
            let mut values = floats(gguf.data(sums));
            let count = floats(gguf.data(counts)).first().copied().unwrap_or_default();
            if !count.is_finite() || values.iter().any(|v| !v.is_finite() || *v < 0.0) {
                return Err(error("holds values that are no sums of squares: make the file again").into());
            }
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
            // Only ratios matter; a matrix that was never used has none.
            if mean > 0.0 {
                values.iter_mut().for_each(|v| *v = (f64::from(*v) / mean) as f32);
            } else {
                values.fill(1.0);
            }
            columns.insert(name.to_owned(), values);
        }
        if columns.is_empty() {
            return Err(FormatError::file(gguf.path(), "holds no importances: make the file again").into());
        }
        Ok(Importance {
            path: gguf.path().to_owned(),
            columns,
            chunks: meta.u32("imatrix.chunk_count")?.unwrap_or(0),
            datasets: meta
                .strings("imatrix.datasets")?
                .into_iter()
                .flat_map(|s| s.into_iter().map(str::to_owned))
                .collect(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Matrices that it knows.
    pub fn matrices(&self) -> usize {
        self.columns.len()
    }

    /// The importance of each column of a matrix, mean 1; `None` where the file does not know it.
    ///
    /// # Errors
    /// Where the matrix has another number of columns.
    pub fn columns(&self, name: &str, k: usize) -> Result<Option<&[f32]>> {
        match self.columns.get(name) {
            Some(values) if values.len() != k => {
                let message = format!(
                    "has {} columns here and {k} in the model: the file was made for another model",
                    values.len()
                );
                Err(FormatError::tensor(&self.path, name, message).into())
            }
            found => Ok(found.map(Vec::as_slice)),
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind_formats::write::GgufWriter;

    fn file(sums: &[f32], count: f32, kind: &str) -> Result<Importance> {
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut w = GgufWriter::new();
        w.set_str("general.type", kind).set_strings("imatrix.datasets", &["a.txt"]);
        w.set_u32("imatrix.chunk_count", 7).set_u32("imatrix.chunk_size", 512);
        w.add_tensor("m.weight.in_sum2", DType::F32, &[sums.len()], bytes(sums));
        w.add_tensor("m.weight.counts", DType::F32, &[1], bytes(&[count]));
        Importance::read(&Gguf::from_bytes("i.gguf", w.to_bytes().unwrap()).unwrap())
    }

    #[test]
    fn columns_are_scaled_to_a_mean_of_one() {
        let i = file(&[1.0, 2.0, 6.0], 10.0, "imatrix").unwrap();
        assert_eq!(i.columns("m.weight", 3).unwrap(), Some(&[1.0 / 3.0, 2.0 / 3.0, 2.0][..]));
        assert_eq!(i.columns("other", 3).unwrap(), None);
        assert_eq!((i.chunks, i.datasets.as_slice()), (7, &["a.txt".to_owned()][..]));
        assert_eq!(
            file(&[0.0; 2], 0.0, "imatrix").unwrap().columns("m.weight", 2).unwrap(),
            Some(&[1.0; 2][..])
        );
    }

    #[test]
    fn what_is_no_importance_is_refused_by_name() {
        for (result, words) in [
            (file(&[1.0], 1.0, "model").map(drop), "general.type"),
            (file(&[f32::NAN], 1.0, "imatrix").map(drop), "m.weight.in_sum2"),
            (file(&[-1.0], 1.0, "imatrix").map(drop), "no sums of squares"),
            (file(&[1.0], 1.0, "imatrix").unwrap().columns("m.weight", 4).map(drop), "another model"),
        ] {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
