//! Causal self-attention: softmax(Q Kᵀ / √d) V, head by head. The weights of a head are computed again in the backward
//! pass: they would be most of the memory, and are a small part of the work.
//!
//! A task has all heads of a sequence, or, where sequences are fewer than tasks should be, a part of its heads. It begins
//! with a copy of their rows, which is read as the rows lie: head by head, each line of memory would be waited for.

use smallmind_kernels::Kernels;
use smallmind_kernels::gemm::packed::{PackedMat, gemm, packed_len, scratch_len};
use smallmind_kernels::gemm::{Into, Mat, Triangle};

use crate::compute::{Compute, ROWS};

/// Queries whose weights are in memory at once: a multiple of the rows of every tile.
const QUERIES: usize = 48;
/// Tasks a thread, where there are as many.
const TASKS: usize = 2;

/// Numbers of an attention operation. Rows of its input are `[Q heads | K heads | V heads]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) seq: usize,
    pub(crate) scale: f32,
}

impl Shape {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
    /// Columns of Q, K and V.
    fn columns(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }
    /// Columns of the result.
    fn out(&self) -> usize {
        self.heads * self.head_dim
    }
    /// How many tasks share the heads of a sequence.
    fn parts(&self, batch: usize, threads: usize) -> usize {
        let divisors = (1..=self.kv_heads).filter(|parts| self.kv_heads.is_multiple_of(*parts));
        divisors.into_iter().find(|parts| batch * parts >= TASKS * threads).unwrap_or(self.kv_heads)
    }
    /// The heads of one of so many parts.
    fn part(&self, parts: usize) -> Shape {
        Shape { heads: self.heads / parts, kv_heads: self.kv_heads / parts, ..*self }
    }
}

/// The distance of rows of `n` values: whole vectors, an odd number of them, so that rows do not fall on each other in
/// the first-level cache.
fn stride(n: usize) -> usize {
    (n.div_ceil(16) | 1) * 16
}

/// Where a part's columns of each kind are, of which it has `widths`: within the rows of all, within its own, how many.
fn pieces(widths: &[usize], parts: usize, part: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    widths.iter().scan(0, move |own, &n| {
        let at = *own;
        *own += n;
        Some((at * parts + part * n, at, n))
    })
}

/// Memory of a thread.
struct Work<'a> {
    kernels: &'static Kernels,
    /// A part's rows.
    qkv: &'a mut [f32],
    dy: &'a mut [f32],
    /// `[QUERIES, seq]`: weights, and their gradient.
    p: &'a mut [f32],
    dp: &'a mut [f32],
    /// What is packed of a head: K and V transposed, and three matrices as they are.
    packed: [&'a mut [f32]; 5],
    scratch: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn lens(part: Shape) -> [usize; 10] {
        let Shape { head_dim: d, seq, .. } = part;
        let plane = QUERIES.min(seq) * stride(seq);
        let (across, along) = (packed_len(d, seq), packed_len(seq, d));
        let rows = [seq * stride(part.width()), seq * stride(part.out())];
        [rows[0], rows[1], plane, plane, across, across, along, along, along, scratch_len(QUERIES)]
    }

    fn new(kernels: &'static Kernels, part: Shape, mut memory: &'a mut [f32]) -> Work<'a> {
        let [qkv, dy, p, dp, kt, vt, a, b, c, scratch] = Work::lens(part).map(|len| {
            let (this, rest) = std::mem::take(&mut memory).split_at_mut(len);
            memory = rest;
            this
        });
        // What lies behind the last key is never written, and has to be numbers.
        p.fill(0.0);
        dp.fill(0.0);
        Work { kernels, qkv, dy, p, dp, packed: [kt, vt, a, b, c], scratch }
    }
}

/// Copies a part's columns of the rows of one sequence.
fn copy_rows(
    rows: &[f32],
    widths: &[usize],
    (parts, part): (usize, usize),
    (out, stride): (&mut [f32], usize),
) {
    let width = parts * widths.iter().sum::<usize>();
    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(stride)) {
        for (from, to, n) in pieces(widths, parts, part) {
            out[to..to + n].copy_from_slice(&row[from..from + n]);
        }
    }
}

/// Splits tasks over threads, each with memory of its own, and puts their results, of whose rows each has `widths`, side
/// by side: `f(sequence, part, its rows, work)`.
fn each_part(
    c: &mut Compute,
    shape: Shape,
    (batch, parts): (usize, usize),
    widths: &[usize],
    f: &(dyn Fn(usize, usize, &mut [f32], &mut Work<'_>) + Sync),
) -> Vec<f32> {
    let (seq, own) = (shape.seq, widths.iter().sum::<usize>());
    let part = shape.part(parts);
    let room = Work::lens(part).iter().sum();
    let per = seq * own;
    let share = (batch * parts).div_ceil(c.pool.threads());
    let (mut out, mut memory) = (c.take(batch * parts * per), c.take(room * c.pool.threads()));
    let kernels = c.kernels;
    c.pool.chunks2(&mut out, per * share, &mut memory, room, &|i, out, memory| {
        let mut work = Work::new(kernels, part, memory);
        for (j, out) in out.chunks_exact_mut(per).enumerate() {
            let task = i * share + j;
            f(task / parts, task % parts, out, &mut work);
        }
    });
    c.give(memory);
    if parts == 1 {
        return out;
    }
    let by_part = out;
    let mut out = c.take(by_part.len());
    c.pool.chunks(&mut out, parts * own * ROWS, &|i, out| {
        for (j, row) in out.chunks_exact_mut(parts * own).enumerate() {
            let (b, t) = ((i * ROWS + j) / seq, (i * ROWS + j) % seq);
            for part in 0..parts {
                let from_row = &by_part[((b * parts + part) * seq + t) * own..][..own];
                for (to, from, n) in pieces(widths, parts, part) {
                    row[to..to + n].copy_from_slice(&from_row[from..from + n]);
                }
            }
        }
    });
    c.give(by_part);
    out
}

/// Blocks of queries: first one, and how many.
fn blocks(seq: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..seq).step_by(QUERIES).map(move |from| (from, QUERIES.min(seq - from)))
}

/// p = softmax of the queries from `from` on, over the keys up to each.
fn weights(
    kernels: &Kernels,
    shape: Shape,
    q: Mat<'_>,
    kt: PackedMat<'_>,
    from: usize,
    p: &mut [f32],
    scratch: &mut [f32],
) {
    let (n, stride) = (q.rows(), stride(shape.seq));
    let causal = Triangle::Sums(from);
    gemm(kernels, q, kt.first_cols(from + n), (&mut *p, stride), Into::Store, causal, scratch);
    (kernels.causal_softmax)(&mut p[..n * stride], stride, from, shape.scale);
}

/// `qkv` is `[batch · seq, width]`; the result `[batch · seq, heads · head_dim]`.
pub(crate) fn forward(c: &mut Compute, shape: Shape, qkv: &[f32]) -> Vec<f32> {
    let (seq, d) = (shape.seq, shape.head_dim);
    let batch = qkv.len() / (seq * shape.width());
    let parts = shape.parts(batch, c.pool.threads());
    let part = shape.part(parts);
    let (width, group) = (stride(part.width()), part.heads / part.kv_heads);
    each_part(c, shape, (batch, parts), &[part.out()], &|b, i, out, work| {
        let Work { kernels, qkv: rows, p, packed: [kt, _, of_v, ..], scratch, .. } = work;
        let qkv = &qkv[b * seq * shape.width()..][..seq * shape.width()];
        copy_rows(qkv, &part.columns(), (parts, i), (rows, width));
        for kv in 0..part.kv_heads {
            let head = |h: usize| Mat::strided(&rows[h * d..], seq, d, width);
            let kt = PackedMat::new(kernels, head(part.heads + kv).t(), kt);
            let v = PackedMat::new(kernels, head(part.heads + part.kv_heads + kv), of_v);
            for h in kv * group..(kv + 1) * group {
                for (from, n) in blocks(seq) {
                    let keys = from + n;
                    weights(kernels, part, head(h).rows_of(from..keys), kt, from, p, scratch);
                    let p = Mat::strided(p, n, keys, stride(seq));
                    let to = (&mut out[from * part.out() + h * d..], part.out());
                    gemm(kernels, p, v.rows_of(0..keys), to, Into::Store, Triangle::Lower(from), scratch);
                }
            }
        }
    })
}

/// The gradient of `qkv` from that of the result.
pub(crate) fn backward(c: &mut Compute, shape: Shape, qkv: &[f32], dy: &[f32]) -> Vec<f32> {
    let (seq, d) = (shape.seq, shape.head_dim);
    let batch = qkv.len() / (seq * shape.width());
    let parts = shape.parts(batch, c.pool.threads());
    let part = shape.part(parts);
    let (width, dy_width, group) = (stride(part.width()), stride(part.out()), part.heads / part.kv_heads);
    each_part(c, shape, (batch, parts), &part.columns(), &|b, i, out, work| {
        let Work { kernels, qkv: rows, dy: dy_rows, p, dp, packed: [kt, vt, of_k, of_q, of_dy], scratch } =
            work;
        let of_b = |width: usize| b * seq * width..(b + 1) * seq * width;
        copy_rows(&qkv[of_b(shape.width())], &part.columns(), (parts, i), (rows, width));
        copy_rows(&dy[of_b(shape.out())], &[part.out()], (parts, i), (dy_rows, dy_width));
        let own = part.width();
        // The gradients of K and V are sums over queries.
        out.chunks_exact_mut(own).for_each(|row| row[part.out()..].fill(0.0));
        for kv in 0..part.kv_heads {
            let head = |h: usize| Mat::strided(&rows[h * d..], seq, d, width);
            let (of_this, of_v) = (part.heads + kv, part.heads + part.kv_heads + kv);
            let kt = PackedMat::new(kernels, head(of_this).t(), kt);
            let vt = PackedMat::new(kernels, head(of_v).t(), vt);
            let k = PackedMat::new(kernels, head(of_this), of_k);
            for h in kv * group..(kv + 1) * group {
                let dy = Mat::strided(&dy_rows[h * d..], seq, d, dy_width);
                let q_packed = PackedMat::new(kernels, head(h), of_q);
                let dy_packed = PackedMat::new(kernels, dy, of_dy);
                for (from, n) in blocks(seq) {
                    let keys = from + n;
                    let queries = from..keys;
                    let s = stride(seq);
                    weights(kernels, part, head(h).rows_of(queries.clone()), kt, from, p, scratch);
                    let (sums, lower, upper) =
                        (Triangle::Sums(from), Triangle::Lower(from), Triangle::Upper(from));
                    let to = (&mut **dp, s);
                    gemm(
                        kernels,
                        dy.rows_of(queries.clone()),
                        vt.first_cols(keys),
                        to,
                        Into::Store,
                        sums,
                        scratch,
                    );
                    let weights = Mat::strided(p, n, keys, s).t();
                    let to = (&mut out[of_v * d..], own);
                    gemm(kernels, weights, dy_packed.rows_of(queries.clone()), to, Into::Add, upper, scratch);
                    (kernels.causal_softmax_back)(&p[..n * s], &mut dp[..n * s], s, from, part.scale);
                    let ds = Mat::strided(dp, n, keys, s);
                    let to = (&mut out[from * own + h * d..], own);
                    gemm(kernels, ds, k.rows_of(0..keys), to, Into::Store, lower, scratch);
                    let to = (&mut out[of_this * d..], own);
                    gemm(kernels, ds.t(), q_packed.rows_of(queries), to, Into::Add, upper, scratch);
                }
            }
        }
    })
}
