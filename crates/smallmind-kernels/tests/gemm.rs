//! The F32 product against three plain loops, bit by bit: every ISA, every orientation, any number of threads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use smallmind_kernels::available;
use smallmind_kernels::gemm::{Into, Mat, gemm, scratch_len};
use smallmind_kernels::threads::Pool;
use support::Random;

/// C by definition: one chain a value, `k` ascending.
fn plain(a: &[f32], b: &[f32], c: &[f32], (m, n, k): (usize, usize, usize), into: Into) -> Vec<f32> {
    let mut out = c.to_vec();
    for i in 0..m {
        for j in 0..n {
            let begin = if into == Into::Add { c[i * n + j] } else { 0.0 };
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
    let pools = [Pool::new(2).unwrap(), Pool::new(3).unwrap()];
    for shape @ (m, n, k) in shapes {
        let (a, b, c) = (r.units(m * k), r.units(k * n), r.units(m * n));
        let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
        for into in [Into::Store, Into::Add] {
            let want = plain(&a, &b, &c, shape, into);
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
        let want = plain(&a, &b, &vec![0.0; m * n], (m, n, k), Into::Store);
        for (i, v) in c.iter().enumerate() {
            let (row, col) = (i.wrapping_sub(2) / 30, i.wrapping_sub(2) % 30);
            let want = if i >= 2 && row < m && col < n { want[row * n + col] } else { 7.0 };
            assert_eq!(v.to_bits(), want.to_bits(), "{} at {i}", kernels.name);
        }
    }
}
