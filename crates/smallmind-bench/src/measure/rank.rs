//! The tests behind a verdict: Mann and Whitney's on ranks, which asks nothing of the distribution, and the bootstrap of
//! a ratio of medians.

/// Products of sample sizes up to which the rank test counts every arrangement.
const EXACT: usize = 400;

/// The two-sided p of Mann and Whitney's test (1947): how likely samples of one distribution would fall apart at least so
/// far. Exact for small sets without ties, else by the normal approximation with the tie and continuity corrections.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (m, n) = (a.len(), b.len());
    if m == 0 || n == 0 {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|v| (*v, true)).chain(b.iter().map(|v| (*v, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    // Ties share the mean of their ranks.
    let (mut rank_sum, mut ties) = (0.0, 0.0);
    let mut start = 0;
    for run in all.chunk_by(|x, y| x.0 == y.0) {
        let rank = start as f64 + (run.len() as f64 + 1.0) / 2.0;
        rank_sum += rank * run.iter().filter(|(_, of_a)| *of_a).count() as f64;
        ties += (run.len() as f64).powi(3) - run.len() as f64;
        start += run.len();
    }
    let (mf, nf) = (m as f64, n as f64);
    let u = rank_sum - mf * (mf + 1.0) / 2.0;
    let u = u.min(mf * nf - u);
    if ties == 0.0 && m * n <= EXACT {
        return (2.0 * at_most(m, n, u.round() as usize)).min(1.0);
    }
    let total = mf + nf;
    let variance = mf * nf / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (mf * nf / 2.0 - u - 0.5).max(0.0) / variance.sqrt();
    (2.0 * upper_tail(z)).min(1.0)
}

/// The share of arrangements of `m` and `n` distinct values whose U is at most `u`: Mann and Whitney's recurrence, over
/// how many of the other set each value stands above.
fn at_most(m: usize, n: usize, u: usize) -> f64 {
    let size = m * n + 1;
    // counts[j][s]: arrangements of i and j values with U = s, for i from 0 to m.
    let mut counts = vec![vec![0.0f64; size]; n + 1];
    counts.iter_mut().for_each(|c| c[0] = 1.0);
    for _ in 1..=m {
        let mut next = vec![vec![0.0f64; size]; n + 1];
        next[0][0] = 1.0;
        for j in 1..=n {
            for s in 0..size {
                // The largest value is one of b, or one of a, which stands above all j.
                let of_b = next[j - 1][s];
                let of_a = if s >= j { counts[j][s - j] } else { 0.0 };
                next[j][s] = of_b + of_a;
            }
        }
        counts = next;
    }
    let all: f64 = counts[n].iter().sum();
    counts[n].iter().take(u + 1).sum::<f64>() / all
}

/// The standard normal's probability beyond `z` ≥ 0 (Abramowitz and Stegun 26.2.17; its error is below 7.5e-8).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let b = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let poly = b.iter().rev().fold(0.0, |sum, b| (sum + b) * t);
    (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * poly
}

/// Draws samples again and again from the samples (Efron 1979).
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    state: u64,
    rounds: usize,
}

impl Default for Bootstrap {
    /// Always the same draws: a comparison that is repeated says the same.
    fn default() -> Bootstrap {
        Bootstrap { state: 0x9E37_79B9_7F4A_7C15, rounds: 2000 }
    }
}

impl Bootstrap {
    /// The 95 % interval of `median(after) / median(before)`.
    pub fn ratio_of_medians(mut self, before: &[f64], after: &[f64]) -> (f64, f64) {
        let mut ratios: Vec<f64> = (0..self.rounds)
            .map(|_| {
                let below = self.median_of_draw(before);
                self.median_of_draw(after) / below
            })
            .filter(|r| r.is_finite())
            .collect();
        ratios.sort_by(f64::total_cmp);
        (super::stats::percentile(&ratios, 2.5), super::stats::percentile(&ratios, 97.5))
    }

    fn median_of_draw(&mut self, values: &[f64]) -> f64 {
        let n = values.len();
        let mut draw: Vec<f64> =
            (0..n).filter_map(|_| values.get((self.next() % n as u64) as usize).copied()).collect();
        draw.sort_by(f64::total_cmp);
        super::stats::percentile(&draw, 50.0)
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64, tolerance: f64) {
        assert!((got - want).abs() <= tolerance, "{got} instead of {want}");
    }

    #[test]
    fn small_sets_have_the_exact_p() {
        let count = |from: f64, n: usize| (0..n).map(|i| from + i as f64).collect::<Vec<_>>();
        // All of one below all of the other: 2 of C(10, 5) = 252, of C(6, 3) = 20 arrangements.
        close(mann_whitney(&count(0.0, 5), &count(10.0, 5)), 2.0 / 252.0, 1e-12);
        close(mann_whitney(&count(10.0, 3), &count(0.0, 3)), 2.0 / 20.0, 1e-12);
        // U = 3 or 17: of the 126 arrangements, counted one by one, 14 are as far apart.
        close(mann_whitney(&[19.0, 22.0, 16.0, 29.0, 24.0], &[20.0, 11.0, 17.0, 12.0]), 1.0 / 9.0, 1e-12);
    }

    #[test]
    fn ties_and_large_sets_have_the_normal_p() {
        let a = [1.0, 2.0, 2.0, 3.0, 4.0, 5.0];
        let b = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        // U = 8.5 of a mean of 18; ties of 3, 2, 2 and 2: variance 3 · (13 − (24 + 3 · 6) / 132).
        close(mann_whitney(&a, &b), 0.144_531_980, 1e-6);
        assert_eq!(mann_whitney(&[1.0; 30], &[1.0; 30]), 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]), 1.0);
    }

    #[test]
    fn the_normal_tail_has_its_known_values() {
        for (z, p) in [(0.0, 0.5), (1.0, 0.158_655_254), (1.959_963_985, 0.025), (3.0, 0.001_349_898)] {
            close(upper_tail(z), p, 1e-7);
        }
    }

    #[test]
    fn the_approximation_agrees_with_the_count() {
        // 20 × 20 without ties is counted; its normal approximation is near.
        let a: Vec<f64> = (0..20).map(|i| f64::from(i * 2)).collect();
        let b: Vec<f64> = (0..20).map(|i| f64::from(i * 2 + 9)).collect();
        let exact = mann_whitney(&a, &b);
        let u = a.iter().map(|x| b.iter().filter(|y| *y < x).count()).sum::<usize>() as f64;
        let z = (200.0 - u - 0.5) / (400.0 * 41.0 / 12.0f64).sqrt();
        close(exact, 2.0 * upper_tail(z), 0.005);
    }

    #[test]
    fn an_interval_holds_the_ratio_and_is_the_same_every_time() {
        let a: Vec<f64> = (0..15).map(|i| 100.0 + f64::from(i)).collect();
        let b: Vec<f64> = a.iter().map(|v| v * 1.2).collect();
        let (low, high) = Bootstrap::default().ratio_of_medians(&a, &b);
        assert!(low < 1.2 && 1.2 < high && low > 1.1 && high < 1.3, "{low} {high}");
        assert_eq!((low, high), Bootstrap::default().ratio_of_medians(&a, &b));
    }
}
