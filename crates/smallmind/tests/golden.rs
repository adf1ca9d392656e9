//! Every architecture, RoPE variant and a mix of weight types against llama.cpp's logits for the same tiny models
//! (`testdata/golden/README.md` says how they were made).
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this is test code, though clippy cannot see it"
)]

mod support;

use smallmind::{KvPrecision, Model, Session, SessionOptions};

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let options = SessionOptions { kv: Some(KvPrecision::F32), ..SessionOptions::default() };
    let mut session = Session::new(model, &options).unwrap();
    session.score(ids, ids.len()).unwrap().to_vec()
}

/// Largest difference, and the root mean square of differences over that of the reference around its mean.
fn distance(ours: &[f32], theirs: &[f32]) -> (f32, f32) {
    assert_eq!(ours.len(), theirs.len());
    let largest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let mean = theirs.iter().sum::<f32>() / theirs.len() as f32;
    let spread: f32 = theirs.iter().map(|b| (b - mean).powi(2)).sum();
    let error: f32 = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum();
    (largest, (error / spread).sqrt())
}

#[test]
fn unquantized_models_give_llama_cpps_logits() {
    let cases: Vec<_> = support::cases().into_iter().filter(|c| !c.quantized).collect();
    assert!(cases.len() >= 12, "the fixtures cover the families and RoPE variants");
    for case in cases {
        let model = support::tiny(&case.name, 2, false);
        let (largest, relative) = distance(&logits(&model, &case.ids), &case.logits);
        assert!(relative < 1e-5, "{}: relative {relative}, largest {largest}", case.name);
    }
}

#[test]
fn quantized_models_stay_as_close_as_quantized_activations_can() {
    for case in support::cases().into_iter().filter(|c| c.quantized) {
        for precise in [true, false] {
            let model = support::tiny(&case.name, 2, precise);
            let (largest, relative) = distance(&logits(&model, &case.ids), &case.logits);
            let bound = if precise { 1e-5 } else { 0.05 };
            assert!(relative < bound, "{} precise {precise}: {relative}, largest {largest}", case.name);
        }
    }
}

#[test]
fn greedy_continuations_are_llama_cpps() {
    let mut compared = 0;
    for case in support::cases().into_iter().filter(|c| !c.quantized && !c.greedy.is_empty()) {
        let model = support::tiny(&case.name, 1, false);
        let options = SessionOptions { kv: Some(KvPrecision::F32), ..SessionOptions::default() };
        let mut session = Session::new(&model, &options).unwrap();
        session.prefill(&case.ids).unwrap();
        for (step, want) in case.greedy.iter().enumerate() {
            let best =
                session.logits_mut().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
            if best != Some(*want as usize) {
                assert!(case.margins[step] < 0.02, "{} parts at step {step}", case.name);
                break;
            }
            compared += 1;
            session.prefill(&[*want]).unwrap();
        }
    }
    assert!(compared > 100, "only {compared} tokens were compared");
}
