//! The same tokens give the same logits to the bit: whatever the threads, the prefill chunk, the KV history's making, or
//! the other sessions at work.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this is test code, though clippy cannot see it"
)]

mod support;

use proptest::prelude::*;
use smallmind::{
    Batch, GenerateOptions, KvPrecision, LoadOptions, Model, PrefillClass, SamplingParams, Session,
    SessionOptions,
};

const TINY: [&str; 7] = ["llama", "qwen3", "gemma3", "gpt2", "llama-q8_0", "llama-mixed", "llama-kquants"];

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

/// Logits after every token, prefilled in chunks of `chunk`.
fn scored(model: &Model, ids: &[u32], chunk: usize, kv: KvPrecision) -> Vec<u32> {
    let options = SessionOptions { chunk, kv: Some(kv), ..SessionOptions::default() };
    let mut session = Session::new(model, &options).unwrap();
    let mut all = Vec::new();
    for part in ids.chunks(chunk) {
        all.extend(bits(session.score(part, part.len()).unwrap()));
    }
    all
}

#[test]
fn chunks_threads_and_decode_give_the_same_bits_in_every_family() {
    for name in TINY {
        let one = support::tiny(name, 1, false);
        let vocab = u32::try_from(one.config().vocab).unwrap();
        let ids: Vec<u32> = (0..97u32).map(|i| (i * i + 7 * i) % vocab).collect();
        let ids = &ids[..ids.len().min(one.config().context)];
        for kv in [KvPrecision::I16, KvPrecision::F16, KvPrecision::F32, KvPrecision::Q8_0] {
            // Token by token is decode.
            let decoded = scored(&one, ids, 1, kv);
            for threads in [1, 2, 3] {
                let model = support::tiny(name, threads, false);
                for chunk in [2, 5, 16, 33, 97] {
                    assert!(
                        decoded == scored(&model, ids, chunk, kv),
                        "{name}: {threads} threads, chunk {chunk}"
                    );
                }
            }
        }
    }
}

#[test]
fn fast_prompts_have_the_same_bits_whatever_the_chunks_and_threads_and_answers_to_them_too() {
    for name in TINY {
        let one = support::tiny(name, 1, false);
        if one.fast_prefill().is_none() {
            eprintln!("{name}: unquantized weights have no fast prefill on this CPU");
            continue;
        }
        let vocab = u32::try_from(one.config().vocab).unwrap();
        let ids: Vec<u32> = (0..97u32).map(|i| (i * i + 7 * i) % vocab).collect();
        let (prompt, answer) = ids[..ids.len().min(one.config().context)].split_at(40);
        let logits = |model: &Model, chunk: usize, prefill: PrefillClass| {
            let options = SessionOptions { chunk, prefill, ..SessionOptions::default() };
            let mut session = Session::new(model, &options).unwrap();
            let mut all = bits(session.prefill(prompt).unwrap());
            for token in answer {
                all.extend(bits(session.decode(*token).unwrap()));
            }
            all
        };
        let expected = logits(&one, 40, PrefillClass::Fast);
        for threads in [1, 2, 3] {
            let model = support::tiny(name, threads, false);
            for chunk in [1, 5, 16, 33] {
                assert!(
                    expected == logits(&model, chunk, PrefillClass::Fast),
                    "{name}: {threads} threads, chunk {chunk}"
                );
            }
        }
        assert!(expected != logits(&one, 40, PrefillClass::Exact), "{name}: another class has other bits");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_split_of_any_prompt_gives_the_same_bits(
        ids in proptest::collection::vec(0u32..60, 2..80),
        chunk in 1usize..80,
        name in 0usize..TINY.len(),
    ) {
        let model = support::tiny(TINY[name], 2, false);
        prop_assume!(ids.len() <= model.config().context);
        let whole = scored(&model, &ids, ids.len(), KvPrecision::I16);
        prop_assert!(whole == scored(&model, &ids, chunk, KvPrecision::I16));
    }
}

#[test]
fn a_real_model_gives_the_same_bits_across_pages_chunks_and_threads() {
    for (file, len) in [(support::SMOLLM2, 530), (support::GEMMA3, 600)] {
        let Some(path) = support::real_model(file) else { return };
        let load =
            |threads| Model::load(&path, &LoadOptions { threads: Some(threads), precise: false }).unwrap();
        let (one, two) = (load(1), load(2));
        let ids: Vec<u32> = (0..len).map(|i| (i * 7919 + 13) % 40_000).collect();
        let last = |model: &Model, chunk: usize, rows: usize| {
            let options = SessionOptions { chunk, ..SessionOptions::default() };
            let mut session = Session::new(model, &options).unwrap();
            session.prefill(&ids[..ids.len() - rows]).unwrap();
            // The last rows one by one: decode over more than one page.
            let mut logits = Vec::new();
            for id in &ids[ids.len() - rows..] {
                logits = bits(session.prefill(&[*id]).unwrap());
            }
            logits
        };
        let want = last(&two, 512, 3);
        assert!(want == last(&one, 512, 1), "{file}: threads");
        assert!(want == last(&two, 67, 5), "{file}: chunks");
        assert!(want == last(&two, 256, 20), "{file}: decode");
    }
}

#[test]
fn sessions_side_by_side_do_not_disturb_each_other() {
    let model = support::tiny("qwen3", 2, false);
    let generate = |seed: u64| {
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let sampling = SamplingParams { seed: Some(seed), ..SamplingParams::default() };
        let options = GenerateOptions {
            max_tokens: Some(24),
            sampling,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let prompt = [1, 2, 3 + u32::try_from(seed).unwrap()];
        session.generate(&prompt, &options).unwrap().map(|t| t.unwrap().id).collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..8).map(generate).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|seed| scope.spawn(move || generate(seed))).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn decoding_in_a_batch_gives_the_bits_of_decoding_alone() {
    for name in TINY {
        for threads in [1, 2] {
            let model = support::tiny(name, threads, false);
            let vocab = model.config().vocab;
            // Histories of different lengths, so that windows and positions differ.
            let prompts: Vec<Vec<u32>> =
                (1..=9u32).map(|n| (0..3 * n).map(|i| (i * n + 5) % 60).collect()).collect();
            let start = |prompt: &Vec<u32>| {
                let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
                session.prefill(prompt).unwrap();
                session
            };
            let mut alone: Vec<Session> = prompts.iter().map(start).collect();
            let mut together: Vec<Session> = prompts.iter().map(start).collect();
            let mut batch = Batch::new(&model, 9).unwrap();
            for step in 0..4u32 {
                let tokens: Vec<u32> = (0..9).map(|i| (i * 7 + step) % 60).collect();
                let logits = bits(batch.decode(&mut together, &tokens).unwrap());
                for ((session, token), row) in alone.iter_mut().zip(&tokens).zip(logits.chunks_exact(vocab)) {
                    assert!(
                        bits(session.prefill(&[*token]).unwrap()) == row,
                        "{name}, {threads} threads, step {step}"
                    );
                }
            }
        }
    }
}
