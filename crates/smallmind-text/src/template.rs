//! Messages to one prompt, by the chat template of the model (Jinja, as `transformers` runs it).
//! A template is code from a foreign file: [`guard`] decides what it may cost. Templates cannot read files or the network.

mod builtin;
mod concat;
mod functions;
mod guard;
mod json;
mod methods;
mod print;
mod scan;

use std::sync::Arc;

use minijinja::{Environment, Value};

use crate::TextError;

pub use builtin::builtin_template;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a rendering needs besides the messages.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Tools the model may call, as a JSON array in the OpenAI form.
    pub tools: Option<serde_json::Value>,
    /// Further variables (`enable_thinking`); those above and the messages win over them.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// The time `strftime_now` tells, in seconds since 1970 UTC; the clock's where absent.
    pub now_s: Option<i64>,
    /// The longest prompt allowed, in bytes. The server sets four times its context.
    pub max_bytes: usize,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            tools: None,
            extra: serde_json::Map::new(),
            now_s: None,
            max_bytes: 16 << 20,
        }
    }
}

/// A compiled chat template; cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles `source`; `bos_token` and `eos_token` are the texts the template may write (`<s>`), empty for none.
    ///
    /// # Errors
    /// [`TextError::TemplateLimit`] for a source over 64 KiB or nested deeper than any real one,
    /// [`TextError::TemplateSyntax`] where it does not parse.
    pub fn compile(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, TextError> {
        let source = scan::prepare(source)?;
        let environment = guard::on_large_stack(move || {
            let mut environment = guard::environment();
            functions::register(&mut environment);
            methods::register(&mut environment);
            environment
                .add_template_owned(NAME, source)
                .map_err(|e| TextError::TemplateSyntax(guard::describe(&e)))?;
            Ok(environment)
        })?;
        Ok(Self {
            environment: Arc::new(environment),
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The prompt for `messages`.
    ///
    /// # Errors
    /// [`TextError::TemplateRefused`] where the template raises an exception, [`TextError::TemplateRender`] where it
    /// fails, [`TextError::TemplateLimit`] where it takes over a second, loops without end or writes too much.
    pub fn render(&self, messages: &[Message], options: RenderOptions) -> Result<String, TextError> {
        let extra = options.extra.iter().map(|(name, value)| (name.as_str(), json::value(value)));
        let turns = messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]));
        // As transformers has it: tools is always defined, and none where there are none.
        let own: [(&str, Value); 5] = [
            ("messages", turns.collect()),
            ("add_generation_prompt", options.add_generation_prompt.into()),
            ("bos_token", self.bos_token.as_str().into()),
            ("eos_token", self.eos_token.as_str().into()),
            ("tools", options.tools.as_ref().map_or(Value::from(()), json::value)),
        ];
        let variables = Value::from_pairs(extra.chain(own));
        let environment = Arc::clone(&self.environment);
        guard::on_large_stack(move || {
            functions::set_now(options.now_s);
            guard::render(&environment, NAME, variables, options.max_bytes)
        })
    }
}

#[cfg(test)]
mod tests;
