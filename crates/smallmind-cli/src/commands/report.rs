//! `smallmind report`: the five reports out of saved results.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use smallmind_bench::report::{self, Bundle};
use smallmind_bench::results::write_whole;

use crate::args::compare::ReportArgs;
use crate::output::{self, Out};

/// Where results are looked for when none are named.
const RESULTS: &str = "bench-results";

pub(crate) fn run(args: &ReportArgs, out: &Out) -> Result<()> {
    let paths = if args.results.is_empty() { vec![PathBuf::from(RESULTS)] } else { args.results.clone() };
    let bundle = Bundle::load(&paths)?;
    for path in &args.update {
        update(path, &bundle)?;
        out.note(&format!("{} is up to date", path.display()));
    }
    let pages = report::pages(&bundle);
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let files = pages.iter().map(|page| (format!("{}.md", page.name), page.markdown()));
        for (name, text) in files.chain([("report.html".to_owned(), report::html(&bundle))]) {
            let path = folder.join(name);
            write_whole(&path, &text)?;
            output::print(&format!("{}\n", path.display()))?;
        }
    } else if args.update.is_empty() {
        // Someone wants to know how it stands.
        let quick = pages.first().map(report::Page::markdown);
        output::print(&quick.unwrap_or_default())?;
    }
    Ok(())
}

fn update(path: &Path, bundle: &Bundle) -> Result<()> {
    let name = path.display().to_string();
    let document = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let updated = report::update(&name, &document, &mut |section| report::section(bundle, section))?;
    Ok(write_whole(path, &updated)?)
}
