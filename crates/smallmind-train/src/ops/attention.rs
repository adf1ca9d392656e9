//! Causal self-attention: softmax(Q Kᵀ / √d) V, head by head. The weights of a head are computed again in the backward
//! pass: they would be most of the memory, and are a small part of the work.

use smallmind_kernels::Kernels;
use smallmind_kernels::gemm::{Into, Mat, gemm, scratch_len};

use crate::compute::{Compute, ROWS};

/// Queries whose weights are in memory at once: few, for of the keys behind the first of them nothing is computed in
/// vain.
const QUERIES: usize = 64;

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
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
    /// Q, K and V of a head of one sequence: `[seq, head_dim]` each.
    fn head<'a>(&self, qkv: &'a [f32], batch: usize, head: usize) -> [Mat<'a>; 3] {
        let (d, width) = (self.head_dim, self.width());
        let kv = head / self.group();
        let rows = &qkv[batch * self.seq * width..][..self.seq * width];
        [head, self.heads + kv, self.heads + self.kv_heads + kv]
            .map(|column| Mat::strided(&rows[column * d..], self.seq, d, width))
    }
    fn scratch(&self) -> usize {
        let (q, s, d) = (QUERIES.min(self.seq), self.seq, self.head_dim);
        scratch_len(q, s, d).max(scratch_len(q, d, s)).max(scratch_len(s, d, q))
    }
}

/// What one head's computation works with.
struct Work<'a> {
    kernels: &'static Kernels,
    shape: Shape,
    /// `[QUERIES, seq]`.
    p: &'a mut [f32],
    dp: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl Work<'_> {
    /// p = softmax of the queries from `from` on, over the keys up to each: `[queries, keys]`.
    fn weights(&mut self, q: Mat<'_>, k: Mat<'_>, from: usize) {
        let keys = k.rows();
        gemm(self.kernels, None, q, k.t(), (&mut *self.p, keys), Into::Store, self.scratch);
        for (i, row) in self.p.chunks_exact_mut(keys).take(q.rows()).enumerate() {
            let (seen, unseen) = row.split_at_mut(from + i + 1);
            (self.kernels.softmax)(seen, self.shape.scale, &mut 0.0);
            unseen.fill(0.0);
        }
    }
}

/// Splits tasks over threads, each with memory of its own: `f(task, its part of out, work)`.
fn each_head(
    c: &mut Compute,
    shape: Shape,
    tasks: usize,
    out: &mut [f32],
    f: &(dyn Fn(usize, &mut [f32], &mut Work<'_>) + Sync),
) {
    let (per, plane, scratch) = (out.len() / tasks, QUERIES.min(shape.seq) * shape.seq, shape.scratch());
    let share = tasks.div_ceil(c.pool.threads());
    let room = 2 * plane + scratch;
    let mut memory = c.take(room * c.pool.threads());
    let kernels = c.kernels;
    c.pool.chunks2(out, per * share, &mut memory, room, &|i, out, memory| {
        let (p, rest) = memory.split_at_mut(plane);
        let (dp, scratch) = rest.split_at_mut(plane);
        let mut work = Work { kernels, shape, p, dp, scratch };
        for (j, out) in out.chunks_exact_mut(per).enumerate() {
            f(i * share + j, out, &mut work);
        }
    });
    c.give(memory);
}

/// Blocks of queries: first one, and how many.
fn blocks(seq: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..seq).step_by(QUERIES).map(move |from| (from, QUERIES.min(seq - from)))
}

/// `qkv` is `[batch · seq, width]`; the result `[batch · seq, heads · head_dim]`.
pub(crate) fn forward(c: &mut Compute, shape: Shape, qkv: &[f32]) -> Vec<f32> {
    let Shape { heads, head_dim: d, seq, .. } = shape;
    let batch = qkv.len() / (seq * shape.width());
    let mut by_head = c.take(batch * heads * seq * d);
    each_head(c, shape, batch * heads, &mut by_head, &|task, out, work| {
        let [q, k, v] = shape.head(qkv, task / heads, task % heads);
        for (from, n) in blocks(seq) {
            let keys = from + n;
            work.weights(q.rows_of(from..keys), k.rows_of(0..keys), from);
            let p = Mat::new(work.p, n, keys);
            gemm(
                work.kernels,
                None,
                p,
                v.rows_of(0..keys),
                (&mut out[from * d..], d),
                Into::Store,
                work.scratch,
            );
        }
    });
    let mut out = c.take(batch * seq * heads * d);
    c.pool.chunks(&mut out, heads * d * ROWS, &|i, out| {
        for (j, row) in out.chunks_exact_mut(heads * d).enumerate() {
            let (b, t) = ((i * ROWS + j) / seq, (i * ROWS + j) % seq);
            for (h, head) in row.chunks_exact_mut(d).enumerate() {
                head.copy_from_slice(&by_head[((b * heads + h) * seq + t) * d..][..d]);
            }
        }
    });
    c.give(by_head);
    out
}

/// The gradient of `qkv` from that of the result.
pub(crate) fn backward(c: &mut Compute, shape: Shape, qkv: &[f32], dy: &[f32]) -> Vec<f32> {
    let Shape { heads, kv_heads, head_dim: d, seq, scale } = shape;
    let (width, group) = (shape.width(), shape.group());
    let batch = qkv.len() / (seq * width);
    // For each key/value head: the gradients of its queries, then K's and V's, so that each has one writer.
    let per = (group + 2) * seq * d;
    let mut by_head = c.take(batch * kv_heads * per);
    each_head(c, shape, batch * kv_heads, &mut by_head, &|task, out, work| {
        let (b, kv) = (task / kv_heads, task % kv_heads);
        let (dq, dkv) = out.split_at_mut(group * seq * d);
        let (dk, dv) = dkv.split_at_mut(seq * d);
        dk.fill(0.0);
        dv.fill(0.0);
        for (g, dq) in dq.chunks_exact_mut(seq * d).enumerate() {
            let head = kv * group + g;
            let [q, k, v] = shape.head(qkv, b, head);
            let dy = Mat::strided(&dy[b * seq * heads * d + head * d..], seq, d, heads * d);
            for (from, n) in blocks(seq) {
                let keys = from + n;
                let (q, dy) = (q.rows_of(from..keys), dy.rows_of(from..keys));
                let (k, v) = (k.rows_of(0..keys), v.rows_of(0..keys));
                work.weights(q, k, from);
                gemm(work.kernels, None, dy, v.t(), (&mut *work.dp, keys), Into::Store, work.scratch);
                let p = Mat::new(work.p, n, keys);
                gemm(work.kernels, None, p.t(), dy, (&mut *dv, d), Into::Add, work.scratch);
                for (i, (p, dp)) in
                    work.p.chunks_exact(keys).zip(work.dp.chunks_exact_mut(keys)).take(n).enumerate()
                {
                    let seen = from + i + 1;
                    (work.kernels.softmax_back)(&p[..seen], &mut dp[..seen], scale);
                    dp[seen..].fill(0.0);
                }
                let ds = Mat::new(work.dp, n, keys);
                gemm(work.kernels, None, ds, k, (&mut dq[from * d..], d), Into::Store, work.scratch);
                gemm(work.kernels, None, ds.t(), q, (&mut *dk, d), Into::Add, work.scratch);
            }
        }
    });
    let mut dx = c.take(qkv.len());
    c.pool.chunks(&mut dx, width * ROWS, &|i, dx| {
        for (j, row) in dx.chunks_exact_mut(width).enumerate() {
            let (b, t) = ((i * ROWS + j) / seq, (i * ROWS + j) % seq);
            for (column, head) in row.chunks_exact_mut(d).enumerate() {
                let (kv, place) = match column {
                    h if h < heads => (h / group, h % group),
                    h if h < heads + kv_heads => (h - heads, group),
                    h => (h - heads - kv_heads, group + 1),
                };
                head.copy_from_slice(&by_head[(b * kv_heads + kv) * per + (place * seq + t) * d..][..d]);
            }
        }
    });
    c.give(by_head);
    dx
}
