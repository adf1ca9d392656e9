//! How likely is a continuation? Reads logits directly and compares two endings of a sentence.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use smallmind::sample::logprob;
use smallmind::{Encode, LoadOptions, Model, Session, SessionOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(start)) = (args.next(), args.next()) else {
        return Err("usage: score MODEL.gguf START ENDING...".into());
    };
    let model = Model::load(path, &LoadOptions::default())?;
    let encode = |text: &str, add_special| {
        model.tokenizer().encode(text, Encode { add_special, parse_special: false })
    };
    let mut session = Session::new(&model, &SessionOptions::default())?;
    session.prefill(&encode(&start, true))?;
    let begin = session.tokens().len();
    for ending in args {
        let mut total = 0.0;
        for token in encode(&ending, false) {
            total += logprob(session.logits_mut(), token);
            session.prefill(&[token])?;
        }
        println!("{total:9.3}  {ending}");
        session.truncate(begin - 1);
        session.prefill(&encode(&start, true)[begin - 1..])?;
    }
    Ok(())
}
