//! The program's allocator: the system's, with a counter that is off unless a decode is being watched. The only file
//! of this crate with `unsafe` code; it may not do anything but forward and count.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static WATCHING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted between [`watch`] and [`unwatch`].
pub(crate) struct Counting;

/// What was allocated while watched, by all threads of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Calls that asked for memory.
    pub(crate) allocations: u64,
    /// Bytes they asked for; of a block that grew, the growth.
    pub(crate) bytes: u64,
}

/// Counts from zero from now on.
pub(crate) fn watch() {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    WATCHING.store(true, Ordering::Relaxed);
}

/// Stops counting and tells the sums since [`watch`].
pub(crate) fn unwatch() -> Counted {
    WATCHING.store(false, Ordering::Relaxed);
    Counted { allocations: ALLOCATIONS.swap(0, Ordering::Relaxed), bytes: BYTES.swap(0, Ordering::Relaxed) }
}

#[inline]
fn count(bytes: usize) {
    if WATCHING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to `System`, which upholds the contract, with the arguments as they came; counting touches
// only atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: `block` came from `System` through this allocator with `layout`, as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` through this allocator with `layout`, as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_while_watched_is_counted() {
        watch();
        let block = std::hint::black_box(Vec::<u8>::with_capacity(1000));
        let counted = unwatch();
        assert!(counted.allocations >= 1 && counted.bytes >= 1000, "{counted:?}");
        drop(block);
        let unwatched = std::hint::black_box(Vec::<u8>::with_capacity(1 << 20));
        drop(unwatched);
        assert_eq!(unwatch(), Counted::default());
    }
}
