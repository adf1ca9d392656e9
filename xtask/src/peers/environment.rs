//! What a run ran on.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::limits::{Limits, fma_peak};
use super::options::Options;
use super::programs::{answer, version};

/// Names and values, in the order to show them.
pub(crate) fn describe(options: &Options) -> Result<Vec<(&'static str, String)>> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu =
        field(&text("/proc/cpuinfo"), "model name", ':').unwrap_or_else(|| std::env::consts::ARCH.into());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let system =
        field(&text("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.into());
    let memory = field(&text("/proc/meminfo"), "MemTotal", ':').unwrap_or_default();
    let pages = text("/sys/kernel/mm/transparent_hugepage/enabled");
    let commit = answer(Command::new("git").args(["describe", "--always", "--dirty"])).unwrap_or_default();
    let threads: Vec<String> = options.threads.iter().map(usize::to_string).collect();
    let mut all = vec![
        ("CPU", format!("{cpu}, {cores} usable")),
        ("memory", memory),
        ("system", format!("{system}, kernel {}", text("/proc/sys/kernel/osrelease").trim())),
        ("huge pages", pages.trim().to_owned()),
        ("load before the run", text("/proc/loadavg").trim().to_owned()),
        ("SmallMind", format!("{}, instruction set {}", commit.trim(), smallmind_kernels::kernels()?.name)),
        ("llama.cpp", version(&options.program("llama-bench"))),
    ];
    all.extend(options.forced.iter().map(|(isa, bench)| match *isa {
        "avx2" => ("llama.cpp for AVX2", version(bench)),
        _ => ("llama.cpp for AVX-512", version(bench)),
    }));
    if let Some(python) = &options.python {
        all.push(("Python", packages(python)));
    }
    all.push(("rounds", format!("{} on {} threads", options.rounds, threads.join(" and "))));
    Ok(all)
}

/// The limits in words.
pub(crate) fn of_limits(limits: &Limits, threads: &[usize]) -> Vec<(&'static str, String)> {
    let mut bandwidth = String::new();
    for &count in threads {
        let _ = write!(
            bandwidth,
            "{}{count} thread{}:",
            if bandwidth.is_empty() { "" } else { "; " },
            plural(count)
        );
        for point in limits.points().iter().filter(|p| p.threads == count) {
            let _ = write!(bandwidth, " {} MB {:.1},", point.bytes / 1_000_000, point.gb_per_s);
        }
        bandwidth.truncate(bandwidth.trim_end_matches(',').len());
    }
    let mut all = vec![("read bandwidth in GB/s by working set", bandwidth)];
    if let Some((peak, isa)) = fma_peak() {
        all.push(("FMA peak of one thread", format!("{peak:.0} GFLOP/s with {isa}")));
    }
    all
}

/// The limits as numbers.
pub(crate) fn limits_json(limits: &Limits) -> Value {
    let point =
        |p: &super::limits::Point| json!({"threads": p.threads, "bytes": p.bytes, "gb_per_s": p.gb_per_s});
    json!({"read_bandwidth": limits.points().iter().map(point).collect::<Vec<_>>()})
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The value of the first line that begins with `name`.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    let (_, value) = text.lines().find(|l| l.starts_with(name))?.split_once(separator)?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// The versions of what the script for the seed's models uses.
fn packages(python: &Path) -> String {
    let code = "import importlib.metadata as m, platform\n\
                print(platform.python_version(), *[f'{p} {m.version(p)}' for p in ('torch', 'onnxruntime')], sep=', ')";
    answer(Command::new(python).args(["-c", code])).map_or_else(|e| e.to_string(), |s| s.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nPRETTY_NAME=\"Debian 13\"\n";
        assert_eq!(field(text, "model name", ':').as_deref(), Some("A CPU @ 2 GHz"));
        assert_eq!(field(text, "PRETTY_NAME", '=').as_deref(), Some("Debian 13"));
        assert_eq!(field(text, "flags", ':'), None);
    }
}
