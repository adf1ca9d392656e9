//! The hub's settings, and the only place of the crate that looks at the environment.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::HubError;
use crate::pip_config::PipConfig;

/// A text that never appears in messages, logs or `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where models live and how the network may be used. Start from [`Config::from_env`] or [`Config::new`] and change
/// fields.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the store.
    pub home: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// Address of the Hugging Face hub, without a slash at its end.
    pub hf_endpoint: String,
    /// Token for the hub; sent to `hf_endpoint` only.
    pub hf_token: Option<Secret>,
    /// Folder `hub` of Hugging Face's own cache; its files are used where they stand.
    pub hf_cache: Option<PathBuf>,
    /// The package indexes.
    pub pip: PipConfig,
    /// Use the proxies of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub proxies: bool,
    /// Longest wait for a name look-up and for a connection, each.
    pub connect_timeout: Duration,
    /// Longest silence of a server before the connection counts as broken.
    pub stall_timeout: Duration,
    /// How many tries in a row may bring less than 64 KiB before a download is given up.
    pub retries: u32,
    /// Wait before the first new try; doubled for each further one.
    pub retry_pause: Duration,
    /// No file larger than this is downloaded or unpacked, in bytes.
    pub max_bytes: u64,
}

impl Config {
    /// The defaults, with the store in `home`; looks at nothing.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            offline: false,
            hf_endpoint: "https://huggingface.co".to_owned(),
            hf_token: None,
            hf_cache: None,
            pip: PipConfig::default(),
            proxies: true,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
            retries: 4,
            retry_pause: Duration::from_millis(500),
            max_bytes: 1 << 40,
        }
    }

    /// Reads `SMALLMIND_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN` (else the token file of `HF_HOME`),
    /// `HF_HOME`, `HF_HUB_CACHE` and pip's settings.
    ///
    /// # Errors
    /// [`HubError::Settings`] when neither `SMALLMIND_HOME`, `XDG_CACHE_HOME` nor a home folder is set.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_lookup(&|name| std::env::var_os(name))
    }

    /// [`Config::from_env`] with another source of variables.
    pub(crate) fn from_lookup(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| env(name).and_then(|v| v.into_string().ok()).filter(|v| !v.trim().is_empty());
        // The XDG specification: a relative XDG_CACHE_HOME is invalid and ignored.
        let cache = path("XDG_CACHE_HOME").filter(|folder| folder.is_absolute()).or_else(|| {
            let home = path("HOME").or_else(|| path("USERPROFILE"))?;
            Some(home.join(".cache"))
        });
        let home = path("SMALLMIND_HOME").or_else(|| cache.as_ref().map(|cache| cache.join("smallmind")));
        let home = home.ok_or_else(|| {
            HubError::Settings(
                "there is no folder for models: set SMALLMIND_HOME (or HOME) to a folder that can be written"
                    .into(),
            )
        })?;
        let mut config = Self::new(home);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            config.hf_endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        }
        let hf_home = path("HF_HOME").or_else(|| cache.map(|cache| cache.join("huggingface")));
        let token_file =
            path("HF_TOKEN_PATH").or_else(|| hf_home.as_ref().map(|folder| folder.join("token")));
        config.hf_token = text("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(token_file?).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()))
            .map(Secret::new);
        config.hf_cache = path("HF_HUB_CACHE").or_else(|| hf_home.map(|folder| folder.join("hub")));
        config.pip = PipConfig::load(env);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, HubError> {
        Config::from_lookup(&|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_store_is_where_the_environment_says() {
        let home = |variables: &[(&str, &str)]| config(variables).unwrap().home;
        assert_eq!(home(&[("SMALLMIND_HOME", "/s"), ("HOME", "/h")]), PathBuf::from("/s"));
        assert_eq!(home(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), PathBuf::from("/x/smallmind"));
        assert_eq!(home(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), PathBuf::from("/h/.cache/smallmind"));
        assert!(config(&[]).unwrap_err().to_string().contains("SMALLMIND_HOME"));
    }

    #[test]
    fn the_hub_settings_are_read_and_the_token_is_never_shown() {
        let variables = [
            ("HOME", "/nonexistent"),
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HOME", "/hf"),
        ];
        let config = config(&variables).unwrap();
        assert_eq!(config.hf_endpoint, "https://mirror.example");
        assert_eq!(config.hf_token.as_ref().unwrap().reveal(), "hf_secret");
        assert_eq!(config.hf_cache, Some(PathBuf::from("/hf/hub")));
        assert!(!format!("{config:?}").contains("hf_secret"));
    }
}
