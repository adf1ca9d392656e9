//! Learning rates over the steps of a run.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate's course. `lr` is the peak; the values are multiples of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The peak, after the warmup.
    Constant,
    /// Half a cosine from the peak to the floor (Loshchilov and Hutter 2017).
    #[default]
    Cosine,
    /// The peak times `decay` for every `every` steps done.
    Step,
    /// From the peak to the floor by equal factors.
    Exponential,
    /// Up by half a cosine in the first 30 %, then down to a 10,000th of the start (Smith and Topin 2018); brings its
    /// own warmup.
    OneCycle,
}

/// A schedule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// The shape.
    pub schedule: Schedule,
    /// The peak.
    pub lr: f64,
    /// Where cosine and exponential end, as a part of the peak.
    pub floor: f64,
    /// Steps of linear warmup.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps between two decays of `Step`.
    pub every: u64,
    /// Factor of one decay of `Step`.
    pub decay: f64,
}

impl Course {
    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if self.schedule == Schedule::OneCycle {
            return self.lr * self.one_cycle(step);
        }
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let past = (step - self.warmup) as f64;
        let part = past / (self.steps.saturating_sub(self.warmup).max(2) - 1) as f64;
        let part = part.min(1.0);
        self.lr
            * match self.schedule {
                Schedule::Constant | Schedule::OneCycle => 1.0,
                Schedule::Cosine => cosine(1.0, self.floor, part),
                Schedule::Step => self.decay.powf((past / self.every.max(1) as f64).floor()),
                Schedule::Exponential => self.floor.max(1e-12).powf(part),
            }
    }

    fn one_cycle(&self, step: u64) -> f64 {
        const START: f64 = 1.0 / 25.0;
        let top = (0.3 * self.steps as f64 - 1.0).max(1.0);
        let last = (self.steps as f64 - 1.0).max(top + 1.0);
        let step = step as f64;
        if step <= top {
            cosine(START, 1.0, step / top)
        } else {
            cosine(1.0, START / 1e4, ((step - top) / (last - top)).min(1.0))
        }
    }
}

/// From `a` to `b` along half a cosine.
fn cosine(a: f64, b: f64, part: f64) -> f64 {
    b + (a - b) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(schedule: Schedule) -> Course {
        Course { schedule, lr: 0.1, floor: 0.1, warmup: 10, steps: 110, every: 20, decay: 0.5 }
    }

    #[test]
    fn every_schedule_starts_peaks_and_ends_where_it_says() {
        for (schedule, start, peak, end) in [
            (Schedule::Constant, 0.01, 0.1, 0.1),
            (Schedule::Cosine, 0.01, 0.1, 0.01),
            (Schedule::Step, 0.01, 0.1, 0.1 / 16.0),
            (Schedule::Exponential, 0.01, 0.1, 0.01),
            (Schedule::OneCycle, 0.004, 0.1, 4e-7),
        ] {
            let rates: Vec<f64> = (0..110).map(|step| course(schedule).at(step)).collect();
            let most = rates.iter().copied().fold(0.0, f64::max);
            for (what, found, want) in
                [("start", rates[0], start), ("peak", most, peak), ("end", rates[109], end)]
            {
                assert!((found - want).abs() < 1e-9, "{schedule:?} {what}: {found}, not {want}");
            }
            assert!(rates[10..].windows(2).all(|w| schedule == Schedule::OneCycle || w[1] <= w[0]));
        }
    }
}
