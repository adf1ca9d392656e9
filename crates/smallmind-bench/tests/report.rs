//! Reports of saved results: the same results give the same text, to the letter; figures are traceable; the page is drawn
//! by a real browser and asks the network for nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that cannot go on stops")]

use std::path::{Path, PathBuf};
use std::process::Command;

use smallmind_bench::report::{self, Bundle, Page, Section};
use smallmind_bench::results::Results;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report")
}

fn bundle(names: &[&str]) -> Bundle {
    Bundle::load(&names.iter().map(|name| folder().join(name)).collect::<Vec<_>>()).unwrap()
}

fn both() -> Bundle {
    bundle(&["bench.json", "compare.json"])
}

/// Compares with a kept file; `UPDATE_SNAPSHOTS=1` keeps what is now.
fn same(name: &str, text: &str) {
    let path = folder().join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{name} is not what it was; look at it, then run with UPDATE_SNAPSHOTS=1:\n{text}");
}

#[test]
fn the_same_results_give_the_same_reports() {
    let bundle = both();
    for page in report::pages(&bundle) {
        same(&format!("{}.md", page.name), &page.markdown());
    }
    same("readme.md", &report::section(&bundle, Section::Readme));
    same("performance.md", &report::section(&bundle, Section::Performance));
    same("report.html", &report::html(&bundle));
}

#[test]
fn every_row_of_a_comparison_is_in_the_full_report_by_its_id() {
    let text = report::pages(&both()).iter().map(Page::markdown).collect::<String>();
    for name in ["compare.json", "bench.json"] {
        for row in Results::load(&folder().join(name)).unwrap().rows {
            assert!(text.contains(&format!("`{}`", row.id)), "{}", row.id);
        }
    }
}

#[test]
fn wins_losses_and_what_cannot_be_told_are_all_said() {
    let pages = report::pages(&both());
    let summary = pages.iter().find(|p| p.name == "executive-summary").unwrap().markdown();
    for words in ["## Ahead: 5", "## Behind: 1", "## Level: 1", "## Not to be told: 2", "OpenVINO GenAI auto"]
    {
        assert!(summary.contains(words), "{words}: {summary}");
    }
    let full = pages.iter().find(|p| p.name == "comparison").unwrap().markdown();
    assert!(full.contains("candle is not installed; to have it: `cargo install"), "{full}");
    assert!(full.contains("failed at cold: llama-completion: no end after 300s"));
    assert!(full.contains("torch 2.14.0, transformers 5.24.0 (the entry was tried with torch 2.15.0"));
}

#[test]
fn what_is_not_there_is_said_with_the_command_that_makes_it() {
    for page in report::pages(&bundle(&["bench.json"])) {
        let text = page.markdown();
        if page.name != "benchmarks" && page.name != "profile" {
            assert!(text.contains("`smallmind compare --save compare.json`"), "{}: {text}", page.name);
        }
    }
    let benchmarks = &report::pages(&bundle(&["bench.json"]))[4].markdown();
    assert!(benchmarks.contains("`bench.json` was interrupted"), "{benchmarks}");
}

#[test]
fn runs_of_two_machines_or_builds_are_not_mixed_and_bad_files_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, change: &dyn Fn(&mut Results)| {
        let mut results = Results::load(&folder().join("bench.json")).unwrap();
        change(&mut results);
        results.save(&scratch.path().join(name)).unwrap();
        scratch.path().join(name)
    };
    let here = folder().join("compare.json");
    let refused = |path: PathBuf| Bundle::load(&[here.clone(), path]).unwrap_err().to_string();
    let other = refused(write("other.json", &|r| r.environment.machine.cpu = "Another CPU".into()));
    assert!(
        other.contains("compare.json and other.json are not of one machine") && other.contains("Another CPU"),
        "{other}"
    );
    assert!(refused(write("isa.json", &|r| r.environment.isa = "scalar".into())).contains("instruction set"));
    let whole = std::fs::read_to_string(&here).unwrap();
    let cut = scratch.path().join("cut.json");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    assert!(refused(cut).contains("cut.json: ends in the middle"));
    let newer = scratch.path().join("newer.json");
    std::fs::write(&newer, whole.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    assert!(refused(newer).contains("version 2"));
    let empty = tempfile::tempdir().unwrap();
    assert!(
        Bundle::load(&[empty.path().to_owned()]).unwrap_err().to_string().contains("no results to report")
    );
}

#[test]
fn a_folder_is_all_of_its_results() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["bench.json", "compare.json"] {
        std::fs::copy(folder().join(name), scratch.path().join(name)).unwrap();
    }
    std::fs::write(scratch.path().join("notes.txt"), "x").unwrap();
    assert_eq!(Bundle::load(&[scratch.path().to_owned()]).unwrap(), both());
}

#[test]
fn the_page_fetches_nothing_and_runs_nothing() {
    let html = report::html(&both());
    for word in
        ["http:", "https:", "src=", "url(", "@import", "<link", "<script", "<img", "<iframe", "javascript:"]
    {
        assert!(!html.contains(word), "{word}");
    }
    // Only places within the page.
    let links = html.match_indices("href=\"").map(|(at, _)| &html[at + 6..at + 7]);
    assert!(links.into_iter().all(|first| first == "#"));
    assert!(html.contains("Example CPU &lt;1&gt;") && !html.contains("<1>"));
    assert!(html.contains("prefers-color-scheme:dark"));
}

#[test]
fn every_drawing_is_well_formed() {
    let html = report::html(&both());
    let drawings: Vec<&str> = html.split("<svg").skip(1).map(|s| s.split("</svg>").next().unwrap()).collect();
    assert_eq!(drawings.len(), 7);
    for drawing in drawings {
        assert!(drawing.contains("<title>") && drawing.contains("row "), "{drawing}");
        for tag in ["text", "title"] {
            let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
            assert_eq!(drawing.matches(&open).count(), drawing.matches(&close).count(), "{tag}: {drawing}");
        }
        assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
    }
}

/// The browser, or `None` (said loudly); in CI that is a failure.
fn chromium() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()));
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "there is no chromium: install it (Debian: apt-get install chromium)"
        );
        eprintln!("skipped: there is no chromium: install it (Debian: apt-get install chromium)");
    }
    found
}

/// What a real browser makes of the page: its document after a script of ours, which measures, has run in it.
fn in_browser(browser: &str, html: &str, arguments: &[&str]) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("page.html");
    // The page's own policy forbids scripts: ours is let in for the test alone.
    let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">";
    assert!(html.contains(policy));
    let html = html.replace(policy, "").replace("</body>", &format!("<script>{MEASURE}</script></body>"));
    std::fs::write(&page, html).unwrap();
    let profile = format!("--user-data-dir={}", scratch.path().join("profile").display());
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1000,1400",
            &profile,
        ])
        .args(arguments)
        .args(["--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Texts of drawings that overlap one another or leave their frame, and the page's own width against the window's.
const MEASURE: &str = r#"
const faults = [];
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
  boxes.forEach(([name, a], i) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1) faults.push(name + " leaves its frame");
    for (const [other, b] of boxes.slice(i + 1))
      if (a.left < b.right && b.left < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom) faults.push(name + " lies on " + other);
  });
}
if (document.documentElement.scrollWidth > innerWidth) faults.push("the page is wider than the window");
const luminance = (c) => {
  const [r, g, b] = c.match(/[\d.]+/g).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = luminance(getComputedStyle(document.body).backgroundColor);
for (const [what, property] of [["p", "color"], ["th", "color"], ["td code", "color"], [".chart .figure", "fill"], [".chart .name", "fill"]]) {
  const l = luminance(getComputedStyle(document.querySelector(what))[property]);
  const contrast = (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05);
  if (contrast < 4.5) faults.push(what + " has a contrast of " + contrast.toFixed(1));
}
document.body.dataset.svgs = document.querySelectorAll("svg").length;
document.body.dataset.dark = ground < 0.2;
document.body.dataset.faults = faults.join("; ") || "none";
"#;

#[test]
fn a_real_browser_draws_the_page_legibly_in_both_themes_and_on_a_narrow_screen() {
    let Some(browser) = chromium() else { return };
    let html = report::html(&both());
    let dark = "--blink-settings=preferredColorScheme=0";
    let light = "--blink-settings=preferredColorScheme=1";
    for (arguments, is_dark) in [
        ([light, "--window-size=1000,1400"], false),
        ([dark, "--window-size=1000,1400"], true),
        ([light, "--window-size=500,900"], false),
    ] {
        let dom = in_browser(browser, &html, &arguments);
        assert!(
            dom.contains("data-svgs=\"7\""),
            "{arguments:?}: {}",
            dom.chars().take(3000).collect::<String>()
        );
        let faults =
            dom.split("data-faults=\"").nth(1).and_then(|s| s.split('"').next()).unwrap_or("not measured");
        assert_eq!(faults, "none", "{arguments:?}");
        assert!(dom.contains(&format!("data-dark=\"{is_dark}\"")), "{arguments:?}");
    }
}
