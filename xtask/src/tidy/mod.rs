//! The rules of the tree, one small file each. A rule is a function from the tree to the problems it found; each
//! problem is one line that names the place and what to do.

mod crates;
mod families;
mod ladder;
mod map;
mod source;
mod unsafe_code;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Everything that git knows of or would take in, with the text of what is text.
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<File>,
}

/// One file; `path` is relative to the root, with `/`.
pub(crate) struct File {
    path: String,
    bytes: u64,
    /// `None` where the content is data.
    text: Option<String>,
}

type Check = fn(&Tree) -> Result<Vec<String>>;

/// Every rule, with the sentence that it keeps.
const CHECKS: &[(&str, Check)] = &[
    ("crates depend only downwards", crates::edges),
    ("every crate takes the workspace's lints", crates::lints),
    ("the default build compiles no C", crates::pure_rust),
    ("modules of the library use only what stands below them", ladder::check),
    ("no architecture's name is tested outside model/arch", families::check),
    ("every Rust file says what it is for", source::module_docs),
    ("no file is too long to read", source::length),
    ("nothing is left unfinished, and names say what a thing is", source::words),
    ("no file is large", source::size),
    ("unsafe code stays where it is listed, and says why it is sound", unsafe_code::check),
    ("the documents name only what exists", map::check),
];

impl Tree {
    /// Reads the working tree that this program was compiled in.
    pub(crate) fn read() -> Result<Tree> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        // A checkout that another user made is read all the same.
        let arguments =
            ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = output(Command::new("git").args(arguments), &root)?;
        let mut paths: Vec<&str> = listed.split('\0').filter(|p| !p.is_empty()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut files = Vec::new();
        for path in paths {
            // Deleted, and not yet told to git.
            let Ok(meta) = std::fs::metadata(root.join(path)) else { continue };
            let text = is_text(path).then(|| std::fs::read_to_string(root.join(path))).transpose();
            let text = text.with_context(|| format!("{path} is not readable as UTF-8"))?;
            files.push(File { path: path.to_owned(), bytes: meta.len(), text });
        }
        Ok(Tree { root, files })
    }

    /// Text files whose path satisfies `want`: path and text.
    fn texts(&self, want: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &str)> {
        let texts = self.files.iter().filter_map(|f| Some((f.path.as_str(), f.text.as_deref()?)));
        texts.filter(move |(path, _)| want(path))
    }

    /// Rust files: path and text.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts(|path| path.ends_with(".rs"))
    }

    /// What cargo says about the workspace.
    fn cargo(&self, arguments: &[&str]) -> Result<String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        output(Command::new(cargo).args(arguments).arg("--locked"), &self.root)
    }
}

fn output(command: &mut Command, folder: &Path) -> Result<String> {
    let shown = format!("{command:?}");
    let done = command.current_dir(folder).output().with_context(|| format!("cannot run {shown}"))?;
    if !done.status.success() {
        bail!("{shown} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// Written by people: code, scripts and prose. Lock files and fixtures are not.
fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((_, ending)) => ["rs", "md", "toml", "py", "sh", "yml"].contains(&ending),
        None => path.starts_with("scripts/") || path.starts_with(".ci/"),
    }
}

/// Code that tests only: a file of tests, where `without_tests` has nothing to take away.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}

/// The text without its `#[cfg(test)] mod x { … }` at the left margin.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            let mut attributes = vec![line];
            while let Some(attribute) = lines.next_if(|l| l.starts_with("#[")) {
                attributes.push(attribute);
            }
            if lines.next_if(|l| l.starts_with("mod ") && l.ends_with('{')).is_some() {
                lines.by_ref().find(|l| *l == "}");
                continue;
            }
            attributes.iter().for_each(|a| kept.extend([a, "\n"]));
            continue;
        }
        kept.extend([line, "\n"]);
    }
    kept
}

/// Runs every check: the report, and whether all is well.
pub(crate) fn run() -> Result<(String, bool)> {
    let tree = Tree::read()?;
    let (mut report, mut well) = (String::new(), true);
    for (rule, check) in CHECKS {
        let problems = check(&tree).with_context(|| format!("checking that {rule}"))?;
        well &= problems.is_empty();
        report += &format!("{} {rule}\n", if problems.is_empty() { "ok    " } else { "broken" });
        problems.iter().for_each(|p| report += &format!("         {p}\n"));
    }
    source::long_files(&tree).iter().for_each(|note| report += &format!("note   {note}\n"));
    Ok((report, well))
}

#[cfg(test)]
fn assert_kept(check: Check) {
    let problems = check(&Tree::read().unwrap()).unwrap();
    assert!(problems.is_empty(), "{} problems:\n  {}\n", problems.len(), problems.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_test_module_is_taken_away() {
        let text = "a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    }\n}\nc\n";
        assert_eq!(without_tests(text), "a\n#[cfg(test)]\nmod tests;\nb\nc\n");
    }

    #[test]
    fn the_tree_holds_code_scripts_and_prose_but_no_build_output() {
        let tree = Tree::read().unwrap();
        let has = |path: &str| tree.texts(|p| p == path).count() == 1;
        assert!(has("xtask/src/main.rs") && has("scripts/fetch-models") && has("CONTRIBUTING.md"));
        assert!(!tree.files.iter().any(|f| f.path.starts_with("target/")));
    }
}
