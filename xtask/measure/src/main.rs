//! Chores that need the engine: the table of speeds beside llama.cpp, and the large random model that it measures, too.
//! `cargo xtask` builds and starts this in the release profile. It starts other programs and shares no code with what it
//! measures but the formats of results.

mod random_model;
mod speed_table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use smallmind::CancelToken;

#[derive(Parser, Debug)]
#[command(name = "cargo xtask", about = "Chores that need the engine")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand, Debug)]
enum Chore {
    /// Measure every row of the table of speeds beside llama.cpp, in turn, in one run
    SpeedTable(speed_table::Arguments),
    /// Write a llama-shaped model of 1.1 GB with random weights
    RandomModel {
        /// Where to
        folder: PathBuf,
        /// A GGUF file that gives the vocabulary
        vocabulary: PathBuf,
    },
}

fn main() -> ExitCode {
    let cancel = CancelToken::default();
    let token = cancel.clone();
    // A system that grants no handler keeps its default: Ctrl-C ends the program, and saved rows stay saved.
    let _ = ctrlc::set_handler(move || token.cancel());
    let outcome: Result<ExitCode> = match Cli::parse().chore {
        Chore::SpeedTable(arguments) => speed_table::run(&arguments, &cancel),
        Chore::RandomModel { folder, vocabulary } => random_model::file(&folder, &vocabulary).map(|path| {
            print(&path.display().to_string());
            ExitCode::SUCCESS
        }),
    };
    outcome.unwrap_or_else(|error| {
        note(&format!("xtask: {error:#}"));
        ExitCode::FAILURE
    })
}

/// What was asked for. A reader that has seen enough closes the pipe: no reason to fail.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// What goes on.
#[allow(clippy::print_stderr, reason = "a command for the terminal")]
fn note(text: &str) {
    eprintln!("{text}");
}
