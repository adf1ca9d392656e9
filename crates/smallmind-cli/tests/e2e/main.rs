//! The built binary as a user meets it: exit codes, what is on stdout, what is on stderr. One module a command.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that cannot go on stops")]

mod bench;
mod chat;
mod compare;
mod convert;
mod imatrix;
mod perplexity;
mod preset;
mod profile;
mod quantize;
mod run;
mod show;
mod smq;
mod store;
mod support;
#[cfg(feature = "tiny")]
mod tiny;
mod tokenize;
mod train;
mod usage;
