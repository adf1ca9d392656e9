//! Both programs as processes: how they are called for a test, how their answers are read, how long they take to start
//! and how much memory they hold.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One test, in the words of llama-bench: `prompt` or `generated` tokens behind `depth`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub(crate) threads: usize,
    pub(crate) prompt: usize,
    pub(crate) generated: usize,
    pub(crate) depth: usize,
}

impl Test {
    pub(crate) fn name(&self) -> String {
        let name =
            if self.prompt > 0 { format!("pp{}", self.prompt) } else { format!("tg{}", self.generated) };
        if self.depth > 0 { format!("{name} @ {}", self.depth) } else { name }
    }

    fn flags(&self) -> Vec<String> {
        let numbers = [
            ("-t", self.threads),
            ("-p", self.prompt),
            ("-n", self.generated),
            ("-d", self.depth),
            ("-r", 1),
        ];
        numbers.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]).collect()
    }
}

/// The release build of `smallmind`.
pub(crate) struct Ours {
    program: PathBuf,
    /// What `SMALLMIND_ISA` is set to.
    isa: Option<&'static str>,
}

impl Ours {
    pub(crate) fn new(program: PathBuf) -> Result<Ours> {
        if !program.exists() {
            bail!("{} is missing: cargo build --release", program.display());
        }
        Ok(Ours { program, isa: None })
    }

    /// The same with another instruction set.
    pub(crate) fn forced(&self, isa: &'static str) -> Ours {
        Ours { program: self.program.clone(), isa: Some(isa) }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(isa) = self.isa {
            command.env("SMALLMIND_ISA", isa);
        }
        command
    }

    /// Tokens a second of one test; `more` are further options of `smallmind bench`.
    pub(crate) fn bench(&self, model: &Path, test: Test, more: &[&str]) -> Result<f64> {
        let mut command = self.command();
        command.args(["bench", "--json", "-m"]).arg(model).args(test.flags()).args(more);
        average(&answer(&mut command)?)
    }

    /// Whether `smallmind bench` has an option.
    pub(crate) fn bench_takes(&self, option: &str) -> bool {
        let help = answer(self.command().args(["bench", "--help"]));
        help.is_ok_and(|help| help.contains(option))
    }

    /// From a prompt to `tokens` tokens in a process of its own.
    pub(crate) fn complete(&self, model: &Path, threads: usize, tokens: usize) -> Command {
        let mut command = self.command();
        command.args([
            "run",
            "-q",
            "--offline",
            "--raw",
            "--ignore-eos",
            "--temp",
            "0",
            "--ctx",
            "512",
            "-m",
        ]);
        command.arg(model).args(["-t", &threads.to_string(), "-n", &tokens.to_string(), PROMPT]);
        command
    }
}

const PROMPT: &str = "The quick brown fox";

/// llama.cpp's flash attention off and on: its better one counts.
pub(crate) const FLASH: [(&str, &str); 2] = [("fa 0", "off"), ("fa 1", "on")];

/// Tokens a second of one test by llama-bench.
pub(crate) fn llama_bench(program: &Path, model: &Path, test: Test, flash: &str) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(["-o", "json", "-fa", flash, "-m"]).arg(model).args(test.flags());
    average(&answer(&mut command)?)
}

/// Tokens a second of `sequences` sequences together, each of `prompt` and then `generated` tokens.
pub(crate) fn llama_batched(
    program: &Path,
    model: &Path,
    test: Test,
    sequences: usize,
    flash: &str,
) -> Result<f64> {
    let context = sequences * (test.prompt + test.generated);
    let mut command = Command::new(program);
    command.args(["--output-format", "jsonl", "-fa", flash, "-m"]).arg(model);
    let numbers = [
        ("-c", context),
        ("-t", test.threads),
        ("-npp", test.prompt),
        ("-ntg", test.generated),
        ("-npl", sequences),
    ];
    for (flag, value) in numbers {
        command.args([flag, &value.to_string()]);
    }
    batched_decode(&answer(&mut command)?)
}

/// As [`Ours::complete`], by llama.cpp.
pub(crate) fn llama_complete(program: &Path, model: &Path, threads: usize, tokens: usize) -> Command {
    let mut command = Command::new(program);
    command.args(["--no-warmup", "-no-cnv", "--ignore-eos", "--temp", "0", "-c", "512", "-m"]).arg(model);
    command.args(["-t", &threads.to_string(), "-n", &tokens.to_string(), "-p", PROMPT]);
    command
}

/// What a program says its version is.
pub(crate) fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let said = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::trim).filter(|l| !l.is_empty()).take(2).collect::<Vec<_>>().join(", ")
}

/// Standard output of a program that succeeds.
pub(crate) fn answer(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| shown(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last =
            said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
        bail!("{}: {}: {last}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// From llama-bench's JSON, which ours writes as well.
fn average(answer: &str) -> Result<f64> {
    let rows: Value = serde_json::from_str(answer).context("the answer is not JSON")?;
    rows[0]["avg_ts"].as_f64().context("the answer has no avg_ts")
}

/// Decode of all sequences, from llama-batched-bench's lines of JSON.
fn batched_decode(answer: &str) -> Result<f64> {
    let line = answer.lines().find(|l| l.starts_with('{')).context("the answer has no line of JSON")?;
    let row: Value = serde_json::from_str(line).context("the answer is not JSON")?;
    row["speed_tg"].as_f64().context("the answer has no speed_tg")
}

/// Seconds from the start of a process to its end: with one token to generate, about to the first token.
pub(crate) fn wall_seconds(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    answer(command)?;
    Ok(start.elapsed().as_secs_f64())
}

/// The most memory that a process held at any time, in 10⁶ bytes. The system's own mark is read every millisecond until
/// the process ends, so only growth within its last millisecond can be missed.
pub(crate) fn peak_megabytes(command: &mut Command) -> Result<f64> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().with_context(|| shown(quiet))?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = None;
    let status = loop {
        let status = std::fs::read_to_string(&status_file).unwrap_or_default();
        peak = high_water_mark(&status).max(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    let kib = peak.context("this system does not tell a process's peak memory in /proc")?;
    Ok(kib as f64 * 1024.0 / 1e6)
}

/// `VmHWM` of a `/proc/PID/status`, in KiB.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_from_both_programs_answers() {
        let bench = r#"[{"n_prompt": 512, "avg_ns": 5, "avg_ts": 7.842214, "samples_ts": [7.84]}]"#;
        assert_eq!(average(bench).unwrap(), 7.842214);
        assert!(average("[]").unwrap_err().to_string().contains("no avg_ts"));
        assert!(average("error").unwrap_err().to_string().contains("not JSON"));
        let batched = "\n{\"pp\": 20, \"tg\": 8, \"pl\": 4, \"speed_pp\": 17.27, \"speed_tg\": 9.161601, \"speed\": 13.7}\n";
        assert_eq!(batched_decode(batched).unwrap(), 9.161601);
        assert!(batched_decode("|    PP |").is_err());
    }

    #[test]
    fn tests_are_named_and_asked_for_as_llama_bench_does() {
        let test = Test { threads: 2, prompt: 0, generated: 64, depth: 1024 };
        assert_eq!(test.name(), "tg64 @ 1024");
        assert_eq!(test.flags().join(" "), "-t 2 -p 0 -n 64 -d 1024 -r 1");
        assert_eq!(Test { prompt: 512, depth: 0, ..test }.name(), "pp512");
    }

    #[test]
    fn peak_memory_is_read_from_the_systems_status() {
        assert_eq!(high_water_mark("Name:\tx\nVmHWM:\t  133824 kB\nVmRSS:\t 1 kB\n"), Some(133_824));
        assert_eq!(high_water_mark("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_last_words() {
        let error =
            answer(Command::new("sh").args(["-c", "echo first >&2; echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().starts_with("sh: ") && error.to_string().ends_with(": why"), "{error}");
    }
}
