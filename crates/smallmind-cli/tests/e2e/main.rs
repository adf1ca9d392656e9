//! The built binary as a user meets it: exit codes, what is on stdout, what is on stderr. One module a command.

mod bench;
mod chat;
mod perplexity;
mod run;
mod show;
mod store;
mod support;
mod tokenize;
mod usage;
