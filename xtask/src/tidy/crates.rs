//! Rules about crates: which depend on which, which lints they take, and that no C compiler is needed to build.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Tree;

/// Every crate, and those of ours it may depend on.
const EDGES: &[(&str, &[&str])] = &[
    ("smallmind-kernels", &[]),
    ("smallmind-text", &[]),
    ("smallmind-formats", &["smallmind-kernels"]),
    ("smallmind", &["smallmind-kernels", "smallmind-formats", "smallmind-text"]),
    ("smallmind-train", &["smallmind", "smallmind-kernels", "smallmind-formats", "smallmind-text"]),
    ("smallmind-hub", &[]),
    ("smallmind-bench", &["smallmind", "smallmind-formats", "smallmind-kernels"]),
    ("smallmind-cli", &["smallmind", "smallmind-bench", "smallmind-train", "smallmind-hub"]),
    ("xtask", &[]),
    ("xtask-measure", &["smallmind", "smallmind-bench", "smallmind-formats"]),
];
/// What turns C or C++ into object files, or finds libraries made of it.
const C_BUILDERS: &[&str] =
    &["cc", "cmake", "bindgen", "pkg-config", "vcpkg", "autotools", "nasm-rs", "cxx-build"];
/// `-sys` crates that declare what the system has, and compile nothing.
const DECLARATIONS: &[&str] =
    &["windows-sys", "linux-raw-sys", "js-sys", "web-sys", "core-foundation-sys", "security-framework-sys"];

/// Crates whose `links` key only forbids a second copy of themselves.
const LINKS_NOTHING: &[&str] = &["wasm-bindgen-shared"];

/// Name and version as `cargo tree` shows them, and the `links` key.
type Links = HashMap<String, Option<String>>;

pub(super) fn metadata(tree: &Tree) -> Result<Value> {
    Ok(serde_json::from_str(&tree.cargo(&["metadata", "--format-version", "1"])?)?)
}

/// The names of the workspace's crates.
pub(super) fn members(metadata: &Value) -> Vec<&str> {
    ours(metadata).filter_map(|p| p["name"].as_str()).collect()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn ours(metadata: &Value) -> impl Iterator<Item = &Value> {
    packages(metadata).filter(|p| p["source"].is_null())
}

pub(super) fn edges(tree: &Tree) -> Result<Vec<String>> {
    let metadata = metadata(tree)?;
    let mut crates = Vec::new();
    for package in ours(&metadata) {
        let name = package["name"].as_str().context("a package without a name")?;
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let ours = dependencies.filter(|d| !d["path"].is_null()).filter_map(|d| d["name"].as_str());
        crates.push((name, ours.collect::<Vec<_>>()));
    }
    ensure!(!crates.is_empty(), "cargo metadata lists no crate of the workspace");
    Ok(edge_problems(&crates))
}

fn edge_problems(crates: &[(&str, Vec<&str>)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in crates {
        let Some((_, allowed)) = EDGES.iter().find(|(n, _)| n == name) else {
            problems
                .push(format!("{name}: draw its edges in ARCHITECTURE.md and in xtask/src/tidy/crates.rs"));
            continue;
        };
        let wrong = dependencies.iter().filter(|d| !allowed.contains(d));
        problems.extend(wrong.map(|d| {
            format!("{name} depends on {d}, an edge that ARCHITECTURE.md does not draw: take it out, or move the code")
        }));
    }
    let gone = EDGES.iter().filter(|(n, _)| !crates.iter().any(|(name, _)| name == n));
    problems.extend(gone.map(|(n, _)| format!("{n} is gone: take it out of xtask/src/tidy/crates.rs")));
    problems
}

pub(super) fn lints(tree: &Tree) -> Result<Vec<String>> {
    let ours = |p: &str| p.starts_with("xtask/") || p.starts_with("crates/");
    let manifests = tree.texts(|p| ours(p) && p.ends_with("/Cargo.toml"));
    // What is a workspace of its own has nothing to take them from.
    let ours = manifests.filter(|(_, text)| !text.lines().any(|l| l == "[workspace]"));
    let lax = ours.filter(|(_, text)| !takes_lints(text));
    Ok(lax.map(|(path, _)| format!("{path}: add `[lints]` with `workspace = true`")).collect())
}

fn takes_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().skip_while(|l| *l != "[lints]").skip(1);
    lines.next() == Some("workspace = true")
}

pub(super) fn pure_rust(tree: &Tree) -> Result<Vec<String>> {
    let metadata = metadata(tree)?;
    let mut links = Links::new();
    for p in packages(&metadata) {
        let text = |key: &str| p[key].as_str().unwrap_or_default();
        links
            .insert(format!("{} v{}", text("name"), text("version")), p["links"].as_str().map(str::to_owned));
    }
    let arguments = [
        "tree",
        "-p",
        "smallmind-cli",
        "-e",
        "normal,build",
        "--target",
        "all",
        "--prefix",
        "none",
        "-f",
        "{p}",
    ];
    let built = tree.cargo(&arguments)?;
    ensure!(built.lines().count() > 10, "cargo tree lists next to nothing for the default build");
    Ok(c_problems(&built, &links))
}

fn c_problems(built: &str, links: &Links) -> Vec<String> {
    let mut packages: Vec<String> =
        built.lines().map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    packages.sort();
    packages.dedup();
    let mut problems = Vec::new();
    for package in packages.iter().filter(|p| !p.is_empty()) {
        let name = package.split(' ').next().unwrap_or(package);
        let why = if C_BUILDERS.contains(&name) {
            "builds C"
        } else if name.ends_with("-sys") && !DECLARATIONS.contains(&name) {
            "binds a C library"
        } else if links.get(package).is_some_and(Option::is_some) && !LINKS_NOTHING.contains(&name) {
            "links a native library"
        } else {
            continue;
        };
        problems.push(format!(
            "{package} {why}: find a pure-Rust crate (`cargo tree -e normal,build -i {name}` tells who asks)"
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::assert_kept;
    use super::*;

    #[test]
    fn crates_depend_only_downwards() {
        assert_kept(edges);
    }

    #[test]
    fn every_crate_takes_the_workspaces_lints() {
        assert!(takes_lints("[package]\n\n[lints]\nworkspace = true\n"));
        assert!(!takes_lints("[package]\nworkspace = true\n"));
        assert_kept(lints);
    }

    #[test]
    fn the_default_build_compiles_no_c() {
        assert_kept(pure_rust);
    }

    #[test]
    fn an_edge_upwards_and_an_unknown_crate_are_found() {
        let mut crates: Vec<(&str, Vec<&str>)> = EDGES.iter().map(|(n, d)| (*n, d.to_vec())).collect();
        assert_eq!(edge_problems(&crates), Vec::<String>::new());
        crates[0].1.push("smallmind");
        crates.push(("smallmind-extras", Vec::new()));
        crates.retain(|(n, _)| *n != "xtask");
        assert_eq!(edge_problems(&crates).len(), 3);
    }

    #[test]
    fn a_crate_that_needs_c_is_found() {
        let links = Links::from([("native v1.0.0".to_owned(), Some("native".to_owned()))]);
        let found = |tree: &str| c_problems(tree, &links).len();
        assert_eq!(found("cc v1.2.3\ncc v1.2.3 (*)\nring-sys v0.1.0\nnative v1.0.0\n"), 3);
        assert_eq!(found("serde v1.0.0\nwindows-sys v0.61.0\nsuccess v1.0.0 (/x)\n\n"), 0);
    }
}
