//! The contract of the sums (docs/determinism.md), written again from the file's bytes: slow, one value at a time, and
//! with nothing of the kernels but the reference unpacking of blocks.

use smallmind_kernels::DType;
use smallmind_kernels::half::f16_to_f32;
use smallmind_kernels::quant::{self, Form, Offset, Unpacked};

/// 32 activations: `x ≈ d · q`; `d` is that of their 128 values.
pub(crate) struct Block {
    pub(crate) q: [i32; 32],
    pub(crate) d: f32,
}

/// For 128 values each: `d = max|x| / 1,016`; `Q = x · (1,016 / max|x|)` is cut into the nearest multiple of 8 and what is
/// left, each to nearest even; nothing but zeros where 1,016 / max|x| is no number. A block for every 32 values.
pub(crate) fn quantized(x: &[f32]) -> Vec<Block> {
    let of_group = |x: &[f32]| {
        let max = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let factor = 1_016.0 / max;
        let block = |x: &[f32]| {
            let mut q = [0; 32];
            if factor.is_finite() {
                for (q, x) in q.iter_mut().zip(x) {
                    let t = x * factor;
                    let upper = (t * 0.125).round_ties_even();
                    *q = 8 * upper as i32 + upper.mul_add(-8.0, t).round_ties_even() as i32;
                }
            }
            Block { q, d: max / 1_016.0 }
        };
        x.chunks(32).map(block).collect::<Vec<Block>>()
    };
    x.chunks(128).flat_map(of_group).collect()
}

/// One row of weights, taken apart once.
pub(crate) enum Row {
    Floats(Vec<f32>),
    Blocks(&'static Form, Vec<Unpacked>),
}

impl Row {
    /// A row of the file; `precise` dequantizes it.
    pub(crate) fn new(dtype: DType, bytes: &[u8], k: usize, precise: bool) -> Row {
        match quant::form(dtype) {
            Some(form) if !precise => {
                let unpacked = bytes.chunks_exact(dtype.block_bytes()).map(|b| {
                    let mut u = Unpacked::default();
                    quant::unpack(dtype, b, &mut u).unwrap();
                    u
                });
                Row::Blocks(form, unpacked.collect())
            }
            _ => {
                let mut w = vec![0.0; k];
                quant::dequantize(dtype, bytes, &mut w).unwrap();
                Row::Floats(w)
            }
        }
    }

    /// The product with one token, in the order and with the roundings of the contract; `blocks` has one block for every
    /// 32 values.
    pub(crate) fn dot(&self, x: &[f32], blocks: &[Block]) -> f32 {
        match self {
            Row::Floats(w) => w.iter().zip(x).fold(0.0, |acc, (w, x)| w.mul_add(*x, acc)),
            Row::Blocks(form, row) => {
                let per_block = form.len / 32;
                blocks.chunks(4).enumerate().fold(0.0, |acc, (group, blocks)| {
                    let part = blocks.iter().enumerate().fold(0.0, |part, (i, x)| {
                        let at = 4 * group + i;
                        step(form, &row[at / per_block], at % per_block, x, part)
                    });
                    part.mul_add(blocks[0].d, acc)
                })
            }
        }
    }

    /// The product in f64, and the sum of the sizes of everything it adds up: what a bound of the error is relative to.
    pub(crate) fn dot_f64(&self, x: &[f32], blocks: &[Block]) -> (f64, f64) {
        let mut sums = (0.0, 0.0);
        let mut add = |term: f64| {
            sums.0 += term;
            sums.1 += term.abs();
        };
        match self {
            Row::Floats(w) => w.iter().zip(x).for_each(|(w, x)| add(f64::from(*w) * f64::from(*x))),
            Row::Blocks(form, row) => {
                for (k, (q, d)) in blocks.iter().flat_map(|b| b.q.iter().map(|q| (*q, b.d))).enumerate() {
                    let (u, i) = (&row[k / form.len], k % form.len);
                    let (d_w, m) = (f64::from(f16_to_f32(u.d)), f64::from(f16_to_f32(u.m)));
                    let x = f64::from(d) * f64::from(q);
                    let group = i / form.group;
                    add(d_w * f64::from(u.scales[group]) * f64::from(form.integer(u.q[i])) * x);
                    add(match form.offset {
                        Offset::None => 0.0,
                        Offset::AddM => m * x,
                        Offset::SubMinTimesM => -m * f64::from(u.mins[group]) * x,
                    });
                }
            }
        }
        sums
    }
}

/// Adds 32 values, the `at`-th of the weight block `u`, to the sum of a group.
fn step(form: &Form, u: &Unpacked, at: usize, x: &Block, part: f32) -> f32 {
    let (d, m) = (f16_to_f32(u.d), f16_to_f32(u.m));
    let group_len = form.group.min(32);
    let first_group = at * 32 / form.group;
    let mut dots = Vec::new();
    let mut sums = Vec::new();
    for (g, x) in x.q.chunks_exact(group_len).enumerate() {
        let q = &u.q[at * 32 + g * group_len..];
        dots.push(x.iter().zip(q).map(|(x, q)| x * form.integer(*q)).sum::<i32>());
        sums.push(x.iter().sum::<i32>());
    }
    let scale = |g: usize| i32::from(u.scales[first_group + g]);
    let min = |g: usize| i32::from(u.mins[first_group + g]);

    if group_len == 16 {
        let weighted = |f: &dyn Fn(usize) -> i32, of: &[i32]| {
            (of[0] as f32).mul_add(f(0) as f32, of[1] as f32 * f(1) as f32)
        };
        let part = weighted(&scale, &dots).mul_add(d, part);
        return match form.offset {
            Offset::None => part,
            _ => (-weighted(&min, &sums)).mul_add(m, part),
        };
    }
    let part = (dots[0] as f32).mul_add(d * scale(0) as f32, part);
    let sum = sums[0] as f32;
    match form.offset {
        Offset::None => part,
        Offset::AddM => m.mul_add(sum, part),
        Offset::SubMinTimesM => (m * min(0) as f32).mul_add(-sum, part),
    }
}
