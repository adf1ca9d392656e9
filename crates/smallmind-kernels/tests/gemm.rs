//! The F32 product against three plain loops, bit by bit: every ISA, every orientation, any number of threads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use smallmind_kernels::gemm::packed::{self, PackedMat};
use smallmind_kernels::gemm::{Into, Mat, Triangle, bf16, gemm, scratch_len};
use smallmind_kernels::matmul::ActQuants;
use smallmind_kernels::{AdamStep, available};
use support::Random;

/// Where the chain of row `i` and column `j` begins.
type Begin<'a> = &'a dyn Fn(usize, usize) -> f32;

/// C by definition: one chain a value, `k` ascending.
fn plain(a: &[f32], b: &[f32], c: &[f32], (m, n, k): (usize, usize, usize), begin: Begin<'_>) -> Vec<f32> {
    let mut out = c.to_vec();
    for i in 0..m {
        for j in 0..n {
            let begin = begin(i, j);
            out[i * n + j] = (0..k).fold(begin, |sum, l| a[i * k + l].mul_add(b[l * n + j], sum));
        }
    }
    out
}

fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

#[test]
fn every_isa_orientation_and_number_of_threads_gives_the_bits_of_three_loops() {
    let mut r = Random::new(1);
    let shapes = [
        (1, 1, 1),
        (5, 33, 7),
        (12, 32, 256),
        (49, 70, 300),
        (97, 1030, 20),
        (30, 31, 513),
        (3, 16, 0),
        (130, 64, 64),
    ];
    let pools = [support::pool(2), support::pool(3)];
    for shape @ (m, n, k) in shapes {
        let (a, b, c) = (r.units(m * k), r.units(k * n), r.units(m * n));
        let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
        let (bias, from) = (r.units(n), r.units(m * (n + 3)));
        let onto = Mat::strided(&from, m, n, n + 3);
        let begins: [(Into<'_>, Begin<'_>); 5] = [
            (Into::Store, &|_, _| 0.0),
            (Into::Add, &|i, j| c[i * n + j]),
            (Into::Bias(&bias), &|_, j| bias[j]),
            (Into::Onto(onto, None), &|i, j| from[i * (n + 3) + j]),
            (Into::Onto(onto, Some(&bias)), &|i, j| from[i * (n + 3) + j] + bias[j]),
        ];
        for (into, begin) in begins {
            let want = plain(&a, &b, &c, shape, begin);
            for kernels in available() {
                for (which, pool) in [None, Some(&pools[0]), Some(&pools[1])].into_iter().enumerate() {
                    for form in 0..4 {
                        let a = if form & 1 == 0 { Mat::new(&a, m, k) } else { Mat::new(&at, k, m).t() };
                        let b = if form & 2 == 0 { Mat::new(&b, k, n) } else { Mat::new(&bt, n, k).t() };
                        let mut out = c.clone();
                        let mut scratch = vec![f32::NAN; scratch_len(m, n, k)];
                        gemm(kernels, pool, a, b, (&mut out, n), into, &mut scratch);
                        let same = out.iter().zip(&want).all(|(x, y)| x.to_bits() == y.to_bits());
                        assert!(same, "{} {shape:?} {into:?} form {form}, pool {which}", kernels.name);
                    }
                }
            }
        }
    }
}

#[test]
fn what_counts_of_a_product_with_a_packed_factor_has_the_bits_of_three_loops() {
    let mut r = Random::new(5);
    for shape @ (m, n, k) in [(1, 1, 1), (12, 32, 9), (48, 96, 6), (29, 45, 33), (96, 40, 48)] {
        let (mut a, c) = (r.units(m * k), r.units(m * n));
        // Of a larger matrix, the rows from 2 on and the first columns.
        let (rows, cols) = (k + 3, n + 40);
        let large = r.units(rows * cols);
        let b: Vec<f32> = (0..k * n).map(|i| large[(2 + i / n) * cols + i % n]).collect();
        for (from, kind) in [0, 5, 48].into_iter().flat_map(|from| (0..4).map(move |kind| (from, kind))) {
            let triangle = match kind {
                0 => Triangle::None,
                1 => Triangle::Sums(from),
                2 => Triangle::Lower(from),
                _ => Triangle::Upper(from),
            };
            for (i, v) in a.iter_mut().enumerate() {
                let (row, l) = (i / k, i % k);
                if kind == 2 && l > row + from || kind == 3 && row > l + from {
                    *v = 0.0;
                }
            }
            let at = transposed(&a, m, k);
            let begins: [(Into<'_>, Begin<'_>); 2] =
                [(Into::Store, &|_, _| 0.0), (Into::Add, &|i, j| c[i * n + j])];
            for (into, begin) in begins {
                let want = plain(&a, &b, &c, shape, begin);
                for (kernels, form) in available().into_iter().flat_map(|k| [(k, 0), (k, 1), (k, 2), (k, 3)])
                {
                    let a = if form & 1 == 0 { Mat::new(&a, m, k) } else { Mat::new(&at, k, m).t() };
                    let turned = transposed(&large, rows, cols);
                    let whole = match form & 2 {
                        0 => Mat::new(&large, rows, cols),
                        _ => Mat::new(&turned, cols, rows).t(),
                    };
                    let mut memory = vec![f32::NAN; packed::packed_len(rows, cols)];
                    let b = PackedMat::new(kernels, whole, &mut memory).rows_of(2..2 + k).first_cols(n);
                    let mut out = c.clone();
                    let mut scratch = vec![f32::NAN; packed::scratch_len(k)];
                    packed::gemm(kernels, a, b, (&mut out, n), into, triangle, &mut scratch);
                    for (at, (x, y)) in out.iter().zip(&want).enumerate() {
                        let counts = kind != 1 || at % n <= at / n + from;
                        let what =
                            format!("{} {shape:?} {into:?} {triangle:?} form {form} at {at}", kernels.name);
                        assert!(!counts || x == y, "{what}: {x}, not {y}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_may_lie_apart_and_what_is_between_stays() {
    let (m, n, k) = (7, 20, 9);
    let mut r = Random::new(2);
    let (a, b) = (r.units(m * 50), r.units(k * 40));
    for kernels in available() {
        let mut c = vec![7.0; m * 30];
        let mut scratch = vec![0.0; scratch_len(m, n, k)];
        let (of_a, of_b) = (Mat::strided(&a[3..], m, k, 50), Mat::strided(&b[5..], k, n, 40));
        gemm(kernels, None, of_a, of_b, (&mut c[2..], 30), Into::Store, &mut scratch);
        let a: Vec<f32> = (0..m * k).map(|i| a[3 + i / k * 50 + i % k]).collect();
        let b: Vec<f32> = (0..k * n).map(|i| b[5 + i / n * 40 + i % n]).collect();
        let want = plain(&a, &b, &vec![0.0; m * n], (m, n, k), &|_, _| 0.0);
        for (i, v) in c.iter().enumerate() {
            let (row, col) = (i.wrapping_sub(2) / 30, i.wrapping_sub(2) % 30);
            let want = if i >= 2 && row < m && col < n { want[row * n + col] } else { 7.0 };
            assert_eq!(v.to_bits(), want.to_bits(), "{} at {i}", kernels.name);
        }
    }
}

/// To bfloat16 and back, to nearest even.
fn rounded(x: f32) -> f64 {
    let bits = x.to_bits();
    f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
}

#[test]
fn products_in_bfloat16_are_those_of_rounded_factors_on_any_threads_and_units() {
    let mut r = Random::new(3);
    let pools = [support::pool(1), support::pool(3)];
    let with_units: Vec<_> = available().into_iter().filter_map(|k| Some((k.name, k.bf16?))).collect();
    if with_units.is_empty() {
        println!("skipped: this CPU has no matrix units");
    }
    for (m, n, k) in [(1, 1, 1), (5, 33, 7), (17, 16, 64), (70, 95, 300), (3, 16, 0), (130, 64, 65)] {
        let (a, b, c, bias) = (r.units(m * k), r.units(k * n), r.units(m * n), r.units(n));
        let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
        let onto = Mat::new(&c, m, n);
        let begins: [(Into<'_>, Begin<'_>); 4] = [
            (Into::Store, &|_, _| 0.0),
            (Into::Add, &|i, j| c[i * n + j]),
            (Into::Bias(&bias), &|_, j| bias[j]),
            (Into::Onto(onto, Some(&bias)), &|i, j| c[i * n + j] + bias[j]),
        ];
        for (into, begin) in begins {
            let mut first: Option<Vec<f32>> = None;
            for (name, kernels) in &with_units {
                for (pool, form) in pools.iter().flat_map(|p| (0..4).map(move |f| (p, f))) {
                    let of_a = if form & 1 == 0 { Mat::new(&a, m, k) } else { Mat::new(&at, k, m).t() };
                    let of_b = if form & 2 == 0 { Mat::new(&b, k, n) } else { Mat::new(&bt, n, k).t() };
                    let mut out = c.clone();
                    let mut scratch = vec![ActQuants::ZERO; bf16::scratch_len(m, n, k)];
                    bf16::gemm(kernels, pool, of_a, of_b, (&mut out, n), into, &mut scratch);
                    let what = format!("{name} {m} {n} {k} {into:?} form {form}, {pool:?}");
                    for (at, v) in out.iter().enumerate() {
                        let (i, j) = (at / n, at % n);
                        let terms = (0..k).map(|l| rounded(a[i * k + l]) * rounded(b[l * n + j]));
                        let (sum, size) = terms.fold((0.0, 1.0), |(s, z), t| (s + t, z + t.abs()));
                        let want = f64::from(begin(i, j)) + sum;
                        assert!(
                            (f64::from(*v) - want).abs() <= 1e-6 * size,
                            "{what} at {at}: {v}, not {want}"
                        );
                    }
                    let same = first.get_or_insert_with(|| out.clone());
                    assert!(
                        same.iter().zip(&out).all(|(x, y)| x.to_bits() == y.to_bits()),
                        "{what}: other bits"
                    );
                }
            }
        }
    }
}

#[test]
fn sums_of_columns_and_steps_of_adamw_have_the_bits_of_plain_loops() {
    let mut r = Random::new(4);
    let step = AdamStep {
        scale: 0.7,
        one_b1: 0.1,
        b2: 0.95,
        one_b2: 0.05,
        keep: 0.999,
        size: 0.01,
        root: 1.3,
        eps: 1e-8,
    };
    for (rows, cols, from, wide) in [(1, 1, 0, 1), (9, 200, 70, 130), (130, 65, 1, 64)] {
        let (x, begin) = (r.units(rows * cols), r.units(wide));
        let mut want = begin.clone();
        for row in x.chunks_exact(cols) {
            want.iter_mut().zip(&row[from..]).for_each(|(s, v)| *s += v);
        }
        let g = r.units(wide);
        let (w, m, v) =
            (r.units(wide), r.units(wide), r.units(wide).iter().map(|v| v * v).collect::<Vec<f32>>());
        for kernels in available() {
            let mut sum = begin.clone();
            (kernels.column_sums)(&x[from..], cols, &mut sum);
            assert_eq!(sum, want, "{} {rows} {cols}", kernels.name);
            let (mut w1, mut m1, mut v1) = (w.clone(), m.clone(), v.clone());
            (kernels.adamw)(&step, &g, &mut w1, &mut m1, &mut v1);
            for i in 0..wide {
                let g = g[i] * step.scale;
                let m = m[i] + (g - m[i]) * step.one_b1;
                let v = v[i] * step.b2 + g * g * step.one_b2;
                let w = w[i] * step.keep - step.size * (m / (v.sqrt() * step.root + step.eps));
                assert_eq!((w1[i], m1[i], v1[i]), (w, m, v), "{} {i}", kernels.name);
            }
        }
    }
}
