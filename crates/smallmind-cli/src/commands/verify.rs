//! `smallmind verify`: recomputes a model's SHA-256.

use anyhow::Result;
use serde_json::json;

use crate::args::NameArgs;
use crate::output::{self, Out};
use crate::progress::Bar;
use crate::resolve;

pub(crate) fn run(args: &NameArgs, out: &Out) -> Result<()> {
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
