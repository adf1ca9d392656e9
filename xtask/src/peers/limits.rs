//! The machine's limits, measured in the same run as everything else: read bandwidth by working set and threads, and the
//! peak of fused multiply-adds. Loops are compiled for the widest instructions that the CPU has; memory is an ordinary
//! `Vec`, on pages of 4 KB unless the system gives larger ones by itself.
#![allow(unsafe_code, reason = "calls functions compiled for instructions that were looked for just before")]

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Working sets, in MB of 10⁶ bytes, of all threads together.
const WORKING_SETS: [usize; 5] = [1, 32, 100, 256, 1000];
/// The shortest sample, and how long samples are taken; the best counts. Samples are short, so that some of them are
/// undisturbed where other programs run.
const SAMPLE: Duration = Duration::from_millis(4);
const ENOUGH: Duration = Duration::from_millis(300);

/// Read bandwidth for each thread count and working set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    points: Vec<Point>,
}

/// One measured bandwidth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) threads: usize,
    pub(crate) bytes: usize,
    /// 10⁹ bytes a second.
    pub(crate) gb_per_s: f64,
}

impl Limits {
    /// Measures every point.
    pub(crate) fn measure(threads: &[usize]) -> Limits {
        let largest = WORKING_SETS[WORKING_SETS.len() - 1] * 1_000_000;
        let words = vec![1u64; largest / 8];
        let mut points = Vec::new();
        for &threads in threads {
            for megabytes in WORKING_SETS {
                let bytes = megabytes * 1_000_000;
                let gb_per_s = read_bandwidth(&words[..bytes / 8], threads);
                points.push(Point { threads, bytes, gb_per_s });
            }
        }
        Limits { points }
    }

    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// The bandwidth measured for the working set nearest to `bytes` (by ratio), in bytes a second.
    pub(crate) fn bandwidth(&self, threads: usize, bytes: f64) -> Option<f64> {
        let distance = |p: &Point| (p.bytes as f64 / bytes).ln().abs();
        let measured = self.points.iter().filter(|p| p.threads == threads);
        Some(1e9 * measured.min_by(|a, b| distance(a).total_cmp(&distance(b)))?.gb_per_s)
    }

    /// The share of the bandwidth that `rate` passes a second over `bytes` take.
    pub(crate) fn share(&self, threads: usize, bytes: f64, rate: f64) -> Option<f64> {
        Some(bytes * rate / self.bandwidth(threads, bytes)?)
    }
}

/// Each thread reads its own part again and again, as a thread of a decode does with its rows.
fn read_bandwidth(words: &[u64], threads: usize) -> f64 {
    let mut best = 0.0f64;
    let mut passes = 1;
    let begun = Instant::now();
    while best == 0.0 || begun.elapsed() < ENOUGH {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(words.len().div_ceil(threads)) {
                scope.spawn(move || {
                    for _ in 0..passes {
                        black_box(sum(black_box(part)));
                    }
                });
            }
        });
        let took = start.elapsed();
        if took < SAMPLE && passes < 1 << 20 {
            passes *= 2;
        } else {
            best = best.max((passes * size_of_val(words)) as f64 / took.as_secs_f64() / 1e9);
        }
    }
    best
}

#[inline(always)]
fn plain_sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 64];
    let (blocks, rest) = words.as_chunks::<64>();
    for block in blocks {
        for i in 0..64 {
            sums[i] = sums[i].wrapping_add(block[i]);
        }
    }
    sums.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(words: &[u64]) -> u64 {
    plain_sum(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(words: &[u64]) -> u64 {
    plain_sum(words)
}

/// Reads everything once.
fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F, as just seen.
            return unsafe { sum_avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, as just seen.
            return unsafe { sum_avx2(words) };
        }
    }
    plain_sum(words)
}

/// 10⁹ floating-point operations a second of one thread's fused multiply-adds in registers, and the instructions used;
/// `None` where this program has no such loop for the CPU.
pub(crate) fn fma_peak() -> Option<(f64, &'static str)> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F, as just seen.
            return Some((best_rate(|n| unsafe { x86::fma_avx512(n) }), "AVX-512"));
        }
        if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2 and FMA, as just seen.
            return Some((best_rate(|n| unsafe { x86::fma_avx2(n) }), "AVX2"));
        }
    }
    None
}

/// `work(n)` does `n` rounds and returns the floating-point operations of them.
fn best_rate(work: impl Fn(usize) -> f64) -> f64 {
    let (begun, mut best) = (Instant::now(), 0.0f64);
    while begun.elapsed() < ENOUGH {
        let start = Instant::now();
        let operations = work(100_000);
        best = best.max(operations / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
    use std::hint::black_box;

    macro_rules! fma_loop {
        ($name:ident, $features:literal, $fma:ident, $set:ident, $lanes:literal, [$($a:ident)*]) => {
            // Enough chains to cover the latency of every unit, few enough for the registers.
            #[target_feature(enable = $features)]
            pub(super) fn $name(rounds: usize) -> f64 {
                let (m, c) = ($set(black_box(0.999)), $set(black_box(0.001)));
                $(let mut $a = $set(1.0);)*
                for _ in 0..rounds {
                    $($a = $fma($a, m, c);)*
                }
                let mut chains = 0.0;
                $(black_box($a); chains += 1.0;)*
                chains * 2.0 * $lanes * rounds as f64
            }
        };
    }
    fma_loop!(fma_avx512, "avx512f", _mm512_fmadd_ps, _mm512_set1_ps, 16.0, [a b d e f g h i j k l n]);
    fma_loop!(fma_avx2, "avx2,fma", _mm256_fmadd_ps, _mm256_set1_ps, 8.0, [a b d e f g h i j k l n]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_working_set_tells_the_bandwidth() {
        let point = |threads, bytes, gb_per_s| Point { threads, bytes, gb_per_s };
        let points =
            vec![point(1, 1_000_000, 100.0), point(1, 100_000_000, 20.0), point(2, 1_000_000, 190.0)];
        let limits = Limits { points };
        assert_eq!(limits.bandwidth(1, 3e6), Some(100e9));
        assert_eq!(limits.bandwidth(1, 2e7), Some(20e9));
        assert_eq!(limits.bandwidth(2, 1e9), Some(190e9));
        assert_eq!(limits.bandwidth(3, 1e9), None);
        // 96 MB a token, 125 times a second, is 12 GB/s: 60 % of 20.
        assert_eq!(limits.share(1, 96e6, 125.0), Some(0.6));
    }

    #[test]
    fn every_path_reads_every_word() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!((sum(&words), plain_sum(&words)), (499_500, 499_500));
    }
}
