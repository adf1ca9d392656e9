//! Every operation against finite differences: the derivative of a random weighting of its outputs, along a random
//! direction of each input and parameter.

use std::sync::Arc;

use smallmind::model::arch::{Activation, Mlp};

use super::activation::{self, Middle};
use super::attention::{self, Shape};
use super::linear::{self, Lora, Part};
use super::rope::{self, Rope};
use super::{embed, loss, norm};
use crate::compute::Compute;
use crate::config::Precision;
use crate::param::{Param, ParamId};
use crate::rng::{Key, Stream};

fn numbers(which: u64, n: usize) -> Vec<f32> {
    let key = Key::new(9, Stream::Weights, which);
    (0..n as u64).map(|i| key.normal(i) as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Compares `grad` with how much `f` changes along a random direction from `x`.
fn check(what: &str, x: &[f32], grad: &[f32], f: &mut dyn FnMut(&[f32]) -> f64) {
    assert_eq!(x.len(), grad.len(), "{what}");
    for seed in 0..3 {
        let direction = numbers(1000 + seed, x.len());
        let step = 2e-3;
        let at =
            |sign: f32| -> Vec<f32> { x.iter().zip(&direction).map(|(x, d)| x + sign * step * d).collect() };
        let slope = (f(&at(1.0)) - f(&at(-1.0))) / (2.0 * f64::from(step));
        let want = dot(grad, &direction);
        let scale = dot(grad, grad).sqrt() * dot(&direction, &direction).sqrt() / (x.len() as f64).sqrt();
        assert!((slope - want).abs() < 1e-2 * scale.max(want.abs()) + 1e-3, "{what}: {slope}, not {want}");
    }
}

#[test]
fn linear_with_bias_residual_and_adapter() {
    let mut c = Compute::new(2, Precision::F32).unwrap();
    let (rows, k, n) = (19, 10, 13);
    let mut params = vec![
        Param::matrix("w".into(), n, k, numbers(1, n * k)),
        Param::vector("b".into(), numbers(2, n)),
        Param::matrix("a".into(), 3, k, numbers(3, 3 * k)),
        Param::matrix("b".into(), n, 3, numbers(4, n * 3)),
        Param::matrix("w2".into(), 5, k, numbers(5, 5 * k)),
    ];
    let lora = Some(Lora { a: ParamId(2), b: ParamId(3), scale: 0.5 });
    let parts = vec![
        Part { weight: ParamId(0), bias: Some(ParamId(1)), lora },
        Part { weight: ParamId(4), bias: None, lora: None },
    ];
    let (x, residual, weights) = (numbers(6, rows * k), numbers(7, rows * 18), numbers(8, rows * 18));
    let dx = linear::backward(&mut c, &mut params, &x, rows, &parts, &weights, None);
    let mut value = |params: &[Param], x: &[f32]| {
        dot(&linear::forward(&mut c, params, x, rows, &parts, Some(&residual)), &weights)
    };
    check("x", &x, &dx, &mut |x| value(&params, x));
    for i in 0..params.len() {
        let (at, grad) = (params[i].data.clone(), params[i].grad.clone());
        let mut moved = params.clone();
        check(&params[i].name.clone(), &at, &grad, &mut |w| {
            moved[i].data = w.to_vec();
            value(&moved, &x)
        });
    }
}

#[test]
fn both_norms() {
    let mut c = Compute::new(2, Precision::F32).unwrap();
    let (rows, n) = (70, 21);
    for bias in [None, Some(ParamId(1))] {
        let mut params =
            vec![Param::vector("w".into(), numbers(1, n)), Param::vector("b".into(), numbers(2, n))];
        let (x, weights) = (numbers(3, rows * n), numbers(4, rows * n));
        let mut dx = vec![0.0; x.len()];
        norm::backward(&mut c, &mut params, &x, ParamId(0), bias, 1e-5, &weights, &mut dx);
        let mut value = |params: &[Param], x: &[f32]| {
            dot(&norm::forward(&mut c, params, x, ParamId(0), bias, 1e-5), &weights)
        };
        check("x", &x, &dx, &mut |x| value(&params, x));
        for i in 0..1 + usize::from(bias.is_some()) {
            let (at, grad) = (params[i].data.clone(), params[i].grad.clone());
            let mut moved = params.clone();
            check("weight or bias", &at, &grad, &mut |w| {
                moved[i].data = w.to_vec();
                value(&moved, &x)
            });
        }
    }
}

#[test]
fn attention_with_shared_heads_beyond_one_block_of_queries() {
    let mut c = Compute::new(2, Precision::F32).unwrap();
    for (heads, kv_heads, seq, batch) in [(2, 2, 7, 3), (4, 2, 150, 1)] {
        let head_dim = 6;
        let shape = Shape { heads, kv_heads, head_dim, seq, scale: 0.4 };
        let qkv = numbers(1, batch * seq * (heads + 2 * kv_heads) * head_dim);
        let weights = numbers(2, batch * seq * heads * head_dim);
        let dx = attention::backward(&mut c, shape, &qkv, &weights);
        check("qkv", &qkv, &dx, &mut |x| dot(&attention::forward(&mut c, shape, x), &weights));
    }
}

#[test]
fn attention_has_the_same_bits_however_its_heads_are_shared_out() {
    for (heads, kv_heads, seq, batch) in [(8, 4, 70, 2), (6, 6, 17, 1), (3, 1, 100, 2)] {
        let shape = Shape { heads, kv_heads, head_dim: 5, seq, scale: 0.4 };
        let qkv = numbers(1, batch * seq * (heads + 2 * kv_heads) * 5);
        let dy = numbers(2, batch * seq * heads * 5);
        let results = [1, 2, 3, 7].map(|threads| {
            let mut c = Compute::new(threads, Precision::F32).unwrap();
            (attention::forward(&mut c, shape, &qkv), attention::backward(&mut c, shape, &qkv, &dy))
        });
        assert!(results.iter().all(|r| *r == results[0]), "{heads} {kv_heads}");
    }
}

#[test]
fn every_middle_of_the_mlp() {
    let mut c = Compute::new(2, Precision::F32).unwrap();
    let (rows, ffn) = (35, 18);
    for mlp in [Mlp::Plain, Mlp::Gated] {
        for act in [Activation::Gelu, Activation::Silu] {
            let middle = Middle { act, mlp, ffn };
            let x = numbers(1, rows * if mlp == Mlp::Gated { 2 * ffn } else { ffn });
            let weights = numbers(2, rows * ffn);
            let dx = activation::backward(&mut c, &x, rows, middle, weights.clone());
            check("x", &x, &dx, &mut |x| dot(&activation::forward(&mut c, x, rows, middle), &weights));
        }
    }
}

#[test]
fn rope_is_undone_by_its_derivative() {
    let c = Compute::new(2, Precision::F32).unwrap();
    for pairs in [true, false] {
        let table = Arc::new(rope::table(100.0, 6, 9));
        let rope = Rope { heads: 2, head_dim: 8, pairs, table, half: 3, seq: 9 };
        let x = numbers(1, 18 * 24);
        let mut turned = x.clone();
        rope::turn(&c, &rope, &mut turned, 24, false);
        assert!(turned != x);
        // Orthogonal: the transposed map is the inverse.
        rope::turn(&c, &rope, &mut turned, 24, true);
        assert!(turned.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn embedding_and_positions() {
    let mut c = Compute::new(2, Precision::F32).unwrap();
    let mut params = vec![
        Param::matrix("t".into(), 5, 4, numbers(1, 20)),
        Param::matrix("p".into(), 3, 4, numbers(2, 12)),
    ];
    let ids = [1, 4, 1, 0, 2, 2];
    let weights = numbers(3, 24);
    let positions = Some(ParamId(1));
    embed::backward(&c, &mut params, ParamId(0), positions, &ids, 3, &weights);
    for i in 0..2 {
        let (at, grad) = (params[i].data.clone(), params[i].grad.clone());
        let mut moved = params.clone();
        check("table", &at, &grad, &mut |w| {
            moved[i].data = w.to_vec();
            dot(&embed::forward(&mut c, &moved, ParamId(0), positions, &ids, 3), &weights)
        });
    }
}

#[test]
fn cross_entropy_counts_what_is_not_ignored() {
    let mut c = Compute::new(2, Precision::F32).unwrap();
    let targets = [3, loss::IGNORED, 0, 10, 5];
    let x = numbers(1, 5 * 11);
    let mut grad = x.clone();
    let sum = loss::cross_entropy(&mut c, &mut grad, &targets, 1.0);
    let plain: f64 = (0..5)
        .filter(|i| targets[*i] != loss::IGNORED)
        .map(|i| {
            let row = &x[i * 11..(i + 1) * 11];
            row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln() - f64::from(row[targets[i] as usize])
        })
        .sum();
    assert!((sum - plain).abs() < 1e-5);
    assert!(grad[11..22].iter().all(|g| *g == 0.0));
    check("logits", &x, &grad, &mut |x| loss::cross_entropy(&mut c, &mut x.to_vec(), &targets, 1.0));
}
