//! The five reports out of saved results: pure functions from results to text. Every figure carries the id of the row it
//! comes from; what is said in words is computed from the rows, wins and losses alike.

mod block;
mod bundle;
mod chart;
mod html;
mod markdown;
mod pages;
mod trajectory;
mod update;

pub use bundle::Bundle;
pub use update::{Section, update};

use block::Block;

/// A report.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Its file's name, without an ending.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    blocks: Vec<Block>,
}

impl Page {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        markdown::page(self.title, &self.blocks)
    }
}

/// All five.
pub fn pages(bundle: &Bundle) -> Vec<Page> {
    vec![
        Page { name: "quick-reference", title: "Quick reference", blocks: pages::quick(bundle) },
        Page { name: "executive-summary", title: "Executive summary", blocks: pages::summary(bundle) },
        Page { name: "comparison", title: "The comparison", blocks: pages::comparison(bundle) },
        Page { name: "profile", title: "Raw profile", blocks: pages::profile(bundle) },
        Page { name: "benchmarks", title: "Benchmark results", blocks: pages::benchmarks(bundle) },
    ]
}

/// All of them as one page that needs nothing else.
pub fn html(bundle: &Bundle) -> String {
    html::document(&pages(bundle))
}

/// The part of a document that is generated.
pub fn section(bundle: &Bundle, section: Section) -> String {
    match section {
        Section::Readme => markdown::blocks(&pages::readme(bundle)),
        Section::Performance => markdown::blocks(&pages::performance(bundle)),
    }
}
