//! Any text as a chat template: an error or a prompt, never the end of the process.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smallmind_text::{ChatTemplate, Message, RenderOptions};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::compile(source, "<s>", "</s>") else { return };
    let messages = [Message::new("system", "S"), Message::new("user", "hello"), Message::new("assistant", "hi")];
    let options = RenderOptions { now_s: Some(0), max_bytes: 1 << 20, ..RenderOptions::default() };
    if let Ok(prompt) = template.render(&messages, options) {
        assert!(prompt.len() <= 1 << 20);
    }
});
