//! Attention of the fast class: both products by matrix units in bfloat16, the softmax between them in F32 as in the exact
//! class. A query's sums run over whole groups of 32 positions from the page's beginning on, in which what it does not see
//! weighs 0: how queries are grouped changes no bit. (docs/determinism.md)
#![allow(unsafe_code, reason = "tiles lie in memory that is not initialized before")]

use std::mem::MaybeUninit;
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
    match task.page {
        PageRef::F16(p) => attend_as(isa, &mut tiles, p, task),
        PageRef::F32(p) => attend_as(isa, &mut tiles, p, task),
        PageRef::Q8 { quants, scales } => attend_as(isa, &mut tiles, Bytes { quants, scales }, task),
    }
}

#[inline(always)]
fn attend_as<T: BfTiles, P: Stored>(isa: Avx512, tiles: &mut T, page: P, t: &mut PageTask<'_>) {
    let (dim, width) = (t.head_dim, padded(t.head_dim));
    let seen = t.seen.iter().filter(|r| !r.is_empty());
    let (from, to) = seen.fold((PAGE, 0), |(from, to), r| (from.min(r.start), to.max(r.end)));
    t.state.fill(Partial::EMPTY);
    if from >= to {
        return;
    }
    let (steps, columns) = (dim.div_ceil(PAIRED), width / LANES);
    let groups = from / PAIRED..to.div_ceil(PAIRED);
    let mut keys = [const { MaybeUninit::<TileBytes>::uninit() }; BLOCKS * (LONGEST / PAIRED)];
    let mut values = [const { MaybeUninit::<TileBytes>::uninit() }; GROUPS * (LONGEST / LANES)];
    let zero = isa.splat(0.0);
    for block in groups.start * 2..groups.end * 2 {
        for step in 0..steps {
            let tile = keys[block * steps + step].write(TileBytes::ZERO);
            for (j, row) in tile.0.iter_mut().enumerate() {
                let d = step * PAIRED + 2 * j;
                let key = |d: usize| if d < dim { page.key(isa, dim, block, d) } else { zero };
                isa.bstore(T::pairs(key(d), key(d + 1)), row);
            }
        }
    }
    for group in groups.clone() {
        for column in 0..columns {
            let tile = values[group * columns + column].write(TileBytes::ZERO);
            for (j, row) in tile.0.iter_mut().enumerate() {
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
        // SAFETY: written above for all of `groups`.
        unsafe { sixteen(isa, tiles, t, first, groups.clone(), &keys, &values) }
    }
}

/// Up to 16 queries from `first` on.
///
/// # Safety
/// Of `groups`, keys and values are written.
#[inline(always)]
unsafe fn sixteen<T: BfTiles>(
    isa: Avx512,
    tiles: &mut T,
    t: &mut PageTask<'_>,
    first: usize,
    groups: Range<usize>,
    keys: &[MaybeUninit<TileBytes>],
    values: &[MaybeUninit<TileBytes>],
) {
    let (dim, width) = (t.head_dim, padded(t.head_dim));
    let (steps, columns) = (dim.div_ceil(PAIRED), width / LANES);
    let here = ROWS.min(t.seen.len() - first);
    let mut queries = [TileBytes::ZERO; LONGEST / PAIRED];
    for i in 0..here {
        for (q, tile) in t.q[(first + i) * dim..][..dim].chunks(PAIRED).zip(&mut queries) {
            let mut lanes = [[0.0; LANES]; 2];
            lanes.as_flattened_mut()[..q.len()].copy_from_slice(q);
            isa.bstore(T::rounded(isa.load(&lanes[0]), isa.load(&lanes[1])), &mut tile.0[i]);
        }
    }

    // Scores, two blocks of 16 positions side by side.
    let mut scores = [Sums::ZERO; BLOCKS];
    for group in groups.clone() {
        let block = 2 * group;
        tiles.zero::<0>();
        tiles.zero::<1>();
        for (step, q) in queries[..steps].iter().enumerate() {
            // SAFETY: the caller's promise, here and below.
            let k = [0, 1].map(|i| unsafe { keys[(block + i) * steps + step].assume_init_ref() });
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
    let mut weights = [TileBytes::ZERO; GROUPS];
    for i in 0..here {
        let mut own: Scores = [[0.0; LANES]; BLOCKS];
        for b in blocks.clone() {
            isa.store(isa.floats(isa.iload(&scores[b].0[i])), &mut own[b]);
        }
        t.state[first + i] = softmax(isa, &mut own, blocks.clone(), t.seen[first + i].clone());
        for group in groups.clone() {
            let rounded = T::rounded(isa.load(&own[2 * group]), isa.load(&own[2 * group + 1]));
            isa.bstore(rounded, &mut weights[group].0[i]);
        }
    }

    // out = Σ p · V, two columns of 16 values side by side.
    let mut sums = [Sums::ZERO; 2];
    for column in (0..columns).step_by(2) {
        let second = (column + 1).min(columns - 1);
        tiles.zero::<0>();
        tiles.zero::<1>();
        for group in groups.clone() {
            // SAFETY: as above.
            let v = [column, second].map(|c| unsafe { values[group * columns + c].assume_init_ref() });
            tiles.load::<4>((&weights[group]).into());
            tiles.load::<6>(v[0].into());
            tiles.dot_bf16::<0, 4, 6>();
            tiles.load::<7>(v[1].into());
            tiles.dot_bf16::<1, 4, 7>();
        }
        tiles.store::<0>(&mut sums[0]);
        tiles.store::<1>(&mut sums[1]);
        for (column, sums) in [column, second].into_iter().zip(&sums) {
            for (i, row) in sums.0.iter().enumerate().take(here) {
                let out = &mut t.out[(first + i) * width..][..width].as_chunks_mut().0[column];
                isa.store(isa.floats(isa.iload(row)), out);
            }
        }
    }
}
