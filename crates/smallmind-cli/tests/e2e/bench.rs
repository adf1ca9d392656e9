//! `bench`: llama-bench's rows.

use crate::support::{smallmind, tiny};

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
