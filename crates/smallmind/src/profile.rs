//! The stages of a forward pass, and the probe that may watch them. Free where nobody watches: [`Off`] has no size and
//! its calls compile to the call they wrap.

/// A named stage, shared by profiler, reports and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named as in the figure of a transformer layer")]
pub enum Stage {
    Embed,
    Rope,
    AttnNorm,
    Qkv,
    QkNormRope,
    Attention,
    AttnOut,
    MlpNorm,
    MlpUp,
    Activation,
    MlpDown,
    Logits,
}

/// Watches stages.
pub trait Probe {
    /// Runs one stage.
    fn stage<R>(&mut self, stage: Stage, run: impl FnOnce() -> R) -> R;

    /// Sees what the matrices of a stage are multiplied by, `[rows, k]`, before they are.
    #[inline(always)]
    fn input(&mut self, _stage: Stage, _layer: usize, _x: &[f32], _k: usize) {}
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Off;

impl Probe for Off {
    #[inline(always)]
    fn stage<R>(&mut self, _stage: Stage, run: impl FnOnce() -> R) -> R {
        run()
    }
}

/// Adds up the time of every stage.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    totals: std::collections::BTreeMap<Stage, (u64, std::time::Duration)>,
}

impl Recorder {
    /// Calls and time of every stage that ran, in the order of [`Stage`].
    pub fn totals(&self) -> impl Iterator<Item = (Stage, u64, std::time::Duration)> + '_ {
        self.totals.iter().map(|(s, (calls, time))| (*s, *calls, *time))
    }
}

impl Probe for Recorder {
    fn stage<R>(&mut self, stage: Stage, run: impl FnOnce() -> R) -> R {
        let start = std::time::Instant::now();
        let result = run();
        let entry = self.totals.entry(stage).or_default();
        entry.0 += 1;
        entry.1 += start.elapsed();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watching_nothing_has_no_size() {
        assert_eq!(size_of::<Off>(), 0);
    }

    #[test]
    fn the_recorder_counts_calls() {
        let mut r = Recorder::default();
        assert_eq!(r.stage(Stage::Qkv, || 3) + r.stage(Stage::Qkv, || 4), 7);
        assert_eq!(r.totals().map(|(s, n, _)| (s, n)).collect::<Vec<_>>(), [(Stage::Qkv, 2)]);
    }
}
