//! How cost grows with the model: several models through the same tests, beside each other.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::results::{bytes, figure};

/// One model's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaled {
    /// As the user named it.
    pub name: String,
    /// All elements of all tensors.
    pub parameters: u64,
    /// Bytes that a decoded token reads.
    pub weight_bytes: u64,
    /// Median prefill speed.
    pub prefill_tps: f64,
    /// Median decode speed.
    pub decode_tps: f64,
}

/// The table, smallest first, and how time grows with size: the exponent b of `time = a · parameters^b`, fitted on
/// logarithms by least squares.
pub fn scaling(models: &[Scaled]) -> String {
    let mut models: Vec<&Scaled> = models.iter().collect();
    models.sort_by_key(|m| (m.parameters, m.weight_bytes));
    let mut out = String::from(
        "## Models compared\n\n| model | parameters | weights | prefill tok/s | decode tok/s | ms a token | times the first | weights read GB/s |\n",
    );
    out.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    let Some(first) = models.first() else { return out };
    for m in &models {
        let millions = m.parameters as f64 / 1e6;
        let _ = writeln!(
            out,
            "| {} | {millions:.2} M | {} | {} | {} | {} | {:.2} | {} |",
            m.name,
            bytes(m.weight_bytes as f64),
            figure(m.prefill_tps),
            figure(m.decode_tps),
            figure(1e3 / m.decode_tps),
            first.decode_tps / m.decode_tps,
            figure(m.weight_bytes as f64 * m.decode_tps / 1e9)
        );
    }
    if let Some(last) = models.last()
        && models.len() > 1
    {
        let (size, time) =
            (last.weight_bytes as f64 / first.weight_bytes as f64, first.decode_tps / last.decode_tps);
        let _ = writeln!(
            out,
            "\nFrom {} to {} weights grow {size:.1} times and a token's time {time:.1} times.",
            first.name, last.name
        );
    }
    let points = |tps: fn(&Scaled) -> f64| -> Vec<(f64, f64)> {
        models.iter().map(|m| ((m.parameters as f64).ln(), (1.0 / tps(m)).ln())).collect()
    };
    let (decode, prefill) = (exponent(&points(|m| m.decode_tps)), exponent(&points(|m| m.prefill_tps)));
    if let (Some(decode), Some(prefill)) = (decode, prefill) {
        let _ = writeln!(
            out,
            "\nA generated token's time grows as parameters^{decode:.2}, a prompt token's as parameters^{prefill:.2}: 1 is in \
             proportion, below 1 the larger model makes better use of the machine."
        );
    }
    out
}

/// The slope of the line through the points; `None` where they have no two places across.
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    (sxx > 1e-9).then(|| sxy / sxx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, parameters: u64, decode_tps: f64) -> Scaled {
        Scaled {
            name: name.into(),
            parameters,
            weight_bytes: 4 * parameters,
            prefill_tps: 10.0 * decode_tps,
            decode_tps,
        }
    }

    #[test]
    fn times_that_double_with_size_have_the_exponent_one() {
        let text = scaling(&[
            model("b", 2_000_000, 500.0),
            model("a", 1_000_000, 1000.0),
            model("c", 4_000_000, 250.0),
        ]);
        assert!(
            text.contains("| a | 1.00 M | 4.0 MB | 10000 | 1000 | 1.00 | 1.00 | 4.00 |\n| b |"),
            "{text}"
        );
        assert!(text.contains("weights grow 4.0 times and a token's time 4.0 times"), "{text}");
        assert!(text.contains("parameters^1.00, a prompt token's as parameters^1.00"), "{text}");
    }

    #[test]
    fn one_size_has_no_exponent() {
        let text = scaling(&[model("a", 1000, 1.0), model("a in Q8_0", 1000, 2.0)]);
        assert!(!text.contains("parameters^"), "{text}");
        assert!(scaling(&[]).ends_with("---: |\n"));
    }
}
