//! What a chat template may cost: stack, steps, output and time. Everything that runs a template runs in here.
//!
//! minijinja keeps templates from the outside world and counts steps ("fuel", which also bounds memory at 64 bytes a
//! step), but its parser and its printing recurse, and an overflowing stack ends the process. So templates are parsed and
//! run on a thread with a large stack, [`super::scan`] refuses source that nests deeper than this stack could bear, and
//! [`super::functions`] keeps values from containing themselves.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::functions::Refused;
use crate::TextError;
use crate::error::quote_up_to;

/// 10,000 nested levels at the 5 KiB a level of minijinja's parser measures, with room.
const STACK_BYTES: usize = 64 << 20;
/// Steps of one rendering. Real templates take about 50 a message.
pub(super) const FUEL: u64 = 1_000_000;
/// Macros and includes inside one another.
const RECURSION: usize = 64;
/// Longer than any real template takes by a factor of 1000.
const TIME: Duration = Duration::from_secs(1);

/// An environment with transformers' settings and our limits, without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_formatter(super::print::format);
    environment
}

/// Runs `work` on a thread with a large stack and waits for it, but no longer than a second.
pub(super) fn on_large_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TextError> + Send + 'static,
) -> Result<T, TextError> {
    let (send, receive) = mpsc::sync_channel(1);
    let worker = std::thread::Builder::new()
        .name("chat-template".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Nobody listens any more after the time is up; the steps end the work by themselves.
            let _ = send.send(work());
        })
        .map_err(|e| TextError::TemplateRender(format!("no thread could be started for it ({e})")))?;
    match receive.recv_timeout(TIME) {
        Ok(result) => {
            // The thread only ends now; waiting for that leaves nothing of it behind.
            let _ = worker.join();
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(TextError::TemplateLimit("it takes longer than one second".into()))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(TextError::TemplateRender("the template engine gave up on it".into()))
        }
    }
}

/// Renders `name` with `variables` into at most `max_bytes`.
pub(super) fn render(
    environment: &Environment<'_>,
    name: &str,
    variables: Value,
    max_bytes: usize,
) -> Result<String, TextError> {
    let mut out = Capped { bytes: Vec::new(), max: max_bytes, full: false };
    let result = environment
        .get_template(name)
        .and_then(|template| template.render_captured_to(variables, &mut out).map(|_| ()));
    if out.full {
        return Err(TextError::TemplateLimit(format!("it writes more than {max_bytes} bytes")));
    }
    result.map_err(|error| {
        use std::error::Error as _;
        match error.source().and_then(|s| s.downcast_ref::<Refused>()) {
            Some(Refused(why)) => TextError::TemplateRefused(quote_up_to(why.as_bytes(), 200)),
            None if error.kind() == ErrorKind::OutOfFuel => {
                TextError::TemplateLimit("it loops without end or builds too much text".into())
            }
            None => TextError::TemplateRender(describe(&error)),
        }
    })?;
    String::from_utf8(out.bytes).map_err(|_| TextError::TemplateRender("it writes no UTF-8".into()))
}

/// An error of the engine in one line without the template's control characters.
pub(super) fn describe(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {}", error.kind(), quote_up_to(detail.as_bytes(), 200)),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// Collects output up to a limit.
struct Capped {
    bytes: Vec<u8>,
    max: usize,
    full: bool,
}

impl io::Write for Capped {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > self.max - self.bytes.len() {
            self.full = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
