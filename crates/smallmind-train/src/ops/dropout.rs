//! Dropout, in place: each value is dropped or scaled up by a number that is a function of step, place and index, so
//! that the backward pass (and a second forward pass) draw the same.

use crate::compute::Compute;
use crate::rng::Key;

/// `x[i] = x[i] / keep` with probability `keep`, else 0. Also the derivative.
pub(crate) fn apply(c: &Compute, x: &mut [f32], keep: f32, key: Key) {
    const LEN: usize = 4096;
    let scale = 1.0 / keep;
    c.pool.chunks(x, LEN, &|i, x| {
        for (j, x) in x.iter_mut().enumerate() {
            let kept = key.unit((i * LEN + j) as u64) < f64::from(keep);
            *x = if kept { *x * scale } else { 0.0 };
        }
    });
}
