//! The reports as one page: style and drawings within, nothing fetched, no script. Light or dark as the reader's system is.

use std::fmt::Write as _;

use super::Page;
use super::block::{Block, Table};

/// Colours have a contrast of at least 4.5 to their ground in both themes.
const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fcfcfa;--text:#1c1e21;--dim:#5a6068;--line:#d9dadd;--soft:#f1f1ee;--ours:#0a6b4f;\
--peer:#9aa3ad;--link:#0b5cad}\
@media(prefers-color-scheme:dark){:root{--ground:#16181b;--text:#e6e7e9;--dim:#a3a9b1;--line:#383c42;--soft:#202328;\
--ours:#3fbf94;--peer:#6a737e;--link:#7db5f0}}\
*{box-sizing:border-box}\
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:80rem;background:var(--ground);color:var(--text);\
font:16px/1.55 system-ui,sans-serif}\
p,ul,pre{max-width:62rem}\
h1{font-size:1.9rem;margin:0 0 .25rem}h2{font-size:1.5rem;margin:3rem 0 .5rem;padding-top:1rem;border-top:1px solid \
var(--line)}h3{font-size:1.15rem;margin:1.75rem 0 .5rem}h4{font-size:1rem;margin:1.5rem 0 .25rem}\
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.75rem 0}a{color:var(--link)}\
.table{overflow-x:auto;margin:.75rem 0}table{border-collapse:collapse;font-size:.875rem}\
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\
th{font-weight:600;color:var(--dim)}.f{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
code,pre{font:.85em/1.45 ui-monospace,monospace}code{background:var(--soft);padding:.05em .3em;border-radius:3px;\
overflow-wrap:anywhere}td code{display:inline-block;min-width:13rem;color:var(--dim);font-size:.78em}\
pre{background:var(--soft);padding:.75rem 1rem;max-height:40rem;overflow:auto;border-radius:4px}\
svg.chart{display:block;width:100%;max-width:760px;height:auto;margin:1rem 0;font:13px system-ui,sans-serif}\
.chart text{fill:var(--text)}.chart .title{font-weight:600;font-size:14px}.chart .figure{fill:var(--dim);font-size:12px}\
.bar{fill:var(--peer)}.bar.ours{fill:var(--ours)}.range{stroke:var(--text);stroke-width:1.2;fill:none;opacity:.75}\
.drawing{margin:1rem 0}\
@media print{nav{display:none}pre{max-height:none}}";

/// Text that is safe between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Escaped, with what stands between backquotes as code.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split('`').enumerate() {
        let part = escape(part);
        if i % 2 == 1 {
            let _ = write!(out, "<code>{part}</code>");
        } else {
            out.push_str(&part);
        }
    }
    out
}

/// The whole page.
pub(super) fn document(pages: &[Page]) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>SmallMind: measured</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>SmallMind: measured</h1>\n<nav>"
    );
    for page in pages {
        let _ = write!(out, "<a href=\"#{}\">{}</a>", page.name, escape(page.title));
    }
    out.push_str("</nav>\n");
    for page in pages {
        let _ = write!(out, "<section id=\"{}\">\n<h2>{}</h2>\n", page.name, escape(page.title));
        page.blocks.iter().for_each(|b| block(b, &mut out));
        out.push_str("</section>\n");
    }
    out + "</body>\n</html>\n"
}

fn block(block: &Block, out: &mut String) {
    let _ = match block {
        // One lower than in Markdown, where each report is a page of its own.
        Block::Heading(level, text) => writeln!(out, "<h{0}>{1}</h{0}>", level + 1, inline(text)),
        Block::Text(text) => writeln!(out, "<p>{}</p>", inline(text)),
        Block::List(items) => {
            let items: String = items.iter().map(|i| format!("<li>{}</li>", inline(i))).collect();
            writeln!(out, "<ul>{items}</ul>")
        }
        Block::Table(table) => writeln!(out, "{}", self::table(table)),
        Block::Chart(chart) => writeln!(out, "{}", chart.svg()),
        // A tree of its own: the drawing's style is about nothing else on the page. A `figure` may not have one.
        Block::Drawing(name, svg) => writeln!(
            out,
            "<div class=\"drawing\" role=\"figure\" aria-label=\"{}\"><template shadowrootmode=\"open\">{svg}</template></div>",
            escape(name)
        ),
        Block::Verbatim(text) => writeln!(out, "<pre>{}</pre>", escape(text.trim_end())),
    };
}

fn table(table: &Table) -> String {
    let class = |i: usize| if table.head.get(i).is_some_and(|c| c.figures) { " class=\"f\"" } else { "" };
    let mut out = String::from("<div class=\"table\"><table><thead><tr>");
    for (i, column) in table.head.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), inline(&column.name));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(i), inline(cell));
        }
        out.push_str("</tr>\n");
    }
    out + "</tbody></table></div>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_measured_can_become_a_tag() {
        assert_eq!(inline("a < `b & \"c\"` > d"), "a &lt; <code>b &amp; &quot;c&quot;</code> &gt; d");
    }

    #[test]
    fn a_drawing_stands_in_an_element_that_may_have_a_tree_of_its_own() {
        let mut out = String::new();
        block(&Block::Drawing("Flame <graph>".into(), "<svg></svg>".into()), &mut out);
        let want = "<div class=\"drawing\" role=\"figure\" aria-label=\"Flame &lt;graph&gt;\">\
                    <template shadowrootmode=\"open\"><svg></svg></template></div>\n";
        assert_eq!(out, want);
    }
}
