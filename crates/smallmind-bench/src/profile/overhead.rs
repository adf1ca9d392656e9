//! What watching costs: the same tokens decoded under the recorder and without, in turn, in samples so short that what
//! disturbs one mostly disturbs its neighbour; and the cost of one scope, recorded and not, by itself.

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;
use smallmind::profile::{AllocationHooks, Off, Probe, Recorder, Stage};
use smallmind::{Batch, CancelToken, Model, Session, SessionOptions};

use crate::measure::stats::{Samples, percentile};
use crate::speed::arbitrary_tokens;
use crate::{Error, Result};

/// The shortest sample that is compared: thousands of times what the clock costs.
const SAMPLE_S: f64 = 0.02;
/// Tokens before those that are timed.
const PROMPT: usize = 16;
/// Scopes of one sample of a scope's cost, and samples.
const SCOPES: u32 = 100_000;
const SCOPE_SAMPLES: usize = 50;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watching {
    /// The model.
    pub model: String,
    /// Threads.
    pub threads: usize,
    /// Pairs of samples, one recorded, one not.
    pub pairs: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Scopes of one token.
    pub scopes: f64,
    /// A token that nobody watches, by the median.
    pub token_us: f64,
    /// Recorded over not recorded: the median of the pairs.
    pub ratio: f64,
    /// The 95 % interval of that median.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// One recorded scope by itself.
    pub scope_on_ns: f64,
    /// One scope that nobody watches, by itself: the time of a loop with it less that of the same loop without.
    pub scope_off_ns: f64,
}

impl Watching {
    /// In sentences.
    pub fn text(&self) -> String {
        let percent = |ratio: f64| format!("{:+.2}", 100.0 * (ratio - 1.0));
        let share = |ns: f64| format!("{:.3} %", 100.0 * ns * self.scopes / (1e3 * self.token_us));
        format!(
            "{}, {} threads: {:.1} µs and {:.0} scopes a token, {} pairs of samples of {} tokens\n\
             recorded: {} % [{}, {}] of the time, by the median of the pairs; a scope by itself {:.1} ns, all of a token's {}\n\
             not recorded: a scope by itself {:.4} ns, all of a token's {}\n",
            self.model,
            self.threads,
            self.token_us,
            self.scopes,
            self.pairs,
            self.tokens,
            percent(self.ratio),
            percent(self.low),
            percent(self.high),
            self.scope_on_ns,
            share(self.scope_on_ns),
            self.scope_off_ns,
            share(self.scope_off_ns),
        )
    }
}

/// Measures it on a model, in so many pairs.
///
/// # Errors
/// Where the model's context is too short, or Ctrl-C came before there was a pair.
pub fn watching(
    name: &str,
    model: &Model,
    pairs: usize,
    allocations: Option<AllocationHooks>,
    cancel: &CancelToken,
) -> Result<Watching> {
    let room = model.config().context;
    if room < 2 * PROMPT {
        return Err(Error::Usage(format!(
            "{name}: a context of {room} tokens is too short to time a decode"
        )));
    }
    let most = (room - PROMPT).min(256);
    let options = SessionOptions { context: Some(PROMPT + most), ..SessionOptions::default() };
    let mut decoder = Decoder {
        sessions: [Session::new(model, &options)?],
        batch: Batch::new(model, 1)?,
        tokens: arbitrary_tokens(model, PROMPT + most),
    };
    let one = decoder.seconds(most, &mut Off)? / most as f64;
    let tokens = ((SAMPLE_S / one).ceil() as usize).clamp(1, most);
    // A short context is decoded more than once.
    let passes = (SAMPLE_S / (one * tokens as f64)).ceil().max(1.0) as usize;
    let recorder = || {
        let recorder = Recorder::new().with_room(model.config().layers, passes * tokens);
        match allocations {
            Some(hooks) => recorder.with_allocations(hooks),
            None => recorder,
        }
    };
    let (mut off, mut ratios, mut scopes) = (Vec::new(), Vec::new(), 0.0);
    for pair in 0..pairs {
        if cancel.is_cancelled() {
            break;
        }
        let mut watched = recorder();
        let (mut without, mut with) = (0.0, 0.0);
        for pass in 0..passes {
            // Who goes first takes turns: what drifts is on both sides alike.
            if (pair + pass) % 2 == 0 {
                without += decoder.seconds(tokens, &mut Off)?;
                with += decoder.seconds(tokens, &mut watched)?;
            } else {
                with += decoder.seconds(tokens, &mut watched)?;
                without += decoder.seconds(tokens, &mut Off)?;
            }
        }
        ratios.push(with / without);
        let decoded = (passes * tokens) as f64;
        off.push(1e6 * without / decoded);
        scopes = watched.nodes().iter().map(|n| n.calls as f64).sum::<f64>() / decoded;
    }
    if ratios.is_empty() {
        return Err(Error::Interrupted);
    }
    ratios.sort_by(f64::total_cmp);
    let (low, high) = interval_of_median(&ratios);
    let plain = Samples((0..SCOPE_SAMPLES).map(|_| loop_ns(|_| ())).collect());
    let unwatched = Samples((0..SCOPE_SAMPLES).map(|_| loop_ns(|i| scope(&mut Off, i))).collect());
    let mut watched = recorder();
    let recorded = Samples((0..SCOPE_SAMPLES).map(|_| loop_ns(|i| scope(&mut watched, i))).collect());
    Ok(Watching {
        model: name.to_owned(),
        threads: model.threads(),
        pairs: ratios.len(),
        tokens: passes * tokens,
        scopes,
        token_us: Samples(off).median(),
        ratio: percentile(&ratios, 50.0),
        low,
        high,
        scope_on_ns: recorded.median() - plain.median(),
        scope_off_ns: unwatched.median() - plain.median(),
    })
}

/// A scope as layers have them.
#[inline(always)]
fn scope(probe: &mut impl Probe, i: u32) {
    probe.stage(Stage::Product.of_layer(i as usize % 32), || ());
}

/// Nanoseconds of one turn of a loop around `work`.
fn loop_ns(mut work: impl FnMut(u32)) -> f64 {
    let start = Instant::now();
    for i in 0..SCOPES {
        work(black_box(i));
    }
    1e9 * start.elapsed().as_secs_f64() / f64::from(SCOPES)
}

/// The interval that holds the median of what sorted values were drawn from, 95 times in 100: the values around the middle,
/// 0.98 √n places to either side (the binomial distribution by its normal approximation).
fn interval_of_median(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len() as f64;
    let reach = 0.98 * n.sqrt();
    let at = |place: f64| sorted.get(place.clamp(0.0, n - 1.0) as usize).copied().unwrap_or(f64::NAN);
    (at((n / 2.0 - reach).floor()), at((n / 2.0 + reach).ceil()))
}

/// Decodes the same tokens again and again.
struct Decoder {
    sessions: [Session; 1],
    batch: Batch,
    tokens: Vec<u32>,
}

impl Decoder {
    /// How long `count` tokens behind the prompt take.
    fn seconds<P: Probe>(&mut self, count: usize, probe: &mut P) -> Result<f64> {
        let session = &mut self.sessions[0];
        let left = session.truncate(PROMPT.min(session.tokens().len()));
        if left < PROMPT {
            session.prefill(&self.tokens[left..PROMPT])?;
        }
        let start = Instant::now();
        for token in &self.tokens[PROMPT..PROMPT + count] {
            self.batch.decode_watched(&mut self.sessions, &[*token], &mut *probe)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::preset::Preset;
    use smallmind::{DType, LoadOptions};

    #[test]
    fn a_models_scopes_are_counted_and_both_costs_are_found() {
        let gguf = Preset::find("small").unwrap().build(DType::F32, 1).unwrap();
        let model = Model::from_gguf(gguf, &LoadOptions { threads: Some(1), precise: false }).unwrap();
        let found = watching("small", &model, 3, None, &CancelToken::default()).unwrap();
        assert_eq!(found.pairs, 3);
        // Decode, pass, embedding, logits with two parts; two layers of at least nine stages.
        assert!(found.scopes >= 24.0 && found.scopes.fract() == 0.0, "{found:?}");
        assert!(found.low <= found.ratio && found.ratio <= found.high, "{found:?}");
        assert!(found.scope_on_ns > found.scope_off_ns && found.token_us > 0.0, "{found:?}");
        assert!(found.text().contains("recorded: "), "{}", found.text());
        let cancel = CancelToken::default();
        cancel.cancel();
        assert!(matches!(watching("small", &model, 3, None, &cancel), Err(Error::Interrupted)));
    }

    #[test]
    fn the_interval_of_a_median_is_around_it() {
        let sorted: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(interval_of_median(&sorted), (40.0, 60.0));
        assert_eq!(interval_of_median(&[7.0]), (7.0, 7.0));
    }
}
