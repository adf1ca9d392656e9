//! The `smallmind` command: parses the arguments, runs one command, and turns whatever happens into one sentence and
//! an exit code. The work itself is in the library; here is only what a terminal needs.

mod alloc;
mod answer;
mod args;
mod chat;
mod commands;
mod describe;
mod interrupt;
mod output;
mod progress;
mod prompt;
mod resolve;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, ColorChoice};
use output::{Failure, Out};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    std::panic::catch_unwind(run).unwrap_or(ExitCode::FAILURE)
}

fn run() -> ExitCode {
    let cli = match Cli::try_parse_from(args::bench::with_long_pairs(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let out = Out::new(&cli.output);
    match commands::run(cli.command, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, &out),
    }
}

/// Help and version go to stdout; a usage error becomes one sentence.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let rendered = error.render().to_string();
    let lines = rendered.lines().take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = lines
        .map(|line| line.trim().trim_start_matches("error: ").trim_start_matches("tip: "))
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let help = "`smallmind --help` shows the usage";
    let out = Out::plain(ColorChoice::Auto);
    match error.kind() {
        clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(std::io::stderr(), "{rendered}");
        }
        _ => out.error(&format!("{}; {help}", words.join(" "))),
    }
    ExitCode::from(Failure::USAGE)
}

fn fail(error: &anyhow::Error, out: &Out) -> ExitCode {
    let failure = Failure::of(error);
    if let Some(sentence) = &failure.sentence {
        out.error(sentence);
    }
    ExitCode::from(failure.code)
}

/// A panic is a defect of ours: one sentence that says where, no backtrace.
fn report_panic(info: &std::panic::PanicHookInfo<'_>) {
    let what = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let sentence = format!("internal error at {place}: {what}; please report it with the command you ran");
    Out::plain(ColorChoice::Auto).error(&sentence);
}
