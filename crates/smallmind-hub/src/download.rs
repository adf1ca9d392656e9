//! One address to one file: resumes with `Range` and `If-Range`, tries again when a connection breaks, checks
//! lengths on the way and the SHA-256 at the end. The file is complete and synced when this returns; until then it is
//! a `.part` beside a small `.json` that says what it is a part of.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{HubError, human};
use crate::http::{Get, Http, Reply};
use crate::link::{Auth, shown};
use crate::name::is_sha256;
use crate::progress::Progress;
use crate::store::{hash_file, remove_any, write_json};

/// A try that brings less than this counts as having brought nothing, so that a server that drips ends the patience.
const FRUITFUL_BYTES: u64 = 64 << 10;

/// A file on a server.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) url: String,
    pub(crate) auth: Option<Auth>,
    /// Expected SHA-256, lower-case hex.
    pub(crate) sha256: Option<String>,
    /// Expected size in bytes.
    pub(crate) size: Option<u64>,
    /// What to call it while it is downloaded.
    pub(crate) label: String,
    /// The server is a Hugging Face hub: an ETag of 64 hex digits is the SHA-256 of the file.
    pub(crate) is_hub: bool,
}

/// How hard to try and how much to take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) retries: u32,
    pub(crate) retry_pause: Duration,
    pub(crate) max_bytes: u64,
}

/// What a `.part` is a part of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    url: String,
    /// Strong ETag, else Last-Modified: what `If-Range` is sent with.
    validator: Option<String>,
    total: Option<u64>,
    sha256: Option<String>,
}

struct Download<'a> {
    http: &'a Http,
    remote: &'a Remote,
    limits: Limits,
    part: &'a Path,
    note_path: PathBuf,
    note: Note,
    /// Bytes came in during this call.
    received: bool,
}

/// Downloads `remote` to `part`. On return the bytes are whole and synced; the SHA-256 they were checked against is
/// returned where one was known.
pub(crate) fn fetch(
    http: &Http,
    remote: &Remote,
    part: &Path,
    limits: Limits,
    progress: &mut dyn Progress,
) -> Result<Option<String>, HubError> {
    let note_path = note_path(part);
    let saved = fs::read(&note_path).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    let fresh =
        Note { url: shown(&remote.url), sha256: remote.sha256.clone(), total: remote.size, validator: None };
    let continues = |saved: &Note| {
        saved.url == fresh.url
            && (fresh.sha256.is_none() || fresh.sha256 == saved.sha256)
            && (fresh.total.is_none() || fresh.total == saved.total)
            && (saved.sha256.is_some() || saved.validator.is_some())
    };
    let note = saved.filter(continues);
    if note.is_none() {
        remove_any(part)?;
    }
    let mut resumed = part.exists();
    let note = note.unwrap_or(fresh);
    let mut download = Download { http, remote, limits, part, note_path, note, received: false };
    loop {
        download.until_whole(progress)?;
        let Some(expected) = download.note.sha256.clone() else { return Ok(None) };
        let (actual, _) = hash_file(part, &format!("checking {}", remote.label), progress)?;
        if actual == expected {
            return Ok(Some(actual));
        }
        download.restart()?;
        if !resumed {
            return Err(HubError::Checksum {
                what: format!("{} from {}", remote.label, shown(&remote.url)),
                expected,
                actual,
                remedy:
                    "the download was thrown away; pull again, and if it stays so do not trust this source"
                        .to_owned(),
            });
        }
        progress.note("the continued download does not add up; starting over");
        resumed = false;
    }
}

/// Where the note about a `.part` stands.
pub(crate) fn note_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

impl Download<'_> {
    fn until_whole(&mut self, progress: &mut dyn Progress) -> Result<(), HubError> {
        let mut fruitless = 0;
        loop {
            let before = self.have();
            let error = match self.attempt(progress) {
                Ok(true) => return Ok(()),
                // What was there did not fit the server's file; it is gone now, ask for the whole.
                Ok(false) => None,
                Err(error) if error.is_transient() || (self.received && is_network(&error)) => Some(error),
                Err(error) => return Err(error),
            };
            fruitless = if self.have() >= before.saturating_add(FRUITFUL_BYTES) { 0 } else { fruitless + 1 };
            if fruitless > self.limits.retries {
                return Err(error.unwrap_or_else(|| self.wrong("the server keeps changing the file")));
            }
            if let Some(error) = error {
                progress.note(&format!("{error}; trying again"));
                let pause = self.limits.retry_pause.saturating_mul(1 << fruitless.min(6));
                let end = std::time::Instant::now() + pause;
                while std::time::Instant::now() < end {
                    if progress.cancelled() {
                        return Err(HubError::Cancelled);
                    }
                    std::thread::sleep(Duration::from_millis(50).min(pause));
                }
            }
        }
    }

    fn have(&self) -> u64 {
        fs::metadata(self.part).map_or(0, |meta| meta.len())
    }

    fn wrong(&self, why: &str) -> HubError {
        HubError::Content { what: shown(&self.remote.url), why: why.to_owned() }
    }

    /// Forgets what was downloaded.
    fn restart(&mut self) -> Result<(), HubError> {
        self.note = Note {
            url: shown(&self.remote.url),
            sha256: self.remote.sha256.clone(),
            total: self.remote.size,
            validator: None,
        };
        remove_any(self.part)?;
        remove_any(&self.note_path)
    }

    /// One request; `Ok(true)` when the file is whole, `Ok(false)` when it has to begin anew.
    fn attempt(&mut self, progress: &mut dyn Progress) -> Result<bool, HubError> {
        if progress.cancelled() {
            return Err(HubError::Cancelled);
        }
        let have = self.have();
        if have > 0 && self.note.total == Some(have) {
            return Ok(true);
        }
        if self.note.total.is_some_and(|total| have > total) {
            self.restart()?;
            return Ok(false);
        }
        let validator = self.note.validator.clone();
        let from = (have > 0).then_some((have, validator.as_deref()));
        let get = Get { url: &self.remote.url, accept: None, auth: self.remote.auth.as_ref(), from };
        let reply = self.http.get(get)?;
        let start = match reply.status {
            200 => 0,
            206 if have > 0 => {
                let range = reply.header("content-range").and_then(content_range);
                let moved = validator_of(&reply)
                    .is_some_and(|now| validator.as_ref().is_some_and(|then| *then != now));
                let fits = range.is_some_and(|(start, total)| {
                    start == have
                        && self.note.total.is_none_or(|known| total.is_none_or(|total| total == known))
                });
                if !fits || moved {
                    self.restart()?;
                    return Ok(false);
                }
                have
            }
            416 if have > 0 => {
                self.restart()?;
                return Ok(false);
            }
            status => return Err(refused(&reply, status, self.remote)),
        };
        self.expect(&reply, start)?;
        self.receive(reply, start, progress).map(|()| true)
    }

    /// Learns size, sum and validator from the headers, and refuses what cannot be right before taking a byte.
    fn expect(&mut self, reply: &Reply, start: u64) -> Result<(), HubError> {
        let etag_sum = reply.header("etag").map(|etag| etag.trim_matches('"')).filter(|_| self.remote.is_hub);
        let announced = reply.linked_sha256.clone().filter(|_| self.remote.is_hub);
        let announced = announced.or_else(|| etag_sum.filter(|s| is_sha256(s)).map(str::to_ascii_lowercase));
        if let (Some(expected), Some(announced)) = (&self.remote.sha256, &announced)
            && expected != announced
        {
            return Err(self.wrong(&format!(
                "the server announces a file with SHA-256 {announced}, expected is {expected}; the file was changed"
            )));
        }
        if start == 0 {
            self.note.sha256 = self.remote.sha256.clone().or(announced);
            self.note.validator = validator_of(reply);
            self.note.total = reply.body.content_length();
        } else if self.note.total.is_none() {
            self.note.total = reply.body.content_length().and_then(|rest| rest.checked_add(start));
        }
        let total = self.note.total;
        if let (Some(size), Some(total)) = (self.remote.size, total)
            && size != total
        {
            return Err(
                self.wrong(&format!("it has {total} bytes, expected are {size}; the file was changed"))
            );
        }
        let total = total.or(self.remote.size);
        if total.is_some_and(|total| total > self.limits.max_bytes) {
            return Err(
                self.wrong(&format!("it is larger than the limit of {}", human(self.limits.max_bytes)))
            );
        }
        require_space(self.part, total.unwrap_or(0).saturating_sub(start), &self.remote.label)
    }

    fn receive(&mut self, mut reply: Reply, start: u64, progress: &mut dyn Progress) -> Result<(), HubError> {
        let failed = |error| HubError::io("write", self.part, error);
        write_json(&self.note_path, &self.note)?;
        let mut file =
            File::options().create(true).truncate(false).write(true).open(self.part).map_err(failed)?;
        file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start))).map_err(failed)?;
        let limit = self.note.total.or(self.remote.size).unwrap_or(self.limits.max_bytes);
        let mut reader = reply.body.as_reader();
        let mut buffer = vec![0u8; 1 << 17];
        let mut at = start;
        progress.start(&self.remote.label, self.note.total.or(self.remote.size), start);
        let result = loop {
            if progress.cancelled() {
                break Err(HubError::Cancelled);
            }
            let n = match reader.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(n) => n,
                Err(error) => break Err(crate::http::network(&self.remote.url, &ureq::Error::from(error))),
            };
            at = at.saturating_add(n as u64);
            if at > limit {
                break Err(self.wrong(&format!("the server sends more than the {limit} bytes it should")));
            }
            if let Err(error) = file.write_all(&buffer[..n]) {
                break Err(failed(error));
            }
            self.received = true;
            progress.advance(n as u64);
        };
        progress.finish();
        result?;
        if self.note.total.or(self.remote.size).is_some_and(|total| at < total) {
            return Err(HubError::Network {
                url: shown(&self.remote.url),
                why: format!("the connection ended after {} of {}", human(at), human(limit)),
                transient: true,
            });
        }
        // From here on a length that matches means whole, also for servers that do not tell it.
        self.note.total = Some(at);
        write_json(&self.note_path, &self.note)?;
        file.sync_all().map_err(failed)
    }
}

fn is_network(error: &HubError) -> bool {
    matches!(error, HubError::Network { .. })
}

/// A strong ETag, else Last-Modified (RFC 9110, section 13.1.5).
fn validator_of(reply: &Reply) -> Option<String> {
    let strong = reply.header("etag").filter(|etag| etag.starts_with('"'));
    strong.or_else(|| reply.header("last-modified")).map(str::to_owned)
}

/// First byte and total size of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// A sentence for a status that is not success.
pub(crate) fn refused(reply: &Reply, status: u16, remote: &Remote) -> HubError {
    let code = reply.header("x-error-code").unwrap_or_default();
    let why = match (status, code, remote.is_hub) {
        (401 | 403, "GatedRepo", _) => {
            "the model is gated: accept its terms on its page and set HF_TOKEN to a token \
                                        of that account"
                .to_owned()
        }
        (_, "EntryNotFound", _) => "there is no such file in the repository".to_owned(),
        (_, "RevisionNotFound", _) => "there is no such branch, tag or commit in the repository".to_owned(),
        (401, _, true) if remote.auth.is_some() => "the hub does not accept HF_TOKEN, or there is no such \
                                                    repository"
            .to_owned(),
        (401 | 404, _, true) => {
            "there is no such repository or file, or it is private or gated: check the spelling \
                                 or set HF_TOKEN"
                .to_owned()
        }
        (403, _, true) => {
            "this account may not read the model: accept its terms on its page, or use a HF_TOKEN with \
                           read permission"
                .to_owned()
        }
        (401, ..) => "the server wants a user and a password".to_owned(),
        (403, ..) => "the server forbids it".to_owned(),
        (404 | 410, ..) => "there is no such file; check the address".to_owned(),
        (429, ..) => "too many requests; wait a little".to_owned(),
        (500..=599, ..) => "the server has a fault of its own; try again later".to_owned(),
        _ => "the server gave an unexpected answer".to_owned(),
    };
    HubError::Status { url: reply.link.shown(), status, why }
}

/// Refuses to begin what the disk has no room for.
pub(crate) fn require_space(file: &Path, bytes: u64, what: &str) -> Result<(), HubError> {
    let folder = file.parent().unwrap_or(file);
    match free_bytes(folder) {
        Some(free) if free < bytes => Err(HubError::DiskFull {
            what: what.to_owned(),
            path: folder.to_path_buf(),
            need: format!("{} are needed, {} are free", human(bytes), human(free)),
        }),
        _ => Ok(()),
    }
}

/// Bytes that an ordinary user may still write; `None` where the system does not tell.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["", "bytes */10", "bytes -9/10", "items 5-9/10", "bytes 5"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
