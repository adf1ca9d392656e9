//! Attention over pages of integers: queries and the weights of positions become integers as well, so that every sum is
//! exact, whoever adds it up in whatever order: one query by vectors, or 16 of them by matrix units (`tile_attention`).
//!
//! A sum fits 32 bits: no integer of a key or a value is larger than [`LARGEST`], and the magnitudes of those that multiply
//! them add up to no more than 2³¹ / `LARGEST`, for which their unit is chosen.

use std::ops::Range;

use super::attention::{PageTask, Partial, seen_by, softmax};
use super::pages::{PAGE, PREFETCH_BYTES, Scores, padded};
use crate::isa::stream::Stream;
use crate::isa::{Isa, LANES};

/// The largest integer that a key or a value becomes.
const LARGEST: f32 = 8_191.0;
/// What the magnitudes of the integers of a query, or of a query's weights, add up to at most, before they are rounded:
/// 2¹⁸, with room for half a unit in each of 2,048.
const MOST_IN_ALL: f32 = 260_096.0;
/// The largest of them: its upper byte is signed, and the lower one too.
const MOST: f32 = 32_639.0;

/// Vectors of integers that are put at once.
pub(super) const GROUP: usize = 4;

/// Pairs of values of a key, as stored: whole groups of four.
pub(super) fn pairs(head_dim: usize) -> usize {
    head_dim.next_multiple_of(4) / 2
}

/// Words of K of one page, `[PAGE / 16][pairs][16][2]`.
fn key_words(head_dim: usize) -> usize {
    PAGE * 2 * pairs(head_dim)
}

/// Words and units of a page: V is `[PAGE / 2][padded head_dim][2]`, the units one for each position of K, then of V.
pub fn integer_page_len(head_dim: usize) -> (usize, usize) {
    (key_words(head_dim) + PAGE * padded(head_dim), 2 * PAGE)
}

/// A page of integers.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    /// `[PAGE / 16][pairs]` of 16 positions.
    pub(super) keys: &'a [[[i16; 2]; LANES]],
    /// `[PAGE / 2][padded head_dim / 16]` of 16 values.
    pub(super) values: &'a [[[i16; 2]; LANES]],
    pub(super) key_units: &'a [[f32; LANES]],
    pub(super) value_units: &'a [[f32; LANES]],
}

impl<'a> Words<'a> {
    #[inline(always)]
    pub(super) fn of(words: &'a [i16], units: &'a [f32], head_dim: usize) -> Self {
        let (keys, values) = words.split_at(key_words(head_dim));
        let (key_units, value_units) = units.split_at(PAGE);
        Words {
            keys: keys.as_chunks().0.as_chunks().0,
            values: values.as_chunks().0.as_chunks().0,
            key_units: key_units.as_chunks().0,
            value_units: value_units.as_chunks().0,
        }
    }
}

/// Writes K and V of one position.
#[inline(always)]
pub(super) fn write<I: Isa>(isa: I, words: &mut [i16], units: &mut [f32], slot: usize, k: &[f32], v: &[f32]) {
    let (keys, values) = words.split_at_mut(key_words(k.len()));
    let (key_units, value_units) = units.split_at_mut(PAGE);
    let (block, lane, width) = (slot / LANES, slot % LANES, padded(v.len()));
    let (keys, _) = keys.as_chunks_mut::<2>();
    let keys = &mut keys[block * LANES * pairs(k.len())..][..LANES * pairs(k.len())];
    let (keys, _) = keys.as_chunks_mut::<LANES>();
    key_units[slot] = stored_unit(isa, k);
    let factor = isa.splat(factor_of(key_units[slot]));
    for (k, columns) in k.chunks(LANES).zip(keys.chunks_mut(LANES / 2)) {
        let integers = integers(isa, k, factor);
        for (pair, column) in integers.as_chunks::<2>().0.iter().zip(columns) {
            column[lane] = pair.map(|q| q as i16);
        }
    }
    let (values, _) = values.as_chunks_mut::<2>();
    let row = &mut values[slot / 2 * width..][..width];
    value_units[slot] = stored_unit(isa, v);
    let factor = isa.splat(factor_of(value_units[slot]));
    for (v, row) in v.chunks(LANES).zip(row.as_chunks_mut::<LANES>().0) {
        for (q, out) in integers(isa, v, factor).into_iter().zip(row) {
            out[slot % 2] = q as i16;
        }
    }
}

/// The unit that a key or a value is stored in. Where not all of it are numbers, neither is the unit.
#[inline(always)]
fn stored_unit<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let zero = isa.splat(0.0);
    let (mut most, mut nothing) = (zero, zero);
    for x in x.chunks(LANES) {
        let x = load_some(isa, x);
        most = isa.max(isa.max(x, isa.sub(zero, x)), most);
        nothing = isa.fma(x, zero, nothing);
    }
    let unit = isa.max_lane(most) / LARGEST + isa.sum(nothing);
    if unit.is_finite() { unit } else { f32::NAN }
}

/// Up to 16 values times a factor, to nearest even, and zeros behind them.
#[inline(always)]
fn integers<I: Isa>(isa: I, x: &[f32], factor: I::F) -> [i32; LANES] {
    let mut integers = [0; LANES];
    isa.istore(isa.to_i32(isa.mul(load_some(isa, x), factor)), &mut integers);
    integers
}

/// What values are multiplied by to count units. For a tiny unit there is no such factor, and values count as zeros; where
/// the unit is no number, they may count as anything.
#[inline(always)]
fn factor_of(unit: f32) -> f32 {
    let factor = 1.0 / unit;
    if factor.is_finite() { factor } else { 0.0 }
}

/// Up to 16 values, zeros behind them.
#[inline(always)]
fn load_some<I: Isa>(isa: I, x: &[f32]) -> I::F {
    match x.first_chunk() {
        Some(x) => isa.load(x),
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            isa.load(&lanes)
        }
    }
}

/// The unit of integers that multiply keys or values, from what their magnitudes add up to and the largest of them. It is
/// no number where one of them is none.
#[inline(always)]
fn unit_of(total: f32, most: f32) -> f32 {
    let (unit, least) = (total / MOST_IN_ALL, most / MOST);
    let unit = if least > unit { least } else { unit };
    if unit.is_finite() { unit } else { f32::NAN }
}

/// Where integers of several queries go.
pub(super) trait Integers<I: Isa> {
    /// Puts 64 of query `row`, from `64 · group` on.
    fn put(&mut self, isa: I, row: usize, group: usize, q: [I::I; GROUP]);
}

/// Writes query `row` as integers; returns their unit.
#[inline(always)]
pub(super) fn query<I: Isa>(isa: I, q: &[f32], row: usize, out: &mut impl Integers<I>) -> f32 {
    let zero = isa.splat(0.0);
    let (mut total, mut most) = (zero, zero);
    for q in q.chunks(LANES) {
        let q = load_some(isa, q);
        let size = isa.max(q, isa.sub(zero, q));
        // Where `q` is no number, the larger of the two may be one.
        total = isa.add(isa.fma(q, zero, size), total);
        most = isa.max(size, most);
    }
    let unit = unit_of(isa.sum(total), isa.max_lane(most));
    let factor = isa.splat(factor_of(unit));
    for (group, q) in q.chunks(GROUP * LANES).enumerate() {
        let mut integers = [isa.isplat(0); GROUP];
        for (integers, q) in integers.iter_mut().zip(q.chunks(LANES)) {
            *integers = isa.to_i32(isa.mul(load_some(isa, q), factor));
        }
        out.put(isa, row, group, integers);
    }
    unit
}

/// Turns the scores of some queries, in units, into the integers that weigh V, in groups of 64 positions; returns their
/// units.
#[allow(clippy::too_many_arguments, reason = "one inner loop, always inlined")]
#[inline(always)]
pub(super) fn weights<I: Isa, const Q: usize>(
    isa: I,
    scores: &mut [Scores; Q],
    units: &[f32; Q],
    blocks: Range<usize>,
    page: &Words<'_>,
    seen: &[Range<usize>],
    state: &mut [Partial],
    out: &mut impl Integers<I>,
) -> [f32; Q] {
    let (totals, most) = softmax(isa, scores, units, blocks.clone(), seen, state, Some(page.value_units));
    let (mut units, mut factors) = ([0.0; Q], most);
    for i in 0..Q {
        units[i] = unit_of(isa.sum(totals[i]), isa.max_lane(most[i]));
        factors[i] = isa.splat(factor_of(units[i]));
    }
    for group in blocks.start / GROUP..blocks.end.div_ceil(GROUP) {
        let first = group * GROUP;
        let whole = blocks.start <= first && first + GROUP <= blocks.end;
        for i in 0..Q {
            let mut integers = [isa.isplat(0); GROUP];
            for j in 0..GROUP {
                // What nobody sees of a group weighs nothing.
                if whole || blocks.contains(&(first + j)) {
                    integers[j] = isa.to_i32(isa.mul(isa.load(&scores[i][first + j]), factors[i]));
                }
            }
            out.put(isa, i, group, integers);
        }
    }
    units
}

/// Rows of words, so many pairs of them.
struct WordRows<'a>(&'a mut [[i16; 2]], usize);

impl<I: Isa> Integers<I> for WordRows<'_> {
    #[inline(always)]
    fn put(&mut self, isa: I, row: usize, group: usize, q: [I::I; GROUP]) {
        let row = &mut self.0[row * self.1..(row + 1) * self.1];
        let out = row[group * GROUP * LANES / 2..].chunks_mut(LANES / 2);
        for (out, q) in out.zip(q) {
            let mut lanes = [0; LANES];
            isa.istore(q, &mut lanes);
            for (out, q) in out.as_flattened_mut().iter_mut().zip(lanes) {
                *out = q as i16;
            }
        }
    }
}

/// Queries of a page that are fewer than these are few: those of one token.
const FEW: usize = 4;

/// Pairs of words of the queries that are computed at once: six of 256 values, or one of up to 1,536.
const WORDS: usize = 6 * 128;

/// Attends the queries by vectors.
#[inline(always)]
pub(super) fn attend<I: Isa>(isa: I, page: Words<'_>, t: &mut PageTask<'_>) {
    let n = t.seen.len();
    let most = match I::QUERIES * t.head_dim.next_multiple_of(LANES) / 2 <= WORDS {
        true => I::QUERIES,
        false => 1,
    };
    let mut first = 0;
    while first < n {
        first += match most.min(n - first) {
            6 if I::QUERIES >= 6 => queries::<I, 6>(isa, page, t, first),
            4.. if I::QUERIES >= 4 => queries::<I, 4>(isa, page, t, first),
            3 if I::QUERIES >= 4 => queries::<I, 3>(isa, page, t, first),
            2.. => queries::<I, 2>(isa, page, t, first),
            _ => queries::<I, 1>(isa, page, t, first),
        };
    }
}

/// Q queries at once: each load of K or V serves all of them. Returns Q.
#[inline(always)]
fn queries<I: Isa, const Q: usize>(isa: I, page: Words<'_>, t: &mut PageTask<'_>, first: usize) -> usize {
    let (dim, width) = (t.head_dim, padded(t.head_dim));
    let seen = &t.seen[first..first + Q];
    let all = seen_by(seen);
    let state = &mut t.state[first..first + Q];
    if all.is_empty() {
        state.fill(Partial::EMPTY);
        return Q;
    }
    let (mut units, mut words) = ([0.0; Q], [[0; 2]; WORDS]);
    for (i, unit) in units.iter_mut().enumerate() {
        *unit = query(isa, t.q.get(first + i, dim), i, &mut WordRows(&mut words, width / 2));
    }
    let mut q: [&[[i16; 2]]; Q] = [&[]; Q];
    for (q, words) in q.iter_mut().zip(words.chunks_exact(width / 2)) {
        *q = &words[..pairs(dim)];
    }

    // Of few queries memory is what takes time: keys come in the order of their addresses, and as this CPU reads streams
    // best. Many have the page in a cache, and are fastest when it is asked for from there.
    let few = Q < FEW && t.seen.len() < FEW;
    let stream = Stream::of_this_cpu().read_by::<I>(few);
    let mut scores: [Scores; Q] = [[[0.0; LANES]; PAGE / LANES]; Q];
    let blocks = all.start / LANES..all.end.div_ceil(LANES);
    let mut b = blocks.start;
    while b < blocks.end {
        b += match blocks.end - b {
            left if few || left == 1 => score::<I, Q, 1>(isa, stream, page, b, &q, &mut scores),
            4.. if I::QUERIES == 6 => score::<I, Q, 4>(isa, stream, page, b, &q, &mut scores),
            _ => score::<I, Q, 2>(isa, stream, page, b, &q, &mut scores),
        };
    }

    let mut integers = [[[0; 2]; PAGE / 2]; Q];
    let mut rows = WordRows(integers.as_flattened_mut(), PAGE / 2);
    let units = weights(isa, &mut scores, &units, blocks.clone(), &page, seen, state, &mut rows);
    let positions = blocks.start * LANES / 2..all.end.div_ceil(2);
    let out = &mut t.out[first * width..(first + Q) * width];
    let mut at = 0;
    while at < width {
        at += match width - at >= 4 * LANES {
            true => {
                weigh::<I, Q, 4>(isa, stream, page, (width, at), positions.clone(), (&integers, &units), out)
            }
            false => {
                weigh::<I, Q, 1>(isa, stream, page, (width, at), positions.clone(), (&integers, &units), out)
            }
        };
    }
    Q
}

/// Scores of B blocks of 16 positions from `block` on, in the queries' units; returns B.
#[inline(always)]
fn score<I: Isa, const Q: usize, const B: usize>(
    isa: I,
    stream: Stream,
    page: Words<'_>,
    block: usize,
    q: &[&[[i16; 2]]; Q],
    scores: &mut [Scores; Q],
) -> usize {
    let n = q[0].len();
    let mut k: [&[[[i16; 2]; LANES]]; B] = [&[]; B];
    for j in 0..B {
        k[j] = &page.keys[(block + j) * n..][..n];
    }
    let q = q.map(|q| &q[..n]);
    let mut acc = [[isa.isplat(0); B]; Q];
    for p in 0..n {
        let mut key = [isa.bsplat(0); B];
        for j in 0..B {
            stream.ask(isa, std::ptr::from_ref(&k[j][p]).cast(), PREFETCH_BYTES, true);
            key[j] = isa.load_words(&k[j][p]);
        }
        for i in 0..Q {
            for j in 0..B {
                acc[i][j] = isa.dot_words(acc[i][j], key[j], q[i][p]);
            }
        }
    }
    for j in 0..B {
        let key_units = isa.load(&page.key_units[block + j]);
        for i in 0..Q {
            isa.store(isa.mul(isa.to_f32(acc[i][j]), key_units), &mut scores[i][block + j]);
        }
    }
    B
}

/// `out[at..] = Σ weight · V` of V vectors from value `at` on, of so many values a row; returns their values.
#[inline(always)]
fn weigh<I: Isa, const Q: usize, const V: usize>(
    isa: I,
    stream: Stream,
    page: Words<'_>,
    (width, at): (usize, usize),
    positions: Range<usize>,
    (weights, units): (&[[[i16; 2]; PAGE / 2]; Q], &[f32; Q]),
    out: &mut [f32],
) -> usize {
    let columns = width / LANES;
    let mut acc = [[isa.isplat(0); V]; Q];
    let rows = page.values[positions.start * columns..positions.end * columns].chunks_exact(columns);
    for (p, row) in positions.zip(rows) {
        let row = &row[at / LANES..][..V];
        let mut x = [isa.bsplat(0); V];
        for v in 0..V {
            stream.ask(isa, std::ptr::from_ref(&row[v]).cast(), PREFETCH_BYTES, true);
            x[v] = isa.load_words(&row[v]);
        }
        for i in 0..Q {
            for v in 0..V {
                acc[i][v] = isa.dot_words(acc[i][v], x[v], weights[i][p]);
            }
        }
    }
    for i in 0..Q {
        let row = out[i * width + at..][..V * LANES].as_chunks_mut::<LANES>().0;
        for v in 0..V {
            isa.store(isa.mul(isa.to_f32(acc[i][v]), isa.splat(units[i])), &mut row[v]);
        }
    }
    V * LANES
}
