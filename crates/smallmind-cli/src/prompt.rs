//! Where prompts come from, and what the model reads: text from an argument, a file or stdin, and messages through
//! the chat template to token ids.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Result, anyhow};
use smallmind::{Encode, Message, Model, RenderOptions};

use crate::output::Usage;

/// No text longer than this is read: more than any context holds.
const MAX_BYTES: u64 = 256 << 20;

/// The text of an argument, a file (`-` is stdin) or stdin. `flags` says in words how a text can be given.
pub(crate) fn text(argument: Option<String>, file: Option<&Path>, flags: &str) -> Result<String> {
    match (argument, file) {
        (Some(text), _) => Ok(text),
        (None, Some(path)) if path != Path::new("-") => {
            let name = path.display();
            let file = File::open(path).map_err(|error| anyhow!("cannot open {name}: {}", words(&error)))?;
            read(file, &name.to_string())
        }
        (None, _) => {
            let stdin = io::stdin().lock();
            if file.is_none() && stdin.is_terminal() {
                return Err(Usage(format!("there is no text to work on: give it {flags}")).into());
            }
            read(stdin, "stdin")
        }
    }
}

fn read(from: impl Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| anyhow!("cannot read {name}: {}", words(&error)))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(anyhow!("{name} is longer than {} MiB: give a shorter text", MAX_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow!("{name} is not UTF-8 at byte {at}: convert it, for example with iconv")
    })
}

/// The system's answer without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// The ids of a plain text, read as llama.cpp reads a prompt.
pub(crate) fn plain(model: &Model, text: &str) -> Vec<u32> {
    model.tokenizer().encode(text, Encode { add_special: true, parse_special: true })
}

/// The ids of a conversation that the model is to go on with: BOS once, whether the template writes it or not.
pub(crate) fn conversation(model: &Model, messages: &[Message]) -> Result<Vec<u32>> {
    let text =
        model.chat_template()?.render(messages, RenderOptions::default()).map_err(smallmind::Error::from)?;
    let tokenizer = model.tokenizer();
    let mut ids = tokenizer.encode(&text, Encode { add_special: false, parse_special: true });
    if tokenizer.adds_bos()
        && let Some(bos) = tokenizer.bos()
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_refused_by_their_place() {
        let error = read(&b"abc\xff"[..], "stdin").unwrap_err().to_string();
        assert!(error.contains("stdin is not UTF-8 at byte 3"), "{error}");
        assert_eq!(read("né".as_bytes(), "stdin").unwrap(), "né");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = text(None, Some(Path::new("/no/such/file")), "").unwrap_err().to_string();
        assert_eq!(error, "cannot open /no/such/file: no such file or directory");
    }
}
