//! A conversation in the terminal: what was said (`conversation.rs`), lines as they are typed (`input.rs`), and the
//! commands among them (`slash.rs`).

mod conversation;
mod input;
pub(crate) mod slash;

pub(crate) use conversation::{Conversation, Settings};
pub(crate) use input::{Input, Line};
pub(crate) use slash::Step;
