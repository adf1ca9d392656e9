//! A stand-in for model hubs and package indexes on the loopback interface, with the misbehaviours of real ones.
//! Used by tests only.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Config, PipConfig, Progress};

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte of a `Range: bytes=N-`.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What the server says.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Fall silent for so long after so many bytes of the body.
    pub stall: Option<(usize, Duration)>,
    /// Do not say how long the body is.
    pub unsized_body: bool,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn redirect(to: &str) -> Self {
        Self::status(302).with("Location", to)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file with an ETag, whole or from where the request wants it.
    pub fn file(request: &Request, body: &[u8], etag: &str) -> Self {
        let fresh = request.header("if-range").is_none_or(|validator| validator == etag);
        let answer = match request.from().filter(|from| fresh && *from < body.len()) {
            Some(from) => Self { status: 206, body: body[from..].to_vec(), ..Self::default() }
                .with("Content-Range", &format!("bytes {from}-{}/{}", body.len() - 1, body.len())),
            None => Self::ok(body),
        };
        answer.with("ETag", etag)
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A server; it lives as long as the test process.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (shared, handler) = (server.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, handler) = (shared.clone(), Arc::clone(&handler));
                std::thread::spawn(move || shared.serve(stream, &*handler));
            }
        });
        server
    }

    fn serve(&self, mut stream: TcpStream, handler: &dyn Fn(&Request) -> Answer) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut headers = BTreeMap::new();
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let request = Request { path, headers };
        self.requests.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        if !answer.unsized_body {
            head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        answer.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(b"\r\n").ok()?;
        let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
        let (first, pause) = answer.stall.unwrap_or((body.len(), Duration::ZERO));
        stream.write_all(&body[..first]).ok()?;
        std::thread::sleep(pause);
        stream.write_all(&body[first..]).ok()?;
        stream.shutdown(std::net::Shutdown::Write).ok()?;
        let _ = stream.read(&mut [0; 64]);
        Some(())
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests had `part` in their path.
    pub fn asked(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }

    /// First bytes asked for, in order; 0 without a range.
    pub fn ranges(&self, part: &str) -> Vec<usize> {
        let requests = self.requests();
        let fitting = requests.iter().filter(|request| request.path.contains(part));
        fitting.map(|request| request.from().unwrap_or(0)).collect()
    }
}

/// Settings for a test: nothing of the machine's, quick retries.
pub fn config(home: &std::path::Path, index: &str) -> Config {
    let mut config = Config::new(home);
    config.proxies = false;
    config.retry_pause = Duration::from_millis(5);
    config.hf_endpoint = index.to_owned();
    config.pip = PipConfig { indexes: vec![format!("{index}/simple")], cert: None };
    config
}

/// Bytes that pass for a model; different for different seeds.
pub fn gguf(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let body = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    b"GGUF".iter().copied().chain(body).take(len).collect()
}

/// SHA-256 in hex.
pub fn sum(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A wheel with these members, packed with DEFLATE.
pub fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in members {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A JSON page of a package index with these wheels.
pub fn index_page(wheels: &[(&str, &[u8])]) -> Answer {
    let files: Vec<String> = wheels
        .iter()
        .map(|(name, bytes)| {
            format!(
                r#"{{"filename":"{name}","url":"../../files/{name}","size":{},"hashes":{{"sha256":"{}"}}}}"#,
                bytes.len(),
                sum(bytes)
            )
        })
        .collect();
    Answer::ok(format!(r#"{{"files":[{}]}}"#, files.join(",")))
        .with("Content-Type", "application/vnd.pypi.simple.v1+json")
}

/// Remembers what it is told; cancels after so many bytes.
#[derive(Debug, Default)]
pub struct Watch {
    pub bytes: u64,
    pub already: Vec<u64>,
    pub notes: Vec<String>,
    pub cancel_after: Option<u64>,
    pub open: i32,
}

impl Progress for Watch {
    fn start(&mut self, _what: &str, _total: Option<u64>, already: u64) {
        self.already.push(already);
        self.open += 1;
    }
    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
    fn finish(&mut self) {
        self.open -= 1;
    }
    fn cancelled(&self) -> bool {
        self.cancel_after.is_some_and(|limit| self.bytes >= limit)
    }
    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }
}

/// Every file below a folder, relative, sorted.
pub fn tree(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
