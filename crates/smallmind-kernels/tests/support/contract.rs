//! The contract of the sums (docs/determinism.md), written again from the file's bytes: slow, one value at a time, and
//! with nothing of the kernels but the reference unpacking of blocks.

use smallmind_kernels::DType;
use smallmind_kernels::half::f16_to_f32;
use smallmind_kernels::quant::{self, Form, Offset, Unpacked};

/// 32 activations: `x ≈ d · q`; `d` is that of the whole token.
pub(crate) struct Block {
    pub(crate) q: [i32; 32],
    pub(crate) d: f32,
}

/// `d = max|x| / 16,256`; `Q = x · (16,256 / max|x|)` to nearest even; nothing but zeros where 16,256 / max|x| is no
/// number. A block for every 32 values.
pub(crate) fn quantized(x: &[f32]) -> Vec<Block> {
    let max = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let factor = 16_256.0 / max;
    let block = |x: &[f32]| {
        let mut q = [0; 32];
        if factor.is_finite() {
            for (q, x) in q.iter_mut().zip(x) {
                *q = (x * factor).round_ties_even() as i32;
            }
        }
        Block { q, d: max / 16_256.0 }
    };
    x.chunks(32).map(block).collect()
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

    /// The product with one token, with the roundings of the contract; `blocks` has one block for every 32 values.
    pub(crate) fn dot(&self, x: &[f32], blocks: &[Block]) -> f32 {
        match self {
            Row::Floats(w) => w.iter().zip(x).fold(0.0, |acc, (w, x)| w.mul_add(*x, acc)),
            Row::Blocks(form, row) => {
                let Some(bound) = bound(form, row) else { return f32::NAN };
                let factor = LARGEST / bound;
                let integer = |x: f32| i64::from((x * factor).round_ties_even() as i32);
                let mut sum = 0;
                for (k, q) in blocks.iter().flat_map(|b| b.q).enumerate() {
                    let (u, i) = (&row[k / form.len], k % form.len);
                    let (s, m) = scales(form, u, i / form.group);
                    let w = integer(s) * i64::from(form.integer(u.q[i])) + integer(m);
                    sum += w * i64::from(q);
                }
                (sum as f64 * f64::from(bound) * (f64::from(blocks[0].d) / f64::from(LARGEST))) as f32
            }
        }
    }

    /// The product with one token in the fast class of 8 bits, with its roundings.
    pub(crate) fn fast_dot(&self, x: &[f32]) -> f32 {
        let Row::Blocks(form, row) = self else { return self.dot(x, &[]) };
        let mut sum = 0.0_f32;
        for (b, x) in x.chunks(32).enumerate() {
            let max = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let factor = if (127.0 / max).is_finite() { 127.0 / max } else { 0.0 };
            let d = max / 127.0;
            let q: Vec<i32> = x.iter().map(|x| (x * factor).round_ties_even() as i32).collect();
            let groups: Vec<_> = q.chunks(form.group.min(32)).enumerate().collect();
            let of = |i: usize| {
                let at = 32 * b + form.group.min(32) * i;
                let (u, first) = (&row[at / form.len], at % form.len);
                (u, first, scales(form, u, first / form.group))
            };
            for (i, q) in &groups {
                let (u, first, (s, _)) = of(*i);
                let stored = |j: usize| form.integer(u.q[first + j]) + i32::from(form.zero);
                let dot: i32 = q.iter().enumerate().map(|(j, q)| stored(j) * q).sum();
                sum = (dot as f32).mul_add(s * d, sum);
            }
            for (i, q) in groups.iter().filter(|_| !form.signed) {
                let (_, _, (s, m)) = of(*i);
                let m = s.mul_add(-f32::from(form.zero), m);
                sum = m.mul_add(d * q.iter().sum::<i32>() as f32, sum);
            }
        }
        sum
    }

    /// By how much an integer scale may make a weight wrong.
    pub(crate) fn rounding(&self) -> f64 {
        match self {
            Row::Floats(_) => 0.0,
            Row::Blocks(form, row) => {
                let quants = f64::from(1 << form.bits);
                f64::from(bound(form, row).unwrap_or(0.0)) / f64::from(LARGEST) * (0.5 * quants + 1.0)
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

/// The integer that the bound of a row stands for.
const LARGEST: f32 = 32_640.0;

/// `w = s · q + m` of sub-block `g`.
fn scales(form: &Form, u: &Unpacked, g: usize) -> (f32, f32) {
    let (d, m) = (f16_to_f32(u.d), f16_to_f32(u.m));
    let s = d * f32::from(u.scales[g]);
    match form.offset {
        Offset::None => (s, 0.0),
        Offset::AddM => (s, m),
        Offset::SubMinTimesM => (s, 0.0 - m * f32::from(u.mins[g])),
    }
}

/// The largest weight that a row's scales allow, of any quants; 1 where all are zero, none where one is no number.
fn bound(form: &Form, row: &[Unpacked]) -> Option<f32> {
    let (least, most) = if form.signed {
        (-128, 127)
    } else {
        (-i32::from(form.zero), (1 << form.bits) - 1 - i32::from(form.zero))
    };
    let mut bound = 0.0_f32;
    for (u, g) in row.iter().flat_map(|u| (0..form.groups()).map(move |g| (u, g))) {
        let (s, m) = scales(form, u, g);
        for q in [least, most] {
            let size = (s * q as f32 + m).abs();
            if !size.is_finite() {
                return None;
            }
            bound = bound.max(size);
        }
    }
    Some(if bound > 0.0 { bound } else { 1.0 })
}
