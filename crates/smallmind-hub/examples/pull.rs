//! Pulls the models named on the command line into the store and says where they are: the hub without the program.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]

use smallmind_hub::{Config, Hub, HubError, Progress};

struct Lines(u64);

impl Progress for Lines {
    fn start(&mut self, what: &str, total: Option<u64>, already: u64) {
        self.0 = already;
        eprintln!("{what}: {already} of {total:?} bytes");
    }
    fn advance(&mut self, bytes: u64) {
        self.0 += bytes;
    }
    fn finish(&mut self) {
        eprintln!("  {} bytes", self.0);
    }
    fn note(&mut self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() -> Result<(), HubError> {
    let hub = Hub::new(Config::from_env()?);
    for name in std::env::args().skip(1) {
        let model = hub.resolve(&name, &mut Lines(0))?;
        let verified = hub.verify(&name, &mut Lines(0))?;
        println!("{} {} {}", verified.sha256, model.bytes, model.path.display());
    }
    Ok(())
}
