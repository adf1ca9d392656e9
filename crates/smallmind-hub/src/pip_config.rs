//! Which Python package indexes this machine uses, read the way pip reads it: `PIP_*` variables over
//! `PIP_CONFIG_FILE` over the virtual environment's, the user's and the machine's `pip.conf`
//! (<https://pip.pypa.io/en/stable/topics/configuration/>). Read: `index-url`, `extra-index-url`, `no-index` and
//! `cert` of the sections `[global]` and `[download]`. Not read: `find-links`, keyrings, netrc.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The index every pip uses unless told otherwise.
const DEFAULT_INDEX: &str = "https://pypi.org/simple";
/// A configuration file is a few lines; anything larger is not one.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The package indexes of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipConfig {
    /// Addresses of simple indexes (PEP 503), asked in this order; may hold a user and a password.
    pub indexes: Vec<String>,
    /// A bundle of CA certificates trusted besides the system's.
    pub cert: Option<PathBuf>,
}

impl Default for PipConfig {
    fn default() -> Self {
        Self { indexes: vec![DEFAULT_INDEX.to_owned()], cert: None }
    }
}

/// The options found so far; a later file overrides an earlier one.
#[derive(Debug, Default)]
struct Options {
    index: Option<String>,
    extra: Option<String>,
    no_index: Option<String>,
    cert: Option<String>,
}

impl Options {
    fn set(&mut self, key: &str, value: String) {
        match key.replace('_', "-").as_str() {
            "index-url" => self.index = Some(value),
            "extra-index-url" => self.extra = Some(value),
            "no-index" => self.no_index = Some(value),
            "cert" => self.cert = Some(value),
            _ => {}
        }
    }
}

impl PipConfig {
    /// Reads the configuration; `env` looks up environment variables. Files that are missing or unreadable count as
    /// empty, as in pip.
    pub(crate) fn load(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let mut options = Options::default();
        for path in files(env) {
            let small =
                std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_FILE_BYTES);
            if let (true, Ok(text)) = (small, std::fs::read_to_string(&path)) {
                read(&text, &mut options);
            }
        }
        for (variable, key) in [
            ("PIP_INDEX_URL", "index-url"),
            ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
            ("PIP_NO_INDEX", "no-index"),
            ("PIP_CERT", "cert"),
        ] {
            if let Some(value) =
                env(variable).and_then(|value| value.into_string().ok()).filter(|v| !v.is_empty())
            {
                options.set(key, value);
            }
        }
        let no_index = options.no_index.as_deref().is_some_and(|v| matches!(v, "1" | "true" | "yes" | "on"));
        let mut indexes = Vec::new();
        if !no_index {
            indexes.push(options.index.unwrap_or_else(|| DEFAULT_INDEX.to_owned()));
            indexes.extend(options.extra.iter().flat_map(|v| v.split_whitespace()).map(str::to_owned));
        }
        Self { indexes, cert: options.cert.map(PathBuf::from) }
    }
}

/// The configuration files, from the weakest to the strongest.
fn files(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |variable: &str| env(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = path("PIP_CONFIG_FILE");
    if chosen.as_deref().is_some_and(|file| file == Path::new("/dev/null") || file == Path::new("nul")) {
        return Vec::new();
    }
    let name = if cfg!(windows) { "pip.ini" } else { "pip.conf" };
    let mut files = Vec::new();
    if cfg!(windows) {
        files.extend(path("PROGRAMDATA").map(|folder| folder.join("pip").join(name)));
        files.extend(path("APPDATA").map(|folder| folder.join("pip").join(name)));
    } else {
        let shared = path("XDG_CONFIG_DIRS").unwrap_or_else(|| PathBuf::from("/etc/xdg"));
        files.extend(std::env::split_paths(&shared).map(|folder| folder.join("pip").join(name)));
        if cfg!(target_os = "macos") {
            files.push(PathBuf::from("/Library/Application Support/pip/pip.conf"));
        }
        files.push(PathBuf::from("/etc/pip.conf"));
        if let Some(home) = path("HOME") {
            files.push(home.join(".pip").join(name));
            if cfg!(target_os = "macos") {
                files.push(home.join("Library/Application Support/pip/pip.conf"));
            }
            let config = path("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
            files.push(config.join("pip").join(name));
        }
    }
    files.extend(path("VIRTUAL_ENV").or_else(|| path("CONDA_PREFIX")).map(|folder| folder.join(name)));
    files.extend(chosen);
    files
}

/// Reads one file in the INI dialect of Python's `configparser`: `key = value` or `key: value`, a value goes on in
/// indented lines, `#` and `;` begin comments.
fn read(text: &str, options: &mut Options) {
    let mut wanted = false;
    let mut entry: Option<(String, String)> = None;
    let mut entries = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = entry.as_mut() {
                value.push(' ');
                value.push_str(trimmed);
            }
            continue;
        }
        entries.extend(entry.take().filter(|_| wanted));
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            wanted = matches!(section, "global" | "download");
        } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
            entry = Some((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries.extend(entry.filter(|_| wanted));
    for (key, value) in entries {
        options.set(&key, value.trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> PipConfig {
        PipConfig::load(&|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    /// Variables that keep the machine's own files out.
    const ALONE: (&str, &str) = ("PIP_CONFIG_FILE", "/dev/null");

    #[test]
    fn without_any_setting_the_public_index_is_used() {
        assert_eq!(load(&[ALONE]), PipConfig::default());
    }

    #[test]
    fn variables_win_over_files_and_the_virtual_environment_over_the_user() {
        let folder = tempfile::tempdir().unwrap();
        let venv = folder.path().join("venv");
        std::fs::create_dir_all(&venv).unwrap();
        std::fs::create_dir_all(folder.path().join("pip")).unwrap();
        std::fs::write(
            folder.path().join("pip/pip.conf"),
            "# mine\n[install]\nindex-url = http://wrong\n[global]\nindex_url: https://user.example/simple\n\
             extra-index-url =\n    https://one/simple\n    https://two/simple\ncert = /ca.pem\n",
        )
        .unwrap();
        let root = folder.path().to_str().unwrap();
        let user = [("HOME", "/nonexistent"), ("XDG_CONFIG_HOME", root), ("XDG_CONFIG_DIRS", "/nonexistent")];
        let config = load(&user);
        assert_eq!(
            config.indexes,
            ["https://user.example/simple", "https://one/simple", "https://two/simple"]
        );
        assert_eq!(config.cert, Some(PathBuf::from("/ca.pem")));

        std::fs::write(venv.join("pip.conf"), "[global]\nindex-url=https://venv.example/simple\n").unwrap();
        let mut variables = user.to_vec();
        variables.push(("VIRTUAL_ENV", venv.to_str().unwrap()));
        assert_eq!(load(&variables).indexes[0], "https://venv.example/simple");

        let chosen = folder.path().join("chosen.conf");
        std::fs::write(&chosen, "[download]\nindex-url=https://chosen.example/simple\n").unwrap();
        variables.push(("PIP_CONFIG_FILE", chosen.to_str().unwrap()));
        assert_eq!(load(&variables).indexes[0], "https://chosen.example/simple");

        variables.push(("PIP_INDEX_URL", "https://env.example/simple"));
        assert_eq!(load(&variables).indexes[0], "https://env.example/simple");
        variables.push(("PIP_NO_INDEX", "1"));
        assert!(load(&variables).indexes.is_empty());
    }

    #[test]
    fn a_file_of_garbage_counts_as_empty() {
        let mut options = Options::default();
        read("\u{feff}]]][[[\n====\n[global\n  x\nindex-url", &mut options);
        assert!(options.index.is_none());
    }
}
