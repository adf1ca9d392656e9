//! The results that reports are made of: several files, of one machine.

use std::path::{Path, PathBuf};

use crate::compare::{Detail, SideFacts};
use crate::results::{Kind, Results, Row};
use crate::{Error, Result};

/// Saved runs of one machine, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    runs: Vec<(String, Results)>,
}

impl Bundle {
    /// Reads files, and the `.json` files of folders.
    ///
    /// # Errors
    /// Where a file is no results file, there is none, or they are of different machines or builds.
    pub fn load(paths: &[PathBuf]) -> Result<Bundle> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                let mut inside = entries(path)?;
                inside.sort();
                files.extend(inside);
            } else {
                files.push(path.clone());
            }
        }
        if files.is_empty() {
            let shown: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            let message = "there are no results to report: save some with `smallmind bench`, `profile` or `compare --save`";
            return Err(Error::Usage(format!("{}: {message}", shown.join(", "))));
        }
        let runs = files.iter().map(|path| Ok((name(path), Results::load(path)?)));
        Bundle::of(runs.collect::<Result<_>>()?)
    }

    /// Of runs that are loaded: name and run.
    ///
    /// # Errors
    /// Where they are of different machines or builds: figures of one must not be taken for the other's.
    pub fn of(runs: Vec<(String, Results)>) -> Result<Bundle> {
        if let Some(((first, one), rest)) = runs.split_first() {
            for (name, other) in rest {
                let differences = other.environment.differences(&one.environment);
                // Each run has models of its own.
                if let Some(difference) = differences.iter().find(|d| !d.starts_with("another file behind")) {
                    return Err(Error::Usage(format!(
                        "{first} and {name} are not of one machine and build ({difference}): make a report of each"
                    )));
                }
            }
        }
        Ok(Bundle { runs })
    }

    /// Runs of one kind.
    pub(super) fn runs(&self, kind: Kind) -> impl Iterator<Item = (&str, &Results)> {
        self.runs.iter().filter(move |(_, r)| r.kind == kind).map(|(name, r)| (name.as_str(), r))
    }

    /// All runs.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Results)> {
        self.runs.iter().map(|(name, r)| (name.as_str(), r))
    }

    /// All rows of comparisons.
    pub(super) fn compared(&self) -> Vec<&Row> {
        self.runs(Kind::Compare).flat_map(|(_, r)| &r.rows).collect()
    }

    /// What comparisons know of their sides.
    pub(super) fn sides(&self) -> Vec<SideFacts> {
        let details = self.runs(Kind::Compare).filter_map(|(_, r)| detail(r));
        details.flat_map(|d| d.sides).collect()
    }
}

/// What a comparison's file holds beside its rows.
pub(super) fn detail(results: &Results) -> Option<Detail> {
    serde_json::from_value(results.detail.clone()).ok()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let system = |cause| Error::System { what: folder.display().to_string(), cause };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(system)? {
        let path = entry.map_err(system)?.path();
        if path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
    Ok(found)
}
