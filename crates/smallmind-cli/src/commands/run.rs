//! `smallmind run`: one prompt, one answer.

use std::time::{Duration, Instant};

use anyhow::Result;
use smallmind::{GenerateOptions, Generation, Message, Model};
use smallmind_bench::measure::machine;

use crate::answer::Answer;
use crate::args::{MaxTokens, RunArgs};
use crate::interrupt::Guard;
use crate::output::{self, Interrupted, MemoryDocument, Out, RunDocument, TimingsDocument, Usage, ms, rate};
use crate::{prompt, resolve};
use smallmind::profile::Allocated;

/// Tokens of a plain continuation without `-n`: a text without turns has no natural end.
const PLAIN_TOKENS: usize = 128;

pub(crate) fn run(args: RunArgs, out: &Out) -> Result<()> {
    let given = args.prompt.is_some();
    let flags = "as an argument, with -f FILE or on stdin";
    let mut text = prompt::text(args.prompt, args.file.as_deref(), flags)?;
    // A file's last line ends with a newline that is not meant as part of the prompt.
    if !given && text.ends_with('\n') {
        text.pop();
        text.truncate(text.trim_end_matches('\r').len());
    }
    if text.is_empty() {
        return Err(Usage(format!("the prompt is empty: give a text {flags}")).into());
    }
    let loaded = resolve::load(&args.model, out)?;
    let model = &loaded.model;
    let sampling = resolve::sampling(model, &args.sampling)?;
    let plain = args.raw || !model.has_chat_template();
    let start = Instant::now();
    let ids = if plain { prompt::plain(model, &text) } else { conversation(model, args.end.system, text)? };
    let mut session = resolve::session(model, &args.session, out)?;
    let interrupt = Guard::new();
    let options = GenerateOptions {
        max_tokens: match args.end.max_tokens {
            Some(MaxTokens(limit)) => limit,
            None => plain.then_some(PLAIN_TOKENS),
        },
        sampling,
        stop: args.end.stop,
        logprobs: args.logprobs,
        ignore_eos: args.end.ignore_eos,
        special: args.special,
        cancel: interrupt.token(),
    };
    let room = session.context().saturating_sub(ids.len());
    let limit = options.max_tokens.unwrap_or(room).min(room).saturating_add(1);
    let mut answer = Answer::new(limit, args.logprobs, out.json);
    let before = start.elapsed();
    let mut generation = session.generate(&ids, &options)?;
    answer.receive(&mut generation)?;

    let timings = timings(&generation, ids.len(), loaded.load, before);
    out.detail(|| summary(&timings, ids.len(), answer.tokens.len(), &answer.counted));
    if out.json {
        output::json(&RunDocument {
            model: &loaded.name,
            architecture: model.config().arch.name,
            threads: model.threads(),
            isa: model.isa(),
            seed: generation.seed(),
            prompt_tokens: &ids,
            tokens: &answer.tokens,
            text: &answer.text,
            finish_reason: generation.finish_reason().map_or("length", |finish| finish.as_str()),
            logprobs: (args.logprobs > 0).then(|| answer.logprob_documents(model)),
            timings,
            memory: MemoryDocument {
                peak_rss_bytes: machine::peak_rss_bytes(),
                decode_allocations: answer.counted.calls,
                decode_allocated_bytes: answer.counted.bytes,
            },
        })?;
    }
    if interrupt.interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}

fn conversation(model: &Model, system: Option<String>, text: String) -> Result<Vec<u32>> {
    let system = system.map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", text)]).collect();
    prompt::conversation(model, &messages)
}

fn timings(generation: &Generation<'_>, prompt: usize, load: Duration, before: Duration) -> TimingsDocument {
    let t = generation.timings();
    TimingsDocument {
        load_ms: ms(load),
        prompt_ms: ms(t.prompt),
        ttft_ms: ms(before + t.first_token),
        decode_ms: ms(t.decode),
        prompt_tps: rate(prompt, t.prompt),
        decode_tps: rate(generation.generated().saturating_sub(1), t.decode),
    }
}

fn summary(t: &TimingsDocument, prompt: usize, tokens: usize, counted: &Allocated) -> String {
    format!(
        "load {:.0} ms; prompt {prompt} tokens, {:.0} ms, {:.1} tokens/s; first token after {:.0} ms; {tokens} tokens, {:.0} \
         ms, {:.1} tokens/s, {} allocations",
        t.load_ms, t.prompt_ms, t.prompt_tps, t.ttft_ms, t.decode_ms, t.decode_tps, counted.calls
    )
}
