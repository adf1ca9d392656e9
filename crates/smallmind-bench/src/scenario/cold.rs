//! The whole program from its start to its first token: what a user waits for who runs it once.

use std::process::Stdio;
use std::time::Instant;

use super::Setup;
use crate::measure::clock::repeat;
use crate::results::{Row, Unit};
use crate::{Error, Result};

/// Milliseconds of a process that loads the model, answers with one token and ends.
pub(super) fn start(setup: &Setup<'_>, done: &mut dyn FnMut(Row)) -> Result<()> {
    let threads = setup.threads.unwrap_or(0);
    let figures = repeat(setup.repeats, &setup.cancel, || {
        let mut command = (setup.first_token)(threads);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let start = Instant::now();
        let output = command.output().map_err(|cause| Error::System { what: program.clone(), cause })?;
        let took = start.elapsed();
        if !output.status.success() && !setup.cancel.is_cancelled() {
            let said = String::from_utf8_lossy(&output.stderr);
            let cause = std::io::Error::other(said.lines().last().unwrap_or("it said nothing").to_owned());
            return Err(Error::System { what: program, cause });
        }
        Ok(1e3 * took.as_secs_f64())
    })?;
    let test = "process start to its first token's end";
    let mut row = Row::ours("cold-start", setup.name, threads, test, Unit::Milliseconds, figures);
    if threads == 0 {
        row.note = "threads chosen by the program".into();
    }
    done(row);
    Ok(())
}
