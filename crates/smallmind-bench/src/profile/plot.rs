//! The roofline as a plot in SVG: operations a byte across, operations a second upwards, both logarithmic; the machine's
//! measured limits as lines, every operator as a numbered point. Names stand in a legend beside, so that no two labels
//! can lie on each other.

use std::fmt::Write as _;

use super::flame::escape;
use super::model::Profile;
use super::views::{OperatorFigures, operators};
use crate::measure::roofline::{Arithmetic, Limits};

const LEFT: f64 = 76.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 520.0;
const WIDTH: f64 = 1180.0;

/// Axis ranges as powers of ten.
#[derive(Clone, Copy, Debug)]
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn x(self, value: f64) -> f64 {
        LEFT + (value.log10() - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    fn y(self, value: f64) -> f64 {
        BOTTOM - (value.log10() - self.y.0) / (self.y.1 - self.y.0) * (BOTTOM - TOP)
    }
}

/// One operator: its place and what the legend says.
struct Point {
    x: f64,
    y: f64,
    decode: bool,
    label: String,
}

/// The plot of a profile's operators that take at least 0.2 % of the time, at most 24 of them.
pub fn roofline_plot(profile: &Profile, limits: &Limits) -> String {
    let mut of: Vec<OperatorFigures> = operators(profile, Some(limits));
    of.retain(|op| op.gflops.is_some() && op.share > 0.002 && op.work.is_some_and(|w| w.bytes > 0.0));
    of.sort_by(|a, b| b.exclusive_us.total_cmp(&a.exclusive_us));
    of.truncate(24);
    let points: Vec<Point> = of.iter().filter_map(point).collect();
    let peaks: Vec<_> = limits.peaks.iter().filter(|p| p.threads == profile.threads).collect();
    let bandwidth = limits.bandwidth(profile.threads, profile.working_set.max(1.0)).unwrap_or(1e9) / 1e9;
    let roof = peaks.iter().map(|p| p.gops).fold(1.0, f64::max);
    let least = |f: fn(&Point) -> f64, other: f64| points.iter().map(f).fold(other, f64::min);
    let most = |f: fn(&Point) -> f64, other: f64| points.iter().map(f).fold(other, f64::max);
    let axes = Axes {
        x: (least(|p| p.x, 0.1).log10().floor(), most(|p| p.x, roof / bandwidth * 3.0).log10().ceil()),
        y: (least(|p| p.y, 1.0).log10().floor(), (roof * 1.3).log10().ceil()),
    };
    let rows = points.len().max(1) as f64;
    let height = (TOP + 20.0 * rows + 40.0).max(BOTTOM + 70.0);
    let mut svg = head(profile, height);
    grid(&mut svg, axes);
    roofs(&mut svg, axes, bandwidth, &peaks);
    for (i, p) in points.iter().enumerate() {
        let (x, y) = (axes.x(p.x), axes.y(p.y));
        let class = if p.decode { "d" } else { "p" };
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"><title>{}</title></circle>",
            escape(&p.label)
        );
        let row = TOP + 20.0 * i as f64;
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{}\" cy=\"{:.1}\" r=\"4.5\"/>",
            RIGHT + 36.0,
            row - 4.0
        );
        let _ = writeln!(
            svg,
            "<text class=\"t\" x=\"{}\" y=\"{row:.1}\">{}. {}</text>",
            RIGHT + 48.0,
            i + 1,
            escape(&p.label)
        );
    }
    numbers(&mut svg, axes, &points);
    svg.push_str("</svg>\n");
    svg
}

fn point(op: &OperatorFigures) -> Option<Point> {
    let work = op.work?;
    let seconds = op.total_us / 1e6;
    let share = op.of_limit.map_or(String::new(), |s| format!(", {:.0} % of its limit", 100.0 * s));
    Some(Point {
        x: work.ops / work.bytes,
        y: work.ops / seconds / 1e9,
        decode: op.phase == "decode",
        label: format!("{} {}: {:.1} % of the time{share}", op.phase, op.name, 100.0 * op.share),
    })
}

fn head(profile: &Profile, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" role=\"img\">\n<style>\n\
         svg {{ color-scheme: light dark; background: #ffffff; }} .t {{ fill: #1b1f24; }} .s {{ fill: #57606a; }}\n\
         .g {{ stroke: #d0d7de; stroke-width: 1; }} .r {{ stroke: #57606a; stroke-width: 2; fill: none; }}\n\
         .d {{ fill: #0969da; }} .p {{ fill: #bc4c00; }} .n {{ fill: #1b1f24; font-size: 10px; }}\n\
         @media (prefers-color-scheme: dark) {{ svg {{ background: #0d1117; }} .t, .n {{ fill: #e6edf3; }} .s {{ fill: #9198a1; }} \
         .g {{ stroke: #2a313a; }} .r {{ stroke: #9198a1; }} .d {{ fill: #58a6ff; }} .p {{ fill: #f0883e; }} }}\n</style>\n"
    );
    let title = escape(&format!("Roofline: {}", profile.model));
    let sub = format!(
        "{} threads, {}; lines are limits measured in the same run; blue is decode, orange prefill and the rest",
        profile.threads, profile.isa
    );
    let _ = writeln!(
        svg,
        "<text class=\"t\" x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\">{title}</text>"
    );
    let _ = writeln!(svg, "<text class=\"s\" x=\"16\" y=\"46\">{}</text>", escape(&sub));
    svg
}

fn power(exponent: f64) -> String {
    let value = 10f64.powf(exponent);
    if (0.001..=10_000.0).contains(&value) { format!("{value}") } else { format!("1e{exponent}") }
}

fn grid(svg: &mut String, axes: Axes) {
    let steps = |(from, to): (f64, f64)| (0..=(to - from).round() as i32).map(move |i| from + f64::from(i));
    for e in steps(axes.x) {
        let x = axes.x(10f64.powf(e));
        let _ = writeln!(svg, "<line class=\"g\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{BOTTOM}\"/>");
        let _ = writeln!(
            svg,
            "<text class=\"s\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 18.0,
            power(e)
        );
    }
    for e in steps(axes.y) {
        let y = axes.y(10f64.powf(e));
        let _ = writeln!(svg, "<line class=\"g\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/>");
        let _ = writeln!(
            svg,
            "<text class=\"s\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            power(e)
        );
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    let _ = writeln!(
        svg,
        "<text class=\"t\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">operations a byte</text>",
        BOTTOM + 40.0
    );
    let y = f64::midpoint(TOP, BOTTOM);
    let _ = writeln!(
        svg,
        "<text class=\"t\" transform=\"translate(20 {y}) rotate(-90)\" text-anchor=\"middle\">10⁹ operations a second</text>"
    );
}

/// The memory's slope up to the highest peak, and a level line for each peak. Their labels stand on the plot's edge above
/// the lines, where no other label comes.
fn roofs(svg: &mut String, axes: Axes, bandwidth: f64, peaks: &[&crate::measure::roofline::Peak]) {
    let roof = peaks
        .iter()
        .map(|p| p.gops)
        .fold(10f64.powf(axes.y.1), |a, b| if peaks.is_empty() { a } else { b.max(1.0) });
    let highest = peaks.iter().map(|p| p.gops).fold(f64::NAN, f64::max);
    let end = if highest.is_finite() { highest } else { roof };
    let start_x = 10f64.powf(axes.x.0).max(10f64.powf(axes.y.0) / bandwidth);
    let (x1, y1) = (axes.x(start_x), axes.y(start_x * bandwidth));
    let (x2, y2) = (axes.x(end / bandwidth), axes.y(end));
    let _ = writeln!(svg, "<path class=\"r\" d=\"M{x1:.1} {y1:.1} L{x2:.1} {y2:.1}\"/>");
    let _ = writeln!(
        svg,
        "<text class=\"s\" transform=\"translate({:.1} {:.1}) rotate({:.1})\" text-anchor=\"middle\">memory {bandwidth:.1} GB/s</text>",
        f64::midpoint(x1, x2) - 6.0,
        f64::midpoint(y1, y2) - 6.0,
        ((y2 - y1) / (x2 - x1)).atan().to_degrees()
    );
    for peak in peaks {
        let (x, y) = (axes.x(peak.gops / bandwidth), axes.y(peak.gops));
        let _ = writeln!(svg, "<path class=\"r\" d=\"M{x:.1} {y:.1} L{RIGHT} {y:.1}\"/>");
        let what = match peak.arithmetic {
            Arithmetic::F32 => "F32",
            Arithmetic::Int8 => "int8",
        };
        let label = format!("{what} {:.0}, {}", peak.gops, peak.instructions);
        let _ = writeln!(
            svg,
            "<text class=\"s\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            RIGHT - 4.0,
            y - 6.0,
            escape(&label)
        );
    }
}

/// Every point's number, moved away from those already there: right of its point, else above, below, left, and farther.
fn numbers(svg: &mut String, axes: Axes, points: &[Point]) {
    let mut taken: Vec<(f64, f64)> = Vec::new();
    let places: Vec<(f64, f64)> = points.iter().map(|p| (axes.x(p.x), axes.y(p.y))).collect();
    for (i, (x, y)) in places.iter().copied().enumerate() {
        let rings = (0..6).flat_map(|ring| {
            let r = 11.0 + 9.0 * f64::from(ring);
            (0..8).map(move |step| (r, f64::from(step) * std::f64::consts::FRAC_PI_4))
        });
        let free = |(tx, ty): (f64, f64)| {
            let clear = |(ox, oy): &(f64, f64), w: f64, h: f64| (tx - ox).abs() > w || (ty - oy).abs() > h;
            taken.iter().all(|t| clear(t, 15.0, 11.0)) && places.iter().all(|p| clear(p, 11.0, 9.0))
        };
        let mut spots = rings.map(|(r, angle)| (x + r * angle.cos() * 1.1, y - r * angle.sin()));
        let (tx, ty) = spots.find(|spot| free(*spot)).unwrap_or((x + 11.0, y));
        taken.push((tx, ty));
        let _ = writeln!(
            svg,
            "<text class=\"n\" x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            ty + 3.5,
            i + 1
        );
    }
}
