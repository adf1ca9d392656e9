//! What a profile means, in words: every sentence with the number that it rests on.

use super::model::Profile;
use super::views::{OperatorFigures, layers, operators};
use crate::measure::roofline::{Bound, Limits};
use crate::measure::stats::{Samples, Verdict};
use crate::results::bytes;

/// The sentences, the weightiest first.
pub fn insights(profile: &Profile, limits: Option<&Limits>) -> Vec<String> {
    let all = operators(profile, limits);
    let mut out = Vec::new();
    for phase in ["decode", "prefill"] {
        let of: Vec<&OperatorFigures> = all.iter().filter(|op| op.phase == phase).collect();
        let time: f64 = of.iter().map(|op| op.exclusive_us).sum();
        if time > 0.0 {
            out.extend(hottest(phase, &of, time));
            out.extend(headroom(profile, phase, &of, time));
            out.extend(farthest(phase, &of, time));
        }
    }
    out.extend(phases(profile));
    out.extend(uneven_layers(profile));
    out.extend(allocations(&all));
    out.extend(memory(profile));
    out.extend(recording(profile));
    out
}

fn percent(share: f64) -> String {
    if share < 0.095 { format!("{:.1} %", 100.0 * share) } else { format!("{:.0} %", 100.0 * share) }
}

fn hottest(phase: &str, of: &[&OperatorFigures], time: f64) -> Option<String> {
    let top = of.iter().max_by(|a, b| a.exclusive_us.total_cmp(&b.exclusive_us))?;
    let products: f64 = of
        .iter()
        .filter(|op| op.name.ends_with("product") || op.name == "qkv" || op.name == "mlp_up")
        .map(|op| op.exclusive_us)
        .sum();
    Some(format!(
        "{} of {phase} is spent in `{}`; matrix products are {} of it.",
        percent(top.exclusive_us / time),
        top.name,
        percent(products / time)
    ))
}

/// The speed that the phase would have if everything ran at the machine's limit.
fn headroom(profile: &Profile, phase: &str, of: &[&OperatorFigures], time: f64) -> Option<String> {
    let leaves = of.iter().filter(|op| op.exclusive_us > 0.99 * op.total_us);
    let (mut measured, mut least, mut memory) = (0.0, 0.0, 0.0);
    for op in leaves {
        let Some(share) = op.of_limit else { continue };
        measured += op.total_us;
        least += op.total_us * share;
        if op.bound == Some(Bound::Memory) {
            memory += op.total_us * share;
        }
    }
    if least == 0.0 {
        return None;
    }
    let tps = if phase == "decode" { &profile.decode_tps } else { &profile.prefill_tps };
    let now = Samples(tps.clone()).median();
    let limit = now * time / (time - measured + least);
    let bound = if memory > least / 2.0 { "memory" } else { "arithmetic" };
    Some(format!(
        "{phase} reaches {} of the measured roofline ({bound}-bound): {now:.1} tokens/s, and {limit:.1} if every operator \
         ran at its limit.",
        percent(least / measured)
    ))
}

fn farthest(phase: &str, of: &[&OperatorFigures], time: f64) -> Option<String> {
    let worth = of.iter().filter(|op| op.exclusive_us > 0.03 * time && op.of_limit.is_some());
    let waste = |op: &OperatorFigures| op.exclusive_us * (1.0 - op.of_limit.unwrap_or(1.0));
    let op = worth.max_by(|a, b| waste(a).total_cmp(&waste(b)))?;
    let share = op.of_limit?;
    (share < 0.8).then(|| {
        format!(
            "Most is to be won in {phase}'s `{}`: at {} of its limit it gives away {} of the phase.",
            op.name,
            percent(share),
            percent(waste(op) / time)
        )
    })
}

fn phases(profile: &Profile) -> Option<String> {
    let (prefill, decode) =
        (Samples(profile.prefill_tps.clone()).median(), Samples(profile.decode_tps.clone()).median());
    let ratio = prefill / decode;
    ratio.is_finite().then(|| {
        format!(
            "A prompt's token takes {:.3} ms, a generated one {:.3} ms: {ratio:.1} times as long.",
            1e3 / prefill,
            1e3 / decode
        )
    })
}

fn uneven_layers(profile: &Profile) -> Option<String> {
    let of: Vec<_> = layers(profile).into_iter().filter(|l| l.phase == "decode").collect();
    let times: Samples = of.iter().map(|l| l.total_us).collect();
    let slowest = of.iter().max_by(|a, b| a.total_us.total_cmp(&b.total_us))?;
    let ratio = slowest.total_us / times.median();
    (of.len() > 1).then(|| match ratio > 1.2 {
        true => {
            format!("Layer {} takes {ratio:.2} times as long as the median layer of decode.", slowest.layer)
        }
        false => format!("Layers are even: the slowest of decode takes {ratio:.2} times the median."),
    })
}

fn allocations(all: &[OperatorFigures]) -> Option<String> {
    let of = |phase: &str| {
        let sums = all.iter().filter(|op| op.phase == phase).filter(|op| !op.name.contains('/'));
        sums.fold((0, 0), |(calls, bytes), op| (calls + op.allocations, bytes + op.allocated_bytes))
    };
    let ((decode, decode_bytes), (load, load_bytes)) = (of("decode"), of("load"));
    if load == 0 {
        return None;
    }
    let decode = match decode {
        0 => "Decode allocates nothing".to_owned(),
        n => format!("Decode allocates {n} times ({})", bytes(decode_bytes as f64)),
    };
    Some(format!("{decode}; loading allocates {load} times, {} in all.", bytes(load_bytes as f64)))
}

fn memory(profile: &Profile) -> Option<String> {
    let of = |region: &str| {
        profile.memory.iter().filter(|l| l.region == region).map(|l| l.bytes as f64).sum::<f64>()
    };
    let (weights, kv, work) = (of("weights"), of("KV cache"), of("workspace"));
    (weights > 0.0).then(|| {
        format!(
            "Weights take {}, the KV cache {} ({} of the weights), buffers {}.",
            bytes(weights),
            bytes(kv),
            percent(kv / weights),
            bytes(work)
        )
    })
}

fn recording(profile: &Profile) -> Option<String> {
    let c = profile.overhead.as_ref()?.comparison;
    let cost = match c.verdict {
        Verdict::TooFewSamples => format!("cost {:+.1} % (too few runs to be sure)", 100.0 * (c.ratio - 1.0)),
        _ => format!(
            "cost {:+.1} % [{:+.1}, {:+.1}]",
            100.0 * (c.ratio - 1.0),
            100.0 * (c.low - 1.0),
            100.0 * (c.high - 1.0)
        ),
    };
    Some(format!("Recording {cost} of the time, measured in turn with runs that nobody watched."))
}
