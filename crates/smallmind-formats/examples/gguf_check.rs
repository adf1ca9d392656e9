//! Opens a GGUF file and says in one sentence what is wrong with it, or what it holds. Judges structure alone.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the terminal")]

use smallmind_formats::Gguf;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(path), None) = (args.next(), args.next()) else {
        eprintln!("usage: gguf_check MODEL.gguf");
        return ExitCode::from(2);
    };
    match Gguf::open(Path::new(&path)) {
        Ok(file) => {
            println!(
                "GGUF version {}, {} keys, {} tensors, {} bytes",
                file.version(),
                file.metadata().len(),
                file.tensors().len(),
                file.file_len()
            );
            for (key, value) in file.metadata().iter() {
                println!("{key} = {value}");
            }
            // Every byte that the header speaks of can be read.
            let sum = |sum: u64, t| file.data(t).iter().fold(sum, |sum, b| sum.wrapping_add(u64::from(*b)));
            println!("sum of all tensors' bytes: {}", file.tensors().iter().fold(0, sum));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("gguf_check: {error}");
            ExitCode::FAILURE
        }
    }
}
