//! Cross-entropy of the next token.

use crate::compute::Compute;

/// A target that does not count.
pub(crate) const IGNORED: u32 = u32::MAX;

/// Rows of one task.
const ROWS: usize = 4;

/// The sum of −ln p(target) over rows that count, in nats; `logits` (`[rows, vocab]`) become their gradient times `weight`.
pub(crate) fn cross_entropy(c: &mut Compute, logits: &mut [f32], targets: &[u32], weight: f32) -> f64 {
    let vocab = logits.len() / targets.len();
    let mut losses = c.take(targets.len());
    let kernels = c.kernels;
    c.pool.chunks2(logits, vocab * ROWS, &mut losses, ROWS, &|i, logits, losses| {
        for (j, (row, loss)) in logits.chunks_exact_mut(vocab).zip(losses).enumerate() {
            let target = targets[i * ROWS + j];
            let Some(logit) = row.get(target as usize).copied() else {
                row.fill(0.0);
                *loss = 0.0;
                continue;
            };
            let mut log_sum = 0.0;
            (kernels.softmax)(row, 1.0, &mut log_sum);
            *loss = log_sum - logit;
            row[target as usize] -= 1.0;
            (kernels.scale)(row, weight);
        }
    });
    let sum = losses.iter().map(|l| f64::from(*l)).sum();
    c.give(losses);
    sum
}
