//! The Hugging Face hub: lists a repository, chooses the model file, and finds files that Hugging Face's own cache
//! already has. The addresses and headers are those of huggingface_hub's documentation; the token goes to the
//! endpoint only.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Job, Plan};
use crate::config::Config;
use crate::download::{Remote, refused};
use crate::error::HubError;
use crate::http::{Get, Http};
use crate::link::{Auth, Link, percent_encode_path};
use crate::name::{file_name, is_member_path, is_sha256};

/// A listing of a repository with thousands of files stays far below.
const MAX_LISTING_BYTES: u64 = 32 << 20;

/// Which quantization to take when a repository has several and none is named: the usual trade-off first.
const PREFERRED: &[&str] =
    &["q4_k_m", "q8_0", "q5_k_m", "q4_k_s", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1", "f16", "bf16", "f32"];

/// What a folder of safetensors needs besides its weights.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// A repository, and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) org: &'a str,
    pub(crate) repo: &'a str,
    pub(crate) file: Option<&'a str>,
    pub(crate) revision: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
struct Listing {
    #[serde(default)]
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Clone, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Wanted<'_> {
    fn id(&self) -> String {
        format!("{}/{}", self.org, self.repo)
    }

    /// The file, when it is named in full and not by a word of its name.
    fn exact(&self) -> Option<&str> {
        self.file.filter(|file| is_model_file(file))
    }

    /// Plans the download; asks for the listing unless the file is named in full.
    pub(crate) fn plan(&self, http: &Http, config: &Config, sha256: Option<&str>) -> Result<Plan, HubError> {
        let endpoint = Link::parse(&config.hf_endpoint).ok_or_else(|| {
            HubError::Settings(
                "HF_ENDPOINT is not an address; give one like https://huggingface.co".to_owned(),
            )
        })?;
        let auth = config.hf_token.as_ref().and_then(|token| Auth::bearer(&endpoint, token));
        let mut revision = self.revision.unwrap_or("main").to_owned();
        let mut siblings = Vec::new();
        let files = match self.exact() {
            Some(file) => vec![file.to_owned()],
            None => {
                let listing = self.list(http, config, &revision, auth.as_ref())?;
                // Everything of one commit, even if somebody pushes meanwhile.
                revision = listing.sha.filter(|sha| is_member_path(sha)).unwrap_or(revision);
                siblings = listing.siblings;
                let names: Vec<&str> = siblings.iter().map(|file| file.rfilename.as_str()).collect();
                self.choose(&names)?
            }
        };
        let rev = percent_encode_path(&revision).replace('/', "%2F");
        let jobs = files.iter().map(|file| {
            let known = siblings.iter().find(|sibling| sibling.rfilename == *file);
            let lfs = known.and_then(|known| known.lfs.as_ref());
            let sum = lfs.and_then(|lfs| lfs.sha256.clone()).filter(|sum| is_sha256(sum));
            let name = file_name(file);
            let remote = Remote {
                url: format!(
                    "{}/{}/resolve/{rev}/{}",
                    config.hf_endpoint,
                    self.id(),
                    percent_encode_path(file)
                ),
                auth: auth.clone(),
                sha256: sha256.map(str::to_owned).or_else(|| sum.map(|sum| sum.to_ascii_lowercase())),
                size: lfs.and_then(|lfs| lfs.size).or_else(|| known.and_then(|known| known.size)),
                label: name.clone(),
                is_hub: true,
            };
            Job::Direct { name, remote }
        });
        let jobs = jobs.collect();
        let file = if let [file] = files.as_slice() { format!(":{file}") } else { String::new() };
        Ok(Plan { source: format!("hf:{}@{revision}{file}", self.id()), jobs })
    }

    fn list(
        &self,
        http: &Http,
        config: &Config,
        revision: &str,
        auth: Option<&Auth>,
    ) -> Result<Listing, HubError> {
        let at = percent_encode_path(revision).replace('/', "%2F");
        let at = if self.revision.is_some() { format!("/revision/{at}") } else { String::new() };
        let url = format!("{}/api/models/{}{at}?blobs=true", config.hf_endpoint, self.id());
        let reply = http.get(Get { url: &url, accept: Some("application/json"), auth, from: None })?;
        if reply.status != 200 {
            let remote = Remote {
                url,
                auth: auth.cloned(),
                sha256: None,
                size: None,
                label: String::new(),
                is_hub: true,
            };
            return Err(refused(&reply, reply.status, &remote));
        }
        let shown = reply.link.shown();
        serde_json::from_str(&reply.text(MAX_LISTING_BYTES)?).map_err(|error| HubError::Content {
            what: shown,
            why: format!("its answer is not a listing of a repository ({error})"),
        })
    }

    /// Chooses the file(s) that make the model out of a repository's names.
    fn choose(&self, names: &[&str]) -> Result<Vec<String>, HubError> {
        let problem = |why: String| HubError::Content { what: format!("hf:{}", self.id()), why };
        let lower = |name: &str| name.to_ascii_lowercase();
        let all: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| {
                is_member_path(name) && lower(name).ends_with(".gguf") && !lower(name).contains("mmproj")
            })
            .collect();
        let mut whole: Vec<&str> = all.iter().copied().filter(|name| !is_split(name)).collect();
        if let Some(word) = self.file {
            whole.retain(|name| has_word(&lower(name), &lower(word)));
        }
        whole.sort_unstable();
        match whole.as_slice() {
            [one] => return Ok(vec![(*one).to_owned()]),
            [] => {}
            many => {
                for quantization in PREFERRED.iter().filter(|_| self.file.is_none()) {
                    let fits: Vec<&&str> =
                        many.iter().filter(|name| has_word(&lower(name), quantization)).collect();
                    if let [one] = fits.as_slice() {
                        return Ok(vec![(**one).to_owned()]);
                    }
                }
                return Err(problem(format!(
                    "it has several models, add one of them after a colon: {}",
                    some(many)
                )));
            }
        }
        if let Some(word) = self.file {
            return Err(problem(format!(
                "none of its GGUF files has {word} in its name; it has {}",
                some(&all)
            )));
        }
        if all.iter().any(|name| is_split(name)) {
            return Err(problem(
                "its GGUF files are split into parts; use a repository with whole files".to_owned(),
            ));
        }
        self.choose_folder(names).ok_or_else(|| {
            problem("it holds neither a GGUF file nor config.json with safetensors".to_owned())
        })
    }

    /// The files of a safetensors model at the top of the repository.
    fn choose_folder(&self, names: &[&str]) -> Option<Vec<String>> {
        let weights = |name: &&&str| {
            name.ends_with(".safetensors") && !name.contains('/') && file_name(name) == ***name
        };
        let mut shards: Vec<&str> = names.iter().filter(weights).copied().collect();
        if shards.iter().any(|name| name.starts_with("model")) {
            shards.retain(|name| name.starts_with("model"));
        }
        if shards.is_empty() || !names.contains(&"config.json") {
            return None;
        }
        let companions = COMPANIONS.iter().copied().filter(|name| names.contains(name));
        Some(companions.chain(shards).map(str::to_owned).collect())
    }

    /// The model in Hugging Face's own cache (`models--ORG--REPO/snapshots/COMMIT/…`): its path, and its SHA-256
    /// where the cache names the blob by it.
    pub(crate) fn cached(&self, config: &Config) -> Option<(PathBuf, Option<String>)> {
        let folder = config.hf_cache.as_ref()?.join(format!("models--{}--{}", self.org, self.repo));
        let revision = self.revision.unwrap_or("main");
        let commit =
            std::fs::read_to_string(folder.join("refs").join(revision)).unwrap_or(revision.to_owned());
        let commit = commit.trim();
        if !is_member_path(commit) {
            return None;
        }
        let snapshot = folder.join("snapshots").join(commit);
        if let Some(file) = self.exact() {
            return blob(&snapshot.join(file));
        }
        let names: Vec<String> = std::fs::read_dir(&snapshot)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match self.choose(&names).ok()?.as_slice() {
            [one] => blob(&snapshot.join(one)),
            // Shards may be missing; only a folder with one weight file is surely whole.
            files => {
                let whole = files.iter().any(|file| file == "model.safetensors")
                    && files.iter().any(|file| file.starts_with("tokenizer"))
                    && files.iter().all(|file| snapshot.join(file).is_file());
                whole.then_some((snapshot, None))
            }
        }
    }
}

/// A file of the cache if it is there, and the SHA-256 in its blob's name.
fn blob(path: &Path) -> Option<(PathBuf, Option<String>)> {
    if !path.is_file() {
        return None;
    }
    let target = std::fs::read_link(path).ok();
    let name = target.as_ref().and_then(|target| target.file_name()).and_then(|name| name.to_str());
    Some((path.to_path_buf(), name.filter(|name| is_sha256(name)).map(str::to_ascii_lowercase)))
}

fn is_model_file(name: &str) -> bool {
    let suffix = Path::new(name).extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    ["gguf", "smq", "safetensors"].iter().any(|known| suffix.eq_ignore_ascii_case(known))
}

/// `…-00001-of-00003.gguf`.
fn is_split(name: &str) -> bool {
    let mut end = name.trim_end_matches(".gguf").rsplit('-');
    let digits = |part: Option<&str>| {
        part.is_some_and(|part| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit()))
    };
    digits(end.next()) && end.next() == Some("of") && digits(end.next())
}

/// Whether `word` stands in `name` with no letter or digit beside it: `q4_k` is not in `q4_k_m`.
fn has_word(name: &str, word: &str) -> bool {
    let open = |c: Option<char>| !c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    name.match_indices(word)
        .any(|(at, _)| open(name[..at].chars().next_back()) && open(name[at + word.len()..].chars().next()))
}

/// The first names of a list, for a message.
fn some(names: &[&str]) -> String {
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    format!("{}{more}", names.iter().take(12).copied().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str], file: Option<&str>) -> Result<Vec<String>, HubError> {
        Wanted { org: "o", repo: "r", file, revision: None }.choose(names)
    }

    #[test]
    fn the_usual_quantization_is_chosen_among_many() {
        let names = ["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "mmproj-f16.gguf"];
        assert_eq!(choose(&names, None).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(choose(&names, Some("q8_0")).unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(choose(&["a.gguf"], None).unwrap(), ["a.gguf"]);
        let error = choose(&["a.gguf", "b.gguf"], None).unwrap_err().to_string();
        assert!(error.contains("a.gguf, b.gguf"), "{error}");
        let error = choose(&names, Some("q2_k")).unwrap_err().to_string();
        assert!(error.contains("q2_k") && error.contains("m-Q8_0.gguf"), "{error}");
    }

    #[test]
    fn split_files_and_repositories_without_a_model_are_refused() {
        let error =
            choose(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], None).unwrap_err().to_string();
        assert!(error.contains("split"), "{error}");
        assert!(choose(&["README.md"], None).unwrap_err().to_string().contains("neither"));
        assert!(choose(&["../../m.gguf"], None).is_err());
    }

    #[test]
    fn a_safetensors_repository_gives_its_weights_and_companions() {
        let names = [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "onnx/model.onnx",
            "optimizer.safetensors",
        ];
        assert_eq!(choose(&names, None).unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
    }
}
