//! Every operation but the matrix product: the same bits on every instruction set, and close to the formula in f64.
//! Bounds are in units of `EPS`, the spacing of f32 at 1.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::ops::Range;

use smallmind_kernels::attention::{PAGE, Partial, padded};
use smallmind_kernels::matmul::{Class, QuantizedActs, act_blocks};
use smallmind_kernels::{Kernels, available};
use support::{Page, Quantized, Random, adversarial, assert_bits, scalar_and_others};

const EPS: f64 = f32::EPSILON as f64;
const LENGTHS: [usize; 12] = [0, 1, 15, 16, 17, 31, 32, 33, 64, 100, 576, 1000];

/// Asserts that `f` gives the same bits on every ISA for every length and every pair of vectors.
fn same_on_every_isa(name: &str, f: impl Fn(&Kernels, &[f32], &[f32]) -> Vec<f32>) {
    let (scalar, others) = scalar_and_others();
    for n in LENGTHS {
        let ys = adversarial(n, 2);
        for (x_name, x) in &adversarial(n, 1) {
            for (y_name, y) in &ys {
                let expected = f(scalar, x, y);
                for isa in &others {
                    assert_bits(&f(isa, x, y), &expected, || {
                        format!("{name} of {n} ({x_name}, {y_name}) on {}", isa.name)
                    });
                }
            }
        }
    }
}

/// `f(x, y)` in place.
fn in_place(x: &[f32], f: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut out = x.to_vec();
    f(&mut out);
    out
}

#[test]
fn elementwise_operations_have_the_same_bits_on_every_isa() {
    same_on_every_isa("add", |k, x, y| in_place(x, |x| (k.add)(x, y)));
    same_on_every_isa("silu_mul", |k, x, y| in_place(x, |x| (k.silu_mul)(x, y)));
    same_on_every_isa("gelu_mul", |k, x, y| in_place(x, |x| (k.gelu_mul)(x, y)));
    same_on_every_isa("silu", |k, x, _| in_place(x, |x| (k.silu)(x)));
    same_on_every_isa("gelu", |k, x, _| in_place(x, |x| (k.gelu)(x)));
    same_on_every_isa("scale", |k, x, y| in_place(x, |x| (k.scale)(x, y.first().map_or(0.3, |y| *y))));
}

#[test]
fn norms_have_the_same_bits_on_every_isa() {
    for eps in [1e-6, 1e-5, 0.0] {
        same_on_every_isa("rms_norm", |k, x, w| in_place(x, |out| (k.rms_norm)(x, w, eps, out)));
        same_on_every_isa("layer_norm", |k, x, w| {
            let bias: Vec<f32> = w.iter().rev().copied().collect();
            in_place(x, |out| (k.layer_norm)(x, w, &bias, eps, out))
        });
    }
}

#[test]
fn rope_has_the_same_bits_on_every_isa_for_whole_and_partial_heads() {
    for part in [2, 3, 4] {
        same_on_every_isa("rope", |k, x, y| {
            let half = x.len() / part;
            in_place(x, |x| (k.rope)(x, &y[..half], &y[y.len() - half..]))
        });
    }
}

/// All that the blocks of one token hold, as floats.
fn contents(q: &Quantized, k: usize) -> Vec<f32> {
    let acts = QuantizedActs::new((1, k, Class::Exact), &q.quants, &q.metas).unwrap();
    let mut all = Vec::new();
    for b in 0..act_blocks(k) {
        let (quants, meta) = acts.block(0, b);
        let halves = meta.sums();
        all.extend(quants.integers().iter().map(|q| *q as f32));
        all.extend([meta.scale(), halves[0] as f32, halves[1] as f32]);
    }
    all
}

#[test]
fn quantized_activations_have_the_same_bits_on_every_isa() {
    same_on_every_isa("quantize", |k, x, _| {
        if x.is_empty() { Vec::new() } else { contents(&Quantized::new(k, x, x.len()), x.len()) }
    });
}

#[test]
fn quantized_activations_are_the_nearest_integers_of_the_contract_wherever_they_stand() {
    for n in LENGTHS.into_iter().filter(|n| *n > 0) {
        for (name, x) in adversarial(n, 3) {
            for (isa, tokens) in
                available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3), (isa, 7), (isa, 21)])
            {
                let q = Quantized::new(isa, &x.repeat(tokens), n);
                let acts = QuantizedActs::new((tokens, n, Class::Exact), &q.quants, &q.metas).unwrap();
                let expected = support::contract::quantized(&x);
                for (t, b) in (0..tokens).flat_map(|t| (0..act_blocks(n)).map(move |b| (t, b))) {
                    let context =
                        format!("{name}, {n} values, token {t} of {tokens}, block {b} on {}", isa.name);
                    let (quants, meta) = acts.block(t, b);
                    let q = quants.integers();
                    let halves = meta.sums();
                    assert_eq!(halves[0], q[..16].iter().sum::<i32>(), "{context}");
                    assert_eq!(halves[1], q[16..].iter().sum::<i32>(), "{context}");
                    let Some(expected) = expected.get(b) else {
                        assert_eq!(q, [0; 32], "{context}: padding is zero");
                        continue;
                    };
                    assert_eq!((meta.scale(), q), (expected.d, expected.q), "{context}");
                    // Half a step, and the roundings of the scale and of the product.
                    if meta.scale() > 1e-37 {
                        for (q, x) in q.iter().zip(&x[b * 32..]) {
                            let step = f64::from(meta.scale());
                            let error = (f64::from(*x) - step * f64::from(*q)).abs();
                            assert!(error <= step * (0.5 + 16_256.0 * 2.0 * EPS), "{context}: {x:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn keys_and_values_are_stored_with_the_same_bits_on_every_isa() {
    let (scalar, others) = scalar_and_others();
    for dim in [8, 16, 24, 64, 80, 128, 256] {
        for empty in Page::all(dim) {
            let fill = |kernels: &Kernels| {
                let mut page = empty.clone();
                let vs = adversarial(dim, 5);
                for (slot, ((_, k), (_, v))) in adversarial(dim, 4).iter().zip(vs.iter().rev()).enumerate() {
                    page.write(kernels, slot * 23, k, v);
                }
                page.bits()
            };
            let expected = fill(scalar);
            assert!(expected.iter().any(|b| *b != 0));
            for isa in &others {
                assert!(fill(isa) == expected, "head_dim {dim} on {}", isa.name);
            }
        }
    }
}

/// Ranges that queries of one page see: everything, nothing, one position, parts that start and end anywhere.
fn seen(queries: usize, r: &mut Random) -> Vec<Range<usize>> {
    (0..queries)
        .map(|_| {
            let from = r.below(PAGE);
            match r.below(6) {
                0 => 0..PAGE,
                1 => from..from,
                2 => from..from + 1,
                3 => 0..from + 1,
                _ => from..from + 1 + r.below(PAGE - from),
            }
        })
        .collect()
}

#[test]
fn attention_of_a_page_has_the_same_bits_on_every_isa() {
    let (scalar, others) = scalar_and_others();
    let mut r = Random::new(6);
    for dim in [8, 16, 24, 64, 80, 128, 256] {
        // The larger spreads have scores far apart: most weights are clamped. The largest is too much for half precision.
        for (mut page, spread) in
            [1.0, 60.0, 1e6].into_iter().flat_map(|spread| Page::all(dim).map(|page| (page, spread)))
        {
            if matches!(page, Page::F16(_)) && spread > 60.0 {
                continue;
            }
            for slot in 0..PAGE {
                let k: Vec<f32> = r.units(dim).iter().map(|v| v * spread).collect();
                page.write(scalar, slot, &k, &r.units(dim));
            }
            for queries in 1..=9 {
                let q = r.units(queries * dim);
                let some = seen(queries, &mut r);
                for seen in [some, vec![0..PAGE; queries], vec![3..3; queries], vec![255..256; queries]] {
                    let (state, out) = page.attend(scalar.attend_page, dim, &q, &seen);
                    for isa in &others {
                        let found = page.attend(isa.attend_page, dim, &q, &seen);
                        let context = || format!("head_dim {dim}, {seen:?} on {}", isa.name);
                        assert_bits(&flat(&found.0), &flat(&state), context);
                        assert_bits(&found.1, &out, context);
                    }
                    for (seen, state) in seen.iter().zip(&state) {
                        let nothing = state.sum == 0.0 && state.max == f32::NEG_INFINITY;
                        assert_eq!(nothing, seen.is_empty(), "the state of {seen:?} is {state:?}");
                    }
                }
            }
        }
    }
}

fn flat(states: &[Partial]) -> Vec<f32> {
    states.iter().flat_map(|s| [s.max, s.sum]).collect()
}

#[test]
fn merged_and_finished_attention_has_the_same_bits_on_every_isa() {
    let partials = [
        Partial::EMPTY,
        Partial { max: 0.0, sum: 1.0 },
        Partial { max: 3.25, sum: 17.5 },
        Partial { max: -3.0, sum: 255.9 },
        Partial { max: 200.0, sum: 1.0 },
        Partial { max: -1e30, sum: 2.0 },
    ];
    for a in partials {
        for b in partials {
            same_on_every_isa(&format!("merge of {a:?} and {b:?}"), |k, x, y| {
                let (mut state, mut out) = (a, x.to_vec());
                (k.merge_partial)(&mut state, &mut out, b, y);
                out.extend(flat(&[state]));
                out
            });
        }
        same_on_every_isa("finish", |k, x, _| in_place(x, |x| (k.finish_attention)(a, x)));
    }
}

#[test]
fn merging_with_nothing_changes_nothing() {
    let (x, y) = (vec![1.5, -2.0, 0.1], vec![f32::NAN; 3]);
    let some = Partial { max: 2.0, sum: 3.0 };
    for isa in available() {
        let (mut state, mut out) = (some, x.clone());
        (isa.merge_partial)(&mut state, &mut out, Partial::EMPTY, &y);
        assert_bits(&out, &x, || format!("nothing after something on {}", isa.name));
        let (mut state, mut out) = (Partial::EMPTY, y.clone());
        (isa.merge_partial)(&mut state, &mut out, some, &x);
        assert_bits(&out, &x, || format!("something after nothing on {}", isa.name));
        assert_eq!((state.max, state.sum), (2.0, 3.0));
    }
}

/// Asserts `|found - expected| <= bound`.
#[track_caller]
fn near(found: f32, expected: f64, bound: f64, context: impl std::fmt::Debug) {
    let error = (f64::from(found) - expected).abs();
    assert!(error <= bound, "{context:?}: {found:e} is {error:e} from {expected:e}, allowed {bound:e}");
}

/// Values between -100 and 100, near zero and far from it.
fn gates() -> Vec<f32> {
    let mut r = Random::new(7);
    (0..20_000)
        .map(|i| if i % 4 == 0 { r.spread(2.0).clamp(-100.0, 100.0) } else { 30.0 * r.unit() })
        .collect()
}

#[test]
fn silu_is_within_8_units_of_its_formula() {
    let x = gates();
    for isa in available() {
        let one = in_place(&x, |x| (isa.silu)(x));
        let product = in_place(&x, |g| (isa.silu_mul)(g, &vec![-3.0; x.len()]));
        for ((x, one), product) in x.iter().zip(one).zip(product) {
            let x = f64::from(*x);
            let expected = x / (1.0 + (-x).exp());
            // Beyond e^±88 the exponential is clamped.
            let bound = 8.0 * EPS * expected.abs() + x.abs() * (-87.0_f64).exp();
            near(one, expected, bound, ("silu", x, isa));
            near(product, -3.0 * expected, 4.0 * bound, ("silu_mul", x, isa));
        }
    }
}

#[test]
fn gelu_is_within_8_units_of_its_formula_and_4_more_per_unit_of_a_negative_exponent() {
    let x = gates();
    for isa in available() {
        let one = in_place(&x, |x| (isa.gelu)(x));
        let product = in_place(&x, |g| (isa.gelu_mul)(g, &vec![0.5; x.len()]));
        for ((x, one), product) in x.iter().zip(one).zip(product) {
            let x = f64::from(*x);
            let u2 = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let expected = x / (1.0 + (-u2).exp());
            let units = 8.0 + if x < 0.0 { 4.0 * u2.abs() } else { 0.0 };
            let bound = units * EPS * expected.abs() + x.abs() * (-87.0_f64).exp();
            near(one, expected, bound, ("gelu", x, isa));
            near(product, 0.5 * expected, bound, ("gelu_mul", x, isa));
        }
    }
}

#[test]
fn the_exponential_of_softmax_is_within_2_units_in_the_last_place_of_a_rounded_exponent() {
    const DIM: usize = 16;
    let mut r = Random::new(8);
    for isa in available() {
        let mut page = Page::f32(DIM);
        for _ in 0..500 {
            // Scores are the keys' first value; value i is the unit vector i, so output i is the weight of position i.
            let mut scores = [0.0; DIM];
            for (i, score) in scores.iter_mut().enumerate() {
                *score = if i == 3 { 0.0 } else { -43.3 * (1.0 + r.unit()) };
                let (mut k, mut v) = ([0.0; DIM], [0.0; DIM]);
                (k[0], v[i]) = (*score, 1.0);
                page.write(isa, i, &k, &v);
            }
            let mut q = [0.0; DIM];
            q[0] = 1.0;
            let (state, out) = page.attend(isa.attend_page, DIM, &q, std::slice::from_ref(&(0..DIM)));
            assert_eq!(state[0].max, 0.0);
            for (score, weight) in scores.iter().zip(out) {
                let expected = f64::from(*score).exp();
                let place = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
                // The exponent of 2 is rounded, too.
                let rounding = f64::from(f32::EPSILON) * f64::from(score.abs()) * expected;
                near(weight, expected, 2.0 * place + rounding, ("exp", score, isa));
            }
        }
    }
}

#[test]
fn causal_softmax_and_its_derivative_are_their_formulas_and_zeros_behind_them() {
    let mut r = Random::new(15);
    let scale = 0.7;
    for (rows, stride, from) in [(1, 16, 0), (5, 48, 0), (48, 80, 0), (33, 112, 48), (20, 80, 60)] {
        let x: Vec<f32> = r.units(rows * stride).iter().map(|x| 9.0 * x).collect();
        let d = r.units(rows * stride);
        let mut first: Option<[Vec<f32>; 2]> = None;
        for isa in available() {
            let p = in_place(&x, |x| (isa.causal_softmax)(x, stride, from, scale));
            let dp = in_place(&d, |dp| (isa.causal_softmax_back)(&p, dp, stride, from, scale));
            for i in 0..rows {
                let seen = from + i + 1;
                let row = &x[i * stride..][..stride];
                let (p, dp) = (&p[i * stride..][..stride], &dp[i * stride..][..stride]);
                let (out, scale) = (&d[i * stride..][..seen], f64::from(scale));
                let most = row[..seen].iter().fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
                let powers = row[..seen].iter().map(|x| ((f64::from(*x) - most) * scale).exp());
                let total: f64 = powers.clone().sum();
                let mean: f64 = powers.clone().zip(out).map(|(p, d)| p / total * f64::from(*d)).sum();
                for (j, power) in powers.enumerate() {
                    let want = power / total;
                    near(p[j], want, 40.0 * EPS * want + 1e-30, ("softmax", (i, j), isa));
                    let back = want * (f64::from(out[j]) - mean) * scale;
                    near(dp[j], back, 60.0 * EPS * want, ("its derivative", (i, j), isa));
                }
                let zeros = seen..(seen.next_multiple_of(16) + 16).min(stride);
                assert!(
                    p[zeros.clone()].iter().chain(&dp[zeros]).all(|v| *v == 0.0),
                    "row {i}, {}",
                    isa.name
                );
            }
            let same = first.get_or_insert_with(|| [p.clone(), dp.clone()]);
            assert_bits(&p, &same[0], || format!("softmax on {}", isa.name));
            assert_bits(&dp, &same[1], || format!("its derivative on {}", isa.name));
        }
    }
}

/// Vectors whose squares f32 can hold.
fn rows(n: usize) -> impl Iterator<Item = Vec<f32>> {
    let usual = ["units", "activations", "cancelling", "ties"];
    adversarial(n, 9).into_iter().filter(move |(name, _)| n > 0 && usual.contains(name)).map(|(_, x)| x)
}

#[test]
fn rms_norm_is_within_n_over_16_plus_8_units_of_its_formula() {
    let eps = 1e-6_f32;
    for (n, isa) in LENGTHS.into_iter().flat_map(|n| available().into_iter().map(move |isa| (n, isa))) {
        let weight = Random::new(10).units(n);
        for x in rows(n) {
            let out = in_place(&x, |out| (isa.rms_norm)(&x, &weight, eps, out));
            let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let scale = 1.0 / (squares / n as f64 + f64::from(eps)).sqrt();
            for ((out, x), w) in out.iter().zip(&x).zip(&weight) {
                let expected = f64::from(*x) * scale * f64::from(*w);
                near(*out, expected, (n as f64 / 16.0 + 8.0) * EPS * expected.abs(), ("rms_norm", n, isa));
            }
        }
    }
}

#[test]
fn layer_norm_is_within_n_over_16_plus_16_units_of_what_it_subtracts_and_adds() {
    let eps = 1e-5_f32;
    for (n, isa) in LENGTHS.into_iter().flat_map(|n| available().into_iter().map(move |isa| (n, isa))) {
        let (weight, bias) = (Random::new(11).units(n), Random::new(12).units(n));
        for x in rows(n) {
            let out = in_place(&x, |out| (isa.layer_norm)(&x, &weight, &bias, eps, out));
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
            let size = x.iter().map(|x| f64::from(*x).abs()).sum::<f64>() / n as f64;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64;
            let s = 1.0 / (variance + f64::from(eps)).sqrt();
            for (i, out) in out.iter().enumerate() {
                let (x, w, b) = (f64::from(x[i]), f64::from(weight[i]), f64::from(bias[i]));
                let normal = (x - mean) * s;
                // The mean is wrong by some units of the values' size, which shifts and stretches the result.
                let sizes = (1.0 + normal.abs()) * (1.0 + size * s) * w.abs() + b.abs();
                near(*out, normal * w + b, (n as f64 / 16.0 + 16.0) * EPS * sizes, ("layer_norm", n, isa));
            }
        }
    }
}

#[test]
fn rope_turns_each_pair_within_2_units_of_its_size_and_leaves_the_rest() {
    for isa in available() {
        for (n, half) in [(8, 4), (64, 32), (80, 40), (96, 17), (128, 16)] {
            let mut r = Random::new(13);
            let x = r.units(n);
            let angles: Vec<f32> = r.units(half).iter().map(|a| 7.0 * a).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let out = in_place(&x, |x| (isa.rope)(x, &cos, &sin));
            for i in 0..half {
                let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
                let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                let bound = 2.0 * EPS * (a.abs() + b.abs());
                near(out[i], a * c - b * s, bound, ("first of pair", i, isa));
                near(out[i + half], a * s + b * c, bound, ("second of pair", i, isa));
            }
            assert_bits(&out[2 * half..], &x[2 * half..], || format!("the rest on {}", isa.name));
        }
    }
}

#[test]
fn nan_stays_nan_and_infinities_break_no_operation() {
    for isa in available() {
        for n in [1, 5, 16, 33, 64] {
            for (bad, at) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
                .into_iter()
                .flat_map(|b| [0, n / 2, n - 1].map(|at| (b, at)))
            {
                let mut x = Random::new(14).units(n);
                x[at] = bad;
                let ones = vec![1.0; n];
                let context = format!("{bad} at {at} of {n} on {}", isa.name);
                let mut elementwise = vec![
                    in_place(&x, |x| (isa.add)(x, &ones)),
                    in_place(&x, |x| (isa.scale)(x, 2.0)),
                    in_place(&x, |x| (isa.silu)(x)),
                    in_place(&x, |x| (isa.gelu)(x)),
                    in_place(&x, |x| (isa.silu_mul)(x, &ones)),
                    in_place(&x, |x| (isa.gelu_mul)(x, &ones)),
                ];
                for out in &mut elementwise {
                    assert!(!bad.is_nan() || out[at].is_nan(), "{context}: {}", out[at]);
                    out[at] = 0.0;
                    assert!(out.iter().all(|v| v.is_finite()), "{context}: the others are as ever");
                }
                let norms = [
                    in_place(&x, |out| (isa.rms_norm)(&x, &ones, 1e-6, out)),
                    in_place(&x, |out| (isa.layer_norm)(&x, &ones, &ones, 1e-6, out)),
                ];
                assert!(norms.iter().all(|out| out[at].is_nan()), "{context}");
                let q = Quantized::new(isa, &x, n);
                let acts = QuantizedActs::new((1, n, Class::Exact), &q.quants, &q.metas).unwrap();
                let parts = (0..act_blocks(n)).flat_map(|b| acts.block(0, b).0.parts());
                assert!(parts.into_iter().all(|q| q >= -127), "{context}");

                let mut page = Page::f32(n);
                page.write(isa, 0, &x, &ones);
                page.write(isa, 1, &ones, &x);
                let (_, out) = page.attend(isa.attend_page, n, &x, std::slice::from_ref(&(0..2)));
                assert_eq!(out.len(), padded(n), "{context}");
                assert!(!bad.is_nan() || out[at].is_nan(), "{context}: a value that is NaN");
            }
        }
    }
}
