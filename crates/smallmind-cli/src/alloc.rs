//! The program's allocator: the system's, with a counter that is off unless a decode is being watched. The only file
//! of this crate with `unsafe` code; it may not do anything but forward and count.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use smallmind::profile::{Allocated, AllocationHooks};

static WATCHING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counted between [`watch`] and [`unwatch`].
pub(crate) struct Counting;

/// How the profiler looks at the counts.
pub(crate) const HOOKS: AllocationHooks = AllocationHooks { now, set_peak };

/// Counts from zero from now on.
pub(crate) fn watch() {
    CALLS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    LIVE.store(0, Ordering::Relaxed);
    PEAK.store(0, Ordering::Relaxed);
    WATCHING.store(true, Ordering::Relaxed);
}

/// Stops counting and tells the sums since [`watch`], of all threads of the process.
pub(crate) fn unwatch() -> Allocated {
    WATCHING.store(false, Ordering::Relaxed);
    now()
}

/// The sums since [`watch`].
fn now() -> Allocated {
    Allocated {
        calls: CALLS.load(Ordering::Relaxed),
        bytes: BYTES.load(Ordering::Relaxed),
        live: LIVE.load(Ordering::Relaxed),
        peak: PEAK.load(Ordering::Relaxed),
    }
}

fn set_peak(peak: i64) {
    PEAK.store(peak, Ordering::Relaxed);
}

/// A call that asked for `bytes` more and gave back none.
#[inline]
fn count(bytes: usize) {
    if WATCHING.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
        held(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[inline]
fn held(change: i64) {
    let live = LIVE.fetch_add(change, Ordering::Relaxed) + change;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

/// `bytes` were given back.
#[inline]
fn uncount(bytes: usize) {
    if WATCHING.load(Ordering::Relaxed) {
        LIVE.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
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
        uncount(layout.size().saturating_sub(size));
        // SAFETY: `block` came from `System` through this allocator with `layout`, as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        uncount(layout.size());
        // SAFETY: `block` came from `System` through this allocator with `layout`, as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_while_watched_is_counted() {
        // Other tests allocate and free meanwhile, but nothing of this size; nobody writes to it, so it takes no memory.
        const BLOCK: usize = 1 << 28;
        const MOST: i64 = BLOCK as i64 / 2;
        watch();
        let block = std::hint::black_box(Vec::<u8>::with_capacity(BLOCK));
        let held = now();
        drop(block);
        let counted = unwatch();
        assert!(held.calls >= 1 && held.bytes >= BLOCK as u64, "{held:?}");
        assert!(held.live > MOST && held.peak > MOST, "{held:?}");
        assert!(counted.live < held.live - MOST && counted.peak > MOST, "{counted:?}");
        let unwatched = std::hint::black_box(Vec::<u8>::with_capacity(1 << 20));
        drop(unwatched);
        assert_eq!(now(), counted);
    }
}
