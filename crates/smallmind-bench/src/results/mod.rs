//! Saved results: what was measured, where, and every sample of it. A row has an id, so that each figure of a report can
//! be traced to the line it came from.

mod against;
mod table;

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smallmind_formats::write::WholeFile;

pub use against::{Against, Changed};
pub use table::{bytes, figure};

use crate::measure::machine::Environment;
use crate::measure::roofline::Limits;
use crate::measure::stats::{Better, Samples};
use crate::{Error, Result};

/// The version of the format. A change that an old reader would misread raises it.
pub const SCHEMA: u64 = 1;
/// The largest results file that is read: thousands of rows are below a megabyte.
const LARGEST: usize = 64 << 20;
/// What we call ourselves in a row.
pub const OURS: &str = "SmallMind";

/// A run: what it ran on, and its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u64,
    /// What was run.
    pub kind: Kind,
    /// The command line that makes it again.
    pub command: String,
    /// Whether everything that was asked for is there; not so after Ctrl-C.
    pub complete: bool,
    /// What it ran on.
    pub environment: Environment,
    /// The machine's limits, where they were measured.
    pub limits: Option<Limits>,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What only this kind of run has, such as a profile's tables.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// Commands that save results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named after the commands")]
pub enum Kind {
    Bench,
    Profile,
    Compare,
}

/// One thing that was measured, on one side or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Names the row in its file, and finds it again in another: `decode/smollm2-135m/t2/tg128`.
    pub id: String,
    /// The part of the run: `decode`, `ttft`, `kernels`.
    pub part: String,
    /// The model, or what else was measured.
    pub subject: String,
    /// Threads.
    pub threads: usize,
    /// The test: `pp512`, `tg128 @ d1024`.
    pub test: String,
    /// What a figure counts.
    pub unit: Unit,
    /// Ours first, where it was measured.
    pub sides: Vec<Side>,
    /// The share of what the machine's measured limit allows that ours reaches; 1 is all of it.
    pub of_limit: Option<f64>,
    /// What else is to be known, or why a side has no figures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// One program's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// [`OURS`], `llama.cpp`.
    pub name: String,
    /// Empty where it failed.
    pub samples: Samples,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "tok/s")]
    #[allow(missing_docs, reason = "the name says it")]
    TokensPerSecond,
    #[serde(rename = "GFLOP/s")]
    #[allow(missing_docs, reason = "the name says it")]
    Gflops,
    #[serde(rename = "GB/s")]
    #[allow(missing_docs, reason = "the name says it")]
    GigabytesPerSecond,
    #[serde(rename = "s")]
    #[allow(missing_docs, reason = "the name says it")]
    Seconds,
    #[serde(rename = "ms")]
    #[allow(missing_docs, reason = "the name says it")]
    Milliseconds,
    #[serde(rename = "µs")]
    #[allow(missing_docs, reason = "the name says it")]
    Microseconds,
    /// 10⁶ bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// Things that there should be few of: allocations.
    #[serde(rename = "count")]
    Count,
    /// Less is better.
    #[serde(rename = "perplexity")]
    Perplexity,
}

impl Unit {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::TokensPerSecond => "tok/s",
            Unit::Gflops => "GFLOP/s",
            Unit::GigabytesPerSecond => "GB/s",
            Unit::Seconds => "s",
            Unit::Milliseconds => "ms",
            Unit::Microseconds => "µs",
            Unit::Megabytes => "MB",
            Unit::Count => "count",
            Unit::Perplexity => "perplexity",
        }
    }

    /// Which way is better.
    pub fn better(self) -> Better {
        match self {
            Unit::TokensPerSecond | Unit::Gflops | Unit::GigabytesPerSecond => Better::More,
            Unit::Seconds
            | Unit::Milliseconds
            | Unit::Microseconds
            | Unit::Megabytes
            | Unit::Count
            | Unit::Perplexity => Better::Less,
        }
    }
}

impl Row {
    /// A row of ours alone. Figures that are no number are left out.
    pub fn ours(
        part: &str,
        subject: &str,
        threads: usize,
        test: &str,
        unit: Unit,
        figures: impl IntoIterator<Item = f64>,
    ) -> Row {
        let samples = figures.into_iter().filter(|f| f.is_finite()).collect();
        Row::with_sides(part, subject, threads, test, unit, vec![Side { name: OURS.into(), samples }])
    }

    /// A row of several sides.
    pub fn with_sides(
        part: &str,
        subject: &str,
        threads: usize,
        test: &str,
        unit: Unit,
        sides: Vec<Side>,
    ) -> Row {
        let id = format!("{}/{}/t{threads}/{}", slug(part), slug(subject), slug(test));
        let (part, subject, test) = (part.to_owned(), subject.to_owned(), test.to_owned());
        Row { id, part, subject, threads, test, unit, sides, of_limit: None, note: String::new() }
    }

    /// The samples of a side; none where it is not there.
    pub fn samples(&self, name: &str) -> &Samples {
        static NONE: Samples = Samples(Vec::new());
        self.sides.iter().find(|s| s.name == name).map_or(&NONE, |s| &s.samples)
    }

    /// The median of ours; NaN where there is none.
    pub fn median(&self) -> f64 {
        self.samples(OURS).median()
    }

    /// The sides that are not ours.
    pub fn peers(&self) -> impl Iterator<Item = &Side> {
        self.sides.iter().filter(|s| s.name != OURS)
    }

    /// Ours over the best peer's, by medians.
    pub fn ratio(&self) -> Option<f64> {
        let medians = self.peers().map(|s| s.samples.median()).filter(|m| m.is_finite());
        let better = if self.unit.better() == Better::Less { f64::min } else { f64::max };
        let ratio = self.median() / medians.reduce(better)?;
        ratio.is_finite().then_some(ratio)
    }
}

/// Small letters and digits, what lies between them as one hyphen.
fn slug(text: &str) -> String {
    let mut s = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() || c == '.' || c == '_' {
            s.extend(c.to_lowercase());
        } else if !s.is_empty() && !s.ends_with('-') {
            s.push('-');
        }
    }
    s.trim_end_matches('-').to_owned()
}

impl Results {
    /// Nothing measured yet.
    pub fn new(kind: Kind, command: &str, environment: Environment) -> Results {
        let command = command.to_owned();
        let (limits, rows, detail) = (None, Vec::new(), Value::Null);
        Results { schema: SCHEMA, kind, command, complete: true, environment, limits, rows, detail }
    }

    /// Adds a row; where its id is taken, a number behind it makes it another.
    pub fn push(&mut self, mut row: Row) {
        let plain = row.id.clone();
        let mut n = 2;
        while self.rows.iter().any(|r| r.id == row.id) {
            row.id = format!("{plain}#{n}");
            n += 1;
        }
        self.rows.push(row);
    }

    /// The row of that id.
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.id == id)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|why| Error::NotResults { path: path.to_owned(), why: why.to_string() })?;
        write_whole(path, &(text + "\n"))
    }

    /// Reads a saved run.
    ///
    /// # Errors
    /// Where the file cannot be read, ends in the middle, holds something else, or is of another version.
    pub fn load(path: &Path) -> Result<Results> {
        let text = smallmind_formats::fs::read_to_string(path, LARGEST)?;
        let why = |error: serde_json::Error| match error.classify() {
            serde_json::error::Category::Eof => Error::Truncated { path: path.to_owned() },
            _ => Error::NotResults { path: path.to_owned(), why: error.to_string() },
        };
        let document: Value = serde_json::from_str(&text).map_err(why)?;
        let Some(found) = document["schema"].as_u64() else {
            let why = "it has no `schema` number".to_owned();
            return Err(Error::NotResults { path: path.to_owned(), why });
        };
        if found != SCHEMA {
            return Err(Error::Schema { path: path.to_owned(), found, ours: SCHEMA });
        }
        serde_json::from_value(document).map_err(why)
    }
}

/// Writes a text file, whole or not at all.
///
/// # Errors
/// Where it cannot be written.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    let system = |cause| Error::System { what: path.display().to_string(), cause };
    file.write_all(text.as_bytes()).map_err(system)?;
    Ok(file.commit()?)
}

#[cfg(test)]
mod tests;
