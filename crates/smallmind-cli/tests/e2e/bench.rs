//! `bench`: llama-bench's rows.

use crate::support::{command, interrupt, smallmind, tiny};

#[test]
fn the_json_rows_have_llama_benchs_fields() {
    let model = tiny("llama");
    let args =
        ["bench", "-m", &model, "-p", "16", "-n", "4,8", "-d", "0,8", "-t", "1,2", "-r", "3", "--json"];
    let rows = smallmind(&args).json();
    let rows = rows.as_array().unwrap();
    let names: Vec<&str> = rows.iter().take(6).map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp16", "tg4", "tg8", "pp16 @ d8", "tg4 @ d8", "tg8 @ d8"]);
    assert_eq!(rows.len(), 12);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["n_threads"], 1 + i / 6);
        assert_eq!(row["samples_ts"].as_array().unwrap().len(), 3);
        assert_eq!(row["model_filename"], model.as_str());
        for name in
            ["avg_ts", "stddev_ts", "avg_ns", "model_size", "model_n_params", "n_batch", "n_prompt", "n_gen"]
        {
            assert!(row[name].is_number(), "{name}");
        }
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn sequences_side_by_side_are_rows_of_their_own() {
    let args = ["bench", "-m", &tiny("gemma3"), "-p", "0", "-n", "4", "-b", "1,3", "-r", "2", "--json"];
    let rows = smallmind(&args).json();
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(|r| (&r["test"], &r["n_batch"])).collect();
    assert_eq!(rows, [(&"tg4".into(), &1.into()), (&"tg4 x3".into(), &3.into())]);
}

#[test]
fn the_table_has_a_line_for_each_row() {
    let outcome = smallmind(&["bench", "-m", &tiny("gemma3"), "-p", "16", "-n", "4", "-r", "1", "-d", "40"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), 4);
    assert!(outcome.stdout.contains("pp16 @ d40") && outcome.stdout.contains("tg4 @ d40"));
}

#[test]
fn more_than_the_context_is_refused() {
    smallmind(&["bench", "-m", &tiny("llama"), "-p", "99999999"]).refuses(2, &["context", "99999999"]);
}

#[test]
fn llama_benchs_pairs_and_formats_are_taken() {
    let model = tiny("llama");
    let run = |more: &[&str]| {
        let args = [&["bench", "-m", &model, "-p", "0", "-n", "0", "-pg", "8,4", "-r", "2", "-t", "1"], more]
            .concat();
        let outcome = smallmind(&args);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    assert!(run(&["-o", "md"]).contains("| pp8+tg4 | "));
    let line: serde_json::Value = serde_json::from_str(&run(&["-o", "jsonl"])).unwrap();
    assert_eq!((&line["test"], &line["n_prompt"], &line["n_gen"]), (&"pp8+tg4".into(), &8.into(), &4.into()));
    let csv = run(&["-o", "csv"]);
    assert!(csv.starts_with("build_version,") && csv.lines().count() == 2, "{csv}");
    let sql = run(&["-o", "sql"]);
    assert!(sql.starts_with("CREATE TABLE") && sql.contains("'pp8+tg4'"), "{sql}");
    smallmind(&["bench", "-m", &model, "-pg", "8"]).refuses(2, &["--pg", "512,128"]);
}

#[test]
fn scenarios_have_their_statistics() {
    let model = tiny("llama");
    let args =
        ["bench", "-m", &model, "--scenario", "all", "-n", "4", "-p", "8", "-b", "1,2", "-r", "2", "-t", "1"];
    let outcome = smallmind(&args);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for words in [
        "| ttft |",
        "| steady |",
        "| latency |",
        "| memory |",
        "| allocations |",
        "| 2 sequences |",
        "| cold-start |",
    ] {
        assert!(outcome.stdout.contains(words), "no {words} in {}", outcome.stdout);
    }
    for words in ["- CPU: ", "- instruction set: ", "SHA-256", " P99 ", " std dev "] {
        assert!(outcome.stdout.contains(words), "no {words} in {}", outcome.stdout);
    }
    let document = smallmind(&[&args[..], &["--json"]].concat()).json();
    let decode = document["rows"].as_array().unwrap().iter();
    let decode: Vec<_> = decode.filter(|r| r["test"] == "decode 4 tokens: calls").collect();
    assert_eq!(decode[0]["sides"][0]["samples"], serde_json::json!([0.0, 0.0]));
    smallmind(&["bench", "--scenario", "warmth"]).refuses(2, &["warmth", "cold-start"]);
    smallmind(&[&args[..], &["-o", "sql"]].concat()).refuses(2, &["sql"]);
}

#[test]
fn a_second_run_says_what_changed_and_a_broken_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let path = file.display().to_string();
    let model = tiny("llama");
    let bench = |more: &[&str]| {
        smallmind(&[&["bench", "-m", &model, "-p", "8", "-n", "4", "-r", "6", "-t", "1"], more].concat())
    };
    assert_eq!(bench(&["--save", &path]).code, Some(0));
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        (&saved["schema"], &saved["complete"], &saved["kind"]),
        (&1.into(), &true.into(), &"bench".into())
    );
    assert!(saved["limits"]["read_bandwidth"][0]["gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(saved["rows"][1]["of_limit"].as_f64().unwrap() > 0.0, "{saved}");
    assert_eq!(saved["environment"]["models"][0]["sha256"].as_str().unwrap().len(), 64);
    let outcome = bench(&["--against", &path]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("Of 2 rows: ") && outcome.stdout.contains("95 % interval"),
        "{outcome:?}"
    );
    // Twice as fast by an edit: the same row, and a verdict.
    let mut faster = saved.clone();
    faster["rows"][1]["sides"][0]["samples"] = serde_json::json!([1e9, 1.01e9, 1.02e9, 1e9, 1.03e9, 1e9]);
    faster["environment"]["machine"]["cpu"] = "Another CPU".into();
    std::fs::write(&file, faster.to_string()).unwrap();
    let outcome = bench(&["--against", &path]);
    assert!(
        outcome.stdout.contains("regressed") && outcome.stdout.contains("Another CPU then"),
        "{outcome:?}"
    );
    let whole = faster.to_string();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    bench(&["--against", &path]).refuses(1, &["run.json", "ends in the middle"]);
    std::fs::write(&file, whole.replace("\"schema\":1", "\"schema\":9")).unwrap();
    bench(&["--against", &path]).refuses(1, &["run.json", "version 9"]);
}

#[test]
fn ctrl_c_keeps_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.json");
    let args =
        ["bench", "--preset", "medium", "--scenario", "steady,latency", "-r", "100000", "-t", "1", "--save"];
    let path = file.display().to_string();
    let child = command(&[&args[..], &[&path]].concat()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    interrupt(&child);
    let outcome = crate::support::Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(outcome.stdout.contains("| steady |"), "{outcome:?}");
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved["complete"], false);
    assert!(!saved["rows"][0]["sides"][0]["samples"].as_array().unwrap().is_empty());
}
