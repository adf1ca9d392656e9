//! Samples of time, and dates.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use smallmind::CancelToken;

/// How often something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// Runs before the first that counts.
    pub warmup: usize,
    /// Runs that count, whatever they take.
    pub iterations: usize,
    /// Further runs are made until those that count have taken so long, up to [`MOST`] of them.
    pub fill: Duration,
}

/// The most runs that are made to fill a time: ranks from the 1st to the 99th percentile are then samples.
pub const MOST: usize = 100;

impl Repeats {
    /// So many runs that count, and no more.
    pub fn exactly(warmup: usize, iterations: usize) -> Repeats {
        Repeats { warmup, iterations, fill: Duration::ZERO }
    }
}

/// Takes samples until there are enough, or until `cancel` says stop: what has been measured is kept.
///
/// # Errors
/// The first error of `one`.
pub fn repeat<T, E>(
    repeats: Repeats,
    cancel: &CancelToken,
    mut one: impl FnMut() -> Result<T, E>,
) -> Result<Vec<T>, E> {
    let mut samples = Vec::with_capacity(repeats.iterations);
    for _ in 0..repeats.warmup {
        if cancel.is_cancelled() {
            return Ok(samples);
        }
        one()?;
    }
    let begun = Instant::now();
    while !cancel.is_cancelled()
        && (samples.len() < repeats.iterations || samples.len() < MOST && begun.elapsed() < repeats.fill)
    {
        samples.push(one()?);
    }
    Ok(samples)
}

/// How long `work` takes, and what it gives.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// The time in UTC, `2026-01-31T12:00:00Z`.
pub fn now_utc() -> String {
    let s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(s / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600 % 24, s / 60 % 60, s % 60)
}

/// Days since 1970 as year, month and day of the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59 + 365 * 2), (1972, 2, 29));
        assert_eq!(civil(20_484), (2026, 1, 31));
    }

    #[test]
    fn warm_up_runs_do_not_count_and_what_was_measured_before_a_stop_is_kept() {
        let (cancel, mut calls) = (CancelToken::default(), 0);
        let repeats = Repeats::exactly(2, 3);
        let mut count = || -> Result<i32, ()> {
            calls += 1;
            if calls == 9 {
                cancel.cancel();
            }
            Ok(calls)
        };
        assert_eq!(repeat(repeats, &cancel, &mut count), Ok(vec![3, 4, 5]));
        assert_eq!(repeat(repeats, &cancel, &mut count), Ok(vec![8, 9]));
        assert_eq!(repeat(repeats, &cancel, || Err::<i32, _>("no")), Ok(vec![]));
    }

    #[test]
    fn a_time_is_filled_with_runs_but_not_with_more_than_the_most() {
        let cancel = CancelToken::default();
        let long = Repeats { fill: Duration::from_secs(3600), ..Repeats::exactly(1, 5) };
        let mut calls = 0;
        let mut count = || -> Result<(), ()> {
            calls += 1;
            Ok(())
        };
        assert_eq!(repeat(long, &cancel, &mut count).map(|s| s.len()), Ok(MOST));
        let more = Repeats { iterations: MOST + 7, ..long };
        assert_eq!(repeat(more, &cancel, &mut count).map(|s| s.len()), Ok(MOST + 7));
        assert_eq!(calls, 1 + MOST + 1 + MOST + 7);
        // The time that is over when the least number of runs is done.
        let short = Repeats { fill: Duration::from_nanos(1), ..Repeats::exactly(0, 5) };
        assert_eq!(repeat(short, &cancel, || Ok::<_, ()>(())).map(|s| s.len()), Ok(5));
    }
}
