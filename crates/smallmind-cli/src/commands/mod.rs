//! One file a command: glue between the arguments, the library and the output.

mod bench;
mod chat;
mod compare;
mod convert;
mod finetune;
mod imatrix;
mod list;
mod merge;
mod perplexity;
mod profile;
mod pull;
mod quantize;
mod report;
mod rm;
mod run;
mod show;
mod tokenize;
mod train;
mod verify;

use anyhow::Result;

use crate::args::Command;
use crate::interrupt;
use crate::output::Out;

/// Runs one command.
pub(crate) fn run(command: Command, out: &Out) -> Result<()> {
    interrupt::listen();
    match command {
        Command::Run(args) => run::run(args, out),
        Command::Chat(args) => chat::run(&args, out),
        Command::Tokenize(args) => tokenize::run(args, out),
        Command::Perplexity(args) => perplexity::run(&args, out),
        Command::Bench(args) => bench::run(&args, out),
        Command::Profile(args) => profile::run(&args, out),
        Command::Compare(args) => compare::run(&args, out),
        Command::Report(args) => report::run(&args, out),
        Command::Peer(args) => compare::peer(&args, out),
        Command::Train(args) => train::run(&args, out),
        Command::Finetune(args) => finetune::run(&args, out),
        Command::Merge(args) => merge::run(&args, out),
        Command::Convert(args) => convert::run(&args, out),
        Command::Imatrix(args) => imatrix::run(&args, out),
        Command::Quantize(args) => quantize::run(&args, out),
        Command::Pull(args) => pull::run(&args, out),
        Command::List(args) => list::run(&args, out),
        Command::Show(args) => show::run(&args, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::Rm(args) => rm::run(&args, out),
    }
}
