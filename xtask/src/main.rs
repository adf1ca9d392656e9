//! Chores of the workspace: `cargo xtask tidy` checks the rules that the compiler does not, `cargo xtask random-model`
//! writes a model larger than any cache, to measure on.
//!
//! The same checks run as tests (`cargo test -p xtask`), so nobody has to remember the command. Nothing here is shipped,
//! and nothing here changes a file of the repository.

mod random_model;
mod tidy;

use std::process::ExitCode;

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match asked.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(),
        ["random-model", folder, vocabulary] => random_model::run(folder.as_ref(), vocabulary.as_ref()),
        _ => Err(anyhow::anyhow!("usage: cargo xtask tidy | random-model FOLDER VOCABULARY.gguf")),
    };
    let (report, code) = match outcome {
        Ok((report, true)) => (report, ExitCode::SUCCESS),
        Ok((report, false)) => (report, ExitCode::FAILURE),
        Err(error) => (format!("xtask: {error:#}"), ExitCode::from(2)),
    };
    #[allow(clippy::print_stdout, reason = "a command for the terminal")]
    {
        println!("{}", report.trim_end());
    }
    code
}
