//! The recorder's clock. Where the kernel itself keeps time by the processor's counter, that is read directly: without the
//! call and the barriers of the system's clock, twice for every recorded stage.
#![allow(unsafe_code, reason = "reads the processor's counter of time")]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the counter is watched beside the system's clock, once a process: both are read to some 50 ns, so that a tick's
/// length errs by 5 in 100,000 at most.
const BESIDE: Duration = Duration::from_millis(1);
/// The scale of [`Tick`]: fractions of 2⁻³² ns.
const SCALE: f64 = 4_294_967_296.0;

/// Nanoseconds since it was started.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clock {
    /// The processor's counter at the start, and what a tick of it is.
    Counter { began: u64, tick: Tick },
    /// Where the counter is not to be trusted.
    System { began: Instant },
}

/// The nanoseconds of a tick, times 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tick(u64);

impl Clock {
    /// Takes [`BESIDE`] the first time, nothing later.
    pub(super) fn start() -> Clock {
        static TICK: OnceLock<Option<Tick>> = OnceLock::new();
        let tick = *TICK.get_or_init(|| if kernel_trusts_counter() { measure_tick() } else { None });
        match tick.zip(read_counter()) {
            Some((tick, began)) => Clock::Counter { began, tick },
            None => Clock::System { began: Instant::now() },
        }
    }

    /// Instructions before and after it may overlap with the reading by some nanoseconds.
    #[inline]
    pub(super) fn now(self) -> u64 {
        match self {
            Clock::Counter { began, tick } => {
                tick.nanoseconds(read_counter().unwrap_or(began).saturating_sub(began))
            }
            Clock::System { began } => u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

impl Tick {
    /// Of so many ticks.
    #[inline]
    fn nanoseconds(self, ticks: u64) -> u64 {
        // Ticks are 0.1 to 1,000 ns, and 64 bits of nanoseconds are 584 years: what is cut off is zero.
        ((u128::from(ticks) * u128::from(self.0)) >> 32) as u64
    }
}

/// Linux takes its time from this counter only where it goes on evenly in every state of the processor and alike on all of
/// them, and stops as soon as a watchdog sees it err.
fn kernel_trusts_counter() -> bool {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(source).is_ok_and(|source| source.trim() == "tsc")
}

fn measure_tick() -> Option<Tick> {
    let (ticks, time) = together()?;
    while time.elapsed() < BESIDE {
        std::hint::spin_loop();
    }
    let (ticks_after, time_after) = together()?;
    let passed = ticks_after.saturating_sub(ticks) as f64;
    let tick = SCALE * time_after.duration_since(time).as_nanos() as f64 / passed;
    (tick.is_finite() && tick >= 1.0).then_some(Tick(tick as u64))
}

/// Both clocks at one moment: of some readings the one during which the least time passed, for a program that was put aside
/// meanwhile has read them at two.
fn together() -> Option<(u64, Instant)> {
    let reading = || {
        let (before, time) = (read_counter()?, Instant::now());
        let took = read_counter()?.saturating_sub(before);
        Some((took, before + took / 2, time))
    };
    let (_, ticks, time) = (0..16).filter_map(|_| reading()).min_by_key(|(took, ..)| *took)?;
    Some((ticks, time))
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_counter() -> Option<u64> {
    // SAFETY: every x86-64 processor has the instruction, it touches no memory, and Linux, which alone leads here (see
    // `kernel_trusts_counter`), lets programs use it: its own clock in user space is made of it.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

/// On AArch64 the system's clock is a reading of the counter with little around it: nothing to gain was measured.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn read_counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_and_as_fast_as_the_systems_clock() {
        let before = Instant::now();
        let clock = Clock::start();
        let between = Instant::now();
        let mut last = 0;
        while between.elapsed() < Duration::from_millis(20) {
            let now = clock.now();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        // Whatever interrupts the test, the clock was read while the system's went from one of these to the other.
        let least = between.elapsed().as_nanos() as f64;
        let now = clock.now() as f64;
        let most = before.elapsed().as_nanos() as f64;
        assert!(0.999 * least - 200.0 <= now && now <= 1.001 * most + 200.0, "{least} {now} {most}");
    }

    #[test]
    fn it_is_the_processors_counter_where_the_kernels_is() {
        let counter = matches!(Clock::start(), Clock::Counter { .. });
        assert_eq!(counter, cfg!(target_arch = "x86_64") && kernel_trusts_counter());
    }

    #[test]
    fn ticks_become_nanoseconds_without_overflow() {
        // A counter of 2.5 GHz.
        let tick = Tick((0.4 * SCALE) as u64);
        assert_eq!(tick.nanoseconds(0), 0);
        assert!((399_999_999..=400_000_000).contains(&tick.nanoseconds(1_000_000_000)));
        // A year.
        let year = 31_557_600_u64 * 2_500_000_000;
        assert!(tick.nanoseconds(year).abs_diff(31_557_600_000_000_000) < 10_000_000);
        assert_eq!(Tick(1 << 32).nanoseconds(u64::MAX), u64::MAX);
    }
}
