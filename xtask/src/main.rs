//! Chores of the workspace: `cargo xtask tidy` checks the rules that the compiler does not; `cargo xtask speed-table` and
//! `random-model` are built as what they measure is, for speed, and started (`measure/`).
//!
//! The same checks run as tests (`cargo test -p xtask`), so nobody has to remember the command. Nothing here is shipped,
//! and nothing here changes a file of the repository.

mod tidy;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

const USAGE: &str =
    "usage: cargo xtask tidy | speed-table … | random-model …; --help behind the latter two tells more";

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match asked.first().map(String::as_str) {
        Some("tidy") if asked.len() == 1 => tidy::run().map(|(report, well)| {
            say(report.trim_end());
            ExitCode::from(u8::from(!well))
        }),
        Some("speed-table" | "random-model") => measure(&asked),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    outcome.unwrap_or_else(|error| {
        say(&format!("xtask: {error:#}"));
        ExitCode::from(2)
    })
}

/// Builds the command and the chores that measure it, in the release profile, and starts one of these.
fn measure(arguments: &[String]) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Together, so that their dependencies are built with the same features, once.
    let build = ["build", "--quiet", "--locked", "--release", "-p", "smallmind-cli", "-p", "xtask-measure"];
    let built = Command::new(cargo).args(build).current_dir(&root).status().context("cannot run cargo")?;
    if !built.success() {
        return Ok(ExitCode::FAILURE);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join("release").join(format!("xtask-measure{}", std::env::consts::EXE_SUFFIX));
    let shown = || program.display().to_string();
    let status = Command::new(&program).args(arguments).status().with_context(shown)?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

#[allow(clippy::print_stdout, reason = "a command for the terminal")]
fn say(text: &str) {
    println!("{text}");
}
