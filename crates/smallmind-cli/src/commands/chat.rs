//! `smallmind chat`: a conversation, from its first prompt to its end.

use anyhow::Result;

use crate::args::{ChatArgs, MaxTokens};
use crate::chat::{Conversation, Input, Line, Settings, Step, slash};
use crate::interrupt::Guard;
use crate::output::{Out, Usage, rate};
use crate::resolve;
use crate::terminal::Pieces;

pub(crate) fn run(args: &ChatArgs, out: &Out) -> Result<()> {
    if out.json {
        return Err(Usage("chat has no JSON form: use `run --json`".into()).into());
    }
    let loaded = resolve::load(&args.model, out)?;
    let model = &loaded.model;
    // Better to know now than after the first message.
    model.chat_template()?;
    let mut settings = Settings {
        sampling: resolve::sampling(model, &args.sampling)?,
        max_tokens: args.end.max_tokens.and_then(|MaxTokens(limit)| limit),
        stop: args.end.stop.clone(),
        ignore_eos: args.end.ignore_eos,
    };
    let session = resolve::session(model, &args.session, out)?;
    let mut conversation = Conversation::new(session, args.end.system.clone());
    let mut input = Input::new()?;
    if input.is_terminal() {
        out.note(&format!("{}: /help shows the commands, Ctrl-D ends", loaded.name));
    }
    loop {
        let text = match input.next()? {
            Line::Text(text) => text,
            Line::Interrupted => {
                out.note("Ctrl-C again or /exit ends the conversation");
                continue;
            }
            Line::End => return Ok(()),
        };
        let step = match slash::command(&text, &mut conversation, &mut settings, &loaded.name) {
            Ok(step) => step,
            Err(error) => {
                out.error(&error.to_string());
                continue;
            }
        };
        match step {
            Step::Done(answer) => out.note_lines(&answer),
            Step::Exit => return Ok(()),
            Step::Say(text) => {
                conversation.say(text);
                answer(&mut conversation, &settings, out)?;
            }
            Step::Again => answer(&mut conversation, &settings, out)?,
        }
    }
}

/// Streams one answer. What is wrong with it is said; only a closed stdout ends the conversation.
fn answer(conversation: &mut Conversation, settings: &Settings, out: &Out) -> Result<()> {
    let interrupt = Guard::new();
    let mut pieces = Pieces::new();
    let result = conversation.answer(settings, interrupt.token(), &mut |text| pieces.write(text));
    pieces.finish()?;
    match result {
        Ok(told) => {
            if told.forgotten > 0 {
                out.note(&format!(
                    "the context is full: the oldest {} messages were forgotten",
                    told.forgotten
                ));
            }
            out.detail(|| {
                let (t, n) = (told.timings, told.tokens);
                let speed = rate(n.saturating_sub(1), t.decode);
                let (kept, new, first) = (told.kept, told.prefilled, t.first_token);
                format!("{new} new tokens after {kept} kept; first after {first:.0?}; {n} tokens, {speed:.1} tokens/s")
            });
            Ok(())
        }
        Err(error) if error.is::<std::io::Error>() => Err(error),
        Err(error) => {
            out.error(&error.to_string());
            Ok(())
        }
    }
}
