//! Bar charts: with characters for a terminal, as SVG for the page. Bars begin at zero.

use std::fmt::Write as _;

use super::html::escape;
use crate::results::figure;

/// Characters of the longest bar.
const CHARACTERS: f64 = 40.0;
/// Of the SVG, in its own units: the width, the space for names and for figures, and a bar's height and distance.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 190.0;
const FIGURES: f64 = 170.0;
const BAR: f64 = 16.0;
const STEP: f64 = 26.0;
const TOP: f64 = 30.0;

/// A bar chart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chart {
    /// What is shown, with its unit and which way is better.
    pub(super) title: String,
    /// The row that the figures are of.
    pub(super) id: String,
    pub(super) bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    /// Least and most of several samples.
    pub(super) range: Option<(f64, f64)>,
    pub(super) ours: bool,
}

impl Chart {
    fn most(&self) -> f64 {
        let ends = self.bars.iter().map(|b| b.range.map_or(b.value, |(_, most)| most.max(b.value)));
        ends.fold(f64::MIN_POSITIVE, f64::max)
    }

    /// With characters, a bar a line.
    pub(super) fn text(&self) -> String {
        let most = self.bars.iter().map(|b| b.value).fold(f64::MIN_POSITIVE, f64::max);
        let width = self.bars.iter().map(|b| b.name.chars().count()).max().unwrap_or(0);
        let mut out = format!("{}  [{}]\n", self.title, self.id);
        for bar in &self.bars {
            // Eighths of a character.
            let eighths = (8.0 * CHARACTERS * bar.value / most).round().max(1.0) as usize;
            let mut drawn = "█".repeat(eighths / 8);
            drawn.extend(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8).copied());
            let mark = if bar.ours { '▶' } else { ' ' };
            let _ = writeln!(out, "{mark} {:width$}  {drawn} {}", bar.name, figure(bar.value));
        }
        out
    }

    /// As SVG, coloured by the page's style.
    pub(super) fn svg(&self) -> String {
        let (most, space) = (self.most(), WIDTH - NAMES - FIGURES);
        let height = TOP + STEP * self.bars.len() as f64 + 4.0;
        let x = |value: f64| NAMES + space * (value / most).clamp(0.0, 1.0);
        let title = escape(&self.title);
        let mut out = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\
             <title>{title}; row {}</title>\
             <text class=\"title\" x=\"0\" y=\"16\">{title}</text>\n",
            escape(&self.id)
        );
        for (i, bar) in self.bars.iter().enumerate() {
            let y = TOP + STEP * i as f64;
            let (middle, text) = (y + BAR / 2.0, y + BAR - 3.5);
            let class = if bar.ours { "bar ours" } else { "bar" };
            let _ = write!(
                out,
                "<text class=\"name\" x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{class}\" x=\"{NAMES}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
                NAMES - 8.0,
                escape(&bar.name),
                (x(bar.value) - NAMES).max(1.0),
            );
            let mut end = x(bar.value);
            let mut label = figure(bar.value);
            if let Some((least, most)) = bar.range {
                let _ = write!(
                    out,
                    "<path class=\"range\" d=\"M{:.1} {middle:.1}H{:.1}M{0:.1} {:.1}v8M{1:.1} {2:.1}v8\"/>",
                    x(least),
                    x(most),
                    middle - 4.0
                );
                end = end.max(x(most));
                let _ = write!(label, " [{}..{}]", figure(least), figure(most));
            }
            let _ =
                writeln!(out, "<text class=\"figure\" x=\"{:.1}\" y=\"{text:.1}\">{label}</text>", end + 6.0);
        }
        out + "</svg>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let bar = |name: &str, value, range, ours| Bar { name: name.into(), value, range, ours };
        let bars = vec![
            bar("SmallMind", 200.0, Some((190.0, 220.0)), true),
            bar("<peer>", 50.0, None, false),
            bar("tiny", 0.1, None, false),
        ];
        Chart { title: "decode, tok/s".into(), id: "decode/m/t2/tg8".into(), bars }
    }

    #[test]
    fn bars_are_in_proportion_and_none_is_invisible() {
        let text = chart().text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "decode, tok/s  [decode/m/t2/tg8]");
        assert_eq!(lines[1], format!("▶ SmallMind  {} 200.0", "█".repeat(40)));
        assert_eq!(lines[2], format!("  <peer>     {} 50.0", "█".repeat(10)));
        assert_eq!(lines[3], "  tiny       ▏ 0.100");
    }

    #[test]
    fn the_drawing_is_escaped_and_within_its_frame() {
        let svg = chart().svg();
        assert!(svg.contains("&lt;peer&gt;") && !svg.contains("<peer>"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"));
        let numbers =
            svg.split(|c: char| !(c.is_ascii_digit() || c == '.')).filter_map(|n| n.parse::<f64>().ok());
        assert!(numbers.fold(0.0, f64::max) <= WIDTH);
        assert!(svg.contains("class=\"bar ours\"") && svg.contains("200.0 [190.0..220.0]"));
    }
}
