//! All working memory of a forward pass, planned when a session begins and reused for every token.

use smallmind_kernels::attention::{PAGE, padded};
use smallmind_kernels::matmul::gated_room;

use super::activations::ActBuffer;
use super::config::{Config, MAX_GROUP};
use super::plan::Plan;

/// Query vectors that one attention task handles: matrix units need a page in another form, which is made once for all of
/// them. The fewer where the more would leave too few tasks for the threads. Multiples of 16, which matrix units compute at
/// once, and of AVX-512's 6.
const TASK_QUERIES: [usize; 2] = [96, 48];

/// Query vectors of a task at most: those of one row are never parted.
pub(crate) const MAX_TASK_QUERIES: usize =
    if MAX_GROUP > TASK_QUERIES[0] { MAX_GROUP } else { TASK_QUERIES[0] };

/// Tasks for each thread from which on they are large: the longest, which are the last, then wait for nobody long.
const TASKS_PER_THREAD: usize = 8;

/// The buffers. Rows are the tokens of one pass, at most as many as it was made for.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// The residual stream, `[rows, hidden]`.
    pub(crate) x: Vec<f32>,
    /// Normed rows, and the outputs that a post-norm takes, `[rows, hidden]`.
    pub(crate) h: Vec<f32>,
    pub(crate) h2: Vec<f32>,
    /// `[rows, q_dim]`.
    pub(crate) q: Vec<f32>,
    /// `[rows, kv_dim]`.
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    /// Attention's output, `[rows, q_dim]`.
    pub(crate) attn: Vec<f32>,
    /// `[rows, ffn]`.
    pub(crate) gate: Vec<f32>,
    /// What threads compute of it on the way.
    pub(crate) up: Vec<f32>,
    /// Quantized inputs of the product at hand.
    pub(crate) acts: ActBuffer,
    /// Those of the MLP's last product, where they are made beside the inputs of its first ones.
    pub(crate) gated: ActBuffer,
    /// Position and sequence of every row.
    pub(crate) rows: Vec<Row>,
    /// `[ropes][rows, rope_dim / 2]`.
    pub(crate) cos: Vec<Vec<f32>>,
    pub(crate) sin: Vec<Vec<f32>>,
    /// Work areas of attention tasks.
    pub(crate) tasks: Vec<f32>,
    /// What the attention tasks of this pass are.
    pub(crate) items: Vec<AttnItem>,
    /// `[rows that asked, vocab]`.
    pub(crate) logits: Vec<f32>,
}

/// One token of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) span: usize,
    pub(crate) position: usize,
}

/// Some rows of one sequence that attend together, to some pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttnItem {
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) first_page: usize,
    pub(crate) pages: usize,
}

impl Scratch {
    /// Buffers for passes of at most `max_rows` rows by so many threads. Memory that is never touched is never resident.
    pub(crate) fn new(config: &Config, plan: &Plan, max_rows: usize, threads: usize) -> Scratch {
        let floats = |n: usize| vec![0.0f32; n];
        let widest = config.hidden.max(config.q_dim()).max(config.ffn);
        let half = config.rope.dim / 2;
        let tables = plan.ropes.len();
        Scratch {
            x: floats(max_rows * config.hidden),
            h: floats(max_rows * config.hidden),
            h2: floats(max_rows * config.hidden),
            q: floats(max_rows * config.q_dim()),
            k: floats(max_rows * config.kv_dim()),
            v: floats(max_rows * config.kv_dim()),
            attn: floats(max_rows * config.q_dim()),
            gate: floats(max_rows * config.ffn),
            up: floats(gated_room(max_rows, config.ffn, threads)),
            acts: ActBuffer::new(max_rows, widest),
            gated: ActBuffer::new(max_rows, config.ffn),
            rows: Vec::with_capacity(max_rows),
            cos: (0..tables).map(|_| floats(max_rows * half)).collect(),
            sin: (0..tables).map(|_| floats(max_rows * half)).collect(),
            tasks: Vec::new(),
            items: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> usize {
        let floats =
            [&self.x, &self.h, &self.h2, &self.q, &self.k, &self.v, &self.attn, &self.gate, &self.up];
        let more = [&self.tasks, &self.logits];
        let tables = self.cos.iter().chain(&self.sin);
        let all = floats.into_iter().chain(more).chain(tables).map(|b| size_of_val(&**b)).sum::<usize>();
        all + self.acts.bytes() + self.gated.bytes() + self.rows.capacity() * size_of::<Row>()
    }

    /// Makes room for a pass of `rows` rows over `positions` positions with `logit_rows` rows of logits, so that the
    /// pass itself allocates nothing.
    pub(crate) fn reserve(&mut self, config: &Config, rows: usize, positions: usize, logit_rows: usize) {
        let pages = positions.div_ceil(PAGE) + 1;
        let [most, fewest] = TASK_QUERIES.map(|queries| rows_of(queries, config.group()));
        let whole = rows.div_ceil(fewest) + rows.min(64);
        let items = whole.max(rows.min(64) * pages);
        self.items.reserve(items.saturating_sub(self.items.len()));
        let by_block = [most, fewest]
            .map(|n| rows.div_ceil(n) * config.kv_heads * block_len(config, n * config.group()))
            .into_iter()
            .fold(0, usize::max);
        let by_page = rows.min(64) * pages * config.heads * page_part_len(config, 1);
        grow(&mut self.tasks, by_block.max(by_page));
        grow(&mut self.logits, logit_rows * config.vocab);
    }
}

/// Grows a buffer to at least `len`.
pub(crate) fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        // A fresh zeroed allocation costs nothing until it is touched; growing in place would touch it all.
        *buffer = vec![0.0; len];
    }
}

/// Rows of one sequence that one attention task handles in a prefill of `rows` rows.
pub(crate) fn rows_per_task(config: &Config, rows: usize, threads: usize) -> usize {
    let [most, fewest] = TASK_QUERIES.map(|queries| rows_of(queries, config.group()));
    if rows / most * config.kv_heads >= TASKS_PER_THREAD * threads { most } else { fewest }
}

/// Rows of so many query vectors.
fn rows_of(queries: usize, group: usize) -> usize {
    (queries / group).max(1)
}

/// Floats of the work area of a prefill task of `queries` query vectors: result, and one page's part.
pub(crate) fn block_len(config: &Config, queries: usize) -> usize {
    queries * 2 * padded(config.head_dim)
}

/// Floats of the work area of a decode task of `heads` query heads: one page's part, with its maximum and sum.
pub(crate) fn page_part_len(config: &Config, heads: usize) -> usize {
    heads * (padded(config.head_dim) + 2)
}
