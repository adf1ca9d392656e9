//! Samples and what they say: order statistics, mean and deviation; and whether two sets of samples differ beyond noise.

use serde::{Deserialize, Serialize};

use super::rank::{Bootstrap, mann_whitney};

/// Figures of one thing, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(pub Vec<f64>);

/// What samples say together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the field's own names")]
pub struct Summary {
    pub n: usize,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    pub mean: f64,
    /// Of the sample: the sum of squares over n − 1; 0 for one value.
    pub stddev: f64,
}

impl Samples {
    /// The finite values in ascending order.
    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.0.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The middle value, or the mean of the two middle ones; NaN without samples.
    pub fn median(&self) -> f64 {
        percentile(&self.sorted(), 50.0)
    }

    /// The smallest value; infinite without samples.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value; negative infinity without samples.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// All of it; `None` without a finite sample.
    pub fn summary(&self) -> Option<Summary> {
        let sorted = self.sorted();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (mean, stddev) = mean_and_deviation(&sorted);
        let p = |p| percentile(&sorted, p);
        Some(Summary {
            n: sorted.len(),
            min,
            p50: p(50.0),
            p90: p(90.0),
            p95: p(95.0),
            p99: p(99.0),
            max,
            mean,
            stddev,
        })
    }

    /// Half the distance between the quartiles, as a share of the median: the usual scatter, whatever single outliers do.
    pub fn spread(&self) -> f64 {
        let sorted = self.sorted();
        (percentile(&sorted, 75.0) - percentile(&sorted, 25.0)) / 2.0 / percentile(&sorted, 50.0).abs()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        Samples(values.into_iter().collect())
    }
}

/// The value below which `p` percent of sorted values lie, between neighbours in proportion (NumPy's and R's default,
/// type 7 of Hyndman and Fan 1996); NaN without values.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let at = p / 100.0 * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (sorted.get(at.floor() as usize), sorted.get(at.ceil() as usize));
    match (low, high) {
        (Some(low), Some(high)) => low + (high - low) * at.fract(),
        _ => f64::NAN,
    }
}

/// The mean, and the sample's standard deviation (0 for one value).
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// As with speeds.
    More,
    /// As with times and memory.
    Less,
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Better, beyond the noise.
    Improved,
    /// Worse, beyond the noise.
    Regressed,
    /// No change that the samples could tell from chance, and they would have told one of [`NOISY`].
    WithinNoise,
    /// Fewer than [`LEAST_SAMPLES`] on a side: no test can conclude from them.
    TooFewSamples,
    /// No change can be told from chance, and a change of [`NOISY`] could hide in the scatter.
    TooNoisy,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Improved => "improved",
            Verdict::Regressed => "regressed",
            Verdict::WithinNoise => "within noise",
            Verdict::TooFewSamples => "too few samples",
            Verdict::TooNoisy => "too noisy",
        }
    }
}

/// Samples that each side needs: with five and five the rank test's smallest p is 2/252 = 0.008, with four 0.03.
pub const LEAST_SAMPLES: usize = 5;
/// A result as far from equality as this or farther is by chance once in a hundred comparisons: reports hold dozens.
pub const SIGNIFICANCE: f64 = 0.01;
/// Changes smaller than this are not called one, however certain: two runs of one program differ by as much, from where
/// its memory happened to lie.
pub const SMALLEST_CHANGE: f64 = 0.01;
/// An interval that reaches this far from "no change" says nothing.
pub const NOISY: f64 = 0.10;

/// Two sets of samples beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The median after over the median before.
    pub ratio: f64,
    /// The 95 % interval of that ratio, by bootstrap.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// Of the Mann-Whitney rank test, two-sided.
    pub p: f64,
    /// What follows.
    pub verdict: Verdict,
}

impl Comparison {
    /// Compares `after` with `before`. The same samples always give the same answer.
    pub fn of(before: &Samples, after: &Samples, better: Better) -> Comparison {
        let (before, after) = (before.sorted(), after.sorted());
        let ratio = percentile(&after, 50.0) / percentile(&before, 50.0);
        let few = before.len().min(after.len()) < LEAST_SAMPLES;
        if few || !ratio.is_finite() {
            let nan = f64::NAN;
            return Comparison { ratio, low: nan, high: nan, p: nan, verdict: Verdict::TooFewSamples };
        }
        let (low, high) = Bootstrap::default().ratio_of_medians(&before, &after);
        let p = mann_whitney(&before, &after);
        let apart = p < SIGNIFICANCE && (low > 1.0 || high < 1.0 || low == high);
        let verdict = if apart && (ratio - 1.0).abs() >= SMALLEST_CHANGE {
            if (ratio > 1.0) == (better == Better::More) { Verdict::Improved } else { Verdict::Regressed }
        } else if !apart && (high - 1.0).max(1.0 - low) > NOISY {
            Verdict::TooNoisy
        } else {
            Verdict::WithinNoise
        };
        Comparison { ratio, low, high, p, verdict }
    }

    /// `+4.1 % [+3.2, +5.0], p 0.008: improved`.
    pub fn words(&self) -> String {
        let percent = |r: f64| format!("{:+.1}", 100.0 * (r - 1.0));
        let verdict = self.verdict.words();
        match self.verdict {
            Verdict::TooFewSamples if self.ratio.is_finite() => {
                format!("{} %: {verdict} to tell", percent(self.ratio))
            }
            Verdict::TooFewSamples => format!("{verdict} to tell"),
            _ => {
                let (low, high) = (percent(self.low), percent(self.high));
                format!("{} % [{low}, {high}], p {:.3}: {verdict}", percent(self.ratio), self.p)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn around(center: f64, spread: f64, n: usize) -> Samples {
        (0..n).map(|i| center * (1.0 + spread * (((i * 7) % n) as f64 / (n - 1) as f64 - 0.5))).collect()
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([15, 20, 35, 40, 50], [0, 40, 50, 90, 99, 100])
        let v = [15.0, 20.0, 35.0, 40.0, 50.0];
        let got = [0.0, 40.0, 50.0, 90.0, 99.0, 100.0].map(|p| percentile(&v, p));
        let want = [15.0, 29.0, 35.0, 46.0, 49.6, 50.0];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-9), "{got:?}");
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn a_summary_has_the_known_values() {
        // numpy: mean 5.0, std(ddof=1) 2.138089935299395
        let s = Samples(vec![9.0, 2.0, 4.0, 4.0, 5.0, 4.0, 7.0, 5.0]).summary().unwrap();
        assert_eq!((s.n, s.min, s.max, s.mean, s.p50), (8, 2.0, 9.0, 5.0, 4.5));
        assert!((s.stddev - 2.138_089_935_299_395).abs() < 1e-12);
        assert_eq!(Samples(vec![f64::NAN]).summary(), None);
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
    }

    #[test]
    fn a_clear_change_is_named_by_which_way_is_better() {
        let (slow, fast) = (around(100.0, 0.02, 10), around(110.0, 0.02, 10));
        assert_eq!(Comparison::of(&slow, &fast, Better::More).verdict, Verdict::Improved);
        assert_eq!(Comparison::of(&fast, &slow, Better::More).verdict, Verdict::Regressed);
        assert_eq!(Comparison::of(&slow, &fast, Better::Less).verdict, Verdict::Regressed);
        let c = Comparison::of(&slow, &fast, Better::More);
        assert!(c.low < 1.1 && 1.1 < c.high && c.low > 1.05 && c.p < 0.001, "{c:?}");
        assert!(c.words().starts_with("+10.0 % ["), "{}", c.words());
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let verdict = |a: &Samples, b: &Samples| Comparison::of(a, b, Better::More).verdict;
        let quiet = around(100.0, 0.02, 10);
        assert_eq!(verdict(&quiet, &around(100.1, 0.02, 10)), Verdict::WithinNoise);
        assert_eq!(verdict(&quiet, &around(103.0, 0.9, 10)), Verdict::TooNoisy);
        assert_eq!(verdict(&quiet, &Samples(vec![200.0; 4])), Verdict::TooFewSamples);
        assert_eq!(verdict(&quiet, &Samples::default()), Verdict::TooFewSamples);
        // Certain, and too small to matter.
        assert_eq!(verdict(&around(100.0, 0.001, 20), &around(100.5, 0.001, 20)), Verdict::WithinNoise);
        assert_eq!(
            Comparison::of(&quiet, &Samples::default(), Better::More).words(),
            "too few samples to tell"
        );
    }

    proptest! {
        #[test]
        fn percentiles_are_ordered_and_within_the_samples(v in prop::collection::vec(-1e6f64..1e6, 1..60)) {
            let s = Samples(v).summary().unwrap();
            let all = [s.min, s.p50, s.p90, s.p95, s.p99, s.max];
            prop_assert!(all.windows(2).all(|w| w[0] <= w[1] + 1e-9));
            prop_assert!(s.min - 1e-6 <= s.mean && s.mean <= s.max + 1e-6 && s.stddev >= 0.0);
        }

        #[test]
        fn samples_never_differ_from_themselves(v in prop::collection::vec(1f64..1e6, 5..40)) {
            let s = Samples(v);
            let c = Comparison::of(&s, &s, Better::More);
            prop_assert!(matches!(c.verdict, Verdict::WithinNoise | Verdict::TooNoisy));
            prop_assert!(c.low <= 1.0 && 1.0 <= c.high);
        }

        #[test]
        fn improvements_one_way_are_regressions_the_other(
            a in prop::collection::vec(90f64..110.0, 5..20), b in prop::collection::vec(95f64..125.0, 5..20),
        ) {
            let (a, b) = (Samples(a), Samples(b));
            let there = Comparison::of(&a, &b, Better::More);
            let less = Comparison::of(&a, &b, Better::Less);
            let expected = match there.verdict {
                Verdict::Improved => Verdict::Regressed,
                Verdict::Regressed => Verdict::Improved,
                other => other,
            };
            prop_assert_eq!(less.verdict, expected);
        }
    }
}
