//! The safetensors of a folder: one file, or the shards that an index names. Every shard is opened and every tensor of
//! the index found before a caller sees one.

use super::{SafeTensor, Safetensors};
use crate::error::FormatError;
use crate::fs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of a model in one piece, and the index of one in shards.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The largest indices have some hundred thousand names.
const MAX_INDEX_BYTES: usize = 64 << 20;

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub file: Safetensors,
}

/// A model's weights.
#[derive(Debug)]
pub struct SafetensorsFolder {
    shards: Vec<Shard>,
    /// Shard and place of each tensor.
    by_name: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If there is neither, a shard is missing or not sound, a tensor is not in the shard that the index names, or one
    /// is in two shards.
    pub fn open(folder: &Path) -> Result<SafetensorsFolder, FormatError> {
        let index_path = folder.join(INDEX);
        let single = folder.join(SINGLE);
        let (names, index) = if single.exists() {
            (vec![SINGLE.to_owned()], None)
        } else if index_path.exists() {
            let text = fs::read(&index_path, MAX_INDEX_BYTES)?;
            let index: Index = serde_json::from_slice(&text)
                .map_err(|e| FormatError::file(&index_path, format!("is no index of shards ({e})")))?;
            let mut names: Vec<String> = index.weight_map.values().cloned().collect();
            names.sort_unstable();
            names.dedup();
            (names, Some(index))
        } else {
            let message = format!("holds neither {SINGLE} nor {INDEX}; get the model as safetensors");
            return Err(FormatError::file(folder, message));
        };
        let mut shards = Vec::new();
        let mut by_name = BTreeMap::new();
        for name in names {
            // A name that leaves the folder is no shard of this model.
            if Path::new(&name).components().count() != 1
                || name.contains(['/', '\\'])
                || name.starts_with("..")
            {
                return Err(FormatError::file(
                    &index_path,
                    format!("names the shard `{name}`, which is no file name"),
                ));
            }
            let path = folder.join(&name);
            if !path.exists() {
                let message =
                    format!("names the shard `{name}`, which is missing: download the rest of the model");
                return Err(FormatError::file(&index_path, message));
            }
            let file = Safetensors::open(&path)?;
            for tensor in file.tensors() {
                if by_name.insert(tensor.name.clone(), shards.len()).is_some() {
                    let message = "is in another shard too; download the model again";
                    return Err(FormatError::tensor(&path, &tensor.name, message));
                }
            }
            shards.push(Shard { path, file });
        }
        let found = SafetensorsFolder { shards, by_name };
        for (tensor, name) in index.iter().flat_map(|i| &i.weight_map) {
            let place = found.shard_of(tensor);
            if place.is_none_or(|s| s.path.file_name() != Some(name.as_ref())) {
                let message = format!("is not in `{name}`, where the index says; download the model again");
                return Err(FormatError::tensor(&index_path, tensor, message));
            }
        }
        Ok(found)
    }

    fn shard_of(&self, name: &str) -> Option<&Shard> {
        self.by_name.get(name).and_then(|i| self.shards.get(*i))
    }

    /// The tensor of that exact name, and the file it is in.
    pub fn tensor(&self, name: &str) -> Option<(&Shard, &SafeTensor)> {
        let shard = self.shard_of(name)?;
        Some((shard, shard.file.tensor(name)?))
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}
