//! One sample: a program is started, runs one test once (after a run that does not count), and says how fast it was.

use std::path::Path;

use serde_json::Value;
use smallmind_bench::compare::process::{self, Fault, Patience};

use super::rows::{Case, Prefill};

/// Ours with the case's instructions.
pub(super) fn ours(program: &Path, model: &Path, case: &Case) -> Vec<String> {
    let test = case.test;
    let mut words: Vec<String> = match &case.isa {
        Some(isa) => vec!["env".into(), format!("SMALLMIND_ISA={isa}")],
        None => Vec::new(),
    };
    words.push(program.display().to_string());
    words.extend(["bench", "--quiet", "--json", "-r", "1", "-m"].map(str::to_owned));
    words.push(model.display().to_string());
    for (flag, value) in [
        ("-t", case.threads),
        ("-p", test.prompt),
        ("-n", test.generate),
        ("-d", test.depth),
        ("-b", test.batch),
    ] {
        words.extend([flag.to_owned(), value.to_string()]);
    }
    if case.prefill == Prefill::Fast {
        words.extend(["--prefill", "fast"].map(str::to_owned));
    }
    words
}

/// llama.cpp's, with flash attention `on` or `off`.
pub(super) fn theirs(bin: &Path, model: &Path, case: &Case, attention: &str) -> Vec<String> {
    let test = case.test;
    let program = |name: &str| bin.join(name).display().to_string();
    let model = model.display().to_string();
    let flags: Vec<(&str, String)> = if test.batch > 1 {
        let context = test.batch * test.context();
        vec![
            ("-m", model),
            ("-c", context.to_string()),
            ("-npp", test.depth.to_string()),
            ("-ntg", test.generate.to_string()),
            ("-npl", test.batch.to_string()),
            ("--output-format", "jsonl".into()),
        ]
    } else {
        vec![
            ("-m", model),
            ("-r", "1".into()),
            ("-o", "json".into()),
            ("-p", test.prompt.to_string()),
            ("-n", test.generate.to_string()),
            ("-d", test.depth.to_string()),
        ]
    };
    let name = if test.batch > 1 { "llama-batched-bench" } else { "llama-bench" };
    let mut words = vec![program(name)];
    for (flag, value) in flags {
        words.extend([flag.to_owned(), value]);
    }
    words.extend(["-t", &case.threads.to_string(), "-fa", attention].map(str::to_owned));
    words
}

/// Tokens a second, of all sequences.
pub(super) fn take(words: &[String], case: &Case, patience: Patience<'_>) -> Result<f64, Fault> {
    let finished = process::run(words, case.threads, patience)?;
    let rate = rate(&finished.output, case).filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| {
        let shown = smallmind::escaped(finished.output.trim().as_bytes(), 200);
        Fault::Failed(format!("its output tells no speed of {}: {shown}", case.test.name()))
    })
}

/// The speed in a document of llama-bench's (a list of one object), or in a line of llama-batched-bench's.
fn rate(output: &str, case: &Case) -> Option<f64> {
    // Other lines may stand before and after.
    let documents = output.match_indices(['[', '{']).filter_map(|(at, _)| {
        serde_json::Deserializer::from_str(&output[at..]).into_iter::<Value>().next()?.ok()
    });
    documents.into_iter().find_map(|document| {
        let row = document.as_array().map_or(Some(&document), |rows| rows.first())?;
        match row["avg_ts"].as_f64() {
            Some(rate) => Some(rate),
            None => {
                let decoded = (case.test.batch * case.test.generate) as f64;
                (row["pl"].as_u64()? == case.test.batch as u64).then_some(decoded / row["t_tg"].as_f64()?)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::rows::Target;
    use super::*;
    use smallmind_bench::speed::Test;

    fn case(test: Test) -> Case {
        let (asked, goal) = (Target::default(), Target::default());
        Case { model: "m".into(), test, prefill: Prefill::Exact, isa: None, threads: 2, asked, goal }
    }

    #[test]
    fn both_sides_are_asked_for_the_same_test() {
        let mut c = case(Test { prompt: 0, generate: 64, depth: 1024, batch: 1 });
        let text = |words: Vec<String>| words.join(" ");
        assert_eq!(
            text(ours("/s".as_ref(), "/m".as_ref(), &c)),
            "/s bench --quiet --json -r 1 -m /m -t 2 -p 0 -n 64 -d 1024 -b 1"
        );
        assert_eq!(
            text(theirs("/l".as_ref(), "/m".as_ref(), &c, "on")),
            "/l/llama-bench -m /m -r 1 -o json -p 0 -n 64 -d 1024 -t 2 -fa on"
        );
        c.isa = Some("avx2".into());
        c.prefill = Prefill::Fast;
        let shown = text(ours("/s".as_ref(), "/m".as_ref(), &c));
        assert!(shown.starts_with("env SMALLMIND_ISA=avx2 /s ") && shown.ends_with(" --prefill fast"));
        let many = case(Test { prompt: 0, generate: 64, depth: 16, batch: 16 });
        assert_eq!(
            text(theirs("/l".as_ref(), "/m".as_ref(), &many, "off")),
            "/l/llama-batched-bench -m /m -c 1280 -npp 16 -ntg 64 -npl 16 --output-format jsonl -t 2 -fa off"
        );
    }

    #[test]
    fn speeds_are_found_among_other_lines() {
        let one = case(Test { prompt: 512, generate: 0, depth: 0, batch: 1 });
        assert_eq!(
            rate("[info] x\n[\n {\"avg_ts\": 12.5, \"samples_ts\": [12.5]}\n]\nbye", &one),
            Some(12.5)
        );
        assert_eq!(rate("[\n]", &one), None);
        assert_eq!(rate("nothing", &one), None);
        let many = case(Test { prompt: 0, generate: 64, depth: 16, batch: 16 });
        let line = r#"main: n = 1
{"n_kv_max": 1280, "pp": 16, "tg": 64, "pl": 16, "t_pp": 0.5, "t_tg": 2.0, "speed_tg": 512.0}"#;
        assert_eq!(rate(line, &many), Some(512.0));
        assert_eq!(rate(&line.replace("\"pl\": 16", "\"pl\": 4"), &many), None);
    }
}
