//! `perplexity`: the figure and its refusals.

use std::path::Path;

use crate::support::{smallmind, smollm2, tiny, with_stdin};

#[test]
fn prose_is_predictable_and_noise_is_not() {
    let Some(model) = smollm2() else { return };
    let measure = |text: &str| {
        let d = with_stdin(&["perplexity", "-m", &model, "-c", "64", "--json"], text.as_bytes()).json();
        assert!(d["stderr"].as_f64().unwrap() >= 0.0 && d["tokens"].as_u64().unwrap() > 0, "{d}");
        d["perplexity"].as_f64().unwrap()
    };
    let prose = measure(&"The quick brown fox jumps over the lazy dog. It was a sunny day. ".repeat(12));
    let noise = measure(&"qz7 Xv} 0pL% grum teh8 ~wq lkj; vbn! ZZr 5yt] ".repeat(8));
    assert!(prose > 1.0 && prose < noise, "{prose} {noise}");
}

#[test]
fn texts_that_are_too_short_and_windows_that_do_not_fit_are_refused() {
    let model = tiny("llama");
    with_stdin(&["perplexity", "-m", &model], b"short").refuses(1, &["two windows"]);
    with_stdin(&["perplexity", "-m", &model, "-c", "2"], b"short").refuses(1, &["window"]);
    smallmind(&["perplexity", "-m", &model, "-f", "/no/such/text"]).refuses(1, &["/no/such/text"]);
    assert!(Path::new(&model).exists());
}
