//! The contract of the sums (docs/determinism.md), written again from the file's bytes: slow, one value at a time, and
//! with nothing of the kernels but the reference unpacking of blocks.

use smallmind_kernels::DType;
use smallmind_kernels::half::f16_to_f32;
use smallmind_kernels::quant::{self, Form, Offset, Unpacked};

/// 32 activations: `x ≈ d · q`.
pub(crate) struct Block {
    pub(crate) q: [i32; 32],
    pub(crate) d: f32,
}

/// `d = max|x| / 127`, `q = x · (127 / max|x|)` to nearest even; nothing but zeros where 127 / max|x| is no number.
pub(crate) fn quantized(x: &[f32]) -> Vec<Block> {
    x.chunks(32)
        .map(|x| {
            let max = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let inverse = 127.0 / max;
            let mut q = [0; 32];
            if inverse.is_finite() {
                for (q, x) in q.iter_mut().zip(x) {
                    *q = (x * inverse).round_ties_even() as i32;
                }
            }
            Block { q, d: max / 127.0 }
        })
        .collect()
}

/// 16 bits: `Q = x · (32,512 / max|x|)`, cut into the nearest multiple of 256 and what is left, to nearest even and within
/// ±127; one block of the joined integers for every 32 values.
pub(crate) fn quantized_wide(x: &[f32]) -> Vec<Block> {
    x.chunks(32)
        .map(|x| {
            let max = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let factor = 32_512.0 / max;
            let mut q = [0; 32];
            if factor.is_finite() {
                for (q, x) in q.iter_mut().zip(x) {
                    let t = x * factor;
                    let upper = (t * (1.0 / 256.0)).round_ties_even();
                    let lower = upper.mul_add(-256.0, t).round_ties_even() as i32;
                    *q = 256 * upper as i32 + lower.clamp(-127, 127);
                }
            }
            Block { q, d: max / 32_512.0 }
        })
        .collect()
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
                let mut acc = 0.0;
                let per_block = form.len / 32;
                for (at, x) in blocks.iter().enumerate() {
                    acc = step(form, &row[at / per_block], at % per_block, x, acc);
                }
                acc
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

/// Adds 32 values, the `part`-th of the weight block `u`.
fn step(form: &Form, u: &Unpacked, part: usize, x: &Block, acc: f32) -> f32 {
    let (d, m) = (f16_to_f32(u.d), f16_to_f32(u.m));
    let group_len = form.group.min(32);
    let first_group = part * 32 / form.group;
    let mut dots = Vec::new();
    let mut sums = Vec::new();
    for (g, x) in x.q.chunks_exact(group_len).enumerate() {
        let q = &u.q[part * 32 + g * group_len..];
        dots.push(x.iter().zip(q).map(|(x, q)| x * form.integer(*q)).sum::<i32>());
        sums.push(x.iter().sum::<i32>());
    }
    let scale = |g: usize| i32::from(u.scales[first_group + g]);
    let min = |g: usize| i32::from(u.mins[first_group + g]);

    if group_len == 16 {
        // With 8-bit activations every value here is an integer below 2²⁴, and nothing rounds.
        let weighted = |f: &dyn Fn(usize) -> i32, of: &[i32]| {
            (of[0] as f32).mul_add(f(0) as f32, of[1] as f32 * f(1) as f32)
        };
        let acc = weighted(&scale, &dots).mul_add(d * x.d, acc);
        return match form.offset {
            Offset::None => acc,
            _ => (-weighted(&min, &sums)).mul_add(m * x.d, acc),
        };
    }
    let scaled = d * scale(0) as f32;
    let acc = (dots[0] as f32).mul_add(scaled * x.d, acc);
    let weight = x.d * sums[0] as f32;
    match form.offset {
        Offset::None => acc,
        Offset::AddM => m.mul_add(weight, acc),
        Offset::SubMinTimesM => (m * min(0) as f32).mul_add(-weight, acc),
    }
}
