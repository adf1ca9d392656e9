//! `smallmind verify`: recomputes a model's SHA-256; of an SMQ file that of each of its parts.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use smallmind::Gguf;

use crate::args::NameArgs;
use crate::output::{self, Interrupted, Out};
use crate::progress::{Bar, Work};
use crate::resolve;

pub(crate) fn run(args: &NameArgs, out: &Out) -> Result<()> {
    let path = Path::new(&args.model);
    if path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("smq")) {
        return parts(path, out);
    }
    let verified = resolve::hub(true)?.verify(&args.model, &mut Bar::new(out))?;
    let path = verified.path.display().to_string();
    if out.json {
        return output::json(&json!({
            "name": verified.name,
            "path": path,
            "bytes": verified.bytes,
            "sha256": verified.sha256,
            "compared_with": verified.compared_with,
        }));
    }
    let verdict = match verified.compared_with {
        Some(with) => format!("is as in {with}"),
        None => "has nothing recorded to compare it with".to_owned(),
    };
    output::print(&format!("{}: SHA-256 {} {verdict}\n", verified.name, verified.sha256))
}

/// Every part of an SMQ file, by the digests that the file records.
fn parts(path: &Path, out: &Out) -> Result<()> {
    let shown = path.display().to_string();
    let file = Gguf::open(path)?;
    let mut bar = Work::new(out, &shown);
    let verified = file.verify(&mut |done| bar.at("", done, file.file_len()))?;
    drop(bar);
    let Some(verified) = verified else {
        // A file of that name that is GGUF inside records nothing.
        return if file.parts().is_some() {
            Err(Interrupted.into())
        } else {
            output::print(&format!("{shown}: is GGUF, which records nothing to compare it with\n"))
        };
    };
    let (parts, bytes) = (verified.parts, verified.bytes);
    if out.json {
        return output::json(
            &json!({ "path": shown, "bytes": bytes, "parts": parts, "compared_with": "the file's index" }),
        );
    }
    output::print(&format!("{shown}: header, index and {parts} parts are as they were written\n"))
}
