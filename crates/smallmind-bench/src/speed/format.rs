//! llama-bench's output formats: Markdown, JSON, JSON lines, CSV and SQL.

use std::fmt::Write as _;

use serde_json::Value;

use super::SpeedRow;
use crate::results::bytes;

/// What `-o` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named as what they are")]
pub enum Format {
    #[default]
    Markdown,
    Json,
    JsonLines,
    Csv,
    Sql,
}

/// The table of the rows in that format, ending in a line break.
pub fn render(rows: &[SpeedRow], format: Format) -> String {
    match format {
        Format::Markdown => markdown(rows),
        Format::Json => lines(&[serde_json::to_string(rows).unwrap_or_default()]),
        Format::JsonLines => {
            lines(&rows.iter().map(|r| serde_json::to_string(r).unwrap_or_default()).collect::<Vec<_>>())
        }
        Format::Csv => csv(&rows.iter().map(scalars).collect::<Vec<_>>()),
        Format::Sql => sql(rows),
    }
}

fn lines(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |all, line| all + line + "\n")
}

fn markdown(rows: &[SpeedRow]) -> String {
    let mut s = String::from("| model | size | params | backend | threads | test | t/s |\n");
    s.push_str("| --- | ---: | ---: | --- | ---: | ---: | ---: |\n");
    for r in rows {
        let (model, size) = (&r.model_type, bytes(r.model_size as f64));
        let params = r.model_n_params as f64 / 1e6;
        let speed = format!("{:.2} ± {:.2}", r.avg_ts, r.stddev_ts);
        let (threads, test) = (r.n_threads, &r.test);
        let _ = writeln!(
            s,
            "| {model} | {size} | {params:.1} M | CPU {} | {threads} | {test} | {speed} |",
            r.isa
        );
    }
    s
}

/// The fields that are not lists, in order: names and values.
fn scalars(row: &SpeedRow) -> Vec<(String, Value)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(row) else { return Vec::new() };
    // A map is sorted by name; the struct's text has its order.
    let text = serde_json::to_string(row).unwrap_or_default();
    let mut fields: Vec<(String, Value)> = fields.into_iter().filter(|(_, v)| !v.is_array()).collect();
    fields.sort_by_key(|(name, _)| text.find(&format!("\"{name}\":")));
    fields
}

/// Records of fields as CSV with a head; every value is quoted (RFC 4180).
pub(crate) fn csv(records: &[Vec<(String, Value)>]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut out = String::new();
    for (i, record) in records.iter().enumerate() {
        if i == 0 {
            let names: Vec<&str> = record.iter().map(|(name, _)| name.as_str()).collect();
            let _ = writeln!(out, "{}", names.join(","));
        }
        let values: Vec<String> = record.iter().map(|(_, value)| quoted(&plain(value))).collect();
        let _ = writeln!(out, "{}", values.join(","));
    }
    out
}

/// A table that is made where it is not there yet, and a line for each row.
fn sql(rows: &[SpeedRow]) -> String {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let fields = scalars(row);
        if i == 0 {
            out.push_str("CREATE TABLE IF NOT EXISTS llama_bench (\n");
            let columns: Vec<String> = fields
                .iter()
                .map(|(name, value)| {
                    let of_type = match value {
                        Value::Number(n) if n.is_f64() => "REAL",
                        Value::Number(_) | Value::Bool(_) => "INTEGER",
                        _ => "TEXT",
                    };
                    format!("  {name} {of_type}")
                })
                .collect();
            let _ = writeln!(out, "{}\n);\n", columns.join(",\n"));
        }
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<String> = fields.iter().map(|(_, value)| sql_value(value)).collect();
        let _ =
            writeln!(out, "INSERT INTO llama_bench ({}) VALUES ({});", names.join(", "), values.join(", "));
    }
    out
}

fn sql_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> SpeedRow {
        SpeedRow {
            build_version: "0.1.0".into(),
            build_commit: "c0ffee".into(),
            cpu_info: "A \"fast\" CPU".into(),
            gpu_info: "",
            backends: "CPU",
            isa: "avx2".into(),
            model_filename: format!("{name}.gguf"),
            model_type: format!("llama {name}"),
            model_size: 98_362_432,
            model_n_params: 134_515_008,
            n_batch: 1,
            n_ubatch: 512,
            n_threads: 2,
            type_k: "f16",
            type_v: "f16",
            n_gpu_layers: 0,
            use_mmap: true,
            test: "pp16".into(),
            n_prompt: 16,
            n_gen: 0,
            n_depth: 0,
            test_time: "2026-11-29T00:00:00Z".into(),
            avg_ns: 1000,
            stddev_ns: 10,
            avg_ts: 16.25,
            stddev_ts: 0.5,
            samples_ns: vec![990, 1010],
            samples_ts: vec![16.5, 16.0],
        }
    }

    #[test]
    fn markdown_is_a_table_in_llama_benchs_columns() {
        let want = "| model | size | params | backend | threads | test | t/s |\n\
                    | --- | ---: | ---: | --- | ---: | ---: | ---: |\n\
                    | llama m | 98 MB | 134.5 M | CPU avx2 | 2 | pp16 | 16.25 ± 0.50 |\n";
        assert_eq!(render(&[row("m")], Format::Markdown), want);
    }

    #[test]
    fn json_is_an_array_and_json_lines_an_object_a_line() {
        let rows = [row("a"), row("b")];
        let all: Value = serde_json::from_str(&render(&rows, Format::Json)).unwrap();
        assert_eq!(all[1]["samples_ns"], serde_json::json!([990, 1010]));
        let lines = render(&rows, Format::JsonLines);
        let each: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(Value::Array(each), all);
    }

    #[test]
    fn csv_quotes_and_has_no_lists() {
        let csv = render(&[row("m")], Format::Csv);
        let mut lines = csv.lines();
        assert!(
            lines.next().unwrap().starts_with("build_version,build_commit,cpu_info,gpu_info,backends,isa,")
        );
        assert!(
            lines.next().unwrap().starts_with("\"0.1.0\",\"c0ffee\",\"A \"\"fast\"\" CPU\",\"\",\"CPU\"")
        );
        assert!(lines.next().is_none() && !csv.contains("samples"));
    }

    #[test]
    fn sql_makes_the_table_once_and_escapes() {
        let sql = render(&[row("it's"), row("b")], Format::Sql);
        assert_eq!(sql.matches("CREATE TABLE").count(), 1);
        assert_eq!(sql.matches("INSERT INTO llama_bench (build_version, build_commit,").count(), 2);
        assert!(
            sql.contains("'it''s.gguf'")
                && sql.contains("  avg_ts REAL,")
                && sql.contains("  use_mmap INTEGER,")
        );
    }
}
