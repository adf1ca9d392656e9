//! `smallmind list`: the models of this machine, or those that can be pulled by a short name.

use std::fmt::Write;

use anyhow::Result;
use smallmind_hub::{Entry, Hub};

use crate::args::ListArgs;
use crate::output::{self, ModelDocument, Out, bytes};
use crate::resolve;

pub(crate) fn run(args: &ListArgs, out: &Out) -> Result<()> {
    let hub = resolve::hub(true)?;
    let installed = hub.list()?;
    let models = if args.available { available(&installed) } else { here(&installed) };
    if out.json {
        return output::json(&models);
    }
    if models.is_empty() {
        out.note("no model is installed: `smallmind list --available` shows what can be pulled");
    }
    let width = models.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
    let mut lines = String::new();
    for m in &models {
        let about = m.description.map(str::to_owned).or(m.source.clone()).unwrap_or_default();
        let about = smallmind::escaped(about.as_bytes(), 160);
        let state = if args.available && m.installed { " (installed)" } else { "" };
        let licence = m.licence.filter(|_| args.available).map(|l| format!("; {l}")).unwrap_or_default();
        writeln!(lines, "{:<width$}  {:>8}  {about}{licence}{state}", m.name, bytes(m.bytes))?;
    }
    output::print(&lines)
}

fn here(installed: &[Entry]) -> Vec<ModelDocument<'_>> {
    let document = |entry| ModelDocument { description: None, ..of_entry(entry) };
    installed.iter().map(document).collect()
}

fn of_entry(entry: &Entry) -> ModelDocument<'_> {
    ModelDocument {
        name: &entry.name,
        bytes: entry.bytes,
        installed: true,
        path: Some(entry.path.display().to_string()),
        sha256: Some(&entry.sha256),
        source: Some(entry.source.clone()),
        licence: entry.licence.as_deref(),
        pulled_at: Some(&entry.pulled_at),
        description: None,
    }
}

fn available(installed: &[Entry]) -> Vec<ModelDocument<'_>> {
    let document = |known: &'static smallmind_hub::CatalogueEntry| {
        let entry = installed.iter().find(|entry| entry.name == known.name);
        let sources: Vec<String> = known.sources.iter().map(ToString::to_string).collect();
        ModelDocument {
            name: known.name,
            bytes: known.bytes,
            installed: entry.is_some(),
            path: entry.map(|entry| entry.path.display().to_string()),
            sha256: Some(known.sha256),
            source: Some(sources.join(", ")),
            licence: Some(known.licence),
            pulled_at: entry.map(|entry| entry.pulled_at.as_str()),
            description: Some(known.description),
        }
    };
    let embedded = smallmind_hub::EMBEDDED.map(|bytes| ModelDocument {
        name: "tiny",
        bytes: bytes.len() as u64,
        installed: true,
        path: None,
        sha256: None,
        source: Some("the program".to_owned()),
        licence: Some("MIT or Apache-2.0"),
        pulled_at: None,
        description: Some("short stories for children, 3.5 M parameters, inside the program"),
    });
    Hub::catalogue().iter().map(document).chain(embedded).collect()
}
