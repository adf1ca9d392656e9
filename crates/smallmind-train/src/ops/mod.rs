//! The operations of the families, each with its derivative beside it. A forward function computes an output from
//! inputs; a backward one takes the output's gradient and adds to those of inputs and parameters. Sums over rows go over
//! fixed blocks in ascending order, so that no bit depends on the threads.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod dropout;
pub(crate) mod embed;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod rope;

use crate::compute::Compute;

/// `sum[j] += Σ rows x[i, from + j]`, rows ascending; `x` is `[rows, cols]`.
pub(crate) fn column_sums(c: &Compute, x: &[f32], cols: usize, from: usize, sum: &mut [f32]) {
    const WIDTH: usize = 64;
    let kernels = c.kernels;
    c.pool.chunks(sum, WIDTH, &|j, sum| {
        (kernels.column_sums)(&x[from + j * WIDTH..], cols, sum);
    });
}

/// `x += y`.
pub(crate) fn add(c: &Compute, x: &mut [f32], y: &[f32]) {
    const LEN: usize = 16 << 10;
    let kernels = c.kernels;
    c.pool.chunks(x, LEN, &|i, x| {
        let at = i * LEN;
        (kernels.add)(x, &y[at..at + x.len()]);
    });
}

#[cfg(test)]
mod tests;
