//! What reports are made of, before they are Markdown or HTML. In texts, `x` between backquotes is code.

use super::chart::Chart;

/// A piece of a report.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Block {
    /// A heading; 2 is the highest within a page.
    Heading(u8, String),
    Text(String),
    List(Vec<String>),
    Table(Table),
    Chart(Chart),
    /// Shown as it is: commands.
    Verbatim(String),
    /// A drawing with a style of its own: what it is, and the SVG. In Markdown only its name.
    Drawing(String, String),
}

/// A table: columns are to the left, or to the right where they are figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) head: Vec<Column>,
    pub(super) rows: Vec<Vec<String>>,
}

/// A column's name and side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) figures: bool,
}

impl Table {
    /// Columns whose names begin with `>` hold figures.
    pub(super) fn new(head: &[&str]) -> Table {
        let column = |name: &&str| Column {
            name: name.trim_start_matches('>').to_owned(),
            figures: name.starts_with('>'),
        };
        Table { head: head.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

pub(super) fn text(text: impl Into<String>) -> Block {
    Block::Text(text.into())
}

pub(super) fn heading(level: u8, text: impl Into<String>) -> Block {
    Block::Heading(level, text.into())
}
