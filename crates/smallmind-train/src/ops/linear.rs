//! y = x Wᵀ + b (+ residual): several matrices side by side on the same input, each with an adapter where it has one.

use smallmind_kernels::gemm::{Into, Mat};

use super::column_sums;
use crate::compute::Compute;
use crate::param::{Param, ParamId};

/// One matrix of a linear operation.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// `[n, k]`.
    pub(crate) weight: ParamId,
    /// `[n]`.
    pub(crate) bias: Option<ParamId>,
    pub(crate) lora: Option<Lora>,
}

/// A low-rank addition to a matrix: W + scale · B A (Hu et al. 2021).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lora {
    /// `[rank, k]`.
    pub(crate) a: ParamId,
    /// `[n, rank]`.
    pub(crate) b: ParamId,
    pub(crate) scale: f32,
}

fn whole(p: &Param) -> Mat<'_> {
    Mat::new(&p.data, p.rows, p.cols)
}

/// Columns of all parts.
pub(crate) fn width(params: &[Param], parts: &[Part]) -> usize {
    parts.iter().map(|p| params[p.weight.0].rows).sum()
}

/// `x` is `[rows, k]`; the result `[rows, width]` has the parts side by side.
pub(crate) fn forward(
    c: &mut Compute,
    params: &[Param],
    x: &[f32],
    rows: usize,
    parts: &[Part],
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let (cols, k) = (width(params, parts), x.len() / rows);
    let mut out = c.take(rows * cols);
    let mut from = 0;
    for part in parts {
        let w = &params[part.weight.0];
        let bias = part.bias.map(|b| params[b.0].data.as_slice());
        let into = match (residual, bias) {
            (Some(r), bias) => Into::Onto(Mat::strided(&r[from..], rows, w.rows, cols), bias),
            (None, Some(bias)) => Into::Bias(bias),
            (None, None) => Into::Store,
        };
        let input = Mat::new(x, rows, k);
        c.gemm(input, whole(w).t(), [rows, w.rows, k], (&mut out[from..], cols), into);
        if let Some(lora) = part.lora {
            let low = low(c, params, x, rows, lora);
            let b = &params[lora.b.0];
            let rank = b.cols;
            c.gemm(
                Mat::new(&low, rows, rank),
                whole(b).t(),
                [rows, b.rows, rank],
                (&mut out[from..], cols),
                Into::Add,
            );
            c.give(low);
        }
        from += w.rows;
    }
    out
}

/// scale · x Aᵀ: `[rows, rank]`.
fn low(c: &mut Compute, params: &[Param], x: &[f32], rows: usize, lora: Lora) -> Vec<f32> {
    let a = &params[lora.a.0];
    let mut low = c.take(rows * a.rows);
    c.gemm(Mat::new(x, rows, a.cols), whole(a).t(), [rows, a.rows, a.cols], (&mut low, a.rows), Into::Store);
    (c.kernels.scale)(&mut low, lora.scale);
    low
}

/// `dy` is `[rows, width]`; gives the gradient of `x`, added to `dx` where there is one already.
pub(crate) fn backward(
    c: &mut Compute,
    params: &mut [Param],
    x: &[f32],
    rows: usize,
    parts: &[Part],
    dy: &[f32],
    dx: Option<Vec<f32>>,
) -> Vec<f32> {
    let (cols, k) = (width(params, parts), x.len() / rows);
    let mut into = if dx.is_some() { Into::Add } else { Into::Store };
    let mut dx = dx.unwrap_or_else(|| c.take(x.len()));
    let mut from = 0;
    for part in parts {
        let n = params[part.weight.0].rows;
        let dy_part = Mat::strided(&dy[from..], rows, n, cols);
        let input = Mat::new(x, rows, k);
        let w = &mut params[part.weight.0];
        c.gemm(dy_part, whole(w), [rows, k, n], (&mut dx, k), into);
        into = Into::Add;
        if w.trained() {
            let mut grad = std::mem::take(&mut w.grad);
            c.gemm(dy_part.t(), input, [n, k, rows], (&mut grad, k), Into::Add);
            w.grad = grad;
        }
        if let Some(bias) = part.bias.filter(|b| params[b.0].trained()) {
            column_sums(c, dy, cols, from, &mut params[bias.0].grad);
        }
        if let Some(lora) = part.lora {
            let rank = params[lora.b.0].cols;
            // dB = dyᵀ · (scale · x Aᵀ)
            let of_a = low(c, params, x, rows, lora);
            let b = &mut params[lora.b.0];
            let mut grad = std::mem::take(&mut b.grad);
            c.gemm(dy_part.t(), Mat::new(&of_a, rows, rank), [n, rank, rows], (&mut grad, rank), Into::Add);
            b.grad = grad;
            // With t = scale · dy B: dA = tᵀ · x, and dx += t · A.
            let mut t = of_a;
            c.gemm(dy_part, whole(&params[lora.b.0]), [rows, rank, n], (&mut t, rank), Into::Store);
            (c.kernels.scale)(&mut t, lora.scale);
            let a = &mut params[lora.a.0];
            let mut grad = std::mem::take(&mut a.grad);
            c.gemm(Mat::new(&t, rows, rank).t(), input, [rank, k, rows], (&mut grad, k), Into::Add);
            a.grad = grad;
            c.gemm(
                Mat::new(&t, rows, rank),
                whole(&params[lora.a.0]),
                [rows, k, rank],
                (&mut dx, k),
                Into::Add,
            );
            c.give(t);
        }
        from += n;
    }
    dx
}
