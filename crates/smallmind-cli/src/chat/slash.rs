//! The commands of a conversation. What they tell is returned, not printed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use smallmind::Message;

use super::conversation::{Conversation, Settings};

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say this to the model.
    Say(String),
    /// Answer the last message again.
    Again,
    /// Nothing more than to show this.
    Done(String),
    /// End the conversation.
    Exit,
}

const HELP: &str = "\
/exit              end (also Ctrl-D)
/clear             forget what was said
/system TEXT       what the model is told before the conversation; without TEXT nothing
/regen             answer the last message again
/save FILE         keep the conversation in a file
/load FILE         go on with a kept conversation
/set NAME VALUE    temp, top-k, top-p, min-p, repeat-penalty, seed, max-tokens
/info              settings and how full the context is
\"\"\" or a backslash at the end of a line writes several lines; Ctrl-C stops an answer";

/// No file larger than this is loaded.
const MAX_BYTES: u64 = 64 << 20;

/// A conversation in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    model: String,
    messages: Vec<KeptMessage>,
}

#[derive(Serialize, Deserialize)]
struct KeptMessage {
    role: String,
    content: String,
}

/// Carries out a command; any other line is something to say.
///
/// # Errors
/// Where the command is unknown, a value wrong or a file out of reach. The conversation is as before then.
pub(crate) fn command(
    line: &str,
    conversation: &mut Conversation,
    settings: &mut Settings,
    model: &str,
) -> Result<Step> {
    let Some(command) = line.trim().strip_prefix('/') else { return Ok(Step::Say(line.to_owned())) };
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let done = |text: &str| Ok(Step::Done(text.to_owned()));
    match name {
        "help" | "?" => done(HELP),
        "exit" | "quit" | "bye" => Ok(Step::Exit),
        "clear" => {
            conversation.clear();
            done("forgotten")
        }
        "system" => {
            conversation.set_system((!rest.is_empty()).then(|| rest.to_owned()));
            done("the system message is set")
        }
        "regen" => match conversation.take_back() {
            true => {
                // The same seed would give the same answer.
                settings.sampling.seed = None;
                Ok(Step::Again)
            }
            false => Err(anyhow!("there is no answer yet to generate again")),
        },
        "save" => save(Path::new(named(rest, "/save")?), conversation, model),
        "load" => load(Path::new(named(rest, "/load")?), conversation),
        "set" => set(rest, settings),
        "info" => Ok(Step::Done(info(conversation, settings, model))),
        _ => {
            let name: String = name.chars().take(40).collect();
            Err(anyhow!(
                "`/{name}` is no command: /help shows them; a text that starts with / goes between \"\"\""
            ))
        }
    }
}

fn named<'a>(file: &'a str, command: &str) -> Result<&'a str> {
    if file.is_empty() { Err(anyhow!("{command} needs the name of a file")) } else { Ok(file) }
}

/// Writes beside the file and renames, so that the file is there whole or as before.
fn save(file: &Path, conversation: &Conversation, model: &str) -> Result<Step> {
    let kept = |m: Message| KeptMessage { role: m.role, content: m.content };
    let messages = conversation.messages().into_iter().map(kept).collect();
    let text = serde_json::to_string_pretty(&Kept { model: model.to_owned(), messages })?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let written = fs::write(&beside, text + "\n").and_then(|()| fs::rename(&beside, file));
    if let Err(error) = written {
        // What is left of it is of no use.
        let _ = fs::remove_file(&beside);
        return Err(anyhow!("cannot write {}: {error}", file.display()));
    }
    Ok(Step::Done(format!("kept in {}", file.display())))
}

fn load(file: &Path, conversation: &mut Conversation) -> Result<Step> {
    let name = file.display();
    let wrong = |error: &dyn std::fmt::Display| anyhow!("cannot read {name}: {error}");
    let size = fs::metadata(file).map_err(|error| wrong(&error))?.len();
    if size > MAX_BYTES {
        return Err(wrong(&"it is too large to be a conversation"));
    }
    let text = fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let kept: Kept = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
    let count = kept.messages.len();
    conversation.set_messages(kept.messages.into_iter().map(|m| Message::new(m.role, m.content)).collect());
    Ok(Step::Done(format!("{count} messages from {name}")))
}

fn set(rest: &str, settings: &mut Settings) -> Result<Step> {
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    let wrong = || anyhow!("`{value}` is no value for {name}");
    let real = || value.parse::<f32>().map_err(|_| wrong());
    let count = || value.parse::<usize>().map_err(|_| wrong());
    let mut new = settings.clone();
    match name {
        "temp" | "temperature" => new.sampling.temperature = real()?,
        "top-k" | "top_k" => new.sampling.top_k = count()?,
        "top-p" | "top_p" => new.sampling.top_p = real()?,
        "min-p" | "min_p" => new.sampling.min_p = real()?,
        "repeat-penalty" | "repeat_penalty" => new.sampling.repeat_penalty = real()?,
        "seed" if value == "-1" => new.sampling.seed = None,
        "seed" => new.sampling.seed = Some(value.parse().map_err(|_| wrong())?),
        "max-tokens" | "max_tokens" if value == "-1" => new.max_tokens = None,
        "max-tokens" | "max_tokens" => new.max_tokens = Some(count()?),
        _ => {
            return Err(anyhow!("/set knows temp, top-k, top-p, min-p, repeat-penalty, seed and max-tokens"));
        }
    }
    new.sampling.validate()?;
    *settings = new;
    Ok(Step::Done(format!("{name} is {value}")))
}

fn info(conversation: &Conversation, settings: &Settings, model: &str) -> String {
    let (session, s) = (conversation.session(), &settings.sampling);
    let limit = settings.max_tokens.map_or("none".to_owned(), |limit| limit.to_string());
    let seed = s.seed.map_or("new each time".to_owned(), |seed| seed.to_string());
    format!(
        "model {model}, {} threads\ncontext {} of {} tokens, {} messages\n\
         temp {}, top-k {}, top-p {}, min-p {}, repeat-penalty {}, seed {seed}, max-tokens {limit}",
        session.model().threads(),
        session.tokens().len(),
        session.context(),
        conversation.messages().len(),
        s.temperature,
        s.top_k,
        s.top_p,
        s.min_p,
        s.repeat_penalty,
    )
}
