//! Scenarios of a loaded model: the first token, the following ones, and several sequences at once.

use std::time::Instant;

use smallmind::{Batch, Model, Session, SessionOptions};

use super::{Setup, greedy, session};
use crate::measure::clock::repeat;
use crate::results::{Row, Unit};
use crate::speed::arbitrary_tokens;
use crate::{Error, Result};

/// Milliseconds from the prompt to its first token, for each prompt length.
pub(super) fn ttft(setup: &Setup<'_>, model: &Model, done: &mut dyn FnMut(Row)) -> Result<()> {
    for prompt in setup.fitting_prompts(model, 1)? {
        let tokens = arbitrary_tokens(model, prompt);
        let mut session = session(model)?;
        let figures = repeat(setup.repeats, &setup.cancel, || {
            session.truncate(0);
            let mut generation = session.generate(&tokens, &greedy(1))?;
            generation.next_piece()?;
            Ok::<_, Error>(1e3 * generation.timings().first_token.as_secs_f64())
        })?;
        done(Row::ours(
            "ttft",
            setup.name,
            model.threads(),
            &format!("prompt {prompt}"),
            Unit::Milliseconds,
            figures,
        ));
    }
    Ok(())
}

/// Tokens a second of a generation, first token left out.
pub(super) fn steady(setup: &Setup<'_>, model: &Model, done: &mut dyn FnMut(Row)) -> Result<()> {
    let generate = setup.generated(model);
    let tokens = arbitrary_tokens(model, 1);
    let mut session = session(model)?;
    let figures = repeat(setup.repeats, &setup.cancel, || {
        session.truncate(0);
        let mut generation = session.generate(&tokens, &greedy(generate))?;
        while generation.next_piece()?.is_some() {}
        let decode = generation.timings().decode.as_secs_f64();
        Ok::<_, Error>((generation.generated() as f64 - 1.0) / decode)
    })?;
    let test = format!("{generate} tokens");
    done(Row::ours("steady", setup.name, model.threads(), &test, Unit::TokensPerSecond, figures));
    Ok(())
}

/// Milliseconds from each token to the next.
pub(super) fn latency(setup: &Setup<'_>, model: &Model, done: &mut dyn FnMut(Row)) -> Result<()> {
    let generate = setup.generated(model);
    let tokens = arbitrary_tokens(model, 1);
    let mut session = session(model)?;
    let each = repeat(setup.repeats, &setup.cancel, || {
        session.truncate(0);
        let mut generation = session.generate(&tokens, &greedy(generate))?;
        generation.next_piece()?;
        let mut times = Vec::with_capacity(generate);
        let mut last = Instant::now();
        while generation.next_piece()?.is_some() {
            times.push(1e3 * last.elapsed().as_secs_f64());
            last = Instant::now();
        }
        Ok::<_, Error>(times)
    })?;
    let test = format!("token to token, {generate} tokens");
    let figures = each.into_iter().flatten();
    done(Row::ours("latency", setup.name, model.threads(), &test, Unit::Milliseconds, figures));
    Ok(())
}

/// Tokens a second of all sequences together, for each number of them.
pub(super) fn concurrency(setup: &Setup<'_>, model: &Model, done: &mut dyn FnMut(Row)) -> Result<()> {
    let generate = setup.generated(model);
    let options = SessionOptions { context: Some(generate + 1), ..SessionOptions::default() };
    let tokens = arbitrary_tokens(model, generate + 1);
    for &sequences in &setup.sequences {
        let sessions: smallmind::Result<Vec<Session>> =
            (0..sequences).map(|_| Session::new(model, &options)).collect();
        let (mut sessions, mut batch) = (sessions?, Batch::new(model, sequences)?);
        let mut step = vec![0; sequences];
        let figures = repeat(setup.repeats, &setup.cancel, || {
            for session in &mut sessions {
                session.truncate(0);
                session.prefill(&tokens[..1])?;
            }
            let start = Instant::now();
            for token in &tokens[1..] {
                step.fill(*token);
                batch.decode(&mut sessions, &step)?;
            }
            Ok::<_, Error>((sequences * generate) as f64 / start.elapsed().as_secs_f64())
        })?;
        if figures.is_empty() {
            break;
        }
        let test = format!("{sequences} sequence{}", if sequences == 1 { "" } else { "s" });
        done(Row::ours("concurrency", setup.name, model.threads(), &test, Unit::TokensPerSecond, figures));
    }
    Ok(())
}
