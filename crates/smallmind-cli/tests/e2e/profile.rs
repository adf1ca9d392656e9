//! `profile`: the report, its files, and what becomes of two of them.

use serde_json::Value;

use crate::support::{command, interrupt, smallmind, tiny};

fn profile(more: &[&str]) -> crate::support::Outcome {
    let model = tiny("llama");
    smallmind(&[&["profile", "-m", &model, "-p", "16", "-n", "8", "-t", "1"], more].concat())
}

#[test]
fn the_report_has_every_part() {
    let outcome = profile(&["-r", "5"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for heading in [
        "### What it means",
        "### Hot paths",
        "### Against the machine",
        "### Most called",
        "### Top allocators",
        "### Call tree",
        "### Layers",
        "### Memory map",
        "### Counters of processor and kernel",
        "### Environment",
    ] {
        assert!(outcome.stdout.contains(heading), "no {heading} in {}", outcome.stdout);
    }
    for words in
        ["Decode allocates nothing;", "| decode mlp_up |", "| weights |", "| KV cache |", "Recording cost"]
    {
        assert!(outcome.stdout.contains(words), "no {words} in {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains("### Every operator"));
}

#[test]
fn decode_under_the_recorder_allocates_nothing_from_the_first_token_on() {
    let document = profile(&["-r", "2", "--json"]).json();
    let operators = document["detail"]["operators"].as_array().unwrap();
    let decode = operators.iter().filter(|o| o["phase"] == "decode");
    let allocated: Vec<(&Value, &Value)> =
        decode.map(|o| (&o["name"], &o["allocations"])).filter(|(_, calls)| **calls != 0).collect();
    assert!(allocated.is_empty(), "{allocated:?}");
    assert!(operators.iter().any(|o| o["phase"] == "load" && o["allocations"].as_u64() > Some(0)));
}

#[test]
fn the_cost_of_watching_is_measured_in_pairs() {
    let outcome = smallmind(&["profile", "--overhead", "-m", &tiny("llama"), "-t", "1", "-r", "1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("recorded: ") && outcome.stdout.contains("not recorded: "),
        "{outcome:?}"
    );
    let document =
        smallmind(&["profile", "--overhead", "--preset", "small", "-t", "1", "-r", "1", "--json"]).json();
    assert_eq!(document["pairs"], 40);
    smallmind(&["profile", "--overhead", "--save", "x.json"]).refuses(2, &["--save"]);
}

#[test]
fn deep_shows_every_operator_of_every_layer() {
    let outcome = profile(&["--deep", "-r", "2"]);
    assert!(outcome.stdout.contains("| decode/pass/layer 1/attn_out/product |"), "{outcome:?}");
}

#[test]
fn the_folder_holds_files_that_other_programs_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out").display().to_string();
    let outcome = profile(&["--out", &path, "-r", "2", "--json"]);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    let document = outcome.json();
    assert_eq!((&document["kind"], &document["complete"]), (&"profile".into(), &true.into()));
    let saved: Value = serde_json::from_str(&read("profile.json")).unwrap();
    assert_eq!(saved, document);
    let operators = saved["detail"]["operators"].as_array().unwrap();
    let up = operators.iter().find(|o| o["phase"] == "decode" && o["name"] == "mlp_up").unwrap();
    assert!(up["gflops"].as_f64().unwrap() > 0.0 && up["of_limit"].as_f64().unwrap() > 0.0, "{up}");
    let trace: Value = serde_json::from_str(&read("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    // Nanoseconds: one event's end is often the next one's beginning.
    let nanoseconds = |v: &Value| (v.as_f64().unwrap() * 1e3).round() as i64;
    let complete: Vec<(i64, i64)> = events
        .iter()
        .filter(|e| e["ph"] == "X")
        .map(|e| {
            assert!(e["name"].is_string() && e["pid"].is_u64() && e["tid"].is_u64(), "{e}");
            (nanoseconds(&e["ts"]), nanoseconds(&e["dur"]))
        })
        .collect();
    assert!(complete.len() > 100 && complete.iter().all(|(ts, dur)| *ts >= 0 && *dur >= 0));
    // What Perfetto stacks: in the order of their beginnings, each within those that are open or behind them.
    let mut open: Vec<i64> = Vec::new();
    for pair in complete.windows(2) {
        assert!(pair[0].0 <= pair[1].0, "{pair:?}");
    }
    for (ts, dur) in complete {
        open.retain(|end| *end > ts);
        assert!(open.iter().all(|end| ts + dur <= *end), "an event at {ts} ns ends behind the one around it");
        open.push(ts + dur);
    }
    assert!(read("stacks.folded").lines().any(|l| l.starts_with("decode;pass;layer 0;qkv ")));
    for name in ["flame.svg", "roofline.svg"] {
        let svg = read(name);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    }
    assert!(read("profile.md").starts_with("## Profile of "));
}

#[test]
fn two_profiles_are_compared_and_a_slower_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.json", "b.json"].map(|n| folder.path().join(n).display().to_string());
    assert_eq!(profile(&["--save", &a, "-r", "5"]).code, Some(0));
    let mut slower: Value = serde_json::from_str(&std::fs::read_to_string(&a).unwrap()).unwrap();
    for row in slower["rows"].as_array_mut().unwrap() {
        let factor = if row["unit"] == "tok/s" { 0.1 } else { 10.0 };
        for sample in row["sides"][0]["samples"].as_array_mut().unwrap() {
            *sample = (sample.as_f64().unwrap() * factor).into();
        }
    }
    std::fs::write(&b, slower.to_string()).unwrap();
    let outcome = smallmind(&["profile", "--compare", &a, &b]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("### Regressions beyond the noise"), "{outcome:?}");
    assert!(outcome.stdout.contains("### Verdict\n\nprefill -90.0 %"), "{outcome:?}");
    assert!(smallmind(&["profile", "--compare", &b, &a, "--json"]).json()["changed"].is_array());
    std::fs::write(&b, "{\"schema\": 1").unwrap();
    smallmind(&["profile", "--compare", &a, &b]).refuses(1, &["b.json", "ends in the middle"]);
    smallmind(&["profile", "--compare", &a]).refuses(2, &["--compare"]);
}

#[test]
fn models_are_set_beside_each_other() {
    let outcome = smallmind(&["profile", "--model-compare", "-r", "2", "-t", "1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for words in ["| small F32 |", "| medium Q8_0 |", "a prompt token's as parameters^", "Phase 3"] {
        assert!(outcome.stdout.contains(words), "no {words} in {}", outcome.stdout);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_ctrl_c_keeps_what_was_recorded() {
    smallmind(&["profile", "--preset", "small", "-p", "60", "-n", "10"]).refuses(2, &["context of 64"]);
    let mut running = command(&["profile", "--preset", "medium", "-r", "10000", "-t", "1"]);
    let child = running.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    interrupt(&child);
    let outcome = crate::support::Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(outcome.stdout.contains("### Hot paths"), "{outcome:?}");
}
