//! What the tests share: how the binary is run, where models are, what an error looks like.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// The binary with these arguments, a store of its own (`home`, else none that exists) and no settings from outside.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smallmind"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("SMALLMIND_HOME", "/nonexistent/smallmind").env("HF_HOME", "/nonexistent/hf");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SMALLMIND_ISA", "HF_TOKEN", "HF_HUB_CACHE"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Outcome {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// The document of a run that went well.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A failure: this code, nothing on stdout, and one sentence with all of `words`.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.starts_with("smallmind: "), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(!self.stderr.contains("panic") && !self.stderr.contains("internal error"), "{self:?}");
        assert!(self.stderr.chars().all(|c| c == '\n' || !c.is_control()), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in {self:?}");
        }
    }
}

impl Outcome {
    /// A failure after some talk: this code, nothing on stdout, and a last line with all of `words`.
    #[track_caller]
    pub(crate) fn refuses_after_notes(&self, code: i32, words: &[&str]) {
        let last = self.stderr.lines().last().unwrap_or_default();
        let only = Outcome { code: self.code, stdout: self.stdout.clone(), stderr: format!("{last}\n") };
        only.refuses(code, words);
    }
}

/// Runs to the end.
pub(crate) fn smallmind(args: &[&str]) -> Outcome {
    command(args).output().unwrap().into()
}

/// Runs to the end with these bytes on stdin.
pub(crate) fn with_stdin(args: &[&str], stdin: &[u8]) -> Outcome {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // The program may end before it has read everything.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.into()
}

/// Reads at least one byte of the child's stdout: it has begun to answer.
pub(crate) fn wait_for_output(child: &mut Child) -> u8 {
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    byte[0]
}

/// Ctrl-C.
pub(crate) fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// A tiny model of the fixtures.
pub(crate) fn tiny(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/tiny");
    folder.join(format!("{name}.gguf")).display().to_string()
}

/// SmolLM2, or `None` (said loudly) where it was not fetched; in CI that is a failure.
pub(crate) fn smollm2() -> Option<String> {
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let folder = std::env::var_os("SMALLMIND_TEST_MODELS").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/smallmind-test-models"))
    });
    let path = folder.map(|folder| folder.join(file)).filter(|path| path.exists());
    if path.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{file} is missing: run scripts/fetch-models");
        eprintln!("skipped: {file} is missing: run scripts/fetch-models");
    }
    path.map(|path| path.display().to_string())
}

/// Serves one body to whoever asks, on this machine only, until the test ends. Returns the address of a model.
pub(crate) fn serve(body: Vec<u8>) -> String {
    let whole = body.len();
    serve_part(body, whole)
}

/// The same, but the server falls silent after `sent` bytes of the body.
pub(crate) fn serve_part(body: Vec<u8>, sent: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes());
            if !request.starts_with(b"HEAD") {
                let _ = stream.write_all(&body[..sent]);
            }
            if sent < body.len() {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
    });
    format!("http://{address}/model.gguf")
}
