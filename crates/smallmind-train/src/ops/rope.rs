//! Rotary positions on heads that stand side by side at the start of each row, in place.

use std::sync::Arc;

use crate::compute::{Compute, ROWS};

/// How heads are turned.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// Heads that are turned, at the start of a row: those of Q, then of K.
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Neighbours (2i, 2i + 1) are turned, or else the halves (i, i + dim/2).
    pub(crate) pairs: bool,
    /// cos and sin: `[context, dim / 2]` of each.
    pub(crate) table: Arc<[Vec<f32>; 2]>,
    /// `dim / 2`.
    pub(crate) half: usize,
    pub(crate) seq: usize,
}

/// cos and sin of position · base^(−2i/dim), in f64 and rounded once, as the engine has them.
pub(crate) fn table(base: f32, dim: usize, context: usize) -> [Vec<f32>; 2] {
    let mut table = [Vec::new(), Vec::new()];
    for position in 0..context {
        for i in 0..dim / 2 {
            let angle = position as f64 * f64::from(base).powf(-2.0 * i as f64 / dim as f64);
            let (sin, cos) = angle.sin_cos();
            table[0].push(cos as f32);
            table[1].push(sin as f32);
        }
    }
    table
}

/// Turns rows of `width` forward, or (`back`) by the opposite angle, which is the derivative.
pub(crate) fn turn(c: &Compute, rope: &Rope, x: &mut [f32], width: usize, back: bool) {
    let half = rope.half;
    let sign = if back { -1.0 } else { 1.0 };
    c.pool.chunks(x, width * ROWS, &|i, x| {
        for (j, row) in x.chunks_exact_mut(width).enumerate() {
            let at = (i * ROWS + j) % rope.seq * half;
            let (cos, sin) = (&rope.table[0][at..at + half], &rope.table[1][at..at + half]);
            for head in row.chunks_exact_mut(rope.head_dim).take(rope.heads) {
                if rope.pairs {
                    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                        let ([a, b], sin) = (*pair, sign * sin);
                        *pair = [a * cos - b * sin, a * sin + b * cos];
                    }
                } else {
                    let (low, high) = head[..2 * half].split_at_mut(half);
                    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                        let (x, y, sin) = (*a, *b, sign * sin);
                        *a = x * cos - y * sin;
                        *b = x * sin + y * cos;
                    }
                }
            }
        }
    });
}
