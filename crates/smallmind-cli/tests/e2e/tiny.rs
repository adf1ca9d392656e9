//! The model inside the program.

use crate::support::smallmind;

#[test]
fn the_embedded_model_tells_a_story_without_network_or_file() {
    let run = ["run", "-m", "tiny", "--offline", "--temp", "0", "--json", "Once upon a time"];
    let d = smallmind(&run).json();
    let text = d["text"].as_str().unwrap();
    assert!(text.split_whitespace().count() > 30 && text.contains(". "), "{text}");
    assert_eq!((d["architecture"].as_str(), d["finish_reason"].as_str()), (Some("llama"), Some("stop")));
    let shown = smallmind(&["show", "tiny", "--json"]).json();
    assert_eq!(shown["parameters"].as_u64(), Some(3_541_248));
    assert!(smallmind(&["list", "--available"]).stdout.contains("tiny"));
}
