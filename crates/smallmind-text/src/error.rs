//! The one error type of the crate. Messages are one sentence that names the key or value at fault and the remedy.

/// Why a vocabulary, a text or a chat template was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The vocabulary of the model file contradicts itself.
    #[error("the vocabulary is not usable: {0}; the file is damaged or was converted wrongly")]
    Vocabulary(String),
    /// `tokenizer.ggml.pre` names a pre-tokenizer that is not built in.
    #[error(
        "tokenizer.ggml.pre = {name:?} is not supported (supported: {supported}); use a model with one of these"
    )]
    UnknownPretokenizer {
        /// The name found in the file, cut at 64 characters.
        name: String,
        /// The names that would work, separated by commas.
        supported: String,
    },
    /// The chat template could not be compiled.
    #[error("the chat template does not parse: {0}; use --raw or give another template")]
    TemplateSyntax(String),
    /// The chat template compiled, but failed on these messages.
    #[error("the chat template failed: {0}; use --raw or give another template")]
    TemplateRender(String),
    /// The chat template called `raise_exception`.
    #[error("the chat template refuses these messages: {0}")]
    TemplateRefused(String),
    /// The chat template is larger, deeper, slower or longer-winded than any real one.
    #[error("the chat template exceeds a limit: {0}; use --raw or give another template")]
    TemplateLimit(String),
}

impl TextError {
    pub(crate) fn vocabulary(why: impl Into<String>) -> Self {
        Self::Vocabulary(why.into())
    }
}

/// Text from a foreign file for use in an error: control characters escaped, at most 64 characters.
pub(crate) fn quote(bytes: &[u8]) -> String {
    quote_up_to(bytes, 64)
}

/// As [`quote`], with room for a sentence.
pub(crate) fn quote_up_to(bytes: &[u8], max_chars: usize) -> String {
    // Four bytes a character at most, and one more to see that there is more.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * max_chars + 4)]);
    let mut quoted: String = text.chars().take(max_chars).flat_map(char::escape_debug).collect();
    if text.chars().nth(max_chars).is_some() {
        quoted.push('…');
    }
    quoted
}
