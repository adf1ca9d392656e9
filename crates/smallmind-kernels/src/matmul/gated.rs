//! The first products of a gated MLP with its activation: both matrices panel by panel, so that what they give is joined
//! while it is in the cache.
#![allow(unsafe_code, reason = "threads join disjoint parts of two outputs through raw pointers")]

use std::ops::Range;

use super::acts::{ActQuants, BLOCK, TILE, act_blocks, act_len};
use super::format::GROUP;
use super::tile::OutPtr;
use super::{Acts, Class, Product, check, groups, least, of_class, piece, share_out};
use crate::table::Kernels;
use crate::threads::Pool;

/// The first products of a gated MLP: `act(gate) · up`, for the same input.
#[derive(Debug)]
pub struct Gated<'a> {
    /// Its `out` is where the result goes, in F32.
    pub gate: Product<'a>,
    /// Its `out` is room for what threads compute on the way, [`gated_room`] values; of no use afterwards.
    pub up: Product<'a>,
    /// `gate = act(gate) · up`: [`Kernels::silu_mul`] or [`Kernels::gelu_mul`].
    pub activation: fn(&mut [f32], &[f32]),
    /// Where the result goes instead, rounded as the fast class's next product takes it: [`act_len`] blocks.
    pub rounded: Option<&'a mut [ActQuants]>,
}

/// Row groups that are multiplied by `gate`, then by `up`, and then joined, where many tokens pass by: what comes of them
/// stays in the second-level cache.
const GATED_PANEL: usize = 8;
/// Row groups whose outputs are one block of the fast class.
const GROUPS_OF_A_BLOCK: usize = BLOCK / GROUP;

/// Values that [`matmul_gated`] works in, for `tokens` tokens and `rows` rows.
pub fn gated_room(tokens: usize, rows: usize, threads: usize) -> usize {
    tokens * GROUP * threads * groups(rows).div_ceil(threads).max(2 * GATED_PANEL)
}

/// Where and how what is joined is rounded for the fast class.
#[derive(Clone, Copy)]
struct Rounding {
    round: fn(&[f32], usize, usize, &mut [ActQuants]),
    /// `[tiles, blocks, 16]`.
    out: *mut ActQuants,
    /// Blocks of a token, those past its last value included.
    blocks: usize,
    /// Row groups of the matrices.
    groups: usize,
}
// SAFETY: threads write the blocks of disjoint ranges of groups.
unsafe impl Send for Rounding {}
// SAFETY: as above.
unsafe impl Sync for Rounding {}

impl Rounding {
    /// Rounds what a token has of these groups.
    ///
    /// # Safety
    /// The output has the token's tile; no other thread has these groups, which begin and end with a block or the row.
    unsafe fn row(self, groups: &Range<usize>, token: usize, x: &[f32]) {
        // The last groups have the blocks past the row as well, which become zero.
        let end = if groups.end == self.groups { self.blocks } else { groups.end / GROUPS_OF_A_BLOCK };
        let first = groups.start / GROUPS_OF_A_BLOCK;
        let at = (token / TILE * self.blocks + first) * TILE;
        // SAFETY: the caller's promise.
        let blocks = unsafe { std::slice::from_raw_parts_mut(self.out.add(at), (end - first) * TILE) };
        (self.round)(x, TILE, token % TILE, blocks);
    }
}

/// Computes a gated MLP's first products and its activation, in one fork and join. The same bits as
/// [`matmul`](super::matmul) of both, the activation of whole rows, and their rounding.
///
/// # Panics
/// As [`matmul`](super::matmul); where both have not as many rows, their room is too small, or the result is to be rounded
/// and it is not of the fast class.
pub fn matmul_gated(kernels: &Kernels, pool: &Pool, acts: Acts<'_>, gated: Gated<'_>) {
    let Gated { gate, up, activation, rounded } = gated;
    let (tokens, threads) = (acts.tokens, pool.threads());
    if tokens == 0 {
        return;
    }
    let (rows, all_groups) = (gate.w.rows(), groups(gate.w.rows()));
    let rounding = rounded.map(|out| {
        assert!(out.len() == act_len(tokens, rows, Class::Fast), "matmul: rounded output of another length");
        assert!(acts.class == Class::Fast, "matmul: only results of the fast class are rounded");
        Rounding {
            round: kernels.fast.round,
            out: out.as_mut_ptr(),
            blocks: act_blocks(rows),
            groups: all_groups,
        }
    });
    check(kernels, acts, &gate, if rounding.is_some() { usize::MAX } else { gate.out.len() });
    check(kernels, acts, &up, usize::MAX);
    assert!(up.w.rows() == rows && !gate.accumulate && !up.accumulate, "matmul: not gate and up");
    let room_of_a_thread = gated_room(tokens, rows, threads) / threads;
    assert!(up.out.len() >= threads * room_of_a_thread, "matmul: room too small");
    // Few tokens take each matrix in one stream, and little room.
    let panel = match tokens > TILE || rounding.is_some() {
        true => GATED_PANEL,
        false => all_groups.div_ceil(threads),
    };
    let stride = panel * GROUP;
    let (out, room) = (OutPtr(gate.out.as_mut_ptr()), OutPtr(up.out.as_mut_ptr()));
    let (gate, up) = (&gate, &up);
    let of_class = of_class(kernels, acts.class);
    let bytes = gate.w.bytes().len() + up.w.bytes().len();
    let (mut at_once, mut least) = least(acts, [gate, up].into_iter(), all_groups, bytes);
    if rounding.is_some() {
        (at_once, least) = (GROUPS_OF_A_BLOCK, least.next_multiple_of(GROUPS_OF_A_BLOCK));
    }
    let start = |thread| {
        if thread < threads { all_groups * thread / threads / at_once * at_once } else { all_groups }
    };
    let work = |thread: usize, range: Range<usize>| {
        // SAFETY: the room holds that of every thread, as asserted: two panels, or one of all groups that a thread has.
        let room = unsafe { room.from(thread * room_of_a_thread) };
        for first in range.clone().step_by(panel) {
            let own = first..range.end.min(first + panel);
            let columns = rows.min(own.end * GROUP) - first * GROUP;
            // What is rounded never reaches the output: both panels are in the room.
            let (gates, gates_stride, gates_first, ups) = match rounding {
                // SAFETY: as above.
                Some(_) => (room, stride, first, unsafe { room.from(tokens * stride) }),
                None => (out, gate.stride, 0, room),
            };
            of_class(&piece(acts, gate, own.clone(), gates, gates_stride, gates_first));
            of_class(&piece(acts, up, own.clone(), ups, stride, first));
            for token in 0..tokens {
                // SAFETY: this thread's part of the room is used by nobody else, and these rows of the output are of its
                // range, which no other thread has; both hold all tokens.
                let (gate, up) = unsafe {
                    let gate = gates.from(token * gates_stride + (first - gates_first) * GROUP).0;
                    let up = ups.from(token * stride).0;
                    (std::slice::from_raw_parts_mut(gate, columns), std::slice::from_raw_parts(up, columns))
                };
                activation(gate, up);
                if let Some(rounding) = rounding {
                    // SAFETY: of the length asserted above; ranges begin and panels end with a block.
                    unsafe { rounding.row(&own, token, gate) };
                }
            }
        }
    };
    share_out(pool, tokens, &start, least, &work);
}

const _: () = assert!(GATED_PANEL.is_multiple_of(GROUPS_OF_A_BLOCK));
