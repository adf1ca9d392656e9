//! x = table[id] (+ positions[t]): where tokens become vectors.

use crate::compute::{Compute, ROWS};
use crate::param::{Param, ParamId};

/// Rows of `table` by `ids` (`[batch, seq]`), with the learned position added where there are such: `[batch · seq, hidden]`.
pub(crate) fn forward(
    c: &mut Compute,
    params: &[Param],
    table: ParamId,
    positions: Option<ParamId>,
    ids: &[u32],
    seq: usize,
) -> Vec<f32> {
    let table = &params[table.0];
    let hidden = table.cols;
    let mut out = c.take(ids.len() * hidden);
    let kernels = c.kernels;
    c.pool.chunks(&mut out, hidden * ROWS, &|i, out| {
        for (j, row) in out.chunks_exact_mut(hidden).enumerate() {
            let at = i * ROWS + j;
            row.copy_from_slice(&table.data[ids[at] as usize * hidden..][..hidden]);
            if let Some(positions) = positions {
                (kernels.add)(row, &params[positions.0].data[at % seq * hidden..][..hidden]);
            }
        }
    });
    out
}

/// Adds the rows of `dy` to the gradients of the rows that they came from, first to last.
pub(crate) fn backward(
    c: &Compute,
    params: &mut [Param],
    table: ParamId,
    positions: Option<ParamId>,
    ids: &[u32],
    seq: usize,
    dy: &[f32],
) {
    let kernels = c.kernels;
    let hidden = params[table.0].cols;
    if params[table.0].trained() {
        let grad = &mut params[table.0].grad;
        for (id, dy) in ids.iter().zip(dy.chunks_exact(hidden)) {
            (kernels.add)(&mut grad[*id as usize * hidden..][..hidden], dy);
        }
    }
    if let Some(positions) = positions.filter(|p| params[p.0].trained()) {
        let grad = &mut params[positions.0].grad[..seq * hidden];
        c.pool.chunks(grad, hidden, &|t, grad| {
            for dy in dy.chunks_exact(seq * hidden) {
                (kernels.add)(grad, &dy[t * hidden..][..hidden]);
            }
        });
    }
}
