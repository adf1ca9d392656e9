//! The same as an asynchronous stream, read here by the smallest executor there is.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use smallmind::{Encode, GenerateOptions, LoadOptions, Model, Session, SessionOptions};

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(text)) = (args.next(), args.next()) else {
        return Err("usage: stream MODEL.gguf TEXT".into());
    };
    let model = Model::load(path, &LoadOptions::default())?;
    let prompt = model.tokenizer().encode(&text, Encode { add_special: true, parse_special: false });
    let session = Session::new(&model, &SessionOptions::default())?;
    let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };
    let mut stream = pin!(session.stream(prompt, options)?);

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::as_mut(&mut stream).poll_next(&mut context) {
            Poll::Ready(Some(token)) => print!("{}", token?.text),
            Poll::Ready(None) => break,
            Poll::Pending => std::thread::park(),
        }
    }
    println!();
    Ok(())
}
