//! Sessions and generation: limits, stop texts, cancelling, going on, windows, and decoding without allocating.
#![allow(unsafe_code, reason = "a counting allocator")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this is test code, though clippy cannot see it"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use smallmind::{
    CancelToken, Encode, Error, Finish, GenerateOptions, Model, SamplingParams, Session, SessionOptions,
};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: forwards every call to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        sampling: SamplingParams::greedy(),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn session(model: &Model, context: usize) -> Session {
    Session::new(model, &SessionOptions { context: Some(context), ..SessionOptions::default() }).unwrap()
}

fn ids(
    model: &Model,
    options: &GenerateOptions,
    context: usize,
    prompt: &[u32],
) -> (Vec<u32>, String, Finish) {
    let mut s = session(model, context);
    let mut g = s.generate(prompt, options).unwrap();
    let (mut ids, mut text) = (Vec::new(), String::new());
    for token in g.by_ref() {
        let token = token.unwrap();
        ids.push(token.id);
        text.push_str(&token.text);
    }
    let finish = g.finish_reason().unwrap();
    (ids, text, finish)
}

#[test]
fn decoding_allocates_nothing() {
    for name in ["llama", "gemma3", "gpt2", "llama-q8_0"] {
        // One thread, so that the count of this thread is the count of all.
        let model = support::tiny(name, 1, false);
        for sampling in
            [SamplingParams::greedy(), SamplingParams { seed: Some(7), ..SamplingParams::default() }]
        {
            let context = model.config().context;
            let mut s = session(&model, context);
            let options = GenerateOptions { logprobs: 5, sampling, ..greedy(40) };
            let mut g = s.generate(&[1, 2, 3], &options).unwrap();
            g.next_piece().unwrap();
            let before = COUNT.get();
            let mut n = 0;
            while g.next_piece().unwrap().is_some() {
                n += 1;
            }
            assert_eq!(n, 39);
            assert_eq!(COUNT.get() - before, 0, "{name}");
        }
    }
}

#[test]
fn a_full_context_ends_with_length_and_not_before() {
    let model = support::tiny("llama", 2, false);
    for prompt in [1usize, 5, 31, 32] {
        let prompt: Vec<u32> = (0..prompt).map(|i| u32::try_from(i).unwrap() + 1).collect();
        let options = GenerateOptions { max_tokens: None, ..greedy(0) };
        let (ids, _, finish) = ids(&model, &options, 32, &prompt);
        // The last token needs no position of its own to be known.
        assert_eq!(
            (ids.len(), finish),
            (if prompt.len() == 32 { 1 } else { 32 - prompt.len() + 1 }, Finish::Length)
        );
    }
}

#[test]
fn no_token_is_generated_where_none_is_asked_for() {
    let model = support::tiny("llama", 1, false);
    let (ids, text, finish) = ids(&model, &greedy(0), 32, &[1, 2]);
    assert_eq!((ids.len(), text.as_str(), finish), (0, "", Finish::Length));
}

#[test]
fn bad_prompts_are_refused_and_leave_the_session_as_it_was() {
    let model = support::tiny("llama", 1, false);
    let mut s = session(&model, 16);
    assert!(matches!(s.prefill(&[]), Err(Error::EmptyPrompt)));
    assert!(matches!(s.prefill(&[1, 1000]), Err(Error::UnknownToken { id: 1000, .. })));
    assert!(matches!(s.prefill(&[1; 17]), Err(Error::PromptTooLong { tokens: 17, context: 16 })));
    assert!(s.tokens().is_empty());
    let asked = model.config().context + 1;
    let options = SessionOptions { context: Some(asked), ..SessionOptions::default() };
    assert!(matches!(Session::new(&model, &options), Err(Error::ContextTooLarge { .. })));
}

#[test]
fn stop_texts_are_never_emitted_even_across_tokens() {
    let Some(path) = support::real_model(support::SMOLLM2) else { return };
    let model = Model::load(path, &smallmind::LoadOptions::default()).unwrap();
    let prompt = model
        .tokenizer()
        .encode("The capital of France is", Encode { add_special: true, parse_special: true });
    let (_, whole, _) = ids(&model, &greedy(20), 64, &prompt);
    assert!(whole.starts_with(" Paris.\n\nThe answer is: 2018"), "{whole:?}");
    for stop in ["is.\n\nThe an", "answer", "2018-", " ", "."] {
        let options = GenerateOptions { stop: vec![stop.into(), "never".into()], ..greedy(20) };
        let (_, text, finish) = ids(&model, &options, 64, &prompt);
        let want = whole.split(stop).next().unwrap();
        assert_eq!((text.as_str(), finish), (want, Finish::Stop), "stop at {stop:?}");
    }
}

#[test]
fn cancelling_stops_before_the_prompt_and_between_tokens() {
    let model = support::tiny("llama", 2, false);
    let cancel = CancelToken::default();
    let options = GenerateOptions { cancel: cancel.clone(), ..greedy(50) };
    let mut s = session(&model, 100);
    let mut g = s.generate(&[1, 2, 3], &options).unwrap();
    for _ in 0..3 {
        assert!(g.next_piece().unwrap().is_some());
    }
    cancel.cancel();
    assert!(g.next_piece().unwrap().is_none());
    assert_eq!(g.finish_reason(), Some(Finish::Cancelled));
    drop(g);
    let g = s.generate(&[4], &options).unwrap();
    assert_eq!(g.finish_reason(), Some(Finish::Cancelled));
}

#[test]
fn going_on_in_parts_gives_what_one_go_gives() {
    for name in ["llama", "gemma3", "gpt2"] {
        let model = support::tiny(name, 2, false);
        let prompt = [3, 1, 4, 1, 5, 9, 2, 6];
        let (whole, ..) = ids(&model, &greedy(30), 60, &prompt);
        let mut s = session(&model, 60);
        let mut parts: Vec<u32> = s.generate(&prompt, &greedy(10)).unwrap().map(|t| t.unwrap().id).collect();
        // Everything generated so far is part of the conversation; take the last token back and go on from it.
        let all: Vec<u32> = prompt.iter().chain(&parts).copied().collect();
        assert_eq!(s.tokens(), all);
        let left = s.truncate(all.len() - 1);
        parts.extend(s.generate(&all[left..], &greedy(20)).unwrap().map(|t| t.unwrap().id));
        assert_eq!(parts, whole, "{name}");
    }
}

#[test]
fn truncating_and_prefilling_again_gives_the_same_bits_over_windows_and_pages() {
    let Some(path) = support::real_model(support::GEMMA3) else { return };
    let model = Model::load(path, &smallmind::LoadOptions::default()).unwrap();
    let ids: Vec<u32> = (0..1400u32).map(|i| (i * 7919 + 5) % 200_000).collect();
    let mut fresh =
        Session::new(&model, &SessionOptions { chunk: 128, ..SessionOptions::default() }).unwrap();
    let want = fresh.prefill(&ids[..700]).unwrap().to_vec();
    for from in [1399, 1100, 640, 3] {
        let mut s =
            Session::new(&model, &SessionOptions { chunk: 128, ..SessionOptions::default() }).unwrap();
        s.prefill(&ids).unwrap();
        let left = s.truncate(from.min(690));
        assert!(left == from.min(690) || left == 0);
        let got = s.prefill(&ids[left..700]).unwrap();
        assert!(got == want, "cut to {left}");
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn next<S: Stream>(mut stream: Pin<&mut S>) -> Option<S::Item> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match stream.as_mut().poll_next(&mut context) {
            Poll::Ready(item) => return item,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn the_stream_brings_what_the_iterator_brings_and_the_session_back() {
    let model = support::tiny("qwen2", 2, false);
    let (want, ..) = ids(&model, &greedy(25), 60, &[1, 2, 3]);
    let mut stream = pin!(session(&model, 60).stream(vec![1, 2, 3], greedy(25)).unwrap());
    let mut got = Vec::new();
    while let Some(token) = next(stream.as_mut()) {
        got.push(token.unwrap().id);
    }
    assert_eq!(got, want);
    assert_eq!(stream.finish_reason(), Some(Finish::Length));

    let mut refused = pin!(session(&model, 60).stream(vec![], greedy(5)).unwrap());
    assert!(matches!(next(refused.as_mut()), Some(Err(Error::EmptyPrompt))));
    assert!(next(refused.as_mut()).is_none());
}
