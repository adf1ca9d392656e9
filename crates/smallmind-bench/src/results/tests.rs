//! What is saved is what is loaded, and nothing is mixed unsaid.

use super::*;
use crate::measure::machine::Machine;
use crate::measure::stats::Verdict;

fn environment(cpu: &str) -> Environment {
    let machine = Machine { cpu: cpu.into(), processors: 2, ..Machine::default() };
    Environment { machine, isa: "avx2".into(), ..Environment::default() }
}

fn run(cpu: &str, figures: &[f64]) -> Results {
    let mut results = Results::new(Kind::Bench, "smallmind bench", environment(cpu));
    results.push(Row::ours("bench", "m", 2, "tg128", Unit::TokensPerSecond, figures.iter().copied()));
    results
}

fn sided(unit: Unit, ours: &[f64], peers: &[(&str, &[f64])]) -> Row {
    let side = |(name, s): (&str, &[f64])| Side { name: name.to_owned(), samples: Samples(s.to_vec()) };
    let sides = std::iter::once((OURS, ours)).chain(peers.iter().copied()).map(side).collect();
    Row::with_sides("decode", "m", 2, "tg128", unit, sides)
}

#[test]
fn ids_are_readable_and_never_twice_the_same() {
    let mut results = run("A", &[1.0]);
    results.push(Row::ours("bench", "SmolLM2 Q4_1", 2, "tg128 @ d64", Unit::Seconds, [1.0]));
    results.push(results.rows[0].clone());
    let ids: Vec<&str> = results.rows.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["bench/m/t2/tg128", "bench/smollm2-q4_1/t2/tg128-d64", "bench/m/t2/tg128#2"]);
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    let mut results = run("A", &[10.0, f64::NAN, 11.5]);
    results.rows[0].of_limit = Some(0.5);
    results.limits = Some(Limits::default());
    results.save(&path).unwrap();
    let loaded = Results::load(&path).unwrap();
    assert_eq!(loaded, results);
    assert_eq!(loaded.rows[0].samples(OURS).0, [10.0, 11.5]);
}

#[test]
fn a_file_that_ends_early_holds_something_else_or_is_of_another_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    run("A", &[1.0]).save(&path).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    let refusal = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let error = Results::load(&path).unwrap_err();
        assert!(error.to_string().contains("run.json: "), "{error}");
        error
    };
    for cut in [0, 1, whole.len() / 2, whole.len() - 3] {
        assert!(matches!(refusal(&whole[..cut]), Error::Truncated { .. }), "cut at {cut}");
    }
    assert!(matches!(refusal("[1, 2]"), Error::NotResults { .. }));
    assert!(matches!(refusal("hello"), Error::NotResults { .. }));
    assert!(matches!(refusal(&whole.replace("tok/s", "parsecs")), Error::NotResults { .. }));
    let newer = refusal(&whole.replace("\"schema\": 1", "\"schema\": 7"));
    assert!(matches!(newer, Error::Schema { found: 7, .. }), "{newer}");
    assert!(Results::load(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
}

#[test]
fn a_second_run_says_what_changed() {
    let figures = |center: f64| [0.99, 1.0, 1.01, 0.995, 1.005, 1.002].map(|f| f * center);
    let (before, mut after) = (run("A", &figures(100.0)), run("A", &figures(120.0)));
    after.push(Row::ours("bench", "m", 2, "pp512", Unit::TokensPerSecond, [1.0]));
    let against = after.against(&before);
    assert_eq!(against.changed[0].comparison.verdict, Verdict::Improved);
    assert_eq!(against.only_after, ["bench/m/t2/pp512"]);
    assert_eq!(against.verdict(), "Of 1 row: 1 improved.");
    let text = against.markdown();
    assert!(text.contains("| bench/m/t2/tg128 | tok/s | 100.1 | 120.1 | +20.0 % ["), "{text}");
    assert_eq!(before.against(&after).only_before, ["bench/m/t2/pp512"]);
}

#[test]
fn machines_are_never_mixed_unsaid() {
    let (mut before, after) = (run("A", &[1.0; 6]), run("B", &[1.0; 6]));
    before.complete = false;
    let against = after.against(&before);
    assert_eq!(against.differences.len(), 2, "{against:?}");
    let text = against.markdown();
    assert!(text.starts_with("- **not like with like:** another CPU: A then, B now\n"), "{text}");
    assert!(text.contains("the earlier run was interrupted") && text.contains("no verdict on it"));
    let nothing = Results::new(Kind::Bench, "", environment("A")).against(&before);
    assert!(nothing.verdict().contains("no row in common"));
}

#[test]
fn the_ratio_is_against_the_best_peer_whichever_way_is_better() {
    let speeds: [(&str, &[f64]); 2] = [("a", &[100.0]), ("b", &[150.0])];
    assert_eq!(sided(Unit::TokensPerSecond, &[300.0], &speeds).ratio(), Some(2.0));
    assert_eq!(sided(Unit::Seconds, &[1.0], &[("a", &[2.0]), ("b", &[4.0])]).ratio(), Some(0.5));
    assert_eq!(sided(Unit::Gflops, &[1.0], &[]).ratio(), None);
    assert_eq!(sided(Unit::TokensPerSecond, &[1.0], &[("failed", &[])]).ratio(), None);
}

#[test]
fn a_row_shows_every_side_and_its_share_of_the_limit() {
    let mut row = sided(Unit::TokensPerSecond, &[300.0], &[("fa 0", &[100.0]), ("fa 1", &[])]);
    row.of_limit = Some(0.856);
    let want = "| m | 2 | tg128 | tok/s | 300.0 [300.0..300.0] | fa 0: 100.0 [100.0..100.0]<br>fa 1: – | 3.00 | 86 % |  |";
    assert_eq!(row.sides_markdown(), want);
    let mut results = run("A CPU", &[1.0, 3.0, 2.0]);
    results.push(row);
    assert!(results.sides_markdown().starts_with("- CPU: A CPU, 2 usable\n"));
    let statistics = results.statistics_markdown();
    let line =
        "| bench | m | 2 | tg128 | tok/s | 3 | 1.00 | 2.00 | 2.80 | 2.90 | 2.98 | 3.00 | 2.00 | 1.00 |";
    assert!(statistics.contains(line), "{statistics}");
}

#[test]
fn figures_have_the_digits_that_mean_something() {
    let shown = [0.0, 0.12345, 1.2345, 12.345, 123.45, 1234.5].map(figure);
    assert_eq!(shown, ["0", "0.123", "1.23", "12.3", "123.5", "1234"]);
    assert_eq!([999.0, 98_362_432.0].map(bytes), ["999 B", "98 MB"]);
}
