//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch computes it, and clipping of the
//! gradient by its norm.

use smallmind_kernels::AdamStep;
use smallmind_kernels::threads::Pool;

use crate::compute::Compute;
use crate::param::Param;

/// Values of one task.
const LEN: usize = 32 << 10;

/// Settings of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// What a weight loses a step, times the learning rate; matrices only.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

/// The means of one parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Of the gradients.
    pub m: Vec<f32>,
    /// Of their squares.
    pub v: Vec<f32>,
}

impl Moments {
    /// Zeros for each trained parameter, nothing for others.
    pub fn of(params: &[Param]) -> Vec<Moments> {
        params.iter().map(|p| Moments { m: vec![0.0; p.grad.len()], v: vec![0.0; p.grad.len()] }).collect()
    }
}

/// The norm of all gradients together. Partial sums of fixed blocks, added up in order.
pub fn grad_norm(pool: &Pool, params: &[Param]) -> f64 {
    let mut total = 0.0;
    for p in params.iter().filter(|p| p.trained()) {
        let mut sums = vec![0.0f64; p.grad.len().div_ceil(LEN)];
        pool.chunks(&mut sums, 1, &|i, sum| {
            let part = &p.grad[i * LEN..((i + 1) * LEN).min(p.grad.len())];
            // Eight chains, which the processor computes side by side.
            let mut lanes = [0.0f64; 8];
            let (whole, rest) = part.as_chunks::<8>();
            for values in whole {
                for (lane, v) in lanes.iter_mut().zip(values) {
                    *lane += f64::from(*v) * f64::from(*v);
                }
            }
            let rest: f64 = rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            sum[0] = lanes.iter().sum::<f64>() + rest;
        });
        total += sums.iter().sum::<f64>();
    }
    total.sqrt()
}

impl AdamW {
    /// Step `step` (counted from 1) with this learning rate: gradients are multiplied by `scale` first, and are zero
    /// afterwards.
    pub fn step(
        &self,
        c: &Compute,
        params: &mut [Param],
        moments: &mut [Moments],
        step: u64,
        lr: f64,
        scale: f32,
    ) {
        let (b1, b2) = (self.beta1, self.beta2);
        let exponent = step as f64;
        let (bias1, bias2) = (1.0 - b1.powf(exponent), 1.0 - b2.powf(exponent));
        for (p, moments) in params.iter_mut().zip(moments).filter(|(p, _)| p.trained()) {
            let numbers = AdamStep {
                scale,
                one_b1: (1.0 - b1) as f32,
                b2: b2 as f32,
                one_b2: (1.0 - b2) as f32,
                keep: (1.0 - lr * if p.decay { self.weight_decay } else { 0.0 }) as f32,
                size: (lr / bias1) as f32,
                root: (1.0 / bias2.sqrt()) as f32,
                eps: self.eps as f32,
            };
            let grad = &p.grad;
            let means = ((&mut moments.m[..], LEN), (&mut moments.v[..], LEN));
            c.pool.chunks3((&mut p.data, LEN), means.0, means.1, &|i, data, m, v| {
                (c.kernels.adamw)(&numbers, &grad[i * LEN..][..data.len()], data, m, v);
            });
            c.pool.chunks(&mut p.grad, LEN, &|_, grad| grad.fill(0.0));
        }
    }
}
