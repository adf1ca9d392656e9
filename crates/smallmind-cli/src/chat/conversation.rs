//! Messages and the session that has read them: each turn the whole conversation is rendered, and only the tokens that
//! the session has not read yet are computed. Prints nothing.

use std::io;

use anyhow::{Result, anyhow};
use smallmind::{CancelToken, Finish, GenerateOptions, Message, SamplingParams, Session, Timings};

use crate::prompt;

/// Tokens kept free for an answer without a limit of its own.
const ANSWER_ROOM: usize = 256;

/// How answers are generated; `/set` changes it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) sampling: SamplingParams,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: bool,
}

/// What happened for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Messages dropped to make room.
    pub(crate) forgotten: usize,
    /// Tokens that the session had read already.
    pub(crate) kept: usize,
    /// Tokens that it read now.
    pub(crate) prefilled: usize,
    /// Tokens of the answer.
    pub(crate) tokens: usize,
    pub(crate) timings: Timings,
}

/// The conversation.
pub(crate) struct Conversation {
    session: Session,
    system: Option<String>,
    messages: Vec<Message>,
}

impl Conversation {
    /// Nothing said yet.
    pub(crate) fn new(session: Session, system: Option<String>) -> Conversation {
        Conversation { session, system, messages: Vec::new() }
    }

    /// The session.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Everything that is said, the system message first.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Replaces everything that is said.
    pub(crate) fn set_messages(&mut self, mut messages: Vec<Message>) {
        let has_system = messages.first().is_some_and(|first| first.role == "system");
        self.system = has_system.then(|| messages.remove(0).content);
        self.messages = messages;
    }

    /// Sets or takes away the system message.
    pub(crate) fn set_system(&mut self, text: Option<String>) {
        self.system = text;
    }

    /// Forgets all but the system message.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Adds what the user says.
    pub(crate) fn say(&mut self, text: String) {
        self.messages.push(Message::new("user", text));
    }

    /// Takes the last answer back; false where there is none.
    pub(crate) fn take_back(&mut self) -> bool {
        let is_answer = self.messages.last().is_some_and(|last| last.role == "assistant");
        if is_answer {
            self.messages.pop();
        }
        is_answer && !self.messages.is_empty()
    }

    /// Generates the answer to what was said last and adds it. An answer that was stopped is kept as far as it came;
    /// where nothing came, the question is taken back.
    ///
    /// # Errors
    /// Where the message alone does not fit the context, the template refuses it, or `write` fails.
    pub(crate) fn answer(
        &mut self,
        settings: &Settings,
        cancel: CancelToken,
        write: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Told> {
        let said = self.messages.clone();
        let mut text = String::new();
        let told = self.generate(settings, cancel, &mut text, write);
        if text.is_empty() && !matches!(told, Ok((_, Some(Finish::Stop | Finish::Length)))) {
            self.messages = said;
            self.messages.pop();
        } else {
            self.messages.push(Message::new("assistant", text));
        }
        told.map(|(told, _)| told)
    }

    fn generate(
        &mut self,
        settings: &Settings,
        cancel: CancelToken,
        text: &mut String,
        write: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<(Told, Option<Finish>)> {
        let (ids, forgotten) = self.fit(settings)?;
        // The last token is always computed: its logits are where the answer starts.
        let same = self.session.tokens().iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let kept = self.session.truncate(same.min(ids.len().saturating_sub(1)));
        let options = GenerateOptions {
            max_tokens: settings.max_tokens,
            sampling: settings.sampling.clone(),
            stop: settings.stop.clone(),
            ignore_eos: settings.ignore_eos,
            cancel,
            ..GenerateOptions::default()
        };
        let mut generation = self.session.generate(&ids[kept..], &options)?;
        while let Some(piece) = generation.next_piece()? {
            text.push_str(piece.text);
            write(piece.text)?;
        }
        let (tokens, timings) = (generation.generated(), generation.timings());
        let prefilled = ids.len() - kept;
        Ok((Told { forgotten, kept, prefilled, tokens, timings }, generation.finish_reason()))
    }

    /// The ids of the conversation, its oldest turns dropped until there is room for an answer.
    fn fit(&mut self, settings: &Settings) -> Result<(Vec<u32>, usize)> {
        let context = self.session.context();
        let room = settings.max_tokens.unwrap_or(ANSWER_ROOM).clamp(1, (context / 4).max(1));
        let mut forgotten = 0;
        loop {
            let ids = prompt::conversation(self.session.model(), &self.messages())?;
            if ids.is_empty() {
                return Err(anyhow!(
                    "the chat template writes nothing for this conversation: use `run --raw`"
                ));
            }
            if ids.len() + room <= context {
                return Ok((ids, forgotten));
            }
            // A conversation starts with a question: drop up to the next one.
            let next = self.messages.iter().skip(1).position(|m| m.role == "user").map(|at| at + 1);
            let Some(next) = next else {
                return Err(anyhow!(
                    "the message has {} tokens, and with room for an answer a context of {context} holds {}: shorten it, \
                     or start with a larger --ctx",
                    ids.len(),
                    context - room
                ));
            };
            self.messages.drain(..next);
            forgotten += next;
        }
    }
}
