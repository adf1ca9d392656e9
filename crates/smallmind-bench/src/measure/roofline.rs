//! The machine's limits, measured in the same run as everything else: read bandwidth by working set and threads, and the
//! peaks of fused multiply-adds and of 8-bit dot products. Loops are compiled for the widest instructions that the CPU
//! has; memory lies on large pages where the system grants them, as the engine's weights do.
#![allow(unsafe_code, reason = "calls functions compiled for instructions that were looked for just before")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Working sets, in MB of 10⁶ bytes, of all threads together.
const WORKING_SETS: [usize; 5] = [1, 32, 100, 256, 1000];
/// The shortest sample, and how long samples are taken; the best counts. Samples are short, so that some of them are
/// undisturbed where other programs run.
const SAMPLE: Duration = Duration::from_millis(4);
const ENOUGH: Duration = Duration::from_millis(300);

/// The machine's limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Read bandwidth for each thread count and working set.
    pub read_bandwidth: Vec<Bandwidth>,
    /// Peaks of arithmetic for each thread count; none where this program has no such loop for the CPU.
    pub peaks: Vec<Peak>,
}

/// One measured bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Threads, each reading a part of its own.
    pub threads: usize,
    /// The working set of all of them.
    pub bytes: usize,
    /// 10⁹ bytes a second.
    pub gb_per_s: f64,
}

/// One measured peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Threads.
    pub threads: usize,
    /// What is computed.
    pub arithmetic: Arithmetic,
    /// 10⁹ operations a second of all threads; a multiply-add is two.
    pub gops: f64,
    /// What computes it.
    pub instructions: String,
}

/// Kinds of arithmetic with a peak of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Fused multiply-adds in single precision.
    F32,
    /// Products of 8-bit integers, added up in 32 bits.
    Int8,
}

/// What bounds an operation on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Bytes take longer than arithmetic.
    Memory,
    /// Arithmetic takes longer than bytes.
    Compute,
}

impl Bound {
    /// In a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Compute => "arithmetic",
        }
    }
}

impl Limits {
    /// Measures everything, in about half a second for each figure.
    pub fn measure(threads: &[usize]) -> Limits {
        Limits::measure_sets(threads, &WORKING_SETS)
    }

    /// Measures with working sets up to that of `bytes` (and the next larger) only: of a small model no one needs a
    /// gigabyte.
    pub fn measure_for(threads: &[usize], bytes: usize) -> Limits {
        let sets = WORKING_SETS.iter().position(|mb| mb * 1_000_000 >= bytes);
        Limits::measure_sets(threads, &WORKING_SETS[..sets.map_or(WORKING_SETS.len(), |at| at + 1)])
    }

    fn measure_sets(threads: &[usize], megabytes: &[usize]) -> Limits {
        let memory = Memory::new(megabytes.last().copied().unwrap_or(0) * 1_000_000);
        let mut limits = Limits::default();
        for &threads in threads {
            for megabytes in megabytes {
                let bytes = megabytes * 1_000_000;
                limits.read_bandwidth.push(memory.read(bytes, threads));
            }
            limits.peaks.extend(peaks(threads));
        }
        limits
    }

    /// Takes the limits of other thread counts in.
    pub fn add(&mut self, other: Limits) {
        self.read_bandwidth.extend(other.read_bandwidth);
        self.peaks.extend(other.peaks);
    }

    /// Takes in what was measured again: of two measurements of one thing the better one is nearer to the limit.
    pub fn raise(&mut self, again: Bandwidth) {
        let same = |b: &&mut Bandwidth| b.threads == again.threads && b.bytes == again.bytes;
        match self.read_bandwidth.iter_mut().find(same) {
            Some(known) => known.gb_per_s = known.gb_per_s.max(again.gb_per_s),
            None => self.read_bandwidth.push(again),
        }
    }

    /// Adds the peaks of arithmetic for a number of threads, where they are not there yet.
    pub fn measure_peaks(&mut self, threads: usize) {
        if !self.peaks.iter().any(|p| p.threads == threads) {
            self.peaks.extend(peaks(threads));
        }
    }

    /// The bandwidth measured for the working set nearest to `bytes` (by ratio), in bytes a second.
    pub fn bandwidth(&self, threads: usize, bytes: f64) -> Option<f64> {
        let distance = |p: &Bandwidth| (p.bytes as f64 / bytes).ln().abs();
        let measured = self.read_bandwidth.iter().filter(|p| p.threads == threads);
        Some(1e9 * measured.min_by(|a, b| distance(a).total_cmp(&distance(b)))?.gb_per_s)
    }

    /// The share of the bandwidth that `rate` passes a second over `bytes` take.
    pub fn share(&self, threads: usize, bytes: f64, rate: f64) -> Option<f64> {
        Some(bytes * rate / self.bandwidth(threads, bytes)?)
    }

    /// The peak of some arithmetic.
    pub fn peak(&self, threads: usize, arithmetic: Arithmetic) -> Option<&Peak> {
        self.peaks.iter().find(|p| p.threads == threads && p.arithmetic == arithmetic)
    }

    /// The least seconds in which this machine could do `ops` operations on `bytes` bytes out of a `working_set`, and
    /// what bounds it: the roofline model of Williams, Waterman and Patterson (2009).
    pub fn least_seconds(
        &self,
        threads: usize,
        arithmetic: Arithmetic,
        ops: f64,
        bytes: f64,
        working_set: f64,
    ) -> Option<(f64, Bound)> {
        let memory = bytes / self.bandwidth(threads, working_set)?;
        let compute = self.peak(threads, arithmetic).map_or(0.0, |p| ops / (1e9 * p.gops));
        Some(if memory >= compute { (memory, Bound::Memory) } else { (compute, Bound::Compute) })
    }

    /// The limits in words: name and value.
    pub fn described(&self) -> Vec<(String, String)> {
        let mut threads: Vec<usize> = self.read_bandwidth.iter().map(|b| b.threads).collect();
        threads.dedup();
        let mut all = Vec::new();
        let mut bandwidth = Vec::new();
        for count in threads {
            let of: Vec<String> = self
                .read_bandwidth
                .iter()
                .filter(|b| b.threads == count)
                .map(|b| format!("{} MB {:.1}", b.bytes / 1_000_000, b.gb_per_s))
                .collect();
            bandwidth.push(format!("{count} thread{}: {}", if count == 1 { "" } else { "s" }, of.join(", ")));
        }
        if !bandwidth.is_empty() {
            all.push(("read bandwidth in GB/s by working set".to_owned(), bandwidth.join("; ")));
        }
        for p in &self.peaks {
            let what = match p.arithmetic {
                Arithmetic::F32 => "F32 peak",
                Arithmetic::Int8 => "int8 peak",
            };
            let threads = if p.threads == 1 { "1 thread".into() } else { format!("{} threads", p.threads) };
            all.push((format!("{what}, {threads}"), format!("{:.0} GOP/s with {}", p.gops, p.instructions)));
        }
        all
    }
}

/// Memory to read from.
#[derive(Debug)]
pub struct Memory(Vec<u64>);

impl Memory {
    /// Takes it from the system.
    pub fn new(bytes: usize) -> Memory {
        let mut words = Vec::with_capacity(bytes / 8);
        ask_for_large_pages(&mut words);
        words.resize(bytes / 8, 1);
        Memory(words)
    }

    /// The bandwidth of `threads` threads over a working set of `bytes`, or of all there is.
    pub fn read(&self, bytes: usize, threads: usize) -> Bandwidth {
        let words = &self.0[..(bytes / 8).min(self.0.len())];
        Bandwidth { threads, bytes, gb_per_s: read_bandwidth(words, threads) }
    }
}

/// Before the pages are touched; a system that has no large ones gives small ones.
#[cfg(target_os = "linux")]
fn ask_for_large_pages(words: &mut Vec<u64>) {
    const PAGE: usize = 1 << 12;
    let (start, bytes) = (words.as_mut_ptr().cast::<u8>(), words.capacity() * 8);
    let skip = start.align_offset(PAGE);
    if bytes > skip + PAGE {
        let whole = (bytes - skip) / PAGE * PAGE;
        // SAFETY: the pages lie within the vector's own block, and the advice changes nothing that can be read there.
        let _ =
            unsafe { rustix::mm::madvise(start.add(skip).cast(), whole, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_words: &mut Vec<u64>) {}

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

/// Rounds of a loop, on one thread; returns the operations that they were.
type Loop = fn(usize) -> f64;

/// Every peak that this CPU has a loop for.
fn peaks(threads: usize) -> Vec<Peak> {
    let of = |arithmetic, found: Option<(Loop, &'static str)>| {
        let (work, instructions) = found?;
        let gops = best_rate(threads, work);
        Some(Peak { threads, arithmetic, gops, instructions: instructions.to_owned() })
    };
    [of(Arithmetic::F32, f32_loop()), of(Arithmetic::Int8, int8_loop())].into_iter().flatten().collect()
}

#[cfg(target_arch = "x86_64")]
fn f32_loop() -> Option<(Loop, &'static str)> {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512F, as just seen.
        return Some((|n| unsafe { x86::fma_avx512(n) }, "AVX-512"));
    }
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2 and FMA, as just seen.
        return Some((|n| unsafe { x86::fma_avx2(n) }, "AVX2"));
    }
    None
}

#[cfg(target_arch = "x86_64")]
fn int8_loop() -> Option<(Loop, &'static str)> {
    // The kernels offer their AMX table only where the system gave the process the tiles and they compute right.
    if smallmind_kernels::available().iter().any(|k| k.name == "amx") {
        // SAFETY: the process may use the tile registers, as the table's presence proves.
        return Some((|n| unsafe { x86::amx_int8(n) }, "AMX"));
    }
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512 VNNI, as just seen.
        return Some((|n| unsafe { x86::dot_avx512(n) }, "AVX-512 VNNI"));
    }
    if is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX-VNNI, as just seen.
        return Some((|n| unsafe { x86::dot_avxvnni(n) }, "AVX-VNNI"));
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, as just seen.
        return Some((|n| unsafe { x86::dot_avx2(n) }, "AVX2"));
    }
    None
}

/// Without vector instructions to name, the compiler's own: on AArch64 the base has fused multiply-adds.
#[cfg(not(target_arch = "x86_64"))]
fn f32_loop() -> Option<(Loop, &'static str)> {
    let portable: Loop = |rounds| {
        let (m, c) = (black_box([0.999f32; 4]), black_box([0.001f32; 4]));
        let mut chains = [[1.0f32; 4]; 12];
        for _ in 0..rounds {
            for chain in &mut chains {
                for lane in 0..4 {
                    chain[lane] = chain[lane].mul_add(m[lane], c[lane]);
                }
            }
        }
        black_box(chains);
        12.0 * 4.0 * 2.0 * rounds as f64
    };
    cfg!(target_arch = "aarch64").then_some((portable, "NEON"))
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_loop() -> Option<(Loop, &'static str)> {
    None
}

/// 10⁹ operations a second of all threads together, at best.
fn best_rate(threads: usize, work: Loop) -> f64 {
    // A million rounds last some milliseconds: the start of threads is little beside.
    const ROUNDS: usize = 1_000_000;
    let (begun, mut best) = (Instant::now(), 0.0f64);
    while best == 0.0 || begun.elapsed() < ENOUGH {
        let start = Instant::now();
        let operations: f64 = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(ROUNDS))).collect();
            let own = work(ROUNDS);
            own + others.into_iter().filter_map(|t| t.join().ok()).sum::<f64>()
        });
        best = best.max(operations / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16,
        _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    };
    use std::hint::black_box;

    macro_rules! chains {
        ($rounds:ident, $ops:expr, $start:expr, |$a:ident| $step:expr, [$($chain:ident)*]) => {{
            // Enough chains to cover the latency of every unit, few enough for the registers.
            $(let mut $chain = $start;)*
            for _ in 0..$rounds {
                $({ let $a = $chain; $chain = $step; })*
            }
            let mut chains = 0.0;
            $(black_box($chain); chains += 1.0;)*
            chains * $ops * $rounds as f64
        }};
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_avx512(rounds: usize) -> f64 {
        let (m, c) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        chains!(rounds, 32.0, _mm512_set1_ps(1.0), |v| _mm512_fmadd_ps(v, m, c), [a b d e f g h i j k l n])
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_avx2(rounds: usize) -> f64 {
        let (m, c) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        chains!(rounds, 16.0, _mm256_set1_ps(1.0), |v| _mm256_fmadd_ps(v, m, c), [a b d e f g h i j k l n])
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dot_avx512(rounds: usize) -> f64 {
        let (x, w) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-5)));
        let zero = _mm512_set1_epi32(0);
        chains!(rounds, 128.0, zero, |v| _mm512_dpbusd_epi32(v, x, w), [a b d e f g h i j k l n])
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn dot_avxvnni(rounds: usize) -> f64 {
        let (x, w) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)));
        let zero = _mm256_set1_epi32(0);
        chains!(rounds, 64.0, zero, |v| _mm256_dpbusd_avx_epi32(v, x, w), [a b d e f g h i j k l n])
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot_avx2(rounds: usize) -> f64 {
        let (x, w) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)));
        let ones = _mm256_set1_epi16(1);
        // The product depends on the chain's value only so that it is computed every time.
        let step = |v| {
            let pairs = _mm256_maddubs_epi16(black_box(x), w);
            _mm256_add_epi32(v, _mm256_madd_epi16(pairs, ones))
        };
        chains!(rounds, 64.0, _mm256_set1_epi32(0), |v| step(v), [a b d e f g h i])
    }

    /// Operand of `ldtilecfg`: eight registers of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static CONFIG: Config = {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut i = 0;
        while i < 8 {
            (row_bytes[i], rows[i]) = (64, 16);
            i += 1;
        }
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };

    /// Products of 16 × 64 and 64 × 16 bytes into six registers of sums.
    ///
    /// # Safety
    /// The process may use the tile registers.
    pub(super) unsafe fn amx_int8(rounds: usize) -> f64 {
        let rounds = rounds.div_ceil(16);
        // SAFETY: the caller's promise; the registers are configured, zeroed, and given back within the block, and no
        // memory but the configuration is touched.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbusd tmm0, tmm6, tmm7",
                "tdpbusd tmm1, tmm6, tmm7",
                "tdpbusd tmm2, tmm6, tmm7",
                "tdpbusd tmm3, tmm6, tmm7",
                "tdpbusd tmm4, tmm6, tmm7",
                "tdpbusd tmm5, tmm6, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const CONFIG,
                rounds = inout(reg) rounds => _,
                options(nostack, readonly)
            );
        }
        6.0 * 2.0 * 16.0 * 16.0 * 64.0 * rounds as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let point = |threads, bytes, gb_per_s| Bandwidth { threads, bytes, gb_per_s };
        let read_bandwidth =
            vec![point(1, 1_000_000, 100.0), point(1, 100_000_000, 20.0), point(2, 1_000_000, 190.0)];
        let peaks =
            vec![Peak { threads: 1, arithmetic: Arithmetic::F32, gops: 50.0, instructions: "X".into() }];
        Limits { read_bandwidth, peaks }
    }

    #[test]
    fn the_nearest_working_set_tells_the_bandwidth() {
        let limits = limits();
        assert_eq!(limits.bandwidth(1, 3e6), Some(100e9));
        assert_eq!(limits.bandwidth(1, 2e7), Some(20e9));
        assert_eq!(limits.bandwidth(2, 1e9), Some(190e9));
        assert_eq!(limits.bandwidth(3, 1e9), None);
        // 96 MB a token, 125 times a second, is 12 GB/s: 60 % of 20.
        assert_eq!(limits.share(1, 96e6, 125.0), Some(0.6));
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_bounds() {
        let limits = limits();
        // 1 MB at 20 GB/s is 50 µs; 5 MFLOP at 50 GFLOP/s are 100 µs.
        let of = |ops| limits.least_seconds(1, Arithmetic::F32, ops, 1e6, 1e8).unwrap();
        assert_eq!((of(1e6).1, of(5e6).1), (Bound::Memory, Bound::Compute));
        assert!((of(1e6).0 - 50e-6).abs() < 1e-12 && (of(5e6).0 - 100e-6).abs() < 1e-12);
        assert_eq!(limits.least_seconds(1, Arithmetic::Int8, 1e12, 1e6, 1e8).unwrap().1, Bound::Memory);
        assert_eq!(limits.described()[0].1, "1 thread: 1 MB 100.0, 100 MB 20.0; 2 threads: 1 MB 190.0");
    }

    #[test]
    fn every_path_reads_every_word() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!((sum(&words), plain_sum(&words)), (499_500, 499_500));
    }

    #[test]
    fn peaks_are_finite_and_more_than_nothing() {
        assert!(peaks(1).iter().all(|p| p.gops.is_finite() && p.gops > 0.1), "{:?}", peaks(1));
    }
}
