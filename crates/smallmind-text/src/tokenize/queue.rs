//! A queue of pairs to merge, lowest key first and leftmost first within a key. Knows nothing of tokens.
//!
//! In text that repeats itself millions of pairs share a key and arrive from left to right. A heap would pay log n
//! cache misses for each; here each key keeps its places in a row of their own, and only those that arrive out of
//! order go through a heap. So the worst case stays O(n log n) and the repeating one is linear.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::vocab::FastMap;

/// The places that wait under one key, ascending; those before `done` are taken.
#[derive(Default)]
struct Row {
    places: Vec<u32>,
    done: usize,
}

impl Row {
    fn front(&self) -> Option<u32> {
        self.places.get(self.done).copied()
    }
}

#[derive(Default)]
pub(super) struct Queue {
    /// The row taken from last, under its key.
    key: u32,
    row: Row,
    /// The other rows, and their keys by order.
    rows: FastMap<u32, Row>,
    keys: BinaryHeap<Reverse<u32>>,
    /// What did not come in order.
    late: BinaryHeap<Reverse<(u32, u32)>>,
    /// Empty rows for reuse.
    spare: Vec<Vec<u32>>,
}

impl Queue {
    pub(super) fn push(&mut self, key: u32, place: u32) {
        let row = if key == self.key && self.row.front().is_some() {
            &mut self.row
        } else {
            let (keys, spare) = (&mut self.keys, &mut self.spare);
            self.rows.entry(key).or_insert_with(|| {
                keys.push(Reverse(key));
                Row { places: spare.pop().unwrap_or_default(), done: 0 }
            })
        };
        if row.places.last().is_some_and(|&last| last > place) {
            self.late.push(Reverse((key, place)));
        } else {
            row.places.push(place);
        }
    }

    /// The lowest pair, taken out.
    pub(super) fn pop(&mut self) -> Option<(u32, u32)> {
        if self.keys.peek().is_some_and(|&Reverse(key)| self.row.front().is_none() || key < self.key) {
            self.change_row();
        }
        let from_row = self.row.front().map(|place| (self.key, place));
        let from_late = self.late.peek().map(|&Reverse(pair)| pair);
        match (from_row, from_late) {
            (None, None) => None,
            (Some(pair), late) if late.is_none_or(|late| pair <= late) => {
                self.row.done += 1;
                Some(pair)
            }
            _ => self.late.pop().map(|Reverse(pair)| pair),
        }
    }

    /// Goes on with the row of the lowest key; the one at hand is put back or emptied.
    fn change_row(&mut self) {
        let Some(Reverse(key)) = self.keys.pop() else { return };
        let next = self.rows.remove(&key).unwrap_or_default();
        let mut before = std::mem::replace(&mut self.row, next);
        let key_before = std::mem::replace(&mut self.key, key);
        if before.front().is_some() {
            self.keys.push(Reverse(key_before));
            self.rows.insert(key_before, before);
        } else {
            before.places.clear();
            self.spare.push(before.places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pairs_leave_in_order_however_they_came(steps in proptest::collection::vec((0u32..6, 0u32..20, any::<bool>()), 0..200)) {
            let mut queue = Queue::default();
            let mut naive = BinaryHeap::new();
            for (key, place, pops) in steps {
                queue.push(key, place);
                naive.push(Reverse((key, place)));
                if pops {
                    prop_assert_eq!(queue.pop(), naive.pop().map(|r| r.0));
                }
            }
            while let Some(Reverse(pair)) = naive.pop() {
                prop_assert_eq!(queue.pop(), Some(pair));
            }
            prop_assert_eq!(queue.pop(), None);
        }
    }
}
