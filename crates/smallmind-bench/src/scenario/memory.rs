//! Scenarios of memory: what the process holds, and what it allocates.

use smallmind::profile::Allocated;

use super::{AllocationCounter, Setup, greedy, session};
use crate::measure::clock::repeat;
use crate::measure::machine::{peak_rss_bytes, rss_bytes};
use crate::results::{Row, Unit};
use crate::speed::arbitrary_tokens;
use crate::{Error, Result};

/// The process's resident memory: before the model, loaded, behind the longest prompt, and at its peak, in 10⁶ bytes.
pub(super) fn memory(setup: &Setup<'_>, done: &mut dyn FnMut(Row)) -> Result<()> {
    let (mut threads, mut tokens) = (1, 0);
    let all = repeat(setup.counted(), &setup.cancel, || {
        forget_peak();
        let before = rss_bytes();
        let model = setup.load()?;
        let loaded = rss_bytes();
        threads = model.threads();
        let prompt = setup.fitting_prompts(&model, 1)?.last().copied().unwrap_or(1);
        tokens = prompt;
        let mut session = session(&model)?;
        session.prefill(&arbitrary_tokens(&model, prompt))?;
        Ok::<_, Error>([before, loaded, rss_bytes(), peak_rss_bytes()].map(|bytes| bytes as f64 / 1e6))
    })?;
    let context = format!("behind {tokens} tokens");
    for (i, test) in ["before the model", "model loaded", &context, "peak"].into_iter().enumerate() {
        let figures = all.iter().map(|moments| moments[i]);
        done(Row::ours("memory", setup.name, threads, test, Unit::Megabytes, figures));
    }
    Ok(())
}

/// Starts the peak anew, where the system lets us; else it stays that of the whole process.
fn forget_peak() {
    // proc(5): writing 5 resets the peak of the resident set.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Calls of the allocator and bytes: loading, prefilling, decoding behind the first tokens.
pub(super) fn allocations(setup: &Setup<'_>, done: &mut dyn FnMut(Row)) -> Result<()> {
    let Some(counter) = setup.allocations else {
        return Err(Error::Usage("this program does not count its allocations".into()));
    };
    let (mut threads, mut tests) = (1, [String::new(), String::new(), String::new()]);
    let all = repeat(setup.counted(), &setup.cancel, || {
        let (model, loading) = counted(counter, || setup.load());
        let model = model?;
        threads = model.threads();
        let generate = setup.generated(&model);
        let prompt = setup.fitting_prompts(&model, generate.min(model.config().context - 1))?;
        let prompt = prompt.last().copied().unwrap_or(1);
        let tokens = arbitrary_tokens(&model, prompt);
        tests = ["load".to_owned(), format!("prefill {prompt} tokens"), format!("decode {generate} tokens")];
        let mut session = session(&model)?;
        let options = greedy(generate);
        let (generation, prefilling) = counted(counter, || session.generate(&tokens, &options));
        let mut generation = generation?;
        generation.next_piece()?;
        let (decoded, decoding) = counted(counter, || {
            while generation.next_piece()?.is_some() {}
            Ok::<_, Error>(())
        });
        decoded?;
        Ok::<_, Error>([loading, prefilling, decoding])
    })?;
    for (i, test) in tests.iter().enumerate().filter(|(_, test)| !test.is_empty()) {
        let calls = all.iter().map(|phases| phases[i].calls as f64);
        done(Row::ours("allocations", setup.name, threads, &format!("{test}: calls"), Unit::Count, calls));
        let bytes = all.iter().map(|phases| phases[i].bytes as f64 / 1e6);
        done(Row::ours(
            "allocations",
            setup.name,
            threads,
            &format!("{test}: bytes"),
            Unit::Megabytes,
            bytes,
        ));
    }
    Ok(())
}

fn counted<R>(counter: AllocationCounter, work: impl FnOnce() -> R) -> (R, Allocated) {
    (counter.start)();
    let result = work();
    (result, (counter.stop)())
}
