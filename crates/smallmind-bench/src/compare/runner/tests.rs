//! Which peers are wanted and where they live, what is refused before anything runs, and how samples gather in rows.

use super::*;

fn plan() -> Plan {
    Plan {
        subjects: Vec::new(),
        work: Work::default(),
        text: Text { name: "t".into(), text: String::new() },
        peers: None,
        homes: Vec::new(),
        peers_folder: "/peers".into(),
        cache: "/cache".into(),
        program: "/smallmind".into(),
        command: String::new(),
    }
}

#[test]
fn peers_are_named_as_people_write_them_and_unknown_ones_are_refused() {
    let book = Book::read().unwrap();
    let names = |list: &[&str]| {
        let peers = Some(list.iter().map(|s| (*s).to_owned()).collect());
        let found = Plan { peers, ..plan() }.wanted(&book)?;
        Ok::<Vec<String>, Error>(found.iter().map(|r| r.name.clone()).collect())
    };
    assert_eq!(names(&["onnxruntime", "LLAMA.CPP"]).unwrap(), ["llama.cpp", "ONNX Runtime"]);
    assert_eq!(names(&[]).unwrap(), Vec::<String>::new());
    let error = names(&["lama.cpp"]).unwrap_err().to_string();
    assert!(error.contains("lama.cpp") && error.contains("PyTorch"), "{error}");
    assert!(plan().wanted(&book).unwrap().len() > 4);
    let misplaced = Plan { homes: vec![("torch".into(), "/x".into())], ..plan() };
    assert!(misplaced.wanted(&book).is_err());
}

#[test]
fn a_peers_home_is_the_one_given_or_lies_in_the_folder_of_all() {
    let book = Book::read().unwrap();
    let plan = Plan { homes: vec![("llama.cpp".into(), "/l/bin".into())], ..plan() };
    assert_eq!(plan.home(&book.peers[0]), PathBuf::from("/l/bin"));
    assert_eq!(plan.home(&book.peers[1]), PathBuf::from("/peers/python"));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    let refused = |work: Work| {
        let subject =
            Subject::Preset { preset: &smallmind::preset::PRESETS[0], dtype: smallmind::DType::F32 };
        Plan { work, subjects: vec![subject], ..plan() }.check().unwrap_err().to_string()
    };
    assert!(refused(Work { only: vec!["speed".into()], ..Work::default() }).contains("prefill, decode"));
    assert!(refused(Work { tokens: 1, ..Work::default() }).contains("at least 2"));
    assert!(refused(Work { prompts: Vec::new(), ..Work::default() }).contains("needed"));
}

#[test]
fn samples_gather_in_rows_and_sides_and_what_is_no_number_is_left_out() {
    let mut rows = Rows { subject: "m".into(), threads: 2, rows: Vec::new() };
    for (side, value) in [(OURS, 1.0), ("a", 2.0), (OURS, 3.0), ("a", f64::INFINITY)] {
        rows.add("decode", "tg8 @ d4", Unit::TokensPerSecond, side, value);
    }
    rows.add("size", "installed", Unit::Megabytes, "a", 5.0);
    assert_eq!(rows.rows.len(), 2);
    assert_eq!(rows.rows[0].id, "decode/m/t2/tg8-d4");
    assert_eq!((&rows.rows[0].samples(OURS).0, &rows.rows[0].samples("a").0), (&vec![1.0, 3.0], &vec![2.0]));
}

#[test]
fn an_absent_peer_is_named_with_the_command_that_installs_it() {
    let facts = SideFacts {
        name: "candle".into(),
        state: State::Absent,
        install: "cargo install x".into(),
        ..SideFacts::default()
    };
    assert_eq!(told(&facts), "candle is not installed: skipped; to have it: cargo install x");
}
