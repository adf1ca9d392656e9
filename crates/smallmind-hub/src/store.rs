//! The folders of the store: names made safe, locks, manifests, and the one rename by which a model appears. Knows
//! no network.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::HubError;
use crate::name::file_name;
use crate::progress::Progress;

const MANIFEST: &str = "manifest.json";

/// A model of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name it was pulled by.
    pub name: String,
    /// Its file; a folder when it has several.
    pub path: PathBuf,
    /// Size of its files in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hex: of the file, or of the lines `sum  name` where there are several.
    pub sha256: String,
    /// Where it came from.
    pub source: String,
    /// The licence, where the catalogue knows it.
    pub licence: Option<String>,
    /// When it was pulled, UTC: `2026-01-31T12:00:00Z`.
    pub pulled_at: String,
}

/// What `manifest.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) files: Vec<ManifestFile>,
    pub(crate) source: String,
    pub(crate) licence: Option<String>,
    pub(crate) pulled_at: String,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    pub(crate) fn entry(&self, folder: &Path) -> Entry {
        let sha256 = match self.files.as_slice() {
            [file] => file.sha256.clone(),
            files => {
                let mut hash = Sha256::new();
                files.iter().for_each(|file| hash.update(format!("{}  {}\n", file.sha256, file.name)));
                hex(&hash.finalize())
            }
        };
        Entry {
            name: self.name.clone(),
            path: match self.files.as_slice() {
                [file] => folder.join(&file.name),
                _ => folder.to_path_buf(),
            },
            bytes: self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes)),
            sha256,
            source: self.source.clone(),
            licence: self.licence.clone(),
            pulled_at: self.pulled_at.clone(),
        }
    }
}

/// The store below one folder.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    home: PathBuf,
}

impl Store {
    pub(crate) fn new(home: PathBuf) -> Self {
        Self { home }
    }

    pub(crate) fn model_dir(&self, name: &str) -> PathBuf {
        self.home.join("models").join(folder_name(name))
    }

    pub(crate) fn partial_dir(&self, name: &str) -> PathBuf {
        self.home.join("partial").join(folder_name(name))
    }

    /// Takes the lock of one model, waiting for whoever holds it; dropped with the returned file.
    pub(crate) fn lock(&self, name: &str, progress: &mut dyn Progress) -> Result<File, HubError> {
        let folder = self.home.join("locks");
        create_dir(&folder)?;
        let path = folder.join(format!("{}.lock", folder_name(name)));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| HubError::io("open the lock", &path, error))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => {
                    if progress.cancelled() {
                        return Err(HubError::Cancelled);
                    }
                    if !told {
                        progress.note(&format!("another process is working on {name}; waiting for it"));
                        told = true;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(fs::TryLockError::Error(error)) => return Err(HubError::io("lock", &path, error)),
            }
        }
    }

    /// The manifest of an installed model whose files all have their recorded sizes; `None` when it is not
    /// installed or damaged.
    pub(crate) fn installed(&self, name: &str) -> Option<Manifest> {
        let folder = self.model_dir(name);
        let manifest = read_manifest(&folder)?;
        let whole = manifest.files.iter().all(|file| {
            fs::metadata(folder.join(&file.name)).is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes)
        });
        whole.then_some(manifest)
    }

    /// The manifest even if files are damaged: what `verify` compares with.
    pub(crate) fn manifest(&self, name: &str) -> Option<Manifest> {
        read_manifest(&self.model_dir(name))
    }

    /// Makes the whole, synced contents of the partial folder the installed model, by one rename.
    pub(crate) fn install(&self, manifest: &Manifest) -> Result<Entry, HubError> {
        let partial = self.partial_dir(&manifest.name);
        let target = self.model_dir(&manifest.name);
        let keep: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
        for path in children(&partial) {
            let known =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| keep.contains(&name));
            if !known {
                remove_any(&path)?;
            }
        }
        write_json(&partial.join(MANIFEST), manifest)?;
        sync_dir(&partial)?;
        let models = self.home.join("models");
        create_dir(&models)?;
        remove_any(&target)?;
        fs::rename(&partial, &target).map_err(|error| HubError::io("move into the store", &target, error))?;
        sync_dir(&models)?;
        Ok(manifest.entry(&target))
    }

    /// Every installed model, by name.
    pub(crate) fn list(&self) -> Result<Vec<Entry>, HubError> {
        let models = self.home.join("models");
        match fs::read_dir(&models) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HubError::io("read", &models, error)),
        }
        let mut entries: Vec<Entry> = children(&models)
            .iter()
            .filter_map(|folder| read_manifest(folder).map(|manifest| manifest.entry(folder)))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Deletes a model and what an interrupted pull of it left; returns the bytes freed, `None` if there was nothing.
    pub(crate) fn remove(&self, name: &str) -> Result<Option<u64>, HubError> {
        let folders = [self.model_dir(name), self.partial_dir(name)];
        if !folders.iter().any(|folder| folder.is_dir()) {
            return Ok(None);
        }
        let mut bytes = 0u64;
        for folder in folders {
            for file in children(&folder) {
                bytes = bytes.saturating_add(fs::symlink_metadata(&file).map_or(0, |meta| meta.len()));
            }
            remove_any(&folder)?;
        }
        Ok(Some(bytes))
    }
}

/// A folder name for a model name: readable, and different for different names.
fn folder_name(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(80)
        .collect();
    if crate::catalogue::find(name).is_some() {
        return clean;
    }
    format!("{}-{}", clean.trim_start_matches('.'), &hex(&Sha256::digest(name.as_bytes()))[..12])
}

fn read_manifest(folder: &Path) -> Option<Manifest> {
    let path = folder.join(MANIFEST);
    // Our own manifests are a few kB; a larger file is somebody else's.
    if !fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 20) {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let sound = manifest.version == 1
        && !manifest.files.is_empty()
        && manifest.files.iter().all(|file| file_name(&file.name) == file.name);
    sound.then_some(manifest)
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

pub(crate) fn create_dir(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|error| HubError::io("create", folder, error))
}

/// Deletes a file or a folder; that it does not exist is fine.
pub(crate) fn remove_any(path: &Path) -> Result<(), HubError> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let result = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HubError::io("delete", path, error))
        }
        _ => Ok(()),
    }
}

/// Writes JSON aside, syncs it and renames it into place.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HubError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| HubError::Settings(error.to_string()))?;
    text.push(b'\n');
    let aside = path.with_extension("json.new");
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    let written = written.and_then(|()| fs::rename(&aside, path));
    written.map_err(|error| HubError::io("write", path, error))
}

/// Makes renames and deletions in a folder last through a power cut; a no-op where folders cannot be opened.
fn sync_dir(folder: &Path) -> Result<(), HubError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| HubError::io("sync", folder, error))?;
    }
    Ok(())
}

/// SHA-256 of a file in lower-case hex, and its size in bytes.
pub(crate) fn hash_file(
    path: &Path,
    what: &str,
    progress: &mut dyn Progress,
) -> Result<(String, u64), HubError> {
    let failed = |error| HubError::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 18];
    let mut bytes = 0u64;
    progress.start(what, Some(total), 0);
    let result = loop {
        if progress.cancelled() {
            break Err(HubError::Cancelled);
        }
        match file.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
                progress.advance(n as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => break Err(failed(error)),
        }
    };
    progress.finish();
    result.map(|()| (hex(&hash.finalize()), bytes))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now, UTC, as RFC 3339 to the second.
pub(crate) fn now() -> String {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(elapsed.as_secs())
}

/// Seconds since 1970 as a date of the Gregorian calendar, counted in 400-year eras that begin on 1 March.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), wanted);
        }
    }

    #[test]
    fn folders_are_told_apart_and_stay_in_the_store() {
        assert_eq!(folder_name("smollm2:135m"), "smollm2-135m");
        assert_ne!(folder_name("hf:a/b-c"), folder_name("hf:a-b/c"));
        for name in ["../..", "https://h/../../x", "..", "", "."] {
            let folder = folder_name(name);
            assert!(!folder.contains(['/', '\\']) && !folder.starts_with('.'), "{folder}");
        }
    }

    #[test]
    fn a_manifest_that_points_outside_its_folder_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_path_buf());
        let model = store.model_dir("x");
        create_dir(&model).unwrap();
        let file = ManifestFile { name: "../evil".into(), bytes: 0, sha256: String::new() };
        let mut manifest = Manifest {
            version: 1,
            name: "x".into(),
            files: vec![file],
            source: String::new(),
            licence: None,
            pulled_at: now(),
        };
        write_json(&model.join(MANIFEST), &manifest).unwrap();
        assert!(store.manifest("x").is_none() && store.list().unwrap().is_empty());
        manifest.files[0].name = "fine".into();
        write_json(&model.join(MANIFEST), &manifest).unwrap();
        assert!(store.manifest("x").is_some() && store.installed("x").is_none());
    }
}
