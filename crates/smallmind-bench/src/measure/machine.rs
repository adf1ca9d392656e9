//! What a run ran on: saved with its results, so that figures of different machines are never mixed unsaid.

use std::fs::read_to_string;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smallmind::Gguf;

use super::clock::now_utc;
use crate::{Error, Result};

/// What figures depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The hardware.
    pub machine: Machine,
    /// The operating system and its kernel.
    pub system: String,
    /// The system's policy on huge pages.
    pub huge_pages: String,
    /// What other programs were doing: the load averages before the run.
    pub load: String,
    /// The instruction set in use, as `SMALLMIND_ISA` names it.
    pub isa: String,
    /// All that could be used on this CPU, the fastest first.
    pub isas: Vec<String>,
    /// This program.
    pub build: Build,
    /// When the run began, in UTC.
    pub time: String,
    /// The models that were measured.
    pub models: Vec<ModelFacts>,
    /// What else is to be known, such as the versions of other programs: name and value.
    pub notes: Vec<(String, String)>,
}

/// The hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Memory of the machine; 0 where the system does not say.
    pub memory_bytes: u64,
    /// The first processor's caches.
    pub caches: Vec<Cache>,
}

/// One cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// `L1 Data`, `L2 Unified`.
    pub name: String,
    /// Its size, as the system writes it: `48K`.
    pub size: String,
    /// The processors that share it: `0-3`.
    pub shared_by: String,
}

/// A build of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `0.1.0`.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
    /// Cargo's profile: figures of `debug` mean nothing.
    pub profile: String,
    /// Of this crate: 0 to 3, s or z.
    pub opt_level: String,
}

/// A model that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// As the user named it.
    pub name: String,
    /// The family.
    pub architecture: String,
    /// The file's size.
    pub bytes: u64,
    /// All elements of all tensors.
    pub parameters: u64,
    /// Of the file, or, of a model made in memory, of its tensors' bytes in order.
    pub sha256: String,
}

impl Environment {
    /// Looks at the machine, the system and this program.
    pub fn here() -> Environment {
        let text = |path: &str| read_to_string(path).unwrap_or_default();
        let system = field(&text("/etc/os-release"), "PRETTY_NAME", '=')
            .unwrap_or_else(|| std::env::consts::OS.into());
        let kernel = text("/proc/sys/kernel/osrelease");
        let isas = smallmind_kernels::available();
        Environment {
            machine: Machine::here(),
            system: format!("{system}, kernel {}", kernel.trim()),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_owned(),
            load: text("/proc/loadavg").trim().to_owned(),
            isa: smallmind_kernels::kernels().map_or_else(|e| e.to_string(), |k| k.name.to_owned()),
            isas: isas.iter().map(|k| k.name.to_owned()).collect(),
            build: Build::this(),
            time: now_utc(),
            models: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Names and values, in the order to show them.
    pub fn described(&self) -> Vec<(String, String)> {
        let m = &self.machine;
        let caches: Vec<String> = m.caches.iter().map(|c| format!("{} {}", c.name, c.size)).collect();
        let build = &self.build;
        let pairs = [
            ("CPU", format!("{}, {} usable", m.cpu, m.processors)),
            ("caches", caches.join(", ")),
            ("memory", format!("{:.1} GB", m.memory_bytes as f64 / 1e9)),
            ("system", self.system.clone()),
            ("huge pages", self.huge_pages.clone()),
            ("load before the run", self.load.clone()),
            ("SmallMind", format!("{} at {}, {} build", build.version, build.commit, build.profile)),
            ("instruction set", format!("{} (of {})", self.isa, self.isas.join(", "))),
            ("time", self.time.clone()),
        ];
        let mut all: Vec<(String, String)> = pairs.map(|(n, v)| (n.to_owned(), v)).into();
        all.retain(|(_, value)| !value.is_empty());
        all.extend(self.models.iter().map(|m| {
            let hash = m.sha256.get(..12).unwrap_or(&m.sha256);
            let (mb, millions) = (m.bytes as f64 / 1e6, m.parameters as f64 / 1e6);
            let value = format!(
                "{}: {}, {millions:.1} M parameters, {mb:.1} MB, SHA-256 {hash}…",
                m.name, m.architecture
            );
            ("model".to_owned(), value)
        }));
        all.extend(self.notes.iter().cloned());
        all
    }

    /// What differs from `other` in a way that figures depend on, each as a sentence; empty where they can be compared.
    pub fn differences(&self, other: &Environment) -> Vec<String> {
        let mut all = Vec::new();
        let mut note = |what: &str, mine: &str, theirs: &str| {
            if mine != theirs {
                all.push(format!("{what}: {theirs} then, {mine} now"));
            }
        };
        let (a, b) = (&self.machine, &other.machine);
        note("another CPU", &a.cpu, &b.cpu);
        note("another architecture", &a.architecture, &b.architecture);
        note("other processors usable", &a.processors.to_string(), &b.processors.to_string());
        let gigabytes = |bytes: u64| format!("{:.0} GB", bytes as f64 / 1e9);
        note("other memory", &gigabytes(a.memory_bytes), &gigabytes(b.memory_bytes));
        note("another instruction set", &self.isa, &other.isa);
        note("another build profile", &self.build.profile, &other.build.profile);
        for model in &self.models {
            if let Some(then) = other.models.iter().find(|m| m.name == model.name) {
                let what = format!("another file behind `{}`", model.name);
                note(&what, &model.sha256, &then.sha256);
            }
        }
        all
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let text = |path: &str| read_to_string(path).unwrap_or_default();
        let kilobytes = field(&text("/proc/meminfo"), "MemTotal", ':')
            .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        Machine {
            cpu: cpu(),
            architecture: std::env::consts::ARCH.to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
            caches: caches(Path::new("/sys/devices/system/cpu/cpu0/cache")),
        }
    }
}

impl Build {
    /// This program.
    pub fn this() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("SMALLMIND_COMMIT").to_owned(),
            profile: env!("SMALLMIND_PROFILE").to_owned(),
            opt_level: env!("SMALLMIND_OPT_LEVEL").to_owned(),
        }
    }
}

impl ModelFacts {
    /// Of an opened model, as the user named it. Reads all of it, for the hash.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn of(name: &str, gguf: &Gguf) -> Result<ModelFacts> {
        let tensors = gguf.tensors();
        let sha256 = if gguf.path().is_file() {
            sha256_of_file(gguf.path())?
        } else {
            let mut hash = Sha256::new();
            tensors.iter().for_each(|t| hash.update(gguf.data(t)));
            hex(&hash.finalize())
        };
        let architecture = gguf.metadata().str("general.architecture").ok().flatten().unwrap_or("unknown");
        Ok(ModelFacts {
            name: name.to_owned(),
            architecture: smallmind::escaped(architecture.as_bytes(), 60).to_string(),
            bytes: gguf.file_len(),
            parameters: tensors.iter().map(|t| t.elements() as u64).sum(),
            sha256,
        })
    }
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Where it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let system = |cause| Error::System { what: path.display().to_string(), cause };
    let mut file = std::fs::File::open(path).map_err(system)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(system)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The processor's name.
pub fn cpu() -> String {
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&info, "model name", ':').unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The most memory this process ever held, in bytes; 0 where the system does not say.
pub fn peak_rss_bytes() -> u64 {
    status_bytes("VmHWM")
}

/// The memory that this process holds now, in bytes; 0 where the system does not say.
pub fn rss_bytes() -> u64 {
    status_bytes("VmRSS")
}

fn status_bytes(name: &str) -> u64 {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let kib = field(&status, name, ':').and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn caches(folder: &Path) -> Vec<Cache> {
    let indexes = (0..8).map(|i| folder.join(format!("index{i}")));
    let read = indexes.map_while(|index| {
        let text = |name: &str| read_to_string(index.join(name)).ok().map(|s| s.trim().to_owned());
        let name = format!("L{} {}", text("level")?, text("type")?);
        Some(Cache { name, size: text("size")?, shared_by: text("shared_cpu_list")? })
    });
    read.collect()
}

/// The value of the first line that begins with `name`.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    let (_, value) = text.lines().find(|l| l.starts_with(name))?.split_once(separator)?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::DType;
    use smallmind::preset::Preset;

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nPRETTY_NAME=\"Debian 13\"\n";
        assert_eq!(field(text, "model name", ':').as_deref(), Some("A CPU @ 2 GHz"));
        assert_eq!(field(text, "PRETTY_NAME", '=').as_deref(), Some("Debian 13"));
        assert_eq!(field(text, "flags", ':'), None);
    }

    #[test]
    fn what_figures_depend_on_is_told_and_what_they_do_not_is_not() {
        let mut here = Environment::here();
        assert!(here.machine.processors > 0 && !here.isas.is_empty() && !here.build.commit.is_empty());
        here.models.push(ModelFacts { name: "m".into(), sha256: "aa".into(), ..ModelFacts::default() });
        let mut then = here.clone();
        then.time = "another".into();
        then.load = "9".into();
        assert_eq!(here.differences(&then), Vec::<String>::new());
        then.machine.cpu = "Another CPU".into();
        then.isa = "scalar".into();
        then.models[0].sha256 = "bb".into();
        let told = here.differences(&then);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].starts_with("another CPU: Another CPU then, ") && told[2].contains("bb then, aa now")
        );
    }

    #[test]
    fn a_file_has_the_hash_that_sha256sum_gives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of_file(&path).unwrap(), want);
        assert!(sha256_of_file(&folder.path().join("y")).unwrap_err().to_string().contains("/y: "));
    }

    #[test]
    fn a_preset_is_known_by_its_weights() {
        let facts = |dtype, seed| {
            let gguf = Preset::find("small").unwrap().build(dtype, seed).unwrap();
            ModelFacts::of("preset small", &gguf).unwrap()
        };
        let small = facts(DType::F32, 1);
        assert_eq!((small.parameters, small.architecture.as_str()), (470_528, "gpt2"));
        assert_eq!(small, facts(DType::F32, 1));
        assert!(small.sha256 != facts(DType::F32, 2).sha256 && small.sha256 != facts(DType::Q8_0, 1).sha256);
    }
}
