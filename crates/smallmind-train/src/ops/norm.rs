//! RMSNorm and LayerNorm, row by row.

use crate::compute::{Compute, ROWS};
use crate::param::{Param, ParamId};

/// Rows whose parameter gradients are summed before they join the rest: fixed, so that threads change no bit.
const BLOCK: usize = 64;

/// Normalizes the rows of `x` (`[rows, n]`): RMSNorm without a bias, LayerNorm with one.
pub(crate) fn forward(
    c: &mut Compute,
    params: &[Param],
    x: &[f32],
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
) -> Vec<f32> {
    let mut out = c.take(x.len());
    let kernels = c.kernels;
    let weight = &params[weight.0].data;
    let n = weight.len();
    c.pool.chunks(&mut out, n * ROWS, &|i, out| {
        let x = &x[i * n * ROWS..][..out.len()];
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            match bias {
                Some(bias) => (kernels.layer_norm)(x, weight, &params[bias.0].data, eps, out),
                None => (kernels.rms_norm)(x, weight, eps, out),
            }
        }
    });
    out
}

/// Adds to the gradients of `x`, the weight and the bias.
#[allow(clippy::too_many_arguments, reason = "a norm has that many sides")]
pub(crate) fn backward(
    c: &mut Compute,
    params: &mut [Param],
    x: &[f32],
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
) {
    let kernels = c.kernels;
    let n = params[weight.0].cols;
    let blocks = x.len().div_ceil(n * BLOCK);
    let mut partial = c.zeros(blocks * 2 * n);
    let w = &params[weight.0].data;
    c.pool.chunks2(dx, n * BLOCK, &mut partial, 2 * n, &|i, dx, partial| {
        let (x, dy) = (&x[i * n * BLOCK..][..dx.len()], &dy[i * n * BLOCK..][..dx.len()]);
        let (dw, db) = partial.split_at_mut(n);
        for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            match bias {
                Some(_) => (kernels.layer_norm_back)(x, w, eps, dy, dx, dw, db),
                None => (kernels.rms_norm_back)(x, w, eps, dy, dx, dw),
            }
        }
    });
    for block in partial.chunks_exact(2 * n) {
        if params[weight.0].trained() {
            (kernels.add)(&mut params[weight.0].grad, &block[..n]);
        }
        if let Some(bias) = bias.filter(|b| params[b.0].trained()) {
            (kernels.add)(&mut params[bias.0].grad, &block[n..]);
        }
    }
    c.give(partial);
}
