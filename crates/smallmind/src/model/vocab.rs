//! The tokenizer, the chat template and the recommended sampling that a GGUF file carries in its metadata.

use smallmind_formats::{FormatError, Gguf, Value};
use smallmind_text::{ChatTemplate, TokenType, Tokenizer, VocabKind, VocabSpec, builtin_template};

use super::config::Config;
use crate::error::Result;
use crate::sample::SamplingParams;

/// The file's chat template, compiled when the model is loaded; what is wrong with it is told when it is asked for.
pub(super) enum TemplateState {
    Ready(ChatTemplate),
    Broken(String),
    None,
}

/// A token's literal text, for the template's `bos_token` and `eos_token`; empty where there is none.
fn token_text(tokenizer: &Tokenizer, id: Option<u32>) -> String {
    id.map(|id| String::from_utf8_lossy(tokenizer.piece_special(id)).into_owned()).unwrap_or_default()
}

/// Builds the tokenizer.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let meta = gguf.metadata();
    let kind = match meta.require_str("tokenizer.ggml.model")? {
        "gpt2" => VocabKind::Bpe,
        "llama" => VocabKind::Spm,
        other => {
            let shown: String = other.chars().take(40).flat_map(char::escape_debug).collect();
            let message =
                format!("`{shown}` is no tokenizer we know: we have gpt2 (BPE) and llama (SentencePiece)");
            return Err(FormatError::invalid(gguf.path(), "tokenizer.ggml.model", message).into());
        }
    };
    // An array that is there and empty says that the converter lost it, not that the model has none.
    for name in ["scores", "token_type", "merges"] {
        let key = format!("tokenizer.ggml.{name}");
        let missing = kind == VocabKind::Bpe && name == "merges" && !meta.contains(&key);
        let empty = matches!(meta.get(&key), Some(Value::Array(a)) if a.is_empty());
        if missing || empty {
            return Err(FormatError::invalid(
                gguf.path(),
                &key,
                "is missing or empty; convert the model again",
            )
            .into());
        }
    }
    let id = |name: &str| meta.u32(&format!("tokenizer.ggml.{name}_token_id"));
    let types = meta.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
    let spec = VocabSpec {
        kind,
        tokens: meta.require_byte_strings("tokenizer.ggml.tokens")?.into_iter().collect(),
        scores: meta.f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
        types: types.into_iter().map(TokenType::try_from).collect::<Result<_, _>>()?,
        // Whether they are UTF-8 is the tokenizer's to check, which reads each anyway.
        merges: meta.byte_strings("tokenizer.ggml.merges")?.unwrap_or_default().into_iter().collect(),
        pre: meta.str("tokenizer.ggml.pre")?.unwrap_or_default().to_owned(),
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unk: id("unknown")?,
        sep: id("seperator")?,
        pad: id("padding")?,
        add_bos: meta.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: meta.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: meta.bool("tokenizer.ggml.add_space_prefix")?,
        remove_extra_whitespaces: meta.bool("tokenizer.ggml.remove_extra_whitespaces")?,
        model_name: meta.str("general.name")?.unwrap_or_default().to_owned(),
    };
    Ok(Tokenizer::new(spec)?)
}

/// Compiles the file's chat template, or the family's where the file has none.
pub(super) fn template(gguf: &Gguf, config: &Config, tokenizer: &Tokenizer) -> Result<TemplateState> {
    let own = gguf.metadata().str("tokenizer.chat_template")?;
    let Some(source) = own.or_else(|| config.arch.chat_family.and_then(builtin_template)) else {
        return Ok(TemplateState::None);
    };
    // A family's template needs the family's tokens: a bare base model has no turns.
    if own.is_none() && tokenizer.end_of_generation().is_empty() {
        return Ok(TemplateState::None);
    }
    let (bos, eos) = (token_text(tokenizer, tokenizer.bos()), token_text(tokenizer, tokenizer.eos()));
    Ok(match ChatTemplate::compile(source, &bos, &eos) {
        Ok(t) => TemplateState::Ready(t),
        Err(why) => TemplateState::Broken(format!("{}: {why}", gguf.path().display())),
    })
}

/// The sampling that the file recommends (`general.sampling.*`), where it does, on top of the field's usual.
pub(crate) fn recommended_sampling(gguf: &Gguf) -> Result<SamplingParams> {
    let meta = gguf.metadata();
    let number = |name: &str| meta.f32(&format!("general.sampling.{name}"));
    let count = |name: &str| meta.usize(&format!("general.sampling.{name}"));
    let mut p = SamplingParams::default();
    p.temperature = number("temp")?.unwrap_or(p.temperature);
    p.top_k = count("top_k")?.unwrap_or(p.top_k);
    p.top_p = number("top_p")?.unwrap_or(p.top_p);
    p.min_p = number("min_p")?.unwrap_or(p.min_p);
    p.repeat_penalty = number("penalty_repeat")?.unwrap_or(p.repeat_penalty);
    p.repeat_last_n = count("penalty_last_n")?.unwrap_or(p.repeat_last_n);
    p.validate()?;
    Ok(p)
}
