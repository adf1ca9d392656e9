//! A plain address: one file, checked against the sum in its fragment where there is one.

use super::{Job, Plan};
use crate::download::Remote;
use crate::error::HubError;
use crate::link::{Auth, Link};
use crate::name::file_name;

/// Plans the download of `url`; asks nothing.
pub(crate) fn plan(url: &str, sha256: Option<&str>) -> Result<Plan, HubError> {
    let link = Link::parse(url).ok_or_else(|| HubError::BadName {
        name: crate::link::shown(url),
        why: "the address is malformed".to_owned(),
    })?;
    let name = file_name(&link.last_component());
    let remote = Remote {
        url: link.request(),
        auth: Auth::basic(&link),
        sha256: sha256.map(str::to_owned),
        size: None,
        label: name.clone(),
        is_hub: false,
    };
    Ok(Plan { source: link.shown(), jobs: vec![Job::Direct { name, remote }] })
}
