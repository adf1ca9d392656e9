//! Ctrl-C: stops what is under way where that can be stopped in good order, and ends the program where it cannot.

use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use smallmind::CancelToken;

/// What the next Ctrl-C stops; `None` where it ends the program.
static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

struct Current {
    token: CancelToken,
    /// How long the work may take to notice, where the program may be ended at any time without harm.
    patience: Option<Duration>,
}

fn current() -> MutexGuard<'static, Option<Current>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exit code of an interrupted program: 128 + SIGINT.
pub(crate) const EXIT_CODE: u8 = 130;

/// Listens for Ctrl-C from now on. A system that grants no handler keeps its default: Ctrl-C ends the program.
pub(crate) fn listen() {
    let _ = ctrlc::set_handler(|| {
        let patience = match &*current() {
            Some(current) if !current.token.is_cancelled() => {
                current.token.cancel();
                current.patience
            }
            _ => end(),
        };
        if let Some(patience) = patience {
            thread::sleep(patience);
            if current().as_ref().is_some_and(|current| current.token.is_cancelled()) {
                end();
            }
        }
    });
}

/// Returns when the thread that listens has started, or after a tenth of a second: a thread keeps a copy of its name from
/// then on, which is not to be counted as an allocation of whatever is watched meanwhile.
#[cfg(target_os = "linux")]
pub(crate) fn settle() {
    let started = || {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let mut names = tasks.filter_map(|task| std::fs::read(task.path().join("comm")).ok());
        // It is named after it has its copy.
        names.any(|name| name.trim_ascii() == b"ctrl-c")
    };
    for _ in 0..100 {
        if started() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Elsewhere nothing tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn settle() {}

#[allow(clippy::exit, reason = "the handler's thread has no other way to end the program")]
fn end() -> ! {
    process::exit(i32::from(EXIT_CODE))
}

/// While this lives, the first Ctrl-C cancels its token and the second ends the program.
pub(crate) struct Guard(CancelToken);

impl Guard {
    /// Catches Ctrl-C from now on.
    pub(crate) fn new() -> Guard {
        Guard::with_patience(None)
    }

    /// The same for work that waits for others: where it has not noticed after `patience`, the program ends.
    pub(crate) fn impatient(patience: Duration) -> Guard {
        Guard::with_patience(Some(patience))
    }

    fn with_patience(patience: Option<Duration>) -> Guard {
        let token = CancelToken::default();
        *current() = Some(Current { token: token.clone(), patience });
        Guard(token)
    }

    /// The token, to hand to the work.
    pub(crate) fn token(&self) -> CancelToken {
        self.0.clone()
    }

    /// Whether Ctrl-C came.
    pub(crate) fn interrupted(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *current() = None;
    }
}
