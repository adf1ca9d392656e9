//! `--preset`: models made on the spot, wherever a model is taken.

use crate::support::{smallmind, tiny, with_stdin};

#[test]
fn the_presets_have_the_parameters_that_they_promise() {
    for (preset, parameters, tensors, context) in
        [("small", "470,528", 29, 64), ("medium:q8_0", "3,454,464", 53, 128)]
    {
        let text = smallmind(&["show", "--preset", preset]);
        assert_eq!(text.code, Some(0), "{text:?}");
        assert!(text.stdout.contains(&format!("{parameters} in {tensors} tensors")), "{}", text.stdout);
        let d = smallmind(&["show", "--preset", preset, "--json"]).json();
        assert_eq!(d["parameters"].as_u64().unwrap().to_string(), parameters.replace(',', ""));
        assert_eq!((d["architecture"].as_str(), d["context"].as_u64()), (Some("gpt2"), Some(context)));
    }
}

#[test]
fn a_preset_runs_and_is_the_same_model_every_time() {
    let run = |preset: &str| {
        smallmind(&["run", "--preset", preset, "-n", "20", "-s", "7", "--ignore-eos", "--json", "Hello, you"])
            .json()
    };
    let d = run("small");
    let bytes: Vec<u64> = "Hello, you".bytes().map(u64::from).collect();
    assert_eq!(d["prompt_tokens"], serde_json::json!(bytes));
    assert_eq!(d["tokens"].as_array().unwrap().len(), 20);
    assert_eq!(d["memory"]["decode_allocations"], 0);
    assert_eq!(d["tokens"], run("small:f32")["tokens"]);
    for other in ["small:q8_0", "medium", "medium:q8_0"] {
        assert_eq!(run(other)["tokens"].as_array().unwrap().len(), 20, "{other}");
    }
}

#[test]
fn the_other_commands_take_presets_too() {
    let d = smallmind(&["tokenize", "--preset", "medium", "--json", "a b"]).json();
    assert_eq!(
        (d["tokens"].to_string(), d["pieces"].to_string()),
        ("[97,32,98]".into(), r#"["a"," ","b"]"#.into())
    );
    let d =
        smallmind(&["bench", "--preset", "small:q8_0", "-p", "16", "-n", "8", "-r", "1", "--json"]).json();
    assert_eq!((d[0]["model_n_params"].as_u64(), d[1]["test"].as_str()), (Some(470_528), Some("tg8")));
    // A model that knows nothing guesses: about one of its 256 tokens.
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(8);
    let args = ["perplexity", "--preset", "small", "-c", "32", "--json"];
    let perplexity = with_stdin(&args, text.as_bytes()).json()["perplexity"].as_f64().unwrap();
    assert!((200.0..330.0).contains(&perplexity), "{perplexity}");
}

#[test]
fn what_is_no_preset_and_a_model_beside_one_are_usage_errors() {
    let model = tiny("llama");
    smallmind(&["run", "--preset", "large", "x"]).refuses(2, &["large", "small", "medium"]);
    smallmind(&["bench", "--preset", "small:q4_0"]).refuses(2, &["q4_0", "q8_0"]);
    smallmind(&["run", "--preset", "small", "-m", &model, "x"]).refuses(2, &["--preset", "--model"]);
    smallmind(&["show", "--preset", "small", &model]).refuses(2, &["--preset", "MODEL"]);
    smallmind(&["run", "--preset", "small", "-c", "65", "x"]).refuses(2, &["65", "64"]);
    smallmind(&["chat", "--preset", "small"]).refuses(1, &["no chat template"]);
}
