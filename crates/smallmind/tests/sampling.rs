//! What users of sampling rely on: seeds that give the same tokens for good, greedy ties, penalties, typed errors,
//! and no heap allocation while tokens are drawn.
#![allow(unsafe_code, reason = "a global allocator that counts")]

use smallmind::sample::{SampleError, Sampler, SamplingParams, TokenLogprob, logprob, top_logprobs};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that is ending has no counter any more; nothing asks for it then.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes to the system allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` needs.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Logits in -8..8 that look like a model's: a multiplicative hash of the position and the token.
fn fill(logits: &mut [f32], position: u32) {
    for (id, logit) in (0_u32..).zip(logits) {
        let hash = (id ^ position.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1);
        *logit = (hash >> 8) as f32 / (1 << 20) as f32 - 8.0;
    }
}

fn tokens(params: &SamplingParams, vocab: usize, n: u32) -> Vec<u32> {
    let mut sampler = Sampler::new(params, vocab).expect("the parameters are valid");
    let mut logits = vec![0.0; vocab];
    (0..n)
        .map(|position| {
            fill(&mut logits, position);
            let token = sampler.sample(&mut logits).expect("there are candidates");
            sampler.accept(token);
            token
        })
        .collect()
}

fn off() -> SamplingParams {
    SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingParams::default() }
}

#[test]
fn a_seed_gives_the_same_tokens_in_every_version() {
    let seeded = |seed| SamplingParams { seed: Some(seed), ..SamplingParams::default() };
    assert_eq!(tokens(&seeded(42), 1000, 12), [830, 341, 975, 696, 796, 579, 159, 569, 229, 917, 562, 833]);
    assert_eq!(
        tokens(&SamplingParams { seed: Some(42), ..off() }, 1000, 12),
        [817, 327, 975, 696, 788, 579, 146, 607, 222, 925, 562, 850]
    );
    assert_ne!(tokens(&seeded(42), 1000, 12), tokens(&seeded(43), 1000, 12));
}

#[test]
fn without_a_seed_streams_differ_and_the_seed_can_be_told() {
    let (a, b) = (Sampler::new(&off(), 10).unwrap(), Sampler::new(&off(), 10).unwrap());
    assert_ne!(a.seed(), b.seed());
    let again = SamplingParams { seed: Some(a.seed()), ..off() };
    assert_eq!(Sampler::new(&again, 10).unwrap().seed(), a.seed());
}

#[test]
fn greedy_takes_the_lowest_id_among_equals_and_ignores_the_seed() {
    let greedy =
        |logits: &mut [f32]| Sampler::new(&SamplingParams::greedy(), logits.len()).unwrap().sample(logits);
    assert_eq!(greedy(&mut [1.0, 3.0, 3.0, 2.0]), Ok(1));
    assert_eq!(greedy(&mut [-0.0, 0.0]), Ok(0), "zeros are equal");
    assert_eq!(greedy(&mut [f32::NAN, -5.0, f32::NEG_INFINITY, -f32::NAN]), Ok(1));
    assert_eq!(greedy(&mut [0.0, f32::INFINITY]), Ok(1));
    let with_seed = |seed| tokens(&SamplingParams { seed: Some(seed), ..SamplingParams::greedy() }, 300, 20);
    assert_eq!(with_seed(1), with_seed(2));
}

#[test]
fn a_vanishing_temperature_is_greedy() {
    let cold = SamplingParams { temperature: 1e-30, ..off() };
    assert_eq!(tokens(&cold, 300, 20), tokens(&SamplingParams::greedy(), 300, 20));
    let one = SamplingParams { temperature: 2.0, top_k: 1, ..off() };
    assert_eq!(tokens(&one, 300, 20), tokens(&SamplingParams::greedy(), 300, 20));
}

#[test]
fn penalties_and_bias_change_even_the_greedy_choice() {
    let params = SamplingParams {
        repeat_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(4, f32::NEG_INFINITY), (3, 1.0)],
        ..SamplingParams::greedy()
    };
    let mut sampler = Sampler::new(&params, 5).unwrap();
    // 99 is not in this vocabulary.
    for token in [0, 1, 0, 99] {
        sampler.accept(token);
    }
    let mut logits = [4.0, -1.0, 0.9, 0.5, 9.0];
    assert_eq!(sampler.sample(&mut logits), Ok(3));
    assert_eq!(logits, [4.0 / 2.0 - 0.5 - 2.0 * 0.25, -2.0 - 0.5 - 0.25, 0.9, 1.5, f32::NEG_INFINITY]);
}

#[test]
fn sampling_without_any_possible_token_is_a_typed_error() {
    for params in [SamplingParams::greedy(), SamplingParams::default(), off()] {
        let mut sampler = Sampler::new(&params, 3).unwrap();
        assert_eq!(
            sampler.sample(&mut [f32::NAN, f32::NEG_INFINITY, -f32::NAN]),
            Err(SampleError::NoCandidate)
        );
        assert_eq!(sampler.sample(&mut [0.0; 2]), Err(SampleError::WrongLength { expected: 3, found: 2 }));
        assert_eq!(sampler.sample(&mut [f32::NAN, -9.0, f32::NEG_INFINITY]), Ok(1));
        assert_eq!(sampler.sample(&mut [3.0, f32::INFINITY, 0.0]), Ok(1));
    }
    let mut none = Sampler::new(&SamplingParams::default(), 0).unwrap();
    assert_eq!(none.sample(&mut []), Err(SampleError::NoCandidate));
}

#[test]
fn every_parameter_has_a_range_and_its_error_names_it() {
    let good = SamplingParams::default;
    assert_eq!(good().validate(), Ok(()));
    assert_eq!(SamplingParams::greedy().validate(), Ok(()));
    let nan = f32::NAN;
    let bad = [
        ("temperature", SamplingParams { temperature: -0.1, ..good() }),
        ("temperature", SamplingParams { temperature: nan, ..good() }),
        ("temperature", SamplingParams { temperature: f32::INFINITY, ..good() }),
        ("top_p", SamplingParams { top_p: 1.1, ..good() }),
        ("top_p", SamplingParams { top_p: nan, ..good() }),
        ("min_p", SamplingParams { min_p: -0.1, ..good() }),
        ("repeat_penalty", SamplingParams { repeat_penalty: 0.0, ..good() }),
        ("repeat_last_n", SamplingParams { repeat_last_n: usize::MAX, ..good() }),
        ("presence_penalty", SamplingParams { presence_penalty: nan, ..good() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: 1e9, ..good() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(0, 0.0), (1, f32::INFINITY)], ..good() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(0, nan)], ..good() }),
    ];
    for (name, params) in bad {
        let error = Sampler::new(&params, 10).unwrap_err();
        assert!(matches!(error, SampleError::OutOfRange { field, .. } if field == name), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let beyond = SamplingParams { logit_bias: vec![(10, 1.0)], ..good() };
    assert_eq!(Sampler::new(&beyond, 10).unwrap_err(), SampleError::UnknownToken { id: 10, vocab: 10 });
}

#[test]
fn log_probabilities_are_ordered_and_of_the_unmodified_distribution() {
    let logits = [0.0, 3.0_f32.ln(), f32::NAN, 0.0, f32::NEG_INFINITY];
    let mut out = vec![TokenLogprob { id: 9, logprob: 9.0 }];
    top_logprobs(&logits, 10, &mut out);
    let ids: Vec<u32> = out.iter().map(|t| t.id).collect();
    assert_eq!(ids, [1, 0, 3], "the most likely first, ties by id, impossible ones left out");
    for (token, p) in out.iter().zip([0.6_f32, 0.2, 0.2]) {
        assert!((token.logprob - p.ln()).abs() < 1e-6, "{token:?}");
    }
    assert_eq!(logprob(&logits, 2), f32::NEG_INFINITY);
    assert_eq!(logprob(&logits, 99), f32::NEG_INFINITY);
    top_logprobs(&logits, 1, &mut out);
    assert_eq!(out.len(), 1);
    top_logprobs(&[f32::NAN; 3], 5, &mut out);
    assert!(out.is_empty());
}

#[test]
fn drawing_tokens_allocates_nothing() {
    let vocab = 20_000;
    let mut logits = vec![0.0; vocab];
    let penalized =
        SamplingParams { repeat_penalty: 1.1, frequency_penalty: 0.1, ..SamplingParams::default() };
    for params in [
        SamplingParams::greedy(),
        SamplingParams::default(),
        off(),
        SamplingParams { top_p: 0.9, ..off() },
        SamplingParams { top_k: 6000, top_p: 0.999, ..off() },
        SamplingParams { temperature: 0.0, ..penalized.clone() },
        SamplingParams { logit_bias: vec![(7, 3.0)], ..penalized },
    ] {
        let mut sampler = Sampler::new(&params, vocab).unwrap();
        let found = allocations(|| {
            for position in 0..100 {
                fill(&mut logits, position);
                let token = sampler.sample(&mut logits).unwrap();
                sampler.accept(token);
            }
        });
        assert_eq!(found, 0, "{params:?}");
    }

    let mut out = Vec::with_capacity(40);
    let found = allocations(|| {
        for position in 0..20 {
            fill(&mut logits, position);
            top_logprobs(&logits, 20, &mut out);
        }
    });
    assert_eq!(found, 0);
    assert!(allocations(|| drop(vec![1_u8])) > 0, "the counter counts");
}
