//! Attention of the fast class: both products by matrix units in bfloat16, the softmax between them in F32 as in the exact
//! class. A query's sums run over whole groups of 32 positions from the page's beginning on, in which what it does not see
//! weighs 0: how queries are grouped changes no bit. (docs/determinism.md)
#![allow(unsafe_code, reason = "a proof of the caller's, and memory of zeros")]

use std::cell::Cell;
use std::ops::Range;

use super::attention::{PageTask, Partial, softmax};
use super::pages::{Bytes, PAGE, PageRef, Scores, Stored, padded};
use crate::isa::amx::{BfTiles, ROWS, Sums, TileBytes, TileIsa};
use crate::isa::avx512::Avx512;
use crate::isa::{Isa, LANES};

/// The longest head that is computed so; of longer ones the exact class computes attention.
pub(crate) const LONGEST: usize = 256;
/// Values of `k` that one tile multiplies.
const PAIRED: usize = 32;
/// Queries whose softmax is computed side by side.
const ABREAST: usize = 4;
const BLOCKS: usize = PAGE / LANES;
const GROUPS: usize = PAGE / PAIRED;

/// Attends some queries to one page, of a head of at most [`LONGEST`] values.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
pub(crate) unsafe fn attend_page<T: BfTiles>(isa: Avx512, task: &mut PageTask<'_>) {
    // SAFETY: the caller's promise.
    let mut tiles = unsafe { T::configure() };
    let mut memory = SCRATCH.take().unwrap_or_else(|| {
        // SAFETY: bytes, integers and floats.
        unsafe { Box::new_zeroed().assume_init() }
    });
    let s = &mut *memory;
    match task.page {
        PageRef::F16(p) => attend_as(isa, &mut tiles, p, task, s),
        PageRef::F32(p) => attend_as(isa, &mut tiles, p, task, s),
        PageRef::Q8 { quants, scales } => attend_as(isa, &mut tiles, Bytes { quants, scales }, task, s),
    }
    SCRATCH.set(Some(memory));
}

/// What a thread attends in, kept from one page to the next: on the stack every call would touch each of its pages.
#[repr(C, align(4096))]
struct Scratch {
    /// Of each block of 16 positions the steps over the head's values.
    keys: [TileBytes; BLOCKS * (LONGEST / PAIRED)],
    /// Of each group of 32 positions the columns of 16 values.
    values: [TileBytes; GROUPS * (LONGEST / LANES)],
    /// 16 queries, what they score, and the weights that follow: rows beyond the last query hold anything.
    queries: [TileBytes; LONGEST / PAIRED],
    scores: [Sums; BLOCKS],
    weights: [TileBytes; GROUPS],
    /// The softmax of some queries.
    abreast: [Scores; ABREAST],
    sums: [Sums; 2],
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

#[inline(always)]
fn attend_as<T: BfTiles, P: Stored>(
    isa: Avx512,
    tiles: &mut T,
    page: P,
    t: &mut PageTask<'_>,
    s: &mut Scratch,
) {
    let (dim, width) = (t.head_dim, padded(t.head_dim));
    let seen = t.seen.iter().filter(|r| !r.is_empty());
    let (from, to) = seen.fold((PAGE, 0), |(from, to), r| (from.min(r.start), to.max(r.end)));
    t.state.fill(Partial::EMPTY);
    if from >= to {
        return;
    }
    let (steps, columns) = (dim.div_ceil(PAIRED), width / LANES);
    let groups = from / PAIRED..to.div_ceil(PAIRED);
    let zero = isa.splat(0.0);
    for block in groups.start * 2..groups.end * 2 {
        for step in 0..steps {
            for (j, row) in s.keys[block * steps + step].0.iter_mut().enumerate() {
                let d = step * PAIRED + 2 * j;
                let key = |d: usize| if d < dim { page.key(isa, dim, block, d) } else { zero };
                isa.bstore(T::pairs(key(d), key(d + 1)), row);
            }
        }
    }
    for group in groups.clone() {
        for column in 0..columns {
            for (j, row) in s.values[group * columns + column].0.iter_mut().enumerate() {
                let position = group * PAIRED + 2 * j;
                // What nobody sees may be anything, and 0 times it is not always 0.
                let value = |at: usize| match (from..to).contains(&at) {
                    true => page.value(isa, dim, at, column * LANES),
                    false => zero,
                };
                isa.bstore(T::pairs(value(position), value(position + 1)), row);
            }
        }
    }
    for first in (0..t.seen.len()).step_by(ROWS) {
        sixteen(isa, tiles, t, first, groups.clone(), s);
    }
}

/// Up to 16 queries from `first` on: the keys and values of `groups` are there.
#[inline(always)]
fn sixteen<T: BfTiles>(
    isa: Avx512,
    tiles: &mut T,
    t: &mut PageTask<'_>,
    first: usize,
    groups: Range<usize>,
    s: &mut Scratch,
) {
    let Scratch { keys, values, queries, scores, weights, abreast, sums } = s;
    let (dim, width) = (t.head_dim, padded(t.head_dim));
    let (steps, columns) = (dim.div_ceil(PAIRED), width / LANES);
    let here = ROWS.min(t.seen.len() - first);
    for i in 0..here {
        for (q, tile) in t.q[(first + i) * dim..][..dim].chunks(PAIRED).zip(&mut *queries) {
            let mut lanes = [[0.0; LANES]; 2];
            let lanes = match q.as_chunks().0 {
                [a, b] => [a, b],
                _ => {
                    lanes.as_flattened_mut()[..q.len()].copy_from_slice(q);
                    [&lanes[0], &lanes[1]]
                }
            };
            isa.bstore(T::rounded(isa.load(lanes[0]), isa.load(lanes[1])), &mut tile.0[i]);
        }
    }

    // Scores, two blocks of 16 positions side by side.
    for group in groups.clone() {
        let block = 2 * group;
        tiles.zero::<0>();
        tiles.zero::<1>();
        for (step, q) in queries[..steps].iter().enumerate() {
            let k = [0, 1].map(|i| &keys[(block + i) * steps + step]);
            tiles.load::<4>(q.into());
            tiles.load::<6>(k[0].into());
            tiles.dot_bf16::<0, 4, 6>();
            tiles.load::<7>(k[1].into());
            tiles.dot_bf16::<1, 4, 7>();
        }
        tiles.store::<0>(&mut scores[block]);
        tiles.store::<1>(&mut scores[block + 1]);
    }

    // The softmax of each query, and its weights in bfloat16.
    let blocks = 2 * groups.start..2 * groups.end;
    for first_row in (0..here).step_by(ABREAST) {
        let (mut seen, mut state) = ([const { 0..0 }; ABREAST], [Partial::EMPTY; ABREAST]);
        for i in 0..ABREAST {
            if first_row + i < here {
                seen[i] = t.seen[first + first_row + i].clone();
            }
            for b in blocks.clone() {
                isa.store(isa.floats(isa.iload(&scores[b].0[first_row + i])), &mut abreast[i][b]);
            }
        }
        softmax(isa, abreast, blocks.clone(), &seen, &mut state);
        for i in 0..ABREAST {
            if first_row + i < here {
                t.state[first + first_row + i] = state[i];
            }
            for group in groups.clone() {
                let rounded =
                    T::rounded(isa.load(&abreast[i][2 * group]), isa.load(&abreast[i][2 * group + 1]));
                isa.bstore(rounded, &mut weights[group].0[first_row + i]);
            }
        }
    }

    // out = Σ p · V, two columns of 16 values side by side.
    for column in (0..columns).step_by(2) {
        let second = (column + 1).min(columns - 1);
        tiles.zero::<0>();
        tiles.zero::<1>();
        for group in groups.clone() {
            let v = [column, second].map(|c| &values[group * columns + c]);
            tiles.load::<4>((&weights[group]).into());
            tiles.load::<6>(v[0].into());
            tiles.dot_bf16::<0, 4, 6>();
            tiles.load::<7>(v[1].into());
            tiles.dot_bf16::<1, 4, 7>();
        }
        tiles.store::<0>(&mut sums[0]);
        tiles.store::<1>(&mut sums[1]);
        for (column, sums) in [column, second].into_iter().zip(&*sums) {
            for (i, row) in sums.0.iter().enumerate().take(here) {
                let out = &mut t.out[(first + i) * width..][..width].as_chunks_mut().0[column];
                isa.store(isa.floats(isa.iload(row)), out);
            }
        }
    }
}
