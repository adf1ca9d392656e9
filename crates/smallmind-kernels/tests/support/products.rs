//! Inputs of products, and a product of them.

use smallmind_kernels::matmul::{Acts, Class, Product, matmul};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{Kernels, available};

use super::weights::Matrix;
use super::{Quantized, Random};

/// Activations of `tokens` tokens.
pub(crate) struct Input {
    pub(crate) k: usize,
    pub(crate) x: Vec<f32>,
}

impl Input {
    pub(crate) fn random(tokens: usize, k: usize, r: &mut Random) -> Input {
        Input { k, x: (0..tokens * k).map(|_| 4.0 * r.unit()).collect() }
    }

    /// Some tokens of it, both ways.
    pub(crate) fn some(&self, first: usize, tokens: usize) -> Tokens<'_> {
        let x = &self.x[first * self.k..(first + tokens) * self.k];
        Tokens { tokens, x, quantized: Quantized::new(available()[0], x, self.k) }
    }

    pub(crate) fn token(&self, t: usize) -> &[f32] {
        &self.x[t * self.k..(t + 1) * self.k]
    }
}

/// Some tokens of an [`Input`].
pub(crate) struct Tokens<'a> {
    tokens: usize,
    x: &'a [f32],
    quantized: Quantized,
}

impl Tokens<'_> {
    pub(crate) fn acts(&self) -> Acts<'_> {
        Acts {
            tokens: self.tokens,
            x: self.x,
            quants: &self.quantized.quants,
            metas: &self.quantized.metas,
            class: Class::Exact,
        }
    }
}

/// One product without bias, `[tokens, rows]`.
pub(crate) fn product(kernels: &Kernels, pool: &Pool, w: &Matrix, acts: Acts<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; acts.tokens * w.rows];
    let p = Product { w: w.view(), bias: None, out: &mut out, stride: w.rows, accumulate: false };
    matmul(kernels, pool, acts, &mut [p]);
    out
}
