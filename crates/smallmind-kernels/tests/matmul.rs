//! The matrix product of every weight type: the bits of the contract (docs/determinism.md) on every instruction set,
//! whatever the number of tokens, threads and products, and close to the product in f64.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use proptest::prelude::*;
use smallmind_kernels::matmul::{
    Acts, Class, FileRows, Product, RowOrder, group_bytes, groups, matmul, pack_rows, packed_bytes,
};
use smallmind_kernels::{DType, available, quant};
use support::contract::{self, Row};
use support::products::{Input, product};
use support::weights::{self, Fill, Matrix, Scales};
use support::{Aligned, Random, assert_bits};

const ROWS: [usize; 6] = [1, 15, 16, 17, 48, 100];
/// Matrix units take 7 tokens and more, in sixteens.
const TOKENS: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 32, 49];
const MOST_TOKENS: usize = 49;

/// Lengths of rows that are whole blocks of the type.
fn lengths(dtype: DType) -> Vec<usize> {
    [1, 17, 32, 64, 96, 100, 256, 512, 576].into_iter().filter(|k| k % dtype.block_len() == 0).collect()
}

/// The product by the contract, `[tokens, rows]`.
fn by_contract(w: &Matrix, input: &Input, precise: bool, order: RowOrder) -> Vec<f32> {
    let rows: Vec<Row> =
        (0..w.rows).map(|r| Row::new(w.dtype, w.row(order.source(r)), w.k, precise)).collect();
    let mut out = Vec::new();
    for x in input.x.chunks_exact(w.k) {
        let blocks = contract::quantized(x);
        out.extend(rows.iter().map(|row| row.dot(x, &blocks)));
    }
    out
}

/// Every ISA, every batch size and each token alone give the bits of the contract.
fn gives_the_contracts_bits(w: &Matrix, x: Vec<f32>) {
    let pool = &support::pool(1);
    let input = Input { k: w.k, x };
    let expected = by_contract(w, &input, false, RowOrder::Natural);
    for kernels in available() {
        let context = |what: String| format!("{} [{}, {}], {what} on {}", w.dtype, w.rows, w.k, kernels.name);
        for (t, expected) in expected.chunks_exact(w.rows).enumerate() {
            let alone = product(kernels, pool, w, input.some(t, 1).acts());
            assert_bits(&alone, expected, || context(format!("token {t} alone")));
        }
        for tokens in TOKENS {
            let first = MOST_TOKENS - tokens;
            let batch = product(kernels, pool, w, input.some(first, tokens).acts());
            assert_bits(&batch, &expected[first * w.rows..], || context(format!("{tokens} tokens")));
        }
    }
}

fn for_every_shape(seed: u64, f: impl Fn(DType, usize, usize, &mut Random)) {
    let mut r = Random::new(seed);
    for dtype in DType::all() {
        for k in lengths(dtype) {
            for rows in ROWS {
                f(dtype, rows, k, &mut r);
            }
        }
    }
}

#[test]
fn every_type_and_shape_gives_the_bits_of_the_contract_on_every_isa_in_every_batch() {
    for_every_shape(1, |dtype, rows, k, r| {
        let w = Matrix::random(dtype, rows, k, r);
        let x = (0..MOST_TOKENS * k).map(|_| 4.0 * r.unit()).collect();
        gives_the_contracts_bits(&w, x);
    });
}

#[test]
fn scales_and_activations_of_any_size_give_the_bits_of_the_contract() {
    let mut r = Random::new(2);
    for dtype in DType::all() {
        let k = dtype.block_len().max(32) * 3;
        for rows in [5, 33] {
            let w =
                Matrix::new(dtype, rows, k, weights::file(dtype, rows, k, Fill::Random, Scales::Any, &mut r));
            let x: Vec<f32> = (0..MOST_TOKENS)
                .flat_map(|t| {
                    let mut kinds = support::adversarial(k, t as u64);
                    kinds.swap_remove(t % kinds.len()).1
                })
                .collect();
            gives_the_contracts_bits(&w, x);
        }
    }
}

#[test]
fn the_largest_and_smallest_quants_overflow_no_sum() {
    let mut r = Random::new(3);
    for dtype in DType::all().filter(|t| quant::form(*t).is_some()) {
        let k = dtype.block_len() * 2;
        for byte in [0x00, 0xff, 0x80, 0x7f, 0xf0, 0x0f, 0x81] {
            let w = Matrix::new(
                dtype,
                17,
                k,
                weights::file(dtype, 17, k, Fill::All(byte), Scales::Usual, &mut r),
            );
            // Quants of 127 and -127: all of one sign, alternating, and by runs of 16.
            let x = (0..MOST_TOKENS * k).map(|i| match i / k % 4 {
                0 => 1.5,
                1 => -1.5,
                2 => 1.5 - 3.0 * (i % 2) as f32,
                _ => 1.5 - 3.0 * (i / 16 % 2) as f32,
            });
            gives_the_contracts_bits(&w, x.collect());
        }
    }
}

/// Matrix units unpack long rows in parts, keep sums between them, and leave the longest to the vectors.
#[test]
fn long_rows_give_the_bits_of_the_contract_whatever_the_parts_and_fill_no_sum() {
    let pool = support::pool(1);
    let mut r = Random::new(14);
    let shapes = [(17, 6_400, 33), (33, 8_192, 16), (5, 12_544, 530), (3, 65_536, 16), (3, 65_792, 7)];
    for dtype in [DType::Q8_0, DType::Q4_1, DType::Q6_K] {
        for (rows, k, tokens) in shapes {
            // Of the longest the largest products that there are, all of one sign.
            let fill = if k > 60_000 { Fill::All(0x81) } else { Fill::Random };
            let w = Matrix::new(dtype, rows, k, weights::file(dtype, rows, k, fill, Scales::Usual, &mut r));
            let x = (0..tokens * k).map(|_| if k > 60_000 { -1.5 } else { 4.0 * r.unit() }).collect();
            let input = Input { k, x };
            let expected = by_contract(&w, &input, false, RowOrder::Natural);
            for kernels in available() {
                let found = product(kernels, &pool, &w, input.some(0, tokens).acts());
                let context = || format!("{dtype} [{rows}, {k}], {tokens} tokens on {}", kernels.name);
                assert_bits(&found, &expected, context);
            }
        }
    }
}

#[test]
fn products_are_as_near_the_product_in_f64_as_their_roundings() {
    let pool = support::pool(1);
    for_every_shape(4, |dtype, rows, k, r| {
        let kernels = available()[0];
        let w = Matrix::random(dtype, rows, k, r);
        let input = Input::random(3, k, r);
        let found = product(kernels, &pool, &w, input.some(0, 3).acts());
        for (t, found) in found.chunks_exact(rows).enumerate() {
            let blocks = contract::quantized(input.token(t));
            let sizes = blocks.iter().flat_map(|b| b.q.map(|q| f64::from(q.abs()) * f64::from(b.d)));
            let sizes: f64 = sizes.sum();
            for (row, found) in found.iter().enumerate() {
                let by_contract = Row::new(dtype, w.row(row), k, false);
                let (expected, size) = by_contract.dot_f64(input.token(t), &blocks);
                // Of floats one rounding a value. Of integers the scales' roundings, and one in the end.
                let terms = if quant::form(dtype).is_some() { 1 } else { k };
                let bound =
                    3.0 * f64::from(f32::EPSILON) * terms as f64 * size + sizes * by_contract.rounding();
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= bound, "{dtype} [{rows}, {k}] row {row}: {found:e}, not {expected:e}");
            }
        }
    });
}

#[test]
fn quantized_products_are_near_the_product_with_unquantized_activations() {
    let pool = support::pool(1);
    let (k, rows) = (512, 16);
    for dtype in DType::all() {
        let mut r = Random::new(5);
        let kernels = available()[0];
        let w = Matrix::random(dtype, rows, k, &mut r);
        let input = Input::random(1, k, &mut r);
        let found = product(kernels, &pool, &w, input.some(0, 1).acts());
        for (row, found) in found.iter().enumerate() {
            let mut values = vec![0.0; k];
            quant::dequantize(dtype, w.row(row), &mut values).unwrap();
            let pairs = || values.iter().zip(&input.x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            // Each activation is wrong by up to half of 1/16,256 of the largest, here 4.
            let size: f64 = values.iter().map(|w| f64::from(*w).abs() * 4.0).sum();
            let rounding = Row::new(dtype, w.row(row), k, false).rounding() * 4.0 * k as f64;
            let error = (f64::from(*found) - pairs().sum::<f64>()).abs();
            assert!(
                error <= size * 0.51 / 16_256.0 + rounding,
                "{dtype} row {row}: {found} is wrong by {error}"
            );
        }
    }
}

#[test]
fn weights_packed_as_f32_give_the_bits_of_the_dequantized_chain() {
    let pool = support::pool(2);
    for_every_shape(6, |dtype, rows, k, r| {
        let file = weights::file(dtype, rows, k, Fill::Random, Scales::Usual, r);
        let w = Matrix::packed_as(dtype, DType::F32, rows, k, file, RowOrder::Natural);
        let x = (0..5 * k).map(|_| r.unit()).collect();
        let input = Input { k, x };
        let expected = by_contract(&w, &input, true, RowOrder::Natural);
        for kernels in available() {
            let found = product(kernels, &pool, &w, input.some(0, 5).acts());
            assert_bits(&found, &expected, || format!("{dtype} [{rows}, {k}] as F32 on {}", kernels.name));
        }
        // And the chain is the product: a unit per step.
        for (row, found) in expected[..rows].iter().enumerate() {
            let (exact, size) = Row::new(dtype, w.row(row), k, true).dot_f64(input.token(0), &[]);
            let error = (f64::from(*found) - exact).abs();
            assert!(error <= k as f64 * f64::from(f32::EPSILON) * size, "{dtype} [{rows}, {k}] row {row}");
        }
    });
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    let pools = [1, 2, 3].map(support::pool);
    for_every_shape(7, |dtype, rows, k, r| {
        let w = Matrix::random(dtype, rows, k, r);
        let input = Input::random(9, k, r);
        for kernels in available() {
            let [one, two, three] = &pools;
            let expected = product(kernels, one, &w, input.some(0, 9).acts());
            for pool in [two, three] {
                let found = product(kernels, pool, &w, input.some(0, 9).acts());
                assert_bits(&found, &expected, || format!("{dtype} [{rows}, {k}] with {pool:?}"));
            }
        }
    });
}

#[test]
fn a_bias_is_added_and_a_residual_kept_and_what_lies_between_rows_is_untouched() {
    let pool = support::pool(2);
    for_every_shape(8, |dtype, rows, k, r| {
        let (kernels, tokens, stride) = (available()[0], 6, rows + 3);
        let w = Matrix::random(dtype, rows, k, r);
        let input = Input::random(tokens, k, r);
        let plain = product(kernels, &pool, &w, input.some(0, tokens).acts());
        let bias = r.units(rows);
        let before = r.units(tokens * stride);
        for kernels in available() {
            for (with_bias, accumulate) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut out = before.clone();
                let p = Product {
                    w: w.view(),
                    bias: with_bias.then_some(&bias[..]),
                    out: &mut out,
                    stride,
                    accumulate,
                };
                matmul(kernels, &pool, input.some(0, tokens).acts(), &mut [p]);
                let expected: Vec<f32> = (0..tokens * stride)
                    .map(|i| {
                        let (t, row) = (i / stride, i % stride);
                        if row >= rows {
                            return before[i];
                        }
                        let v = plain[t * rows + row];
                        let v = if with_bias { v + bias[row] } else { v };
                        if accumulate { before[i] + v } else { v }
                    })
                    .collect();
                assert_bits(&out, &expected, || {
                    format!(
                        "{dtype} [{rows}, {k}], bias {with_bias}, residual {accumulate} on {}",
                        kernels.name
                    )
                });
            }
        }
    });
}

#[test]
fn three_products_in_one_call_have_the_bits_of_three_calls() {
    let k = 512;
    let mut r = Random::new(9);
    let all: Vec<DType> = DType::all().collect();
    for threads in [1, 2, 3] {
        let pool = support::pool(threads);
        for i in 0..all.len() {
            // Very unlike sizes too: a thread's share may end within any of them.
            let shapes = [(all[i], 100), (all[(i + 4) % all.len()], 17), (all[(i + 7) % all.len()], 1)];
            let ws = shapes.map(|(dtype, rows)| Matrix::random(dtype, rows, k, &mut r));
            let input = Input::random(5, k, &mut r);
            let bias = r.units(17);
            for kernels in available() {
                let mut outs = ws.each_ref().map(|w| vec![f32::NAN; 5 * w.rows]);
                let mut products: Vec<Product<'_>> = ws
                    .iter()
                    .zip(&mut outs)
                    .map(|(w, out)| Product {
                        w: w.view(),
                        bias: (w.rows == 17).then_some(&bias[..]),
                        out,
                        stride: w.rows,
                        accumulate: false,
                    })
                    .collect();
                matmul(kernels, &pool, input.some(0, 5).acts(), &mut products);
                for (w, out) in ws.iter().zip(&outs) {
                    let mut expected = product(kernels, &pool, w, input.some(0, 5).acts());
                    if w.rows == 17 {
                        expected.iter_mut().zip(bias.iter().cycle()).for_each(|(v, b)| *v += b);
                    }
                    assert_bits(out, &expected, || format!("{} of {shapes:?}, {threads} threads", w.dtype));
                }
            }
        }
    }
}

#[test]
fn pairs_to_halves_puts_even_rows_of_a_head_before_odd_ones() {
    let order = RowOrder::PairsToHalves { head_dim: 8, rope_dim: 6 };
    let sources: Vec<usize> = (0..16).map(|row| order.source(row)).collect();
    assert_eq!(sources, [0, 2, 4, 1, 3, 5, 6, 7, 8, 10, 12, 9, 11, 13, 14, 15]);
    let whole = RowOrder::PairsToHalves { head_dim: 6, rope_dim: 6 };
    assert_eq!((0..6).map(|row| whole.source(row)).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5]);

    let pool = support::pool(1);
    let mut r = Random::new(10);
    for dtype in DType::all() {
        for (head_dim, rope_dim, heads) in [(8, 8, 3), (8, 6, 5), (64, 16, 1)] {
            let (rows, k) = (head_dim * heads, 256);
            let order = RowOrder::PairsToHalves { head_dim, rope_dim };
            let file = weights::file(dtype, rows, k, Fill::Random, Scales::Usual, &mut r);
            for packed in [dtype, DType::F32] {
                let natural = Matrix::packed_as(dtype, packed, rows, k, file.clone(), RowOrder::Natural);
                let reordered = Matrix::packed_as(dtype, packed, rows, k, file.clone(), order);
                let input = Input::random(1, k, &mut r);
                let from = product(available()[0], &pool, &natural, input.some(0, 1).acts());
                let to = product(available()[0], &pool, &reordered, input.some(0, 1).acts());
                let expected: Vec<f32> = (0..rows).map(|row| from[order.source(row)]).collect();
                assert_bits(&to, &expected, || format!("{dtype} as {packed}, {order:?}"));
            }
        }
    }
}

#[test]
fn groups_packed_one_by_one_are_the_bytes_of_the_matrix_packed_at_once() {
    for_every_shape(11, |dtype, rows, k, r| {
        let file = weights::file(dtype, rows, k, Fill::Random, Scales::Any, r);
        for packed in [dtype, DType::F32] {
            let from = FileRows { dtype, bytes: &file, rows, k, order: RowOrder::Natural };
            let total = packed_bytes(packed, rows, k).unwrap();
            let step = group_bytes(packed, k).unwrap();
            let mut whole = Aligned::used(total);
            pack_rows(from, packed, 0, whole.bytes_mut());
            for g in 0..groups(rows) {
                let mut part = Aligned::used(step);
                pack_rows(from, packed, g, part.bytes_mut());
                assert!(part.bytes() == &whole.bytes()[g * step..(g + 1) * step], "{dtype} as {packed}: {g}");
            }
        }
    });
}

#[test]
fn no_tokens_and_no_products_write_nothing() {
    let pool = support::pool(2);
    let w = Matrix::random(DType::Q4_0, 16, 32, &mut Random::new(12));
    for kernels in available() {
        let acts = Acts { tokens: 0, x: &[], quants: &[], metas: &[], class: Class::Exact };
        assert_eq!(product(kernels, &pool, &w, acts), []);
        let mut out = vec![2.5; 16];
        let p = Product { w: w.view(), bias: None, out: &mut out, stride: 16, accumulate: false };
        matmul(kernels, &pool, acts, &mut [p]);
        matmul(
            kernels,
            &pool,
            Acts { tokens: 1, x: &[0.0; 32], quants: &[], metas: &[], class: Class::Exact },
            &mut [],
        );
        assert_eq!(out, [2.5; 16]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes_give_the_bits_of_the_contract(
        dtype in 0..13_usize,
        rows in 1..=150_usize,
        blocks in 1..=20_usize,
        tokens in 1..=70_usize,
        threads in 1..=3_usize,
        seed: u64,
    ) {
        let dtype = DType::all().nth(dtype).unwrap();
        let k = if dtype.block_len() == 1 { 13 * blocks } else { dtype.block_len() * blocks.div_ceil(dtype.block_len() / 32) };
        let mut r = Random::new(seed);
        let w = Matrix::random(dtype, rows, k, &mut r);
        let pool = support::pool(threads);
        let input = Input::random(tokens, k, &mut r);
        let expected = by_contract(&w, &input, false, RowOrder::Natural);
        for kernels in available() {
            let found = product(kernels, &pool, &w, input.some(0, tokens).acts());
            assert_bits(&found, &expected, || format!("{dtype} [{rows}, {k}], {tokens} tokens on {}", kernels.name));
        }
    }
}
