//! The MLP's middle: act(x), or act(gate) · up of a row that holds both.

use smallmind::model::arch::{Activation, Mlp};

use crate::compute::{Compute, ROWS};

/// What is between the MLP's matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Middle {
    pub(crate) act: Activation,
    pub(crate) mlp: Mlp,
    /// Width of the result.
    pub(crate) ffn: usize,
}

/// `x` is `[rows, ffn]`, or `[rows, 2 · ffn]` with the gate first; the result is `[rows, ffn]`.
pub(crate) fn forward(c: &mut Compute, x: &[f32], rows: usize, middle: Middle) -> Vec<f32> {
    let Middle { act, mlp, ffn } = middle;
    let width = x.len() / rows;
    let mut out = c.take(rows * ffn);
    let kernels = c.kernels;
    c.pool.chunks(&mut out, ffn * ROWS, &|i, out| {
        let x = &x[i * width * ROWS..];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(ffn)) {
            out.copy_from_slice(&x[..ffn]);
            match (mlp, act) {
                (Mlp::Plain, Activation::Gelu) => (kernels.gelu)(out),
                (Mlp::Plain, Activation::Silu) => (kernels.silu)(out),
                (Mlp::Gated, Activation::Gelu) => (kernels.gelu_mul)(out, &x[ffn..]),
                (Mlp::Gated, Activation::Silu) => (kernels.silu_mul)(out, &x[ffn..]),
            }
        }
    });
    out
}

/// The gradient of `x` from that of the result.
pub(crate) fn backward(
    c: &mut Compute,
    x: &[f32],
    rows: usize,
    middle: Middle,
    mut dy: Vec<f32>,
) -> Vec<f32> {
    let Middle { act, mlp, ffn } = middle;
    let width = x.len() / rows;
    let kernels = c.kernels;
    let back = match act {
        Activation::Gelu => kernels.gelu_back,
        Activation::Silu => kernels.silu_back,
    };
    if mlp == Mlp::Plain {
        // In place: that is a third less memory to write and read.
        c.pool.chunks(&mut dy, ffn * ROWS, &|i, dy| back(&x[i * ffn * ROWS..][..dy.len()], dy));
        return dy;
    }
    let mut dx = c.take(x.len());
    c.pool.chunks(&mut dx, width * ROWS, &|i, dx| {
        let (x, dy) = (&x[i * width * ROWS..], &dy[i * ffn * ROWS..]);
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(ffn)).zip(dx.chunks_exact_mut(width));
        for ((x, dy), dx) in rows {
            let (of_gate, of_up) = dx.split_at_mut(ffn);
            let (gate, up) = x.split_at(ffn);
            of_gate.copy_from_slice(dy);
            of_gate.iter_mut().zip(up).for_each(|(d, u)| *d *= u);
            of_up.copy_from_slice(gate);
            match act {
                Activation::Gelu => (kernels.gelu_mul)(of_up, dy),
                Activation::Silu => (kernels.silu_mul)(of_up, dy),
            }
            back(gate, of_gate);
        }
    });
    c.give(dy);
    dx
}
