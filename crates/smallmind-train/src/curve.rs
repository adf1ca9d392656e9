//! The course of a run as a table (CSV) and as a picture (SVG).

use std::fmt::Write;

use crate::checkpoint::Point;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 56.0;

/// `step,loss,lr,valid_loss`, a line a point; losses in nats.
pub(crate) fn csv(history: &[Point]) -> String {
    let mut out = "step,loss,lr,valid_loss\n".to_owned();
    for p in history {
        let valid = p.valid.map_or(String::new(), |v| v.to_string());
        let _ = writeln!(out, "{},{},{},{valid}", p.step, p.loss, p.lr);
    }
    out
}

/// Both losses over the steps.
pub(crate) fn svg(history: &[Point], title: &str) -> String {
    let losses = || history.iter().flat_map(|p| [Some(p.loss), p.valid]).flatten().filter(|v| v.is_finite());
    let (low, high) = losses().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v.into()), b.max(v.into())));
    let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
    let last = history.last().map_or(1, |p| p.step).max(1) as f64;
    let x = |step: u64| MARGIN + (WIDTH - 2.0 * MARGIN) * step as f64 / last;
    let y = |loss: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * (loss - low) / (high - low);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let safe = title.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(out, "<text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{safe}: loss in nats a token</text>");
    for i in 0..=4 {
        let part = f64::from(i) / 4.0;
        let (value, step) = (low + (high - low) * part, (last * part) as u64);
        let (at_y, at_x) = (y(value), x(step));
        let (right, bottom) = (WIDTH - MARGIN, HEIGHT - MARGIN);
        let _ = writeln!(
            out,
            "<path d=\"M{MARGIN} {at_y:.1}H{right}\" stroke=\"#ddd\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{value:.2}</text>\n<text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step}</text>",
            MARGIN - 6.0,
            at_y + 4.0,
            bottom + 18.0
        );
    }
    let mut line = |points: Vec<(u64, f32)>, color: &str, name: &str, at: f64| {
        let path: Vec<String> =
            points.iter().map(|(s, l)| format!("{:.1},{:.1}", x(*s), y(f64::from(*l)))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\n<text x=\"{:.1}\" \
             y=\"{at}\" fill=\"{color}\" text-anchor=\"end\">{name}</text>",
            path.join(" "),
            WIDTH - MARGIN
        );
    };
    let finite = |l: &f32| l.is_finite();
    line(
        history.iter().map(|p| (p.step, p.loss)).filter(|(_, l)| finite(l)).collect(),
        "#1f77b4",
        "training",
        44.0,
    );
    let valid: Vec<(u64, f32)> = history.iter().filter_map(|p| Some((p.step, p.valid?))).collect();
    if !valid.is_empty() {
        line(valid, "#d62728", "validation", 60.0);
    }
    out.push_str("</svg>\n");
    out
}
