//! Plain addresses against a server that behaves and one that does not; loopback only.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use server::{Answer, Server, Watch, config, gguf, sum, tree};
use smallmind_hub::{Config, Hub, HubError, PipConfig, Progress, Silent};

const SIZE: usize = 700_000;

/// A server whose n-th answer (from 0) is `answer(n, request)`.
fn numbered(answer: impl Fn(usize, &server::Request) -> Answer + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request| answer(count.fetch_add(1, Ordering::SeqCst), request))
}

fn models(home: &std::path::Path) -> Vec<String> {
    tree(&home.join("models"))
}

#[test]
fn a_model_is_pulled_once_verified_listed_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer::file(request, &gguf(SIZE, 1), "\"a\""));
    let hub = Hub::new(config(home.path(), &server.url));
    let name = format!("{}/dir/m.gguf?download=1#sha256={}", server.url, sum(&gguf(SIZE, 1)));

    let mut watch = Watch::default();
    let model = hub.pull(&name, &mut watch).unwrap();
    assert!(model.pulled && model.path.ends_with("m.gguf"));
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 1));
    assert_eq!(watch.open, 0, "each start has a finish");
    assert!(tree(&home.path().join("partial")).is_empty());

    let again = hub.resolve(&name, &mut Silent).unwrap();
    assert!(!again.pulled && again.path == model.path);
    assert_eq!(server.connections(), 1, "an installed model needs no network");

    let listed = hub.list().unwrap();
    assert_eq!((listed.len(), listed[0].bytes), (1, SIZE as u64));
    assert_eq!(listed[0].sha256, sum(&gguf(SIZE, 1)));
    assert!(!listed[0].source.contains("download=1"));
    assert_eq!(hub.verify(&name, &mut Silent).unwrap().compared_with, Some("the manifest"));

    let mut damaged = gguf(SIZE, 1);
    damaged[1000] ^= 1;
    std::fs::write(&model.path, damaged).unwrap();
    let error = hub.verify(&name, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");

    assert!(hub.remove(&name).unwrap().bytes > SIZE as u64);
    assert!(matches!(hub.remove(&name), Err(HubError::NotInstalled { .. })));
    assert!(hub.list().unwrap().is_empty());
}

#[test]
fn a_model_whose_file_was_shortened_is_pulled_again() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer::file(request, &gguf(SIZE, 1), "\"a\""));
    let hub = Hub::new(config(home.path(), &server.url));
    let name = format!("{}/m.gguf", server.url);
    let path = hub.pull(&name, &mut Silent).unwrap().path;
    std::fs::write(&path, b"GGUF").unwrap();
    assert!(hub.resolve(&name, &mut Silent).unwrap().pulled);
    assert_eq!(std::fs::read(&path).unwrap(), gguf(SIZE, 1));
}

#[test]
fn a_broken_connection_is_resumed_where_it_stopped() {
    let home = tempfile::tempdir().unwrap();
    let server = numbered(|n, request| {
        let answer = Answer::file(request, &gguf(SIZE, 2), "\"a\"");
        if n < 3 { answer.cut(100_000) } else { answer }
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let mut watch = Watch::default();
    let model = hub.pull(&format!("{}/m.gguf", server.url), &mut watch).unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 2));
    assert_eq!(server.ranges("m.gguf"), [0, 100_000, 200_000, 300_000]);
    assert!(watch.notes.iter().any(|note| note.contains("trying again")), "{:?}", watch.notes);
}

#[test]
fn an_interrupted_pull_leaves_no_model_and_the_next_continues_it() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer::file(request, &gguf(SIZE, 3), "\"a\""));
    let name = format!("{}/m.gguf", server.url);
    let mut watch = Watch { cancel_after: Some(200_000), ..Watch::default() };
    let error = Hub::new(config(home.path(), &server.url)).pull(&name, &mut watch).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert_eq!(watch.open, 0);
    assert!(models(home.path()).is_empty());

    let model = Hub::new(config(home.path(), &server.url)).pull(&name, &mut Silent).unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 3));
    let ranges = server.ranges("m.gguf");
    assert!(ranges.len() == 2 && ranges[1] >= 200_000, "{ranges:?}");
}

#[test]
fn a_file_that_changes_between_tries_is_taken_whole() {
    for respects_if_range in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let server = numbered(move |n, request| {
            if n == 0 {
                return Answer::file(request, &gguf(SIZE, 4), "\"old\"").cut(200_000);
            }
            let mut request = request.clone();
            if !respects_if_range {
                request.headers.remove("if-range");
            }
            Answer::file(&request, &gguf(SIZE, 5), "\"new\"")
        });
        let hub = Hub::new(config(home.path(), &server.url));
        let model = hub.pull(&format!("{}/m.gguf", server.url), &mut Silent).unwrap();
        assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 5), "{respects_if_range}");
    }
}

#[test]
fn a_server_that_ignores_or_mistakes_ranges_still_gives_the_right_file() {
    for wrong_range in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let server = numbered(move |n, request| {
            let whole = Answer::ok(gguf(SIZE, 6)).with("ETag", "\"a\"");
            match (n, wrong_range && request.from().is_some()) {
                (0, _) => whole.cut(200_000),
                (_, true) => Answer { status: 206, ..whole }.with("Content-Range", "bytes 5-699999/700000"),
                (_, false) => whole,
            }
        });
        let hub = Hub::new(config(home.path(), &server.url));
        let model = hub.pull(&format!("{}/m.gguf", server.url), &mut Silent).unwrap();
        assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 6));
    }
}

#[test]
fn a_wrong_sum_is_refused_and_nothing_stays() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer::file(request, &gguf(SIZE, 7), "\"a\""));
    let hub = Hub::new(config(home.path(), &server.url));
    let name = format!("{}/m.gguf#sha256={}", server.url, sum(b"something else"));
    let error = hub.pull(&name, &mut Silent).unwrap_err();
    assert!(matches!(&error, HubError::Checksum { .. }), "{error}");
    assert!(error.to_string().contains(&sum(&gguf(SIZE, 7))), "{error}");
    assert!(models(home.path()).is_empty());
    assert!(!tree(home.path()).iter().any(|file| file.ends_with(".part")), "{:?}", tree(home.path()));
}

#[test]
fn a_continued_download_with_a_wrong_sum_is_begun_anew_once() {
    let home = tempfile::tempdir().unwrap();
    // The same ETag for different bytes: only the sum can tell.
    let server = numbered(|n, request| match n {
        0 => Answer::file(request, &gguf(SIZE, 8), "\"a\"").cut(200_000),
        _ => Answer::file(request, &gguf(SIZE, 9), "\"a\""),
    });
    let name = format!("{}/m.gguf#sha256={}", server.url, sum(&gguf(SIZE, 9)));
    let mut once = config(home.path(), &server.url);
    once.retries = 0;
    let mut watch = Watch { cancel_after: Some(150_000), ..Watch::default() };
    assert!(Hub::new(once).pull(&name, &mut watch).is_err());
    let model = Hub::new(config(home.path(), &server.url)).pull(&name, &mut Silent).unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 9));
}

#[test]
fn a_silent_server_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer {
        stall: Some((1000, Duration::from_secs(20))),
        ..Answer::file(request, &gguf(SIZE, 1), "\"a\"")
    });
    let mut settings = config(home.path(), &server.url);
    settings.stall_timeout = Duration::from_millis(150);
    settings.retries = 0;
    let error = Hub::new(settings).pull(&format!("{}/m.gguf", server.url), &mut Silent);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("stopped sending"), "{error}");
    assert!(models(home.path()).is_empty());
}

#[test]
fn statuses_and_bad_redirects_are_explained() {
    let server = Server::start(|request| match request.path.as_str() {
        "/401.gguf" => Answer::status(401),
        "/403.gguf" => Answer::status(403),
        "/404.gguf" => Answer::status(404),
        "/500.gguf" => Answer::status(500),
        "/loop.gguf" => Answer::redirect("/loop.gguf"),
        "/file.gguf" => Answer::redirect("file:///etc/passwd"),
        _ => Answer::ok("<html>not a model</html>"),
    });
    for (path, wanted) in [
        ("401.gguf", "wants a user and a password"),
        ("403.gguf", "forbids"),
        ("404.gguf", "no such file"),
        ("500.gguf", "fault of its own"),
        ("loop.gguf", "in circles"),
        ("file.gguf", "not http(s)"),
        ("page.gguf", "not a model file"),
        ("page", "not a model file"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::new(config(home.path(), &server.url));
        let error = hub.pull(&format!("{}/{path}", server.url), &mut Silent).unwrap_err().to_string();
        assert!(error.contains(wanted), "{path}: {error}");
        assert!(models(home.path()).is_empty());
    }
}

#[test]
fn an_endless_or_too_large_body_is_stopped_at_the_limit() {
    for unsized_body in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| Answer { unsized_body, ..Answer::ok(gguf(SIZE, 1)) });
        let mut settings = config(home.path(), &server.url);
        settings.max_bytes = 300_000;
        let error = Hub::new(settings).pull(&format!("{}/m.gguf", server.url), &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::Content { .. }), "{error}");
        assert!(models(home.path()).is_empty());
    }
}

#[test]
fn a_body_of_unknown_length_is_taken_as_it_ends() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Answer { unsized_body: true, ..Answer::ok(gguf(SIZE, 1)) });
    let hub = Hub::new(config(home.path(), &server.url));
    let model = hub.pull(&format!("{}/some-model", server.url), &mut Silent).unwrap();
    assert!(model.path.ends_with("some-model.gguf"), "{:?}", model.path);
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 1));
}

#[test]
fn names_of_the_address_do_not_leave_the_store() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Answer::ok(gguf(1000, 1)));
    let hub = Hub::new(config(&home.path().join("store"), &server.url));
    for path in ["..%2f..%2fevil.gguf", "%2e%2e", "manifest.json", "plan.json", "x.part"] {
        let model = hub.pull(&format!("{}/a/{path}", server.url), &mut Silent).unwrap();
        assert!(model.path.starts_with(home.path().join("store/models")), "{:?}", model.path);
        assert_eq!(std::fs::read(&model.path).unwrap(), gguf(1000, 1));
    }
    assert!(tree(home.path()).iter().all(|file| file.starts_with("store/")), "{:?}", tree(home.path()));
    assert_eq!(hub.list().unwrap().len(), 5);
}

#[test]
fn garbage_in_the_partial_folder_does_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer::file(request, &gguf(SIZE, 3), "\"a\""));
    let name = format!("{}/m.gguf", server.url);
    let hub = Hub::new(config(home.path(), &server.url));
    let mut watch = Watch { cancel_after: Some(100_000), ..Watch::default() };
    assert!(hub.pull(&name, &mut watch).is_err());
    for file in tree(&home.path().join("partial")) {
        std::fs::write(home.path().join("partial").join(file), b"{garbage").unwrap();
    }
    let model = hub.pull(&name, &mut Silent).unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 3));
}

#[test]
fn offline_never_connects_and_says_how_to_pull() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Answer::ok(gguf(1000, 1)));
    let mut settings = config(home.path(), &server.url);
    settings.offline = true;
    let hub = Hub::new(settings);
    let url = format!("{}/m.gguf", server.url);
    for name in [url.as_str(), "smollm2:135m", "hf:o/r", "hf:o/r:m.gguf", "pypi:p"] {
        let resolved = hub.resolve(name, &mut Silent).unwrap_err();
        assert!(matches!(&resolved, HubError::Offline { name: named } if named == name), "{resolved}");
        assert!(resolved.to_string().contains(&format!("smallmind pull {name}")), "{resolved}");
        assert!(hub.pull(name, &mut Silent).is_err());
    }
    assert_eq!(server.connections(), 0);
    // What is installed works offline.
    Hub::new(config(home.path(), &server.url)).pull(&url, &mut Silent).unwrap();
    assert!(hub.resolve(&url, &mut Silent).is_ok());
    assert_eq!(server.connections(), 1);
}

#[test]
fn two_pulls_at_once_download_once() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| Answer {
        stall: Some((1000, Duration::from_millis(300))),
        ..Answer::file(request, &gguf(SIZE, 1), "\"a\"")
    });
    let name = format!("{}/m.gguf", server.url);
    let pull = || {
        // Two hubs: what two processes have in common is the disk only.
        let hub = Hub::new(config(home.path(), &server.url));
        hub.pull(&name, &mut Silent).unwrap()
    };
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(pull), scope.spawn(pull));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert_eq!(a.path, b.path);
    assert!(a.pulled != b.pulled);
    assert_eq!(server.connections(), 1);
}

#[test]
fn local_files_and_the_embedded_model_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::new(config(home.path(), "http://127.0.0.1:9"));
    let file = home.path().join("m.gguf");
    std::fs::write(&file, gguf(100, 1)).unwrap();
    let name = file.to_str().unwrap();
    assert_eq!(hub.resolve(name, &mut Silent).unwrap().bytes, 100);
    assert_eq!(hub.verify(name, &mut Silent).unwrap().sha256, sum(&gguf(100, 1)));
    assert!(hub.remove(name).unwrap_err().is_usage() && file.exists());
    assert!(matches!(hub.resolve("./missing.gguf", &mut Silent), Err(HubError::NoSuchFile { .. })));
    assert!(matches!(hub.resolve("tiny", &mut Silent), Err(HubError::Embedded)));
    assert!(hub.resolve("smolm2", &mut Silent).unwrap_err().is_usage());
}

#[test]
fn an_unreachable_server_is_told_at_once() {
    let home = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = Hub::new(config(home.path(), "http://127.0.0.1:9"));
    let mut watch = Watch::default();
    let error = hub.pull(&format!("http://127.0.0.1:{port}/m.gguf"), &mut watch).unwrap_err().to_string();
    assert!(error.contains("refuses connections"), "{error}");
    assert!(watch.notes.is_empty(), "no retries: {:?}", watch.notes);
}

/// Needs the right to mount; where that is missing it says so and tests the sentence only.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_a_later_pull_continues() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(folder.path()).status();
    let mounted =
        mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]).is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: a_full_disk_is_told needs the right to mount a tmpfs");
        return;
    }
    // Of unknown length, so that the check before the download cannot see it coming.
    let server = Server::start(|request| Answer {
        unsized_body: true,
        ..Answer::file(request, &gguf(3_000_000, 1), "\"a\"")
    });
    let sized = Server::start(|request| Answer::file(request, &gguf(3_000_000, 1), "\"a\""));
    let hub = Hub::new(config(folder.path(), &server.url));
    let early = hub.pull(&format!("{}/m.gguf", sized.url), &mut Silent);
    let late = hub.pull(&format!("{}/m.gguf", server.url), &mut Silent);
    let installed = models(folder.path());
    let grown = mount(&["mount", "-o", "remount,size=16m"]).is_ok_and(|status| status.success());
    let after =
        hub.pull(&format!("{}/m.gguf", server.url), &mut Silent).map(|model| std::fs::read(model.path));
    let unmounted = mount(&["umount"]).is_ok_and(|status| status.success());
    assert!(grown && unmounted);
    assert!(installed.is_empty(), "{installed:?}");
    for error in [late.unwrap_err(), early.unwrap_err()] {
        assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("no room for m.gguf"), "{error}");
    }
    assert_eq!(sized.requests().len(), 1, "refused before taking a byte");
    assert_eq!(after.unwrap().unwrap(), gguf(3_000_000, 1));
    let ranges = server.ranges("m.gguf");
    assert!(ranges.len() == 2 && ranges[1] > 0, "{ranges:?}");
}
