//! Blocks as Markdown that reads well in a terminal: columns are padded, charts are drawn with characters.

use super::block::{Block, Column, Table};

/// A whole page.
pub(super) fn page(title: &str, blocks: &[Block]) -> String {
    format!("# {title}\n\n{}", self::blocks(blocks))
}

/// Blocks with an empty line between.
pub(super) fn blocks(blocks: &[Block]) -> String {
    let mut out = blocks.iter().map(block).collect::<Vec<_>>().join("\n\n");
    out.push('\n');
    out
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(level, text) => format!("{} {text}", "#".repeat(usize::from(*level))),
        Block::Text(text) => text.clone(),
        Block::List(items) => items.iter().map(|i| format!("- {i}")).collect::<Vec<_>>().join("\n"),
        Block::Table(table) => self::table(table),
        Block::Chart(chart) => format!("```text\n{}```", chart.text()),
        Block::Drawing(name, _) => format!("({name}: drawn in `report.html`.)"),
        Block::Verbatim(text) => format!("```text\n{}\n```", text.trim_end()),
    }
}

/// What another module has written in Markdown, as blocks: headings, tables, lists, paragraphs. Its first level becomes
/// the third.
pub(super) fn parse(text: &str) -> Vec<Block> {
    let mut out: Vec<Block> = Vec::new();
    let mut fresh = true;
    for line in text.lines() {
        let line = line.trim_end();
        let level = line.bytes().take_while(|b| *b == b'#').count();
        match (line, out.last_mut()) {
            ("", _) => {
                fresh = true;
                continue;
            }
            (line, _) if level > 0 && line[level..].starts_with(' ') => {
                out.push(Block::Heading(if level < 3 { 3 } else { 4 }, line[level + 1..].to_owned()));
            }
            (line, Some(Block::Table(table))) if line.starts_with('|') && !fresh => table_line(table, line),
            (line, _) if line.starts_with('|') => {
                let mut table = Table::default();
                table_line(&mut table, line);
                out.push(Block::Table(table));
            }
            (line, Some(Block::List(items))) if line.starts_with("- ") && !fresh => {
                items.push(line[2..].replace("**", ""));
            }
            (line, _) if line.starts_with("- ") => out.push(Block::List(vec![line[2..].replace("**", "")])),
            (line, Some(Block::Text(text))) if !fresh => {
                text.push(' ');
                text.push_str(line);
            }
            (line, _) => out.push(Block::Text(line.replace("**", ""))),
        }
        fresh = false;
    }
    out
}

fn table_line(table: &mut Table, line: &str) {
    let line = line.trim_matches('|').replace("\\|", "\u{1}");
    let cells = line.split('|').map(|cell| cell.trim().replace('\u{1}', "|").replace("<br>", "; "));
    let cells: Vec<String> = cells.collect();
    let rule = |cell: &String| cell.len() > 1 && cell.bytes().all(|b| b == b'-' || b == b':');
    if table.head.is_empty() {
        table.head = cells.into_iter().map(|name| Column { name, figures: false }).collect();
    } else if table.rows.is_empty() && cells.iter().all(rule) {
        let ends = cells.iter().map(|c| c.ends_with(':'));
        table.head.iter_mut().zip(ends).for_each(|(column, figures)| column.figures = figures);
    } else {
        table.rows.push(cells);
    }
}

fn table(table: &Table) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let columns = table.head.len();
    let head: Vec<String> = table.head.iter().map(|c| cell(&c.name)).collect();
    let rows: Vec<Vec<String>> = table.rows.iter().map(|r| r.iter().map(|c| cell(c)).collect()).collect();
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).chain(head.get(i));
        cells.map(|c| c.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).zip(&table.head).map(|((text, width), column)| {
            let fill = " ".repeat(width.saturating_sub(text.chars().count()));
            if column.figures { format!("{fill}{text}") } else { format!("{text}{fill}") }
        });
        format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().zip(&table.head).map(|(width, column)| {
        let dashes = "-".repeat(width - usize::from(column.figures));
        if column.figures { dashes + ":" } else { dashes }
    });
    let rule = format!("| {} |", rule.collect::<Vec<_>>().join(" | "));
    let lines = [line(&head), rule].into_iter().chain(rows.iter().map(|r| line(r)));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_in_markdown_is_taken_apart_and_put_together_again() {
        let text =
            "## Hot **paths**\n\nTwo\nlines.\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n\n- one\n- two\n";
        let want = "### Hot **paths**\n\nTwo lines.\n\n| a    |   b |\n| ---- | --: |\n| x\\|y |   1 |\n\n- one\n- two\n";
        assert_eq!(blocks(&parse(text)), want);
        assert_eq!(parse(""), Vec::new());
    }

    #[test]
    fn tables_are_padded_and_figures_stand_to_the_right() {
        let mut t = Table::new(&["name", ">tok/s"]);
        t.row(["ä|b".to_owned(), "1.5".to_owned()]);
        t.row(["longer name".to_owned(), "1234".to_owned()]);
        let want = "| name        | tok/s |\n\
                    | ----------- | ----: |\n\
                    | ä\\|b        |   1.5 |\n\
                    | longer name |  1234 |";
        assert_eq!(table(&t), want);
    }
}
