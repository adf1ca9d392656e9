//! Training against PyTorch: loss, every gradient, and ten steps of AdamW (`scripts/make_train_golden.py`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::Path;

use serde_json::Value;
use smallmind::model::arch::{self, Position};
use smallmind::model::{Config, Rope, RopeScaling};
use smallmind_train::{AdamW, Compute, Moments, NewModel, Param, Pass, Precision, TrainModel, grad_norm};

struct Fixture {
    about: Value,
    model: TrainModel,
    grads: Vec<Vec<f32>>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    seq: usize,
}

fn fixture(family: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/train");
    let text = std::fs::read_to_string(folder.join(format!("{family}.json"))).unwrap();
    let about: Value = serde_json::from_str(&text).unwrap();
    let bytes = std::fs::read(folder.join(format!("{family}.bin"))).unwrap();
    let mut values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    let m = &about["model"];
    let n = |key: &str| m[key].as_u64().unwrap() as usize;
    let x = |key: &str| m[key].as_f64().unwrap() as f32;
    let arch = arch::find(m["arch"].as_str().unwrap()).unwrap();
    let head_dim = n("hidden") / n("heads");
    let config = Config {
        arch,
        name: "golden".into(),
        layers: n("layers"),
        hidden: n("hidden"),
        heads: n("heads"),
        kv_heads: n("kv_heads"),
        head_dim,
        ffn: n("ffn"),
        vocab: n("vocab"),
        context: n("context"),
        norm_eps: x("norm_eps"),
        rope: Rope {
            dim: if arch.position == Position::Learned { 0 } else { head_dim },
            base: x("rope_base"),
            scaling: RopeScaling::None,
        },
        window: None,
        window_period: 1,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
    };
    let new = NewModel { tied: m["tied"].as_bool().unwrap(), biases: family == "gpt2" };
    let mut model = TrainModel::new(config, new, 1).unwrap();
    let tensors = about["tensors"].as_array().unwrap();
    let mut take = |len: usize| -> Vec<f32> { values.by_ref().take(len).collect() };
    assert_eq!(tensors.len(), model.params.len());
    let mut grads = vec![Vec::new(); tensors.len()];
    for fill_grads in [false, true] {
        for t in tensors {
            let at = place(&model.params, t["name"].as_str().unwrap());
            let values = take(model.params[at].data.len());
            if fill_grads { grads[at] = values } else { model.params[at].data = values }
        }
    }
    let numbers =
        |key: &str| about[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let (ids, targets, seq) = (numbers("ids"), numbers("targets"), n("context"));
    Fixture { model, grads, ids, targets, seq, about }
}

fn place(params: &[Param], name: &str) -> usize {
    params.iter().position(|p| p.name == name).unwrap_or_else(|| panic!("no weight {name}"))
}

/// Largest difference, relative to the largest value of the tensor.
fn worst(found: &[f32], want: &[f32]) -> f32 {
    let scale = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let difference = found.iter().zip(want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    difference / scale
}

#[test]
fn loss_and_every_gradient_are_pytorchs() {
    for family in ["gpt2", "llama"] {
        let mut f = fixture(family);
        let mut c = Compute::new(2, Precision::F32).unwrap();
        let loss = f.model.gradient(&mut c, (&f.ids, &f.targets), f.seq, Pass::default(), 1.0).unwrap();
        let want = f.about["loss"].as_f64().unwrap();
        assert!((loss - want).abs() < 1e-4 * want, "{family}: loss {loss}, not {want}");
        for (p, want) in f.model.params.iter().zip(&f.grads) {
            let worst = worst(&p.grad, want);
            assert!(worst < 1e-4, "{family} {}: differs by {worst}", p.name);
        }
    }
}

#[test]
fn in_bfloat16_loss_and_gradients_are_pytorchs_but_for_rounding_on_any_threads() {
    for family in ["gpt2", "llama"] {
        let mut first: Option<Vec<Vec<f32>>> = None;
        for threads in 1..4 {
            let Ok(mut c) = Compute::new(threads, Precision::Bf16) else {
                println!("skipped: this CPU has no matrix units for bfloat16");
                return;
            };
            let mut f = fixture(family);
            let loss = f.model.gradient(&mut c, (&f.ids, &f.targets), f.seq, Pass::default(), 1.0).unwrap();
            let want = f.about["loss"].as_f64().unwrap();
            // bfloat16 has 8 bits of mantissa: a factor is off by up to 2⁻⁹ of itself.
            assert!((loss - want).abs() < 2e-3 * want, "{family}: loss {loss}, not {want}");
            for (p, want) in f.model.params.iter().zip(&f.grads) {
                let worst = worst(&p.grad, want);
                assert!(worst < 5e-2, "{family} {}: differs by {worst}", p.name);
            }
            let grads: Vec<Vec<f32>> = f.model.params.into_iter().map(|p| p.grad).collect();
            assert!(*first.get_or_insert_with(|| grads.clone()) == grads, "{family}: {threads} threads");
        }
    }
}

#[test]
fn ten_steps_of_adamw_lose_as_pytorch_does() {
    for family in ["gpt2", "llama"] {
        let mut f = fixture(family);
        let mut c = Compute::new(1, Precision::F32).unwrap();
        let n = |key: &str| f.about["adamw"][key].as_f64().unwrap();
        let adamw =
            AdamW { beta1: n("beta1"), beta2: n("beta2"), eps: n("eps"), weight_decay: n("weight_decay") };
        let (lr, clip) = (n("lr"), n("clip"));
        let mut moments = Moments::of(&f.model.params);
        let pool = smallmind_kernels::threads::Pool::new(2).unwrap();
        for (i, want) in f.about["losses"].as_array().unwrap().iter().enumerate() {
            let want = want.as_f64().unwrap();
            let loss = f.model.gradient(&mut c, (&f.ids, &f.targets), f.seq, Pass::default(), 1.0).unwrap();
            assert!((loss - want).abs() < 1e-4 * want, "{family} step {i}: loss {loss}, not {want}");
            let norm = grad_norm(&pool, &f.model.params);
            let scale = if norm > clip { clip / norm } else { 1.0 };
            adamw.step(&c, &mut f.model.params, &mut moments, i as u64 + 1, lr, scale as f32);
        }
    }
}

#[test]
fn threads_recomputation_and_split_batches_change_no_gradient_beyond_rounding() {
    for family in ["gpt2", "llama"] {
        let bits = |threads: usize, pass: Pass| {
            let mut f = fixture(family);
            let mut c = Compute::new(threads, Precision::F32).unwrap();
            f.model.gradient(&mut c, (&f.ids, &f.targets), f.seq, pass, 1.0).unwrap();
            let grads: Vec<u32> =
                f.model.params.iter().flat_map(|p| p.grad.iter().map(|g| g.to_bits())).collect();
            grads
        };
        for dropout in [0.0, 0.2] {
            let pass = Pass { dropout, draw: (3, 5), recompute: false };
            let want = bits(1, pass);
            assert!(bits(2, pass) == want && bits(3, pass) == want, "{family}: threads, dropout {dropout}");
            assert!(
                bits(2, Pass { recompute: true, ..pass }) == want,
                "{family}: recomputed, dropout {dropout}"
            );
        }
        // Sequence by sequence, as accumulation does.
        let mut f = fixture(family);
        let mut c = Compute::new(2, Precision::F32).unwrap();
        for (ids, targets) in f.ids.chunks(f.seq).zip(f.targets.chunks(f.seq)) {
            f.model.gradient(&mut c, (ids, targets), f.seq, Pass::default(), 1.0 / 3.0).unwrap();
        }
        for (p, want) in f.model.params.iter().zip(&f.grads) {
            assert!(worst(&p.grad, want) < 1e-4, "{family} {}: accumulated", p.name);
        }
    }
}

#[test]
fn dropout_keeps_the_mean_and_its_gradient_is_that_of_the_dropped_pass() {
    // The derivative along a direction, from finite differences of the same dropped function.
    let mut f = fixture("gpt2");
    let mut c = Compute::new(2, Precision::F32).unwrap();
    let pass = Pass { dropout: 0.3, draw: (1, 2), recompute: false };
    let at = place(&f.model.params, "blk.0.attn_output.weight");
    let mut loss =
        |f: &mut Fixture| f.model.gradient(&mut c, (&f.ids, &f.targets), f.seq, pass, 1.0).unwrap();
    loss(&mut f);
    let grad = f.model.params[at].grad.clone();
    let norm = grad.iter().map(|g| g * g).sum::<f32>().sqrt();
    let step = 1e-2;
    let base = f.model.params[at].data.clone();
    let mut moved = |f: &mut Fixture, sign: f32| {
        let to = base.iter().zip(&grad).map(|(w, g)| w + sign * step * g / norm);
        f.model.params[at].data = to.collect();
        loss(f)
    };
    let slope = (moved(&mut f, 1.0) - moved(&mut f, -1.0)) / (2.0 * f64::from(step));
    assert!((slope / f64::from(norm) - 1.0).abs() < 2e-2, "{slope}, not {norm}");
}
