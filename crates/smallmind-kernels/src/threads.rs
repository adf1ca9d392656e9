//! The thread pool: the only place of the engine that creates lasting threads.
//!
//! [`Pool::run`] calls one closure on every thread at once and returns when all are done: a fork and a join, each a
//! few hundred nanoseconds while the workers spin, which they do for a moment after each job and then sleep. Where there
//! are more threads than processors nobody spins: who waits would take the time of who works. What a thread computes is
//! decided by its index or by claiming the next task number; which thread computes a task never changes a bit of the
//! result, because tasks write disjoint outputs and never share a sum.
#![allow(unsafe_code, reason = "hands a borrowed closure to the workers for the length of one call")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Job = *const (dyn Fn(usize) + Sync);

/// Spins (with a pause each) before a waiting thread starts to yield its processor: about 10 µs.
const SPINS_BEFORE_YIELD: u32 = 500;
/// Yields before a worker sleeps: a few hundred microseconds, longer than any gap inside one forward pass.
const YIELDS_BEFORE_SLEEP: u32 = 300;

struct Shared {
    /// Counts jobs; a worker that sees a new value takes the job.
    epoch: AtomicU32,
    /// Workers still at the current job.
    busy: AtomicUsize,
    stop: AtomicBool,
    /// A worker's closure panicked: the caller must not trust the outputs.
    panicked: AtomicBool,
    job: std::cell::UnsafeCell<Option<Job>>,
    sleepers: Mutex<usize>,
    wake: Condvar,
    asleep: AtomicUsize,
    /// Whether waiting threads spin and yield before they sleep.
    spins: bool,
    /// Tells a caller who does not spin that `busy` is 0.
    done: Condvar,
}

// SAFETY: `job` is written by the one caller that holds `Pool::gate`, while `busy` is 0 and before `epoch` is raised
// (release); workers read it after they saw the new epoch (acquire) and before they lower `busy`. The closure it points
// to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only used during the call that set it.
unsafe impl Send for Shared {}

/// A fixed set of threads, the caller among them.
pub struct Pool {
    shared: Arc<Shared>,
    /// Callers take turns.
    gate: Mutex<()>,
    /// What is left of each thread's share in [`Pool::balanced`].
    shares: Box<[Share]>,
    /// Whether threads are equally fast, as [`Pool::short`] sees it.
    evenness: Evenness,
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads (at least one): the calling thread and `threads - 1` workers.
    ///
    /// # Errors
    /// The operating system's, where it grants no more threads.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        Pool::sharing(threads, threads)
    }

    /// A pool of `threads` threads that have `cpus` processors' worth of time between them: with fewer processors than
    /// threads, waiting threads sleep at once.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn sharing(threads: usize, cpus: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            job: std::cell::UnsafeCell::new(None),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
            asleep: AtomicUsize::new(0),
            spins: threads <= cpus,
            done: Condvar::new(),
        });
        let shares = (0..threads.max(1)).map(|_| Share(AtomicU64::new(0))).collect();
        let mut pool =
            Pool { shared, gate: Mutex::new(()), shares, evenness: Evenness::default(), workers: Vec::new() };
        for index in 1..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("smallmind-{index}"))
                .spawn(move || work(&shared, index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that a job runs on, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(index)` once on every thread, `index` in `0..threads()`, and returns when all have returned.
    ///
    /// Concurrent callers take turns. A panic of `f` on any thread reaches the caller.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        self.run_after(|| {}, f);
    }

    /// [`Pool::run`], where `prepare` is called first, when the caller's turn has come.
    fn run_after(&self, prepare: impl FnOnce(), f: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            prepare();
            return f(0);
        }
        let _turn = lock(&self.gate);
        prepare();
        let shared = &*self.shared;
        shared.panicked.store(false, Ordering::Relaxed);
        // SAFETY: only the lifetime is changed; this function does not return before every worker is done with `f`
        // (`Join` waits for `busy == 0` even when `f` panics here).
        let job: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(f) };
        // SAFETY: no worker reads the cell now: all of them lowered `busy` for the last job, and the next epoch is
        // not yet published.
        unsafe { *shared.job.get() = Some(job) };
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&shared.sleepers);
            shared.wake.notify_all();
        }
        let join = Join(shared);
        f(0);
        drop(join);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("a worker of the thread pool panicked"));
        }
    }

    /// Calls `f(task)` once for every task in `0..tasks`: neighbours on one thread, as long as all are equally fast.
    ///
    /// # Panics
    /// With 2³² tasks or more.
    pub fn tasks(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(f);
        }
        let start = |thread| tasks * thread / self.threads();
        self.balanced(&start, 1, &|_, range| range.for_each(f));
    }

    /// Calls `f(thread, range)` for ranges that together are `0..start(threads())`. Thread `i` begins with its share
    /// `start(i)..start(i + 1)`, half of what is left at a time in multiples of `least`, and then takes from the shares
    /// of those who are behind: a thread that loses its processor for a moment is not waited for with all its work.
    ///
    /// # Panics
    /// With 2³² items or more.
    pub fn balanced(
        &self,
        start: &(dyn Fn(usize) -> usize + Sync),
        least: usize,
        f: &(dyn Fn(usize, Range<usize>) + Sync),
    ) {
        let threads = self.threads();
        assert!(u32::try_from(start(threads)).is_ok(), "too many items to share");
        if self.workers.is_empty() {
            return f(0, 0..start(1));
        }
        let share_out = || {
            for (i, share) in self.shares.iter().enumerate() {
                share.set(start(i)..start(i + 1));
            }
        };
        self.run_after(share_out, &|thread| {
            for i in 0..threads {
                let owner = (thread + i) % threads;
                let mut others = 0;
                while let Some(range) = self.shares[owner].take(least) {
                    if i > 0 {
                        others += range.len();
                    }
                    f(thread, range);
                }
                if others > 0 {
                    self.evenness.taken_over(others, start(owner)..start(owner + 1));
                }
            }
        });
    }

    /// [`Pool::balanced`] for work of microseconds, of which `least` items take about one. As long as threads prove equally
    /// fast each is given its share in one piece and nobody looks after the others: where one piece ends, what memory has
    /// on its way runs dry, and a look at what another core has written takes as long as a row of weights.
    ///
    /// # Panics
    /// As [`Pool::balanced`].
    pub fn short(
        &self,
        start: &(dyn Fn(usize) -> usize + Sync),
        least: usize,
        f: &(dyn Fn(usize, Range<usize>) + Sync),
    ) {
        let share = start(1) / least.max(1);
        if self.workers.is_empty() || share > LONGEST_SHORT || self.evenness.probes(share) {
            self.evenness.uneven.store(false, Ordering::Relaxed);
            self.balanced(start, least, f);
            self.evenness.probed(share);
            return;
        }
        self.run(&|thread| {
            let share = start(thread)..start(thread + 1);
            if !share.is_empty() {
                f(thread, share);
            }
        });
    }

    /// Calls `f(i, chunk)` for every chunk of `len` values of `data` (the last may be shorter), in parallel.
    pub fn chunks<T: Send>(&self, data: &mut [T], len: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
        self.chunks2(data, len, &mut [(); 0], 0, &|i, chunk, _| f(i, chunk));
    }

    /// [`Pool::chunks`] over two slices side by side: chunk `i` of both goes to one call. `b` may be empty.
    pub fn chunks2<A: Send, B: Send>(
        &self,
        a: &mut [A],
        a_len: usize,
        b: &mut [B],
        b_len: usize,
        f: &(dyn Fn(usize, &mut [A], &mut [B]) + Sync),
    ) {
        self.chunks3((a, a_len), (b, b_len), (&mut [(); 0], 0), &|i, a, b, _| f(i, a, b));
    }

    /// [`Pool::chunks`] over three slices side by side, each with the length of its chunks: chunk `i` of all goes to one
    /// call. All but the first may be empty.
    pub fn chunks3<A: Send, B: Send, C: Send>(
        &self,
        (a, a_len): (&mut [A], usize),
        (b, b_len): (&mut [B], usize),
        (c, c_len): (&mut [C], usize),
        f: &(dyn Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync),
    ) {
        if a_len == 0 {
            return;
        }
        let tasks = a.len().div_ceil(a_len);
        let (a, b, c) = (Parts::of(a, a_len), Parts::of(b, b_len), Parts::of(c, c_len));
        self.tasks(tasks, &|i| {
            // SAFETY: task numbers are claimed once each, and this call borrows the slices mutably for its whole length.
            let (a, b, c) = unsafe { (a.chunk(i), b.chunk(i), c.chunk(i)) };
            f(i, a, b, c);
        });
    }

    /// Splits `0..n` into one contiguous range a thread, sizes differing by at most one.
    pub fn share(&self, n: usize, index: usize) -> std::ops::Range<usize> {
        let t = self.threads();
        n * index / t..n * (index + 1) / t
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.shared.sleepers));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never panics outside `f`, whose panics it catches.
            let _ = worker.join();
        }
    }
}

/// A range of items that threads take parts of: its start in the upper half, its end in the lower one.
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, range: Range<usize>) {
        self.0.store((range.start as u64) << 32 | range.end as u64, Ordering::Relaxed);
    }

    /// Half of what is left, in multiples of `least` where there are as many.
    fn take(&self, least: usize) -> Option<Range<usize>> {
        let split = |now: u64| {
            let (start, end) = (now >> 32, now & u64::from(u32::MAX));
            let left = end.checked_sub(start).filter(|&left| left > 0)?;
            let take = left.div_ceil(2).next_multiple_of(least.max(1) as u64).min(left);
            Some((start, start + take, end))
        };
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            split(now).map(|(_, middle, end)| middle << 32 | end)
        });
        taken.ok().and_then(split).map(|(start, middle, _)| start as usize..middle as usize)
    }
}

/// A share of so many times the least is not short: a thread that loses its processor meanwhile is to be helped.
const LONGEST_SHORT: usize = 256;
/// A share of so many times the least says how fast threads are: in less, the start of a worker counts.
const TELLING: usize = 16;
/// Telling turns in a row without much taken over, before shares are given out in one piece.
const EVEN_TURNS: u32 = 8;
/// Of so many telling turns one is balanced then, to see.
const PROBE_EVERY: u32 = 16;

/// Whether threads have been equally fast of late.
#[derive(Default)]
struct Evenness {
    /// Telling turns, and how many of them were even in a row: of callers, who take turns; were they to meet, one count
    /// would be lost.
    turns: AtomicU32,
    even: AtomicU32,
    /// A thread has taken over much of another's share.
    uneven: AtomicBool,
}

impl Evenness {
    /// A thread has taken over so many items of another's share.
    fn taken_over(&self, items: usize, share: Range<usize>) {
        // Who does 7/6 while another does 5/6 is 1.4 times as fast.
        if 6 * items > share.len() {
            self.uneven.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a turn of so large shares is to be balanced.
    fn probes(&self, share: usize) -> bool {
        let even = self.even.load(Ordering::Relaxed) >= EVEN_TURNS;
        if !even || share < TELLING {
            return !even;
        }
        let turn = self.turns.load(Ordering::Relaxed).wrapping_add(1);
        self.turns.store(turn, Ordering::Relaxed);
        turn.is_multiple_of(PROBE_EVERY)
    }

    /// A turn of so large shares was balanced.
    fn probed(&self, share: usize) {
        let uneven = self.uneven.swap(false, Ordering::Relaxed);
        if (TELLING..=LONGEST_SHORT).contains(&share) {
            let even = if uneven { 0 } else { self.even.load(Ordering::Relaxed).saturating_add(1) };
            self.even.store(even, Ordering::Relaxed);
        }
    }
}

/// A slice that tasks take disjoint parts of.
struct Parts<T> {
    start: *mut T,
    len: usize,
    chunk: usize,
}
// SAFETY: used only by `chunks3`, whose tasks take disjoint parts of a slice of `Send` values.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    fn of(slice: &mut [T], chunk: usize) -> Self {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), chunk }
    }

    /// Chunk `i`, shorter or empty at the end.
    ///
    /// # Safety
    /// The slice is borrowed mutably for as long as the result is used, and nobody else uses this chunk.
    #[allow(clippy::mut_from_ref, reason = "disjoint, by the caller's promise")]
    unsafe fn chunk(&self, i: usize) -> &mut [T] {
        let from = (i * self.chunk).min(self.len);
        let to = (from + self.chunk).min(self.len);
        // SAFETY: within the slice; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no worker is busy, also while unwinding: the closure must outlive its last use.
struct Join<'a>(&'a Shared);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        if !self.0.spins {
            let mut guard = lock(&self.0.sleepers);
            while self.0.busy.load(Ordering::Acquire) > 0 {
                guard = self.0.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            return;
        }
        let mut turns = 0u32;
        while self.0.busy.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch was published after the cell was written, and the caller keeps the closure alive and the
        // cell unwritten until this worker lowers `busy`.
        let job = unsafe { (*shared.job.get()).map(|j| &*j) };
        if let Some(job) = job {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(index)));
            if outcome.is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        let last = shared.busy.fetch_sub(1, Ordering::Release) == 1;
        if last && !shared.spins {
            // The lock: the caller is either before its look at `busy` or already waiting.
            drop(lock(&shared.sleepers));
            shared.done.notify_one();
        }
    }
}

/// Waits for an epoch other than `seen`: spinning, then yielding, then asleep.
fn next_epoch(shared: &Shared, seen: u32) -> u32 {
    let turns = if shared.spins { SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP } else { 0 };
    for turn in 0..turns {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch != seen {
            return epoch;
        }
        if turn < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
    let mut guard = lock(&shared.sleepers);
    shared.asleep.fetch_add(1, Ordering::SeqCst);
    let epoch = loop {
        // Sequentially consistent with the caller's raise of the epoch and its look at `asleep`: one sees the other.
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if epoch != seen {
            break epoch;
        }
        guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
    };
    shared.asleep.fetch_sub(1, Ordering::SeqCst);
    epoch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_job_once() {
        for (threads, cpus) in [(1, 1), (2, 2), (5, 5), (2, 1), (5, 2)] {
            let pool = Pool::sharing(threads, cpus).unwrap();
            let hits: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=1000 {
                pool.run(&|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == round));
            }
        }
    }

    #[test]
    fn every_task_is_done_once_also_after_the_workers_slept() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..3 {
            let done: Vec<AtomicUsize> = (0..101).map(|_| AtomicUsize::new(0)).collect();
            pool.tasks(done.len(), &|i| {
                done[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1));
            while pool.shared.asleep.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn shares_are_worked_off_once_each_also_by_one_thread_for_all() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for (items, least) in [(0, 1), (1, 1), (2, 3), (97, 1), (97, 4), (1000, 16)] {
                for lazy in [None, Some(0), Some(threads - 1)] {
                    let done: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                    let begun = AtomicUsize::new(0);
                    // The last threads have least to do, and one does nothing until the others have begun with the rest.
                    let start = |i| if i == 0 { 0 } else { items - (threads - i) * (items / (4 * threads)) };
                    pool.balanced(&start, least, &|_, range| {
                        begun.fetch_add(range.len(), Ordering::Relaxed);
                        let current = std::thread::current();
                        let worker = current.name().and_then(|n| n.strip_prefix("smallmind-"));
                        let index = worker.map_or(0, |n| n.parse().unwrap());
                        while threads > 1 && lazy == Some(index) && begun.load(Ordering::Relaxed) < items {
                            std::thread::yield_now();
                        }
                        for i in range {
                            done[i].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{threads} {items} {least}");
                }
            }
        }
    }

    #[test]
    fn short_work_is_done_once_each_also_while_threads_prove_even_and_when_they_are_not() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..100 {
                let lazy = (50..60).contains(&round).then_some(threads - 1);
                let done: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(0)).collect();
                pool.short(&|i| 97 * i / threads, 1, &|thread, range| {
                    if lazy == Some(thread) {
                        std::thread::sleep(std::time::Duration::from_micros(50));
                    }
                    for i in range {
                        done[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{threads} {round}");
            }
        }
    }

    #[test]
    fn shares_go_out_in_one_piece_after_even_turns_and_until_one_takes_over_much() {
        let e = Evenness::default();
        let balanced = |share: usize, others: usize| {
            if others > 0 {
                e.taken_over(others, 0..share);
            }
            e.probed(share);
        };
        for _ in 0..EVEN_TURNS {
            assert!(e.probes(TELLING) && e.probes(1));
            balanced(1, 1);
            e.uneven.store(false, Ordering::Relaxed);
            balanced(TELLING, TELLING / 6);
        }
        let probes = (0..2 * PROBE_EVERY).filter(|_| e.probes(TELLING)).count();
        assert_eq!(probes, 2, "one turn of so many looks again");
        assert!((0..2 * PROBE_EVERY).all(|_| !e.probes(TELLING - 1)), "small shares tell nothing");
        balanced(TELLING, TELLING / 6 + 1);
        assert!(e.probes(TELLING) && e.probes(1));
    }

    #[test]
    fn a_panic_in_a_job_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        for culprit in 0..2 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(&|i| assert_ne!(i, culprit, "as asked"));
            }));
            assert!(outcome.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(&|i| {
            sum.fetch_add(i + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn concurrent_callers_take_turns() {
        let pool = Pool::new(2).unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.run(&|i| {
                            if i == 1 {
                                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                        });
                    }
                });
            }
        });
    }
}
