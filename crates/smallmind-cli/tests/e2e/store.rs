//! `pull`, `list`, `verify`, `rm`: the model store, against a server on this machine.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::support::{Outcome, command, interrupt, serve, serve_part, smallmind, tiny};

fn in_store(home: &Path, args: &[&str]) -> Outcome {
    command(args).env("SMALLMIND_HOME", home).output().unwrap().into()
}

#[test]
fn a_model_is_pulled_listed_checked_run_and_deleted() {
    let home = tempfile::tempdir().unwrap();
    let url = serve(std::fs::read(tiny("llama")).unwrap());
    let here = |args: &[&str]| in_store(home.path(), args);

    let pulled = here(&["pull", &url, "--json"]).json();
    assert_eq!((pulled["installed"].as_bool(), pulled["name"].as_str()), (Some(true), Some(url.as_str())));
    assert!(Path::new(pulled["path"].as_str().unwrap()).exists());
    let again = here(&["pull", &url]);
    assert!(again.code == Some(0) && again.stdout.contains("already"), "{again:?}");

    let list = here(&["list", "--json"]).json();
    assert_eq!(list[0]["name"], url.as_str());
    assert!(here(&["list"]).stdout.contains(&url));
    assert_eq!(here(&["verify", &url]).code, Some(0));
    assert_eq!(
        here(&["run", "--offline", "-m", &url, "--raw", "--temp", "0", "-n", "2", "ab"]).code,
        Some(0)
    );

    let file = pulled["path"].as_str().unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
    here(&["verify", "-q", &url]).refuses(1, &["SHA-256"]);

    assert_eq!(here(&["rm", &url]).code, Some(0));
    here(&["rm", &url]).refuses(1, &["not installed"]);
    assert_eq!(here(&["list", "--json"]).json().as_array().unwrap().len(), 0);
}

#[test]
fn the_catalogue_is_listed_with_sizes_licences_and_sums() {
    let home = tempfile::tempdir().unwrap();
    let list = in_store(home.path(), &["list", "--available", "--json"]).json();
    let smollm = list.as_array().unwrap().iter().find(|m| m["name"] == "smollm2:135m").unwrap().clone();
    assert_eq!(
        (smollm["installed"].as_bool(), smollm["licence"].as_str()),
        (Some(false), Some("Apache-2.0"))
    );
    assert_eq!(smollm["sha256"].as_str().map(str::len), Some(64));
    assert!(in_store(home.path(), &["list", "--available"]).stdout.contains("gemma3:270m"));
}

#[test]
fn offline_never_touches_the_network_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    for args in [&["pull", "--offline", "smollm2:135m"][..], &["run", "--offline", "x"]] {
        in_store(home.path(), args).refuses(1, &["smollm2:135m", "--offline"]);
    }
}

#[test]
fn servers_and_names_that_lead_nowhere_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let nothing = serve(b"<html>not a model</html>".to_vec());
    in_store(home.path(), &["pull", "-q", &nothing]).refuses(1, &["not a model file"]);
    smallmind(&["pull", "nosuch:model"]).refuses(2, &["nosuch:model"]);
    smallmind(&["pull", "http://example.org/model.gguf"]).refuses(2, &["https"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_pull_even_when_the_server_is_silent() {
    let home = tempfile::tempdir().unwrap();
    let url = serve_part(std::fs::read(tiny("llama")).unwrap(), 1000);
    let mut child = command(&["pull", &url]).env("SMALLMIND_HOME", home.path()).spawn().unwrap();
    // The line that says what is downloaded has begun.
    child.stderr.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(in_store(home.path(), &["list", "--json"]).json().as_array().unwrap().len(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_leaves_no_model() {
    let home = tempfile::tempdir().unwrap();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(home.path()).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    }
    let mut body = std::fs::read(tiny("llama")).unwrap();
    body.resize(4 << 20, 0);
    let pulled = in_store(home.path(), &["pull", &serve(body)]);
    let list = in_store(home.path(), &["list", "--json"]);
    assert!(Command::new("umount").arg(home.path()).status().unwrap().success());
    assert_eq!((pulled.code, pulled.stdout.as_str()), (Some(1), ""), "{pulled:?}");
    let last = pulled.stderr.lines().last().unwrap();
    assert!(last.starts_with("smallmind: ") && last.contains("no room"), "{pulled:?}");
    assert_eq!(list.json().as_array().unwrap().len(), 0);
}
