//! The tests behind a verdict: Mann and Whitney's on ranks, which asks nothing of the distribution, and the bootstrap of
//! a ratio of medians.

/// Products of sample sizes up to which the rank test counts every arrangement.
const EXACT: usize = 400;

/// The two-sided p of Mann and Whitney's test (1947): how likely samples of one distribution would fall apart at least so
/// far. Exact for small sets, ties or not, else by the normal approximation with the tie and continuity corrections.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (m, n) = (a.len(), b.len());
    if m == 0 || n == 0 {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|v| (*v, true)).chain(b.iter().map(|v| (*v, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    // Twice the rank, so that the mean rank that ties share is a whole number, too.
    let mut ranks = Vec::with_capacity(m + n);
    let (mut sum, mut ties) = (0, 0.0);
    for run in all.chunk_by(|x, y| x.0 == y.0) {
        let rank = 2 * ranks.len() + run.len() + 1;
        ranks.extend(std::iter::repeat_n(rank, run.len()));
        sum += rank * run.iter().filter(|(_, of_a)| *of_a).count();
        ties += (run.len() as f64).powi(3) - run.len() as f64;
    }
    if m * n <= EXACT {
        return as_far(&ranks, m, sum);
    }
    let (mf, nf) = (m as f64, n as f64);
    let u = sum as f64 / 2.0 - mf * (mf + 1.0) / 2.0;
    let u = u.min(mf * nf - u);
    let total = mf + nf;
    let variance = mf * nf / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (mf * nf / 2.0 - u - 0.5).max(0.0) / variance.sqrt();
    (2.0 * upper_tail(z)).min(1.0)
}

/// The share of all choices of `m` of the ranks whose sum is as far from the mean as `sum`.
fn as_far(ranks: &[usize], m: usize, sum: usize) -> f64 {
    let most: usize = ranks.iter().rev().take(m).sum();
    // counts[k][s]: choices of k of the ranks so far with the sum s.
    let mut counts = vec![vec![0.0f64; most + 1]; m + 1];
    counts[0][0] = 1.0;
    for rank in ranks {
        for k in (1..=m).rev() {
            let (fewer, more) = counts.split_at_mut(k);
            let (from, to) = (&fewer[k - 1], &mut more[0]);
            for s in *rank..=most {
                to[s] += from[s - rank];
            }
        }
    }
    let mean = m * (ranks.len() + 1);
    let all: f64 = counts[m].iter().sum();
    let far = counts[m].iter().enumerate().filter(|(s, _)| s.abs_diff(mean) >= sum.abs_diff(mean));
    far.map(|(_, count)| count).sum::<f64>() / all
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
    fn ties_are_counted_and_large_sets_have_the_normal_p() {
        // Apart, with ties within each.
        close(mann_whitney(&[5.0, 5.0, 6.0, 7.0, 8.0], &[1.0, 1.0, 1.0, 2.0, 3.0]), 2.0 / 252.0, 1e-12);
        let a = [1.0, 2.0, 2.0, 3.0, 4.0, 5.0];
        let b = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        // Of the 924 choices, counted one by one.
        close(mann_whitney(&a, &b), 148.0 / 924.0, 1e-12);
        close(mann_whitney(&a.repeat(5), &b.repeat(5)), 0.000_371_589, 1e-6);
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
