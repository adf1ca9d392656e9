//! The call tree as folded stacks (the text that flame graph programs read) and as a flame graph in SVG.

use std::fmt::Write as _;

use super::model::Profile;

/// `decode;pass;layer 0;qkv 1234`: a line a node with its own microseconds, over all runs.
pub fn folded_stacks(profile: &Profile) -> String {
    let mut out = String::new();
    for node in profile.nodes.iter().filter(|n| n.exclusive_us >= 0.5) {
        let _ = writeln!(out, "{} {:.0}", node.path.replace('/', ";"), node.exclusive_us);
    }
    out
}

const WIDTH: f64 = 1200.0;
const ROW: f64 = 20.0;
const TOP: f64 = 64.0;
/// A letter's width at 12 pixels, on the safe side.
const LETTER: f64 = 7.4;

/// A graph with the root at the top; a box's width is its share of the time. Its colours read on light and dark.
pub fn flame_graph(profile: &Profile) -> String {
    let total = profile.total_us();
    let depth = profile.nodes.iter().map(|n| n.path.matches('/').count()).max().unwrap_or(0);
    let height = TOP + ROW * (depth as f64 + 1.0) + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" role=\"img\">\n<style>\n\
         svg {{ color-scheme: light dark; background: #ffffff; }}\n.t {{ fill: #1b1f24; }} .s {{ fill: #57606a; }}\n\
         .b {{ stroke: #ffffff; stroke-width: 0.5; }} .l {{ fill: #1b1f24; pointer-events: none; }}\n\
         @media (prefers-color-scheme: dark) {{ svg {{ background: #0d1117; }} .t {{ fill: #e6edf3; }} .s {{ fill: #9198a1; }} \
         .b {{ stroke: #0d1117; }} }}\n</style>\n"
    );
    let title = escape(&format!("Where the time goes: {}", profile.model));
    let ms = total / 1e3 / profile.iterations.max(1) as f64;
    let sub = format!(
        "{ms:.1} ms a run: {} tokens of prompt, {} generated, {} threads, {}; a box is as wide as its share of the time",
        profile.prompt_tokens, profile.generated, profile.threads, profile.isa
    );
    let _ = writeln!(
        svg,
        "<text class=\"t\" x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\">{title}</text>"
    );
    let _ = writeln!(svg, "<text class=\"s\" x=\"16\" y=\"46\">{}</text>", escape(&sub));
    let mut x = 0.0;
    for root in profile.roots() {
        boxes(profile, root, x, 0, total, &mut svg);
        x += profile.nodes[root].total_us;
    }
    svg.push_str("</svg>\n");
    svg
}

fn boxes(profile: &Profile, node: usize, start: f64, depth: usize, total: f64, svg: &mut String) {
    let n = &profile.nodes[node];
    let scale = (WIDTH - 32.0) / total;
    let (x, width, y) = (16.0 + start * scale, n.total_us * scale, TOP + ROW * depth as f64);
    // Narrower than a third of a pixel nothing is seen, within it neither.
    if width < 0.3 {
        return;
    }
    let name = n.path.rsplit('/').next().unwrap_or(&n.path);
    let share = 100.0 * n.total_us / total;
    let per_call = n.total_us / n.calls.max(1) as f64;
    let hover = format!("{}: {share:.1} %, {} calls of {per_call:.1} µs", n.path, n.calls);
    let _ = writeln!(
        svg,
        "<g><title>{}</title><rect class=\"b\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\" rx=\"2\" \
         fill=\"{}\"/>",
        escape(&hover),
        ROW - 1.0,
        colour(&n.stage)
    );
    let letters = ((width - 8.0) / LETTER).floor().max(0.0) as usize;
    let shown: String = match name.chars().count() {
        n if n <= letters => name.to_owned(),
        _ if letters >= 4 => name.chars().take(letters - 1).chain(['…']).collect(),
        _ => String::new(),
    };
    if !shown.is_empty() {
        let _ = writeln!(
            svg,
            "<text class=\"l\" x=\"{:.2}\" y=\"{}\">{}</text>",
            x + 4.0,
            y + 14.0,
            escape(&shown)
        );
    }
    svg.push_str("</g>\n");
    let mut at = start;
    for child in profile.children(Some(node)) {
        boxes(profile, child, at, depth + 1, total, svg);
        at += profile.nodes[child].total_us;
    }
}

/// Light fills under dark letters, by kind of work: products blue, attention green, the rest warm.
fn colour(stage: &str) -> &'static str {
    match stage {
        "qkv" | "attn_out" | "mlp_up" | "mlp_down" | "logits" | "product" => "#9ec9f5",
        "attention" | "qk_norm_rope" | "rope angles" => "#a6ddb0",
        "attn_norm" | "mlp_norm" | "post_norm" | "activation" | "quantize" => "#f5d08a",
        "sample" | "detokenize" | "tokenize" | "embed" => "#e8b4e0",
        "load" => "#d8d4c8",
        _ => "#f2b8a0",
    }
}

/// Text for XML.
pub(super) fn escape(text: &str) -> String {
    let mut s = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => s.push_str("&amp;"),
            '<' => s.push_str("&lt;"),
            '>' => s.push_str("&gt;"),
            '"' => s.push_str("&quot;"),
            c if c.is_control() => s.push('\u{FFFD}'),
            c => s.push(c),
        }
    }
    s
}
