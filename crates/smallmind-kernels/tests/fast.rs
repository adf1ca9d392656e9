//! Products of the fast class, and gated MLPs of both: the same bits in every batch and by any number of threads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use smallmind_kernels::matmul::{Acts, Class, Gated, Product, gated_room, matmul_gated};
use smallmind_kernels::{DType, FastPrecision, available};
use support::contract::Row;
use support::products::{Input, product};
use support::weights::{self, Fill, Matrix, Scales};
use support::{Quantized, Random, assert_bits};

const MOST_TOKENS: usize = 49;

#[test]
fn the_fast_class_has_the_same_bits_in_every_batch_on_every_isa_that_has_it_and_is_near_the_product_in_f64() {
    let pools = [1, 3].map(support::pool);
    let mut r = Random::new(13);
    for dtype in DType::all() {
        // The last is longer than what is unpacked of a row at once.
        for (rows, blocks) in [(17, 1_usize), (100, 5), (48, 131)] {
            let k = if dtype.block_len() == 1 {
                31 * blocks
            } else {
                (32 * blocks).next_multiple_of(dtype.block_len())
            };
            let w = Matrix::random(dtype, rows, k, &mut r);
            let x = r.units(MOST_TOKENS * k);
            for precision in [FastPrecision::Int8, FastPrecision::Bf16] {
                let mut expected: Option<Vec<f32>> = None;
                for kernels in available().into_iter().filter(|k| k.fast.precision == precision) {
                    for (pool, tokens) in pools.iter().flat_map(|p| [1, 7, 16, 17, 33, 49].map(|t| (p, t))) {
                        let x = &x[..tokens * k];
                        let q = Quantized::rounded(kernels, x, k);
                        let acts = Acts { tokens, x, quants: &q.quants, metas: &q.metas, class: Class::Fast };
                        let found = product(kernels, pool, &w, acts);
                        let longest = expected.get_or_insert_with(|| found.clone());
                        let n = longest.len().min(found.len());
                        let context =
                            || format!("{dtype} [{rows}, {k}], {tokens} tokens on {}", kernels.name);
                        assert_bits(&found[..n], &longest[..n], context);
                        if found.len() > n {
                            *longest = found;
                        }
                    }
                }
                for (i, found) in expected.iter().flatten().enumerate() {
                    let (t, row) = (i / rows, i % rows);
                    let row = Row::new(dtype, w.row(row), k, true);
                    let (exact, size) = row.dot_f64(&x[t * k..(t + 1) * k], &[]);
                    // Both factors are rounded to 8 bits, or one of them.
                    let error = (f64::from(*found) - exact).abs();
                    assert!(
                        error <= size / 120.0,
                        "{dtype} [{rows}, {k}] token {t}, {precision:?}: {found:e}, not {exact:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_fast_class_of_8_bits_has_the_bits_of_its_contract_for_any_values() {
    let mut r = Random::new(31);
    for dtype in DType::all() {
        for (scales, blocks) in [(Scales::Usual, 5_usize), (Scales::Any, 2), (Scales::Any, 3)] {
            let (rows, k) = (21, (32 * blocks).next_multiple_of(dtype.block_len()));
            let fill = if blocks == 3 { Fill::All(0xff) } else { Fill::Random };
            let w = Matrix::new(dtype, rows, k, weights::file(dtype, rows, k, fill, scales, &mut r));
            // More than pass by at once.
            let tokens = 67;
            let x: Vec<f32> = (0..tokens)
                .flat_map(|t| {
                    let mut kinds = support::adversarial(k, t as u64);
                    kinds.swap_remove(t % kinds.len()).1
                })
                .collect();
            let of = (0..rows).map(|row| Row::new(dtype, w.row(row), k, false)).collect::<Vec<_>>();
            let expected: Vec<f32> =
                x.chunks_exact(k).flat_map(|x| of.iter().map(|row| row.fast_dot(x))).collect();
            for kernels in available().into_iter().filter(|k| k.fast.precision == FastPrecision::Int8) {
                let q = Quantized::rounded(kernels, &x, k);
                let acts = Acts { tokens, x: &x, quants: &q.quants, metas: &q.metas, class: Class::Fast };
                let found = product(kernels, &support::pool(2), &w, acts);
                assert_bits(&found, &expected, || format!("{dtype} {scales:?} k={k} on {}", kernels.name));
            }
        }
    }
}

#[test]
fn a_gated_product_gives_the_bits_of_both_and_the_activation() {
    let mut r = Random::new(23);
    for (dtype, rows) in [(DType::Q4_1, 576), (DType::Q6_K, 100), (DType::Q8_0, 17), (DType::F16, 300)] {
        let k = 256;
        let [gate, up] = [0, 1].map(|_| Matrix::random(dtype, rows, k, &mut r));
        let bias: Vec<f32> = (0..rows).map(|_| r.unit()).collect();
        let input = Input::random(MOST_TOKENS, k, &mut r);
        for kernels in available() {
            for tokens in [1, 3, 16, 17, MOST_TOKENS] {
                let some = input.some(0, tokens);
                let mut expected = product(kernels, &support::pool(1), &gate, some.acts());
                expected
                    .chunks_exact_mut(rows)
                    .flat_map(|x| x.iter_mut().zip(&bias))
                    .for_each(|(x, b)| *x += b);
                let other = product(kernels, &support::pool(1), &up, some.acts());
                (kernels.silu_mul)(&mut expected, &other);
                // More threads than some of the matrices have groups.
                for threads in [1, 2, 5] {
                    let stride = rows + 3;
                    let mut out = vec![f32::NAN; tokens * stride];
                    let mut room = vec![f32::NAN; gated_room(tokens, rows, threads)];
                    let of = |w, bias, out, stride| Product { w, bias, out, stride, accumulate: false };
                    let gated = Gated {
                        gate: of(gate.view(), Some(&bias[..]), &mut out[..], stride),
                        up: of(up.view(), None, &mut room[..], rows),
                        activation: kernels.silu_mul,
                        rounded: None,
                    };
                    matmul_gated(kernels, &support::pool(threads), some.acts(), gated);
                    let context =
                        || format!("{dtype} [{rows}], {tokens} tokens, {threads} threads, {}", kernels.name);
                    for (out, expected) in out.chunks_exact(stride).zip(expected.chunks_exact(rows)) {
                        assert_bits(&out[..rows], expected, context);
                        assert!(
                            out[rows..].iter().all(|x| x.is_nan()),
                            "{} wrote beside its rows",
                            context()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_gated_product_of_the_fast_class_is_rounded_as_it_would_be_afterwards() {
    let mut r = Random::new(29);
    let k = 96;
    for rows in [16, 100, 288, 300, 576] {
        let [gate, up] = [0, 1].map(|_| Matrix::random(DType::Q4_1, rows, k, &mut r));
        let down = if rows.is_multiple_of(32) { DType::Q8_0 } else { DType::F32 };
        let down = Matrix::random(down, 40, rows, &mut r);
        let all = r.units(49 * k);
        for kernels in available().into_iter().filter(|k| k.fast.takes(down.dtype)) {
            for tokens in [1, 16, 17, 49] {
                let x = &all[..tokens * k];
                let q = Quantized::rounded(kernels, x, k);
                let acts = Acts { tokens, x, quants: &q.quants, metas: &q.metas, class: Class::Fast };
                let one = support::pool(1);
                let [mut joined, other] = [&gate, &up].map(|w| product(kernels, &one, w, acts));
                (kernels.silu_mul)(&mut joined, &other);
                let after = |q: &Quantized| {
                    let x = &joined[..];
                    let acts = Acts { tokens, x, quants: &q.quants, metas: &q.metas, class: Class::Fast };
                    product(kernels, &one, &down, acts)
                };
                let expected = after(&Quantized::rounded(kernels, &joined, rows));
                for threads in [1, 2, 5] {
                    // Over what a buffer that is used again holds.
                    let mut found = Quantized::rounded(kernels, &vec![f32::NAN; tokens * rows], rows);
                    let mut room = vec![f32::NAN; gated_room(tokens, rows, threads)];
                    let of = |w, out, stride| Product { w, bias: None, out, stride, accumulate: false };
                    let gated = Gated {
                        gate: of(gate.view(), &mut [], rows),
                        up: of(up.view(), &mut room[..], rows),
                        activation: kernels.silu_mul,
                        rounded: Some(&mut found.quants),
                    };
                    matmul_gated(kernels, &support::pool(threads), acts, gated);
                    let context =
                        || format!("{rows} rows, {tokens} tokens, {threads} threads, {}", kernels.name);
                    assert_bits(&after(&found), &expected, context);
                }
            }
        }
    }
}
