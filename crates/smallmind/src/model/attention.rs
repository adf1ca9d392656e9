//! The part of a layer between the QKV product and the output product: head norms, RoPE, the KV cache, attention.
//!
//! Work is split by sequence, rows, key/value head and, in decode, page. A page's part of the softmax is always computed
//! by itself and the parts are merged in ascending order, so no split changes a bit.

use std::ops::Range;

use smallmind_kernels::attention::{PAGE, PageMut, PageTask, Partial, Queries, padded};

use super::config::{Config, MAX_GROUP};
use super::pass::{Pass, Span};
use super::plan::Layer;
use super::scratch::{AttnItem, MAX_TASK_QUERIES, Row, Scratch, block_len, page_part_len, rows_per_task};

/// Norms, turns and scales the queries in place; norms and turns the keys and puts keys and values into the caches.
pub(super) fn turn(pass: Pass<'_>, layer: &Layer, index: usize, s: &mut Scratch, spans: &mut [Span<'_>]) {
    let (config, kernels, pool) = (pass.config, pass.kernels, pass.pool);
    let (dim, half) = (config.head_dim, config.rope.dim / 2);
    let n = s.rows.len();
    let angles = layer.rope.map(|t| (&s.cos[t], &s.sin[t]));
    let head = |row: usize, x: &mut [f32], norm: Option<&[f32]>| {
        if let Some(weight) = norm {
            let mut copy = [0.0; super::config::MAX_HEAD_DIM];
            copy[..dim].copy_from_slice(x);
            (kernels.rms_norm)(&copy[..dim], weight, config.norm_eps, x);
        }
        if let Some((cos, sin)) = angles {
            let at = row * half..(row + 1) * half;
            (kernels.rope)(x, &cos[at.clone()], &sin[at]);
        }
    };
    pool.chunks(&mut s.q[..n * config.q_dim()], config.q_dim(), &|row, q| {
        for x in q.chunks_exact_mut(dim) {
            head(row, x, layer.q_norm.as_deref());
        }
        (kernels.scale)(q, config.attention_scale);
    });
    let (rows, keys, values, kv_dim) = (&s.rows, &s.k, &s.v, config.kv_dim());
    let write = |row: usize, h: usize, page: PageMut<'_>| {
        let mut k = [0.0; super::config::MAX_HEAD_DIM];
        let at = row * kv_dim + h * dim..row * kv_dim + (h + 1) * dim;
        k[..dim].copy_from_slice(&keys[at.clone()]);
        head(row, &mut k[..dim], layer.k_norm.as_deref());
        (kernels.write_kv)(page, rows[row].position % PAGE, &k[..dim], &values[at]);
    };
    if n == spans.len() {
        // Decode: a row is a sequence.
        return pool.chunks(spans, 1, &|row, span| {
            for span in span {
                let (precision, bytes) = (span.kv.precision(), span.kv.page_bytes());
                let heads = span.kv.heads_mut(index, rows[row].position / PAGE);
                for (h, page) in heads.chunks_exact_mut(bytes).enumerate() {
                    write(row, h, precision.page_mut(page, dim));
                }
            }
        });
    }
    let mut first = 0;
    for span in spans.iter_mut() {
        let end = first + span.tokens.len();
        let (precision, bytes) = (span.kv.precision(), span.kv.page_bytes());
        while first < end {
            // The rows that lie in one page.
            let position = rows[first].position;
            let of_page = first..end.min(first + PAGE - position % PAGE);
            pool.chunks(span.kv.heads_mut(index, position / PAGE), bytes, &|h, page| {
                for row in of_page.clone() {
                    write(row, h, precision.page_mut(page, dim));
                }
            });
            first = of_page.end;
        }
    }
}

/// The positions that a row sees.
fn seen(layer: &Layer, position: usize) -> Range<usize> {
    layer.window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1
}

/// What a row sees of one page, within it.
fn seen_of_page(layer: &Layer, position: usize, page: usize) -> Range<usize> {
    let all = seen(layer, position);
    let start = page * PAGE;
    let clip = |p: usize| p.clamp(start, start + PAGE) - start;
    clip(all.start)..clip(all.end)
}

/// Where the attention of the rows of a pass is.
#[derive(Clone, Copy)]
pub(super) enum Attended {
    /// In `Scratch::attn`.
    Rows,
    /// In the tasks' work areas of so many floats, a key/value head's after the other.
    Tasks(usize),
}

impl Attended {
    /// Brings a row to its place in `Scratch::attn`.
    pub(super) fn bring(
        self,
        config: &Config,
        items: &[AttnItem],
        tasks: &[f32],
        row: usize,
        attn: &mut [f32],
    ) {
        let Attended::Tasks(len) = self else { return };
        let (dim, width, group) = (config.head_dim, padded(config.head_dim), config.group());
        // Items are in the order of their rows.
        let item = items.partition_point(|i| i.first_row <= row) - 1;
        let within = (row - items[item].first_row) * group;
        for (head, out) in attn.chunks_exact_mut(dim).enumerate() {
            let area = &tasks[(item * config.kv_heads + head / group) * len..];
            let at = (within + head % group) * width;
            out.copy_from_slice(&area[at..at + dim]);
        }
    }
}

/// softmax(q · Kᵀ) · V, for all rows.
pub(super) fn attend(
    pass: Pass<'_>,
    layer: &Layer,
    index: usize,
    s: &mut Scratch,
    spans: &[Span<'_>],
) -> Attended {
    if spans.iter().all(|span| span.tokens.len() == 1) && spans.len() <= 64 {
        by_page(pass, layer, index, s, spans);
        Attended::Rows
    } else {
        Attended::Tasks(by_rows(pass, layer, index, s, spans))
    }
}

/// Decode: one task a sequence, page and head (or group of heads), then the merge.
fn by_page(pass: Pass<'_>, layer: &Layer, index: usize, s: &mut Scratch, spans: &[Span<'_>]) {
    let (config, kernels, pool) = (pass.config, pass.kernels, pass.pool);
    let (dim, width, group) = (config.head_dim, padded(config.head_dim), config.group());
    s.items.clear();
    for (row, Row { position, .. }) in s.rows.iter().enumerate() {
        let all = seen(layer, *position);
        let (from, to) = (all.start / PAGE, all.end.div_ceil(PAGE));
        s.items.extend((from..to).map(|page| AttnItem {
            first_row: row,
            rows: 1,
            first_page: page,
            pages: 1,
        }));
    }
    // Groups of heads share each load of K and V; where that leaves threads idle, heads go alone.
    let heads =
        if s.items.len() * config.kv_heads >= 4 * pool.threads() || pool.threads() == 1 { group } else { 1 };
    let parts = config.heads / heads;
    let len = page_part_len(config, heads);
    let (items, rows, q) = (&s.items, &s.rows, &s.q);
    pool.chunks(&mut s.tasks[..items.len() * parts * len], len, &|task, area| {
        let (item, part) = (items[task / parts], task % parts);
        let first_head = part * heads;
        let Row { span, position } = rows[item.first_row];
        let what = seen_of_page(layer, position, item.first_page);
        let mut state = [Partial::EMPTY; MAX_GROUP];
        let ranges: [Range<usize>; MAX_GROUP] = std::array::from_fn(|_| what.clone());
        let at = item.first_row * config.q_dim() + first_head * dim;
        let (out, states) = area.split_at_mut(heads * width);
        (kernels.attend_page)(&mut PageTask {
            page: spans[span].kv.page(index, first_head / group, item.first_page),
            q: Queries { rows: &q[at..at + heads * dim], group: heads, stride: config.q_dim() },
            head_dim: dim,
            seen: &ranges[..heads],
            state: &mut state[..heads],
            out,
        });
        for (stored, state) in states.chunks_exact_mut(2).zip(state) {
            (stored[0], stored[1]) = (state.max, state.sum);
        }
    });
    let tasks = &s.tasks;
    pool.chunks(&mut s.attn[..rows.len() * config.q_dim()], config.q_dim(), &|row, attn| {
        // Items are in row order, a row's in the order of its pages.
        let of_row =
            items.partition_point(|i| i.first_row < row)..items.partition_point(|i| i.first_row <= row);
        for (head, out) in attn.chunks_exact_mut(dim).enumerate() {
            let (part, within) = (head / heads, head % heads);
            let mut state = Partial::EMPTY;
            for item in of_row.clone() {
                let area = &tasks[(item * parts + part) * len..][..len];
                let (values, states) = area.split_at(heads * width);
                let page = Partial { max: states[2 * within], sum: states[2 * within + 1] };
                (kernels.merge_partial)(&mut state, out, page, &values[within * width..][..dim]);
            }
            (kernels.finish_attention)(state, out);
        }
    });
}

/// Prefill: one task a block of rows and key/value head, page after page. Returns the floats of a task's work area.
fn by_rows(pass: Pass<'_>, layer: &Layer, index: usize, s: &mut Scratch, spans: &[Span<'_>]) -> usize {
    let (config, kernels, pool) = (pass.config, pass.kernels, pass.pool);
    let (dim, width, group) = (config.head_dim, padded(config.head_dim), config.group());
    let per_task = rows_per_task(config, s.rows.len(), pool.threads());
    s.items.clear();
    let mut first = 0;
    for span in spans {
        let end = first + span.tokens.len();
        while first < end {
            let rows = per_task.min(end - first);
            let from = seen(layer, s.rows[first].position).start / PAGE;
            let to = seen(layer, s.rows[first + rows - 1].position).end.div_ceil(PAGE);
            s.items.push(AttnItem { first_row: first, rows, first_page: from, pages: to - from });
            first += rows;
        }
    }
    let len = block_len(config, per_task * group);
    let total = s.items.len() * config.kv_heads * len;
    super::scratch::grow(&mut s.tasks, total);
    let (items, rows, q) = (&s.items, &s.rows, &s.q);
    pool.chunks(&mut s.tasks[..total], len, &|task, area| {
        let (item, kv_head) = (items[task / config.kv_heads], task % config.kv_heads);
        let queries = item.rows * group;
        let (result, part) = area.split_at_mut(per_task * group * width);
        let stride = config.q_dim();
        let own_q = Queries { rows: &q[item.first_row * stride + kv_head * group * dim..], group, stride };
        let kv = &spans[rows[item.first_row].span].kv;
        let mut states = [Partial::EMPTY; MAX_TASK_QUERIES];
        let mut part_states = [Partial::EMPTY; MAX_TASK_QUERIES];
        for page in item.first_page..item.first_page + item.pages {
            let ranges: [Range<usize>; MAX_TASK_QUERIES] = std::array::from_fn(|i| {
                if i < queries {
                    seen_of_page(layer, rows[item.first_row + i / group].position, page)
                } else {
                    0..0
                }
            });
            let first = page == item.first_page;
            let (state, out) =
                if first { (&mut states, &mut *result) } else { (&mut part_states, &mut *part) };
            (kernels.attend_page)(&mut PageTask {
                page: kv.page(index, kv_head, page),
                q: own_q,
                head_dim: dim,
                seen: &ranges[..queries],
                state: &mut state[..queries],
                out: &mut out[..queries * width],
            });
            if first {
                continue;
            }
            for i in 0..queries {
                let at = i * width..(i + 1) * width;
                (kernels.merge_partial)(&mut states[i], &mut result[at.clone()], part_states[i], &part[at]);
            }
        }
        for (state, out) in states[..queries].iter().zip(result.chunks_exact_mut(width)) {
            (kernels.finish_attention)(*state, out);
        }
    });
    len
}
