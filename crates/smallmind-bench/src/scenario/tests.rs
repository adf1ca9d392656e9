//! Every scenario gives rows with figures, and stops where it is asked to.

use std::cell::Cell;

use smallmind::DType;
use smallmind::preset::Preset;

use super::*;

fn rows(scenario: Scenario, change: impl FnOnce(&mut Setup<'_>)) -> Vec<Row> {
    let open = || Preset::find("small").unwrap().build(DType::F32, 1);
    let first_token = |threads: usize| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exit {threads}")]);
        command
    };
    let counter = AllocationCounter {
        start: || (),
        stop: || Allocated { calls: 3, bytes: 2_000_000, live: 0, peak: 0 },
    };
    let mut setup = Setup {
        name: "small",
        open: &open,
        first_token: &first_token,
        threads: Some(1),
        precise: false,
        generate: 8,
        prompts: vec![4, 1000],
        sequences: vec![1, 2],
        repeats: Repeats::exactly(1, 2),
        cancel: CancelToken::default(),
        allocations: Some(counter),
    };
    change(&mut setup);
    let mut rows = Vec::new();
    setup.run(scenario, &mut |row| rows.push(row)).unwrap();
    rows
}

#[test]
fn scenarios_are_found_by_their_names() {
    for scenario in Scenario::ALL {
        assert_eq!(Scenario::find(scenario.name()), Some(scenario));
    }
    assert_eq!(Scenario::find("warm-start"), None);
}

#[test]
fn every_scenario_gives_its_rows_and_prompts_are_cut_to_the_context() {
    let tests = |scenario| -> Vec<String> {
        let rows = rows(scenario, |_| ());
        assert!(rows.iter().all(|r| r.median() >= 0.0 && r.part == scenario.name()), "{rows:?}");
        rows.into_iter().map(|r| format!("{} {}", r.test, r.samples("SmallMind").0.len())).collect()
    };
    assert_eq!(tests(Scenario::Ttft), ["prompt 4 2", "prompt 63 2"]);
    assert_eq!(tests(Scenario::Steady), ["8 tokens 2"]);
    assert_eq!(tests(Scenario::Latency), ["token to token, 8 tokens 14"]);
    assert_eq!(tests(Scenario::Concurrency), ["1 sequence 2", "2 sequences 2"]);
    assert_eq!(
        tests(Scenario::Memory),
        ["before the model 2", "model loaded 2", "behind 63 tokens 2", "peak 2"]
    );
    let allocations = tests(Scenario::Allocations);
    assert_eq!(allocations.len(), 6);
    assert_eq!(allocations[..2], ["load: calls 2", "load: bytes 2"]);
}

#[test]
fn a_process_that_fails_is_reported_in_its_words() {
    let row = &rows(Scenario::ColdStart, |setup| setup.threads = None)[0];
    assert!(row.median() > 0.0 && row.note.contains("chosen by the program"));
    let first_token = |_| {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such model >&2; exit 1"]);
        command
    };
    let open = || Preset::find("small").unwrap().build(DType::F32, 1);
    let setup = Setup {
        name: "small",
        open: &open,
        first_token: &first_token,
        threads: Some(1),
        precise: false,
        generate: 8,
        prompts: vec![],
        sequences: vec![],
        repeats: Repeats::exactly(0, 1),
        cancel: CancelToken::default(),
        allocations: None,
    };
    let error = setup.run(Scenario::ColdStart, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("no such model"), "{error}");
    let error = setup.run(Scenario::Allocations, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("does not count"), "{error}");
}

#[test]
fn what_was_measured_before_a_stop_is_kept() {
    let stop = CancelToken::default();
    let seen = Cell::new(0);
    let open = || Preset::find("small").unwrap().build(DType::F32, 1);
    let setup = Setup {
        name: "small",
        open: &open,
        first_token: &|_| Command::new("true"),
        threads: Some(1),
        precise: false,
        generate: 4,
        prompts: vec![],
        sequences: vec![1, 2, 4],
        repeats: Repeats::exactly(0, 2),
        cancel: stop.clone(),
        allocations: None,
    };
    let mut done = |row: Row| {
        assert_eq!(row.test, "1 sequence");
        seen.set(seen.get() + 1);
        stop.cancel();
    };
    setup.run(Scenario::Concurrency, &mut done).unwrap();
    assert_eq!(seen.get(), 1);
}
