//! Loads a model and streams an answer: `cargo run --release --example generate -- model.gguf "Why is the sky blue?"`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::io::Write;

use smallmind::{
    Encode, GenerateOptions, LoadOptions, Message, Model, RenderOptions, Session, SessionOptions,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(question)) = (args.next(), args.next()) else {
        return Err("usage: generate MODEL.gguf QUESTION".into());
    };
    let model = Model::load(path, &LoadOptions::default())?;
    let messages = [Message::new("user", question)];
    let prompt = model.chat_template()?.render(&messages, RenderOptions::default())?;
    let prompt = model.tokenizer().encode(&prompt, Encode { add_special: false, parse_special: true });

    let mut session = Session::new(&model, &SessionOptions::default())?;
    let options = GenerateOptions { max_tokens: Some(128), ..GenerateOptions::default() };
    for token in session.generate(&prompt, &options)? {
        print!("{}", token?.text);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
