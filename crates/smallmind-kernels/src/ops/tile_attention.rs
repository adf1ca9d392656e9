//! Attention of many queries over a page of integers by matrix units: 16 queries and 16 positions at a time. What leaves
//! the tiles are the sums that `integer_attention` has, so the bits are the same.
//!
//! Words become two planes of bytes, each pair of which has its tile of sums; those are joined and scaled while the next
//! ones are multiplied.
#![allow(unsafe_code, reason = "a proof of the caller's, and memory of zeros")]

use std::cell::Cell;
use std::ops::Range;

use super::attention::{PageTask, Partial, seen_by};
use super::integer_attention::{GROUP, Integers, Words, pairs, query, weights};
use super::pages::{PAGE, PageRef, Scores, padded};
use crate::isa::LANES;
use crate::isa::amx::{ROWS, Sums, TileBytes, TileIsa, Tiles};

/// The longest head that is computed so.
const LONGEST: usize = 256;
/// From how many queries on it is faster than vectors: the planes are made for all of them.
const FEWEST: usize = 12;
/// Values of `k` that one tile multiplies.
const DEPTH: usize = 64;
/// Queries whose softmax is computed side by side.
const ABREAST: usize = 4;
const BLOCKS: usize = PAGE / LANES;
const GROUPS: usize = PAGE / DEPTH;

/// Attends the queries to one page; `vectors` does the same for what does not suit tiles.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
pub(crate) unsafe fn attend_page<I: TileIsa, T: Tiles>(
    isa: I,
    t: &mut PageTask<'_>,
    vectors: fn(&mut PageTask<'_>),
) {
    let page = match t.page {
        PageRef::I16 { words, units } if t.head_dim <= LONGEST && t.seen.len() >= FEWEST => {
            Words::of(words, units, t.head_dim)
        }
        _ => return vectors(t),
    };
    let all = seen_by(t.seen);
    if all.is_empty() {
        return t.state.fill(Partial::EMPTY);
    }
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    let mut memory = SCRATCH.take().unwrap_or_else(|| {
        // SAFETY: bytes, integers and floats.
        unsafe { Box::new_zeroed().assume_init() }
    });
    let s = &mut *memory;
    let (steps, columns) = (t.head_dim.div_ceil(DEPTH), padded(t.head_dim) / LANES);
    planes_of_keys(isa, page, t.head_dim, all.start / LANES..all.end.div_ceil(LANES), &mut s.keys);
    let groups = all.start / DEPTH..all.end.div_ceil(DEPTH);
    planes_of_values(isa, page, columns, groups, &mut s.values);
    for first in (0..t.seen.len()).step_by(ROWS) {
        let here = first..t.seen.len().min(first + ROWS);
        let seen = seen_by(&t.seen[here.clone()]);
        if seen.is_empty() {
            t.state[here].fill(Partial::EMPTY);
            continue;
        }
        let blocks = seen.start / LANES..seen.end.div_ceil(LANES);
        score(isa, &mut tiles, page, t, here.clone(), blocks.clone(), steps, s);
        weigh_positions(isa, page, t, here.clone(), blocks.clone(), s);
        add_values(isa, &mut tiles, t, here, seen.start / DEPTH..seen.end.div_ceil(DEPTH), columns, s);
    }
    SCRATCH.set(Some(memory));
}

/// The upper and the lower bytes of words.
type Planes = [TileBytes; 2];

/// What a thread attends in, kept from one page to the next: on the stack every call would touch each of its pages.
#[repr(C, align(4096))]
struct Scratch {
    /// Of each block of 16 positions the steps over the head's values.
    keys: [Planes; BLOCKS * (LONGEST / DEPTH)],
    /// Of each group of 64 positions the columns of 16 values.
    values: [Planes; GROUPS * (LONGEST / LANES)],
    /// 16 queries, what they score, and the weights that follow: rows beyond the last query hold anything.
    queries: [Planes; LONGEST / DEPTH],
    units: [f32; ROWS],
    scores: [Scores; ROWS],
    weights: [Planes; GROUPS],
    /// Sums on their way, and the next ones.
    sums: [[Sums; 3]; 2],
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// `[block][step]`: row `j` of a step has values `4j..4j + 4` of 16 positions.
#[inline(always)]
fn planes_of_keys<I: TileIsa>(isa: I, page: Words<'_>, dim: usize, blocks: Range<usize>, out: &mut [Planes]) {
    let (pairs, steps) = (pairs(dim), dim.div_ceil(DEPTH));
    for block in blocks {
        let keys = page.keys[block * pairs..][..pairs].chunks(DEPTH / 2);
        for (keys, [hi, lo]) in keys.zip(&mut out[block * steps..][..steps]) {
            let rows = hi.0.iter_mut().zip(&mut lo.0);
            for (words, (hi, lo)) in keys.as_chunks().0.iter().zip(rows) {
                split(isa, words, hi, lo);
            }
        }
    }
}

/// `[group][column]`: row `j` has positions `4j..4j + 4` of 16 values.
#[inline(always)]
fn planes_of_values<I: TileIsa>(
    isa: I,
    page: Words<'_>,
    columns: usize,
    groups: Range<usize>,
    out: &mut [Planes],
) {
    for group in groups {
        let rows = &page.values[group * (DEPTH / 2) * columns..][..DEPTH / 2 * columns];
        for (j, rows) in rows.chunks_exact(2 * columns).enumerate() {
            let (first, last) = rows.split_at(columns);
            let out = &mut out[group * columns..][..columns];
            for ((first, last), [hi, lo]) in first.iter().zip(last).zip(out) {
                split(isa, &[*first, *last], &mut hi.0[j], &mut lo.0[j]);
            }
        }
    }
}

#[inline(always)]
fn split<I: TileIsa>(isa: I, words: &[[[i16; 2]; LANES]; 2], hi: &mut [u8; 64], lo: &mut [u8; 64]) {
    let planes = isa.byte_planes(isa.load_words(&words[0]), isa.load_words(&words[1]));
    isa.bstore(planes[0], hi);
    isa.bstore(planes[1], lo);
}

/// Rows of tiles, one a group of 64 bytes; the first of them.
struct ByteRows<'a>(&'a mut [Planes], usize);

impl<I: TileIsa> Integers<I> for ByteRows<'_> {
    #[inline(always)]
    fn put(&mut self, isa: I, row: usize, group: usize, q: [I::I; GROUP]) {
        let [hi, lo] = &mut self.0[group];
        isa.store_bytes(q, &mut hi.0[self.1 + row], &mut lo.0[self.1 + row]);
    }
}

/// What is done with sums that have left the tiles, a row at a time.
trait Rows<I: TileIsa> {
    fn next(&mut self, isa: I);
}

/// The sum that the tiles hold the parts of: of upper bytes, of one upper and one lower, and of lower bytes.
#[inline(always)]
fn joined<I: TileIsa>(isa: I, [upper, mixed, lower]: &[Sums; 3], row: usize) -> I::F {
    let [upper, mixed, lower] = [upper, mixed, lower].map(|sums| isa.iload(&sums.0[row]));
    isa.to_f32(isa.iadd(isa.ishl::<8>(isa.iadd(isa.ishl::<8>(upper), mixed)), lower))
}

/// Sums of queries and keys on their way to the scores of one block.
struct ToScores<'a, F> {
    next: usize,
    from: &'a [Sums; 3],
    key_units: F,
    block: usize,
    scores: &'a mut [Scores; ROWS],
}

impl<I: TileIsa> Rows<I> for ToScores<'_, I::F> {
    #[inline(always)]
    fn next(&mut self, isa: I) {
        let row = self.next;
        if row < ROWS {
            let score = isa.mul(joined(isa, self.from, row), self.key_units);
            isa.store(score, &mut self.scores[row][self.block]);
            self.next += 1;
        }
    }
}

/// Sums of weights and values on their way to one column of the output.
struct ToOutput<'a> {
    next: usize,
    rows: usize,
    from: &'a [Sums; 3],
    units: &'a [f32; ROWS],
    column: usize,
    width: usize,
    out: &'a mut [f32],
}

impl<I: TileIsa> Rows<I> for ToOutput<'_> {
    #[inline(always)]
    fn next(&mut self, isa: I) {
        let row = self.next;
        if row < self.rows {
            let out = &mut self.out[row * self.width..][..self.width].as_chunks_mut().0[self.column];
            isa.store(isa.mul(joined(isa, self.from, row), isa.splat(self.units[row])), out);
            self.next += 1;
        }
    }
}

/// The scores of up to 16 queries, in their units.
#[allow(clippy::too_many_arguments, reason = "one inner loop, always inlined")]
#[inline(always)]
fn score<I: TileIsa, T: Tiles>(
    isa: I,
    tiles: &mut T,
    page: Words<'_>,
    t: &PageTask<'_>,
    here: Range<usize>,
    blocks: Range<usize>,
    steps: usize,
    s: &mut Scratch,
) {
    let Scratch { keys, queries, units, scores, sums: [now, before], .. } = s;
    let (mut now, mut before) = (now, before);
    for (row, i) in here.enumerate() {
        units[row] = query(isa, t.q.get(i, t.head_dim), row, &mut ByteRows(queries, 0));
    }
    if steps == 1 {
        load_left(tiles, &queries[0]);
    }
    let at_once = ROWS.div_ceil(4 * steps);
    let (mut next, mut block_before) = (ROWS, blocks.start);
    for block in blocks {
        let key_units = isa.load(&page.key_units[block_before]);
        let mut rows = ToScores { next, from: before, key_units, block: block_before, scores };
        zero(tiles);
        for (q, k) in queries.iter().zip(&keys[block * steps..][..steps]) {
            if steps > 1 {
                load_left(tiles, q);
            }
            multiply(isa, tiles, k, &mut rows, at_once);
        }
        store(tiles, now);
        std::mem::swap(&mut now, &mut before);
        (next, block_before) = (0, block);
    }
    let key_units = isa.load(&page.key_units[block_before]);
    let mut rows = ToScores { next, from: before, key_units, block: block_before, scores };
    for _ in 0..ROWS {
        rows.next(isa);
    }
}

/// The softmax of each query, and its weights as bytes.
#[inline(always)]
fn weigh_positions<I: TileIsa>(
    isa: I,
    page: Words<'_>,
    t: &mut PageTask<'_>,
    here: Range<usize>,
    blocks: Range<usize>,
    s: &mut Scratch,
) {
    let Scratch { units, scores, weights: bytes, .. } = s;
    let abreast = scores.as_chunks_mut::<ABREAST>().0.iter_mut().zip(units.as_chunks_mut::<ABREAST>().0);
    for (i, (scores, units)) in abreast.enumerate().take(here.len().div_ceil(ABREAST)) {
        let row = i * ABREAST;
        let (mut seen, mut state) = ([const { 0..0 }; ABREAST], [Partial::EMPTY; ABREAST]);
        let first = here.start + row;
        let n = ABREAST.min(here.end - first);
        seen[..n].clone_from_slice(&t.seen[first..first + n]);
        *units =
            weights(isa, scores, units, blocks.clone(), &page, &seen, &mut state, &mut ByteRows(bytes, row));
        t.state[first..first + n].copy_from_slice(&state[..n]);
    }
}

/// out = Σ weight · V of up to 16 queries, one column of 16 values after the other.
#[inline(always)]
fn add_values<I: TileIsa, T: Tiles>(
    isa: I,
    tiles: &mut T,
    t: &mut PageTask<'_>,
    here: Range<usize>,
    groups: Range<usize>,
    columns: usize,
    s: &mut Scratch,
) {
    let Scratch { values, units, weights, sums: [now, before], .. } = s;
    let (mut now, mut before) = (now, before);
    let (width, rows) = (columns * LANES, here.len());
    let out = &mut t.out[here.start * width..here.end * width];
    let at_once = ROWS.div_ceil(4 * groups.len());
    let mut next = rows;
    for column in 0..columns {
        let last = column.saturating_sub(1);
        let mut to = ToOutput { next, rows, from: before, units, column: last, width, out };
        zero(tiles);
        for group in groups.clone() {
            load_left(tiles, &weights[group]);
            multiply(isa, tiles, &values[group * columns + column], &mut to, at_once);
        }
        store(tiles, now);
        std::mem::swap(&mut now, &mut before);
        next = 0;
    }
    let mut to = ToOutput { next, rows, from: before, units, column: columns - 1, width, out };
    for _ in 0..ROWS {
        Rows::<I>::next(&mut to, isa);
    }
}

/// The planes that are multiplied from the left.
#[inline(always)]
fn load_left<T: Tiles>(tiles: &mut T, planes: &Planes) {
    tiles.load::<4>((&planes[0]).into());
    tiles.load::<5>((&planes[1]).into());
}

/// Adds the products with what [`load_left`] has loaded to the sums; some rows of others are done between them.
#[inline(always)]
fn multiply<I: TileIsa, T: Tiles>(
    isa: I,
    tiles: &mut T,
    right: &Planes,
    rows: &mut impl Rows<I>,
    at_once: usize,
) {
    // In place: a closure might not be inlined.
    macro_rules! meanwhile {
        () => {
            for _ in 0..at_once {
                rows.next(isa);
            }
        };
    }
    tiles.load_passing::<6>((&right[0]).into());
    tiles.dot::<1, 5, 6>(true);
    tiles.load_passing::<7>((&right[1]).into());
    meanwhile!();
    tiles.dot::<0, 4, 6>(true);
    meanwhile!();
    tiles.dot::<2, 5, 7>(false);
    meanwhile!();
    tiles.dot::<1, 4, 7>(false);
    meanwhile!();
}

#[inline(always)]
fn zero<T: Tiles>(tiles: &mut T) {
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
}

#[inline(always)]
fn store<T: Tiles>(tiles: &T, sums: &mut [Sums; 3]) {
    tiles.store::<0>((&mut sums[0]).into());
    tiles.store::<1>((&mut sums[1]).into());
    tiles.store::<2>((&mut sums[2]).into());
}
