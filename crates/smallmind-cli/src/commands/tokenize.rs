//! `smallmind tokenize`: a text's ids and pieces.

use std::fmt::Write;

use anyhow::Result;
use smallmind::{Encode, Model};

use crate::args::TokenizeArgs;
use crate::output::{self, Out, TokenizeDocument};
use crate::{prompt, resolve};

pub(crate) fn run(args: TokenizeArgs, out: &Out) -> Result<()> {
    let text = prompt::text(args.text, args.file.as_deref(), "as an argument, with -f FILE or on stdin")?;
    let tokenizer = Model::tokenizer_of(&resolve::source(&args.model.source, out)?.open()?)?;
    let how = Encode { add_special: !args.no_bos, parse_special: !args.no_special };
    let tokens = tokenizer.encode(&text, how);
    let piece = |id: &u32| String::from_utf8_lossy(tokenizer.piece_special(*id)).into_owned();
    if out.json {
        let pieces = tokens.iter().map(piece).collect();
        return output::json(&TokenizeDocument { tokens, pieces });
    }
    let mut lines = String::new();
    for id in &tokens {
        let piece = tokenizer.piece_special(*id);
        writeln!(lines, "{id:>8}  {}", smallmind::escaped(piece, usize::MAX))?;
    }
    output::print(&lines)
}
