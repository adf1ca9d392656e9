//! Processes of the sides: started in a group of their own (so that Ctrl-C reaches only us), given a time, and ended with
//! whatever they started. Ends nothing that it did not start.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use smallmind::CancelToken;

/// The most that is kept of a program's output, and the longest line of a driver.
const LARGEST: u64 = 8 << 20;
/// Last lines of a driver's stderr that are kept.
const LAST_LINES: usize = 20;
/// How often cancellation and the time are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Why a sample could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ctrl-C.
    Cancelled,
    /// The side's words.
    Failed(String),
}

/// How long to wait, and what ends the waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// For one sample.
    pub timeout: Duration,
    /// Ctrl-C.
    pub cancel: &'a CancelToken,
}

fn failed(words: impl Into<String>) -> Fault {
    Fault::Failed(words.into())
}

/// The command, with the number of threads where libraries look for it and without a network.
fn command(words: &[String], threads: usize) -> Result<Command, Fault> {
    let (program, arguments) = words.split_first().ok_or_else(|| failed("the command is empty"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"] {
        command.env(name, threads.to_string());
    }
    command.env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}

fn name(words: &[String]) -> String {
    let program = words.first().map(Path::new).and_then(Path::file_name);
    program.unwrap_or_default().to_string_lossy().into_owned()
}

fn spawn(words: &[String], command: &mut Command) -> Result<Child, Fault> {
    command.spawn().map_err(|error| failed(format!("{}: {error}", name(words))))
}

/// Ends a process and what it started, and waits for it.
fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
        && matches!(child.try_wait(), Ok(None))
    {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    // It may have ended by itself meanwhile.
    let _ = child.kill();
    let _ = child.wait();
}

/// The last line that says something.
fn last_words(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or("it said nothing")
}

fn ended(words: &[String], status: ExitStatus, said: &str) -> Fault {
    failed(format!("{}: {status}: {}", name(words), last_words(said)))
}

/// The most memory that a process has held, in bytes, by the system's own mark.
pub(super) fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// A program that has ended well.
#[derive(Debug)]
pub struct Finished {
    /// Standard output, then standard error.
    pub output: String,
    /// From its start to its end.
    pub seconds: f64,
    /// Read every few milliseconds: growth within the last ones can be missed.
    pub peak_bytes: Option<u64>,
}

/// Runs a program to its end.
///
/// # Errors
/// Its last words where it fails, does not end in time or cannot be started; [`Fault::Cancelled`] after Ctrl-C.
pub fn run(words: &[String], threads: usize, patience: Patience<'_>) -> Result<Finished, Fault> {
    let start = Instant::now();
    let mut command = command(words, threads)?;
    let mut child = spawn(words, command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                // What cannot be read is missing in the output, which is then not understood.
                let _ = pipe.take(LARGEST).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let stderr = read(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let mut peak = None;
    let status = loop {
        peak = peak_bytes(child.id()).max(peak);
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if patience.cancel.is_cancelled() => {
                end(&mut child);
                return Err(Fault::Cancelled);
            }
            Ok(None) if start.elapsed() > patience.timeout => {
                end(&mut child);
                return Err(failed(format!("{}: no end after {:.0?}", name(words), patience.timeout)));
            }
            Ok(None) => thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(failed(format!("{}: {error}", name(words)))),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    if !status.success() {
        return Err(ended(words, status, if stderr.trim().is_empty() { &stdout } else { &stderr }));
    }
    Ok(Finished { output: stdout + "\n" + &stderr, seconds, peak_bytes: peak })
}

/// A process that answers a line with a line.
#[derive(Debug)]
pub(super) struct Talker {
    words: Vec<String>,
    child: Child,
    answers: Receiver<String>,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Talker {
    pub(super) fn start(words: &[String], threads: usize) -> Result<Talker, Fault> {
        let mut command = command(words, threads)?;
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(words, piped)?;
        let (send, answers) = channel();
        let said = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || each_line(stdout, |line| send.send(line).is_ok()));
        }
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                each_line(stderr, |line| {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.push_back(line);
                    if said.len() > LAST_LINES {
                        said.pop_front();
                    }
                    true
                });
            });
        }
        Ok(Talker { words: words.to_vec(), child, answers, said })
    }

    /// Sends a line.
    pub(super) fn say(&mut self, line: &str) -> Result<(), Fault> {
        let pipe = self.child.stdin.as_mut().ok_or_else(|| failed("its input is closed"))?;
        let sent =
            pipe.write_all(line.as_bytes()).and_then(|()| pipe.write_all(b"\n")).and_then(|()| pipe.flush());
        sent.map_err(|_| self.gone())
    }

    /// The next line.
    pub(super) fn hear(&mut self, patience: Patience<'_>) -> Result<String, Fault> {
        let start = Instant::now();
        loop {
            match self.answers.recv_timeout(TICK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
                Err(RecvTimeoutError::Timeout) if patience.cancel.is_cancelled() => {
                    return Err(Fault::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() > patience.timeout => {
                    end(&mut self.child);
                    let name = name(&self.words);
                    return Err(failed(format!("{name}: no answer after {:.0?}", patience.timeout)));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub(super) fn peak_bytes(&self) -> Option<u64> {
        peak_bytes(self.child.id())
    }

    /// What is to be said of a process that answers no more.
    fn gone(&mut self) -> Fault {
        // Its last words may still be under way.
        thread::sleep(TICK);
        let status = self.child.try_wait().ok().flatten();
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said.iter().cloned().collect::<Vec<_>>().join("\n");
        match status {
            Some(status) => ended(&self.words, status, &said),
            None => failed(format!("{}: it closed its output: {}", name(&self.words), last_words(&said))),
        }
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Hands over every line, as text, until `take` has enough.
fn each_line(pipe: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match pipe.by_ref().take(LARGEST).read_until(b'\n', &mut line) {
            Ok(n) if n > 0 => {
                if !take(String::from_utf8_lossy(&line).trim_end().to_owned()) {
                    return;
                }
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn within(seconds: u64, cancel: &CancelToken) -> Patience<'_> {
        Patience { timeout: Duration::from_secs(seconds), cancel }
    }

    #[test]
    fn a_program_that_fails_is_reported_with_its_last_words() {
        let cancel = CancelToken::default();
        let fault = run(&shell("echo first >&2; echo why >&2; exit 3"), 1, within(60, &cancel)).unwrap_err();
        let Fault::Failed(words) = fault else { panic!("{fault:?}") };
        assert!(words.starts_with("sh: ") && words.ends_with(": why"), "{words}");
        let absent = run(&["/nonexistent/program".to_owned()], 1, within(60, &cancel));
        assert!(matches!(absent, Err(Fault::Failed(words)) if words.starts_with("program: ")));
    }

    #[test]
    fn a_program_gets_its_threads_and_is_measured() {
        let cancel = CancelToken::default();
        let done = run(&shell("echo $OMP_NUM_THREADS; sleep 0.1"), 3, within(60, &cancel)).unwrap();
        assert!(done.output.starts_with("3\n") && done.seconds >= 0.1, "{done:?}");
        assert!(done.peak_bytes.is_none_or(|bytes| bytes > 100_000));
    }

    #[test]
    fn what_never_ends_is_ended_with_its_children() {
        let cancel = CancelToken::default();
        let patience = Patience { timeout: Duration::from_millis(200), cancel: &cancel };
        let fault = run(&shell("sleep 1000 & echo $! >&2; wait"), 1, patience).unwrap_err();
        assert!(matches!(fault, Fault::Failed(words) if words.contains("no end after")));
        let mut talker = Talker::start(&shell("sleep 1000"), 1).unwrap();
        assert!(matches!(talker.hear(patience), Err(Fault::Failed(words)) if words.contains("no answer")));
        cancel.cancel();
        assert_eq!(run(&shell("sleep 1000"), 1, within(60, &cancel)).unwrap_err(), Fault::Cancelled);
    }

    #[test]
    fn a_talker_answers_and_its_death_is_told_with_its_words() {
        let cancel = CancelToken::default();
        let script = "read a; echo got $a; read b; echo no more >&2; exit 4";
        let mut talker = Talker::start(&shell(script), 1).unwrap();
        talker.say("one").unwrap();
        assert_eq!(talker.hear(within(60, &cancel)).unwrap(), "got one");
        talker.say("two").unwrap();
        let Fault::Failed(words) = talker.hear(within(60, &cancel)).unwrap_err() else { panic!() };
        assert!(words.ends_with("no more"), "{words}");
    }
}
