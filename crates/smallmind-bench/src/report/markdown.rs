//! Blocks as Markdown that reads well in a terminal: columns are padded, charts are drawn with characters.

use super::block::{Block, Table};

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
        Block::Verbatim(text) => format!("```text\n{}\n```", text.trim_end()),
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
