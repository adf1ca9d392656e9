//! Downloads and conversions as the terminal shows them: a bar where someone is watching, a line or nothing where not.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smallmind_hub::Progress;

use crate::interrupt::Guard;
use crate::output::Out;

/// How long a server may keep a Ctrl-C waiting. What is on the disk by then is continued by the next pull.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows the hub's progress on stderr, and stops it on Ctrl-C.
pub(crate) struct Bar<'a> {
    out: &'a Out,
    bar: Option<ProgressBar>,
    interrupt: Guard,
}

impl Bar<'_> {
    /// Nothing is shown before work begins.
    pub(crate) fn new(out: &Out) -> Bar<'_> {
        Bar { out, bar: None, interrupt: Guard::impatient(PATIENCE) }
    }
}

impl Progress for Bar<'_> {
    fn start(&mut self, what: &str, total: Option<u64>, already: u64) {
        let what = smallmind::escaped(what.as_bytes(), 120).to_string();
        if !self.out.watched() {
            let resumed = match already {
                0 => String::new(),
                bytes => format!(", going on at {}", crate::output::bytes(bytes)),
            };
            let size = total.map_or(String::new(), |bytes| format!(" ({})", crate::output::bytes(bytes)));
            return self.out.note(&format!("{what}{size}{resumed}"));
        }
        let template = match total {
            Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(style);
        bar.set_message(what);
        bar.set_position(already);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.interrupted()
    }

    fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.note(line)),
            None => self.out.note(line),
        }
    }
}

/// A bar for work on this machine; Ctrl-C stops the work in good order.
pub(crate) struct Work {
    bar: Option<ProgressBar>,
    what: String,
    interrupt: Guard,
}

impl Work {
    /// A bar of bytes; shows nothing yet.
    pub(crate) fn new(out: &Out, what: &str) -> Work {
        Work::with(out, what, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    /// A bar of things; shows nothing yet.
    pub(crate) fn counting(out: &Out, what: &str) -> Work {
        Work::with(out, what, "{msg} {wide_bar} {pos}/{len} {eta}")
    }

    fn with(out: &Out, what: &str, template: &str) -> Work {
        let what = smallmind::escaped(what.as_bytes(), 120).to_string();
        let bar = out.watched().then(|| {
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Work { bar, what, interrupt: Guard::new() }
    }

    /// Where the work stands. Returns whether to go on.
    pub(crate) fn at(&mut self, part: &str, done: u64, total: u64) -> bool {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(format!("{} {}", self.what, smallmind::escaped(part.as_bytes(), 64)));
        }
        !self.interrupt.interrupted()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
