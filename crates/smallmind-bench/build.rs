//! Tells the crate what it is built from and how: the commit, and the profile's name.

use std::path::Path;
use std::process::Command;

fn main() {
    let answer = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|s| !s.is_empty())
    };
    let commit = answer(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=SMALLMIND_COMMIT={commit}");
    // A new commit writes a line here.
    if let Some(log) = answer(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|p| Path::new(p).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    // `target/<profile>/build/<crate>/out`: the name that the user gave with `--profile`.
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name).unwrap_or_default();
    println!("cargo::rustc-env=SMALLMIND_PROFILE={}", profile.to_string_lossy());
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=SMALLMIND_OPT_LEVEL={level}");
}
