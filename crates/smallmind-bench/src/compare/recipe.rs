//! The entries of `peers/peers.toml`: what is known of a peer, and how its commands are filled in. Starts nothing.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, Result};

const BOOK: &str = include_str!("../../peers/peers.toml");

/// Scripts that drivers are made of, written out before they are run: name and text.
pub(super) const SCRIPTS: [(&str, &str); 11] = [
    ("protocol.py", include_str!("../../peers/protocol.py")),
    ("versions.py", include_str!("../../peers/versions.py")),
    ("pytorch.py", include_str!("../../peers/pytorch.py")),
    ("ort_genai.py", include_str!("../../peers/ort_genai.py")),
    ("ov_genai.py", include_str!("../../peers/ov_genai.py")),
    ("mistral_rs.py", include_str!("../../peers/mistral_rs.py")),
    ("vllm_offline.py", include_str!("../../peers/vllm_offline.py")),
    ("seed.py", include_str!("../../peers/seed.py")),
    ("gguf_folder.py", include_str!("../../peers/gguf_folder.py")),
    ("transformers_js_folder.py", include_str!("../../peers/transformers_js_folder.py")),
    ("transformers_js.mjs", include_str!("../../peers/transformers_js.mjs")),
];

/// All of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Book {
    #[serde(rename = "form")]
    pub(super) forms: BTreeMap<String, Form>,
    #[serde(rename = "peer")]
    pub(super) peers: Vec<Recipe>,
}

/// How a form of a model is made out of its GGUF file, or out of another form.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    #[serde(default)]
    pub(super) from: Option<String>,
    pub(super) make: Vec<String>,
}

/// One peer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What tables call it, and `--peers` names it by.
    pub name: String,
    /// Where it lies under the peers' folder.
    pub(super) home: String,
    /// The version that the entry was tried with, as `version` prints it.
    pub pinned: String,
    /// Prints the version; fails where the peer is not here.
    pub(super) version: Vec<String>,
    /// The command that installs it.
    pub(super) install: String,
    /// What of the model it runs, where no driver says it.
    #[serde(default)]
    pub(super) form: String,
    /// Files whose sizes are the installed size, where no driver says it.
    #[serde(default)]
    pub(super) size: Vec<String>,
    /// Speaks the protocol.
    #[serde(default)]
    pub(super) driver: Vec<String>,
    /// Or: programs that are started for every sample.
    #[serde(default)]
    pub(super) program: BTreeMap<String, Program>,
    /// Ways to run it that are sides of their own.
    #[serde(default)]
    pub(super) variant: Vec<Variant>,
    /// How it runs presets, where it does.
    #[serde(default)]
    pub(super) preset: Option<PresetDriver>,
}

/// A program, and what is read from its output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub(super) command: Vec<String>,
    pub(super) read: Vec<String>,
}

/// A way to run a peer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    pub(super) name: String,
    /// What `{variant}` becomes, where it is not the name.
    #[serde(default)]
    pub(super) value: Option<String>,
    /// The form of the model that it loads; none takes the file itself.
    #[serde(default)]
    pub(super) form: Option<String>,
    /// Whose home the form is made with, where it is not its own: a folder under the peers' folder.
    #[serde(default)]
    pub(super) made_by: Option<String>,
}

/// A driver for presets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PresetDriver {
    pub(super) driver: Vec<String>,
    pub(super) variant: String,
}

impl Book {
    pub(super) fn read() -> Result<Book> {
        toml::from_str(BOOK).map_err(|error| Error::Usage(format!("peers.toml: {error}")))
    }
}

/// Values for the names in braces.
#[derive(Clone, Debug, Default)]
pub(super) struct Fill(Vec<(&'static str, String)>);

impl Fill {
    /// The same with one value more.
    pub(super) fn with(&self, name: &'static str, value: impl ToString) -> Fill {
        let mut fill = self.clone();
        fill.0.push((name, value.to_string()));
        fill
    }

    /// `text` with its names filled in; the value given last counts.
    ///
    /// # Errors
    /// Where a name has no value.
    pub(super) fn text(&self, text: &str) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or_else(|| Error::Usage(format!("`{text}` has an open brace")))?;
            let value = self.0.iter().rev().find(|(n, _)| *n == name);
            let (_, value) = value.ok_or_else(|| Error::Usage(format!("`{text}`: no value for `{name}`")))?;
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
        Ok(out + rest)
    }

    /// A whole command.
    pub(super) fn command(&self, words: &[String]) -> Result<Vec<String>> {
        words.iter().map(|word| self.text(word)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pattern::Pattern;

    /// Every name that the runner gives a value to.
    fn all_names() -> Fill {
        const NAMES: [&str; 18] = [
            "home",
            "peers",
            "drivers",
            "model",
            "threads",
            "context",
            "variant",
            "tokens",
            "prompt_tokens",
            "prompt_file",
            "sequences",
            "batch_context",
            "windows",
            "window",
            "text_file",
            "from",
            "out",
            "self",
        ];
        NAMES.iter().fold(Fill::default(), |fill, name| fill.with(name, "x"))
    }

    #[test]
    fn every_entry_is_whole() {
        let book = Book::read().unwrap();
        let names: Vec<&str> = book.peers.iter().map(|p| p.name.as_str()).collect();
        for must in ["llama.cpp", "PyTorch", "ONNX Runtime", "OpenVINO GenAI", "candle", "Transformers.js"] {
            assert!(names.contains(&must), "{must}");
        }
        let fill = all_names();
        for form in book.forms.values() {
            fill.command(&form.make).unwrap();
            assert!(form.from.as_ref().is_none_or(|f| book.forms.contains_key(f)));
        }
        for peer in &book.peers {
            let programs = peer.program.values().map(|p| &p.command);
            let preset = peer.preset.iter().map(|p| &p.driver);
            for command in [&peer.version, &peer.driver, &peer.size].into_iter().chain(programs).chain(preset)
            {
                fill.command(command).unwrap();
            }
            fill.text(&peer.install).unwrap();
            assert!(peer.driver.is_empty() != peer.program.is_empty(), "{}: one way to run it", peer.name);
            assert!(
                peer.program
                    .keys()
                    .all(|k| ["generate", "cold", "batch", "perplexity"].contains(&k.as_str()))
            );
            peer.program.values().flat_map(|p| &p.read).for_each(|p| drop(Pattern::parse(p).unwrap()));
            let forms = peer.variant.iter().filter_map(|v| v.form.as_ref());
            forms.for_each(|f| assert!(book.forms.contains_key(f), "{}: {f}", peer.name));
            // What a command runs is written out first.
            let scripts =
                peer.version.iter().chain(&peer.driver).filter_map(|w| w.strip_prefix("{drivers}/"));
            scripts.for_each(|s| assert!(SCRIPTS.iter().any(|(name, _)| *name == s), "{s}"));
        }
    }

    #[test]
    fn names_are_filled_in_and_unknown_ones_are_errors() {
        let fill = Fill::default().with("home", "/a").with("n", 3);
        assert_eq!(fill.text("{home}/bin -n{n}").unwrap(), "/a/bin -n3");
        assert_eq!(fill.with("n", 4).text("{n}").unwrap(), "4");
        assert!(fill.text("{threads}").unwrap_err().to_string().contains("threads"));
        assert!(fill.text("{home").is_err());
    }
}
