//! How many threads a model gets where nobody says: one for each physical core that this process may use, is fast, lies
//! beside the model's memory and is not rationed away by a control group.
//!
//! [`choose`] reads what Linux tells under `/proc` and `/sys`; elsewhere the standard library's count decides. It changes
//! nothing; [`Choice::confine`] does, for whoever wants it.

mod quota;

use std::collections::BTreeSet;
use std::fmt;

/// The most threads that are taken unasked: beyond it, forks and joins cost more than further threads give.
pub const MOST_THREADS: usize = 64;
/// A core of less than this share of the fastest core's speed is one of the slow ones: parts of a pass are equal, so
/// everyone would wait for it.
const SLOW: f64 = 0.7;

/// What was chosen, and why: its text is one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Threads to use.
    pub threads: usize,
    /// The CPUs that they should stay on; empty where any will do.
    home: Vec<usize>,
    reasons: Vec<String>,
}

impl Choice {
    /// Keeps the calling thread, and all that it starts from now on, on the fast cores of the chosen memory node. Where
    /// all allowed CPUs are alike it does nothing: the system's scheduler knows better.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub fn confine(&self) -> std::io::Result<()> {
        #[cfg(target_os = "linux")]
        if !self.home.is_empty() {
            let mut set = rustix::thread::CpuSet::new();
            for &cpu in self.home.iter().filter(|&&cpu| cpu < rustix::thread::CpuSet::MAX_CPU) {
                set.set(cpu);
            }
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        Ok(())
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.threads == 1 { "" } else { "s" };
        write!(f, "{} thread{s}: {}", self.threads, self.reasons.join(", "))
    }
}

/// Chooses for this machine and process; `model_bytes` is the size of the model's file.
pub fn choose(model_bytes: u64) -> Choice {
    let granted = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    choose_from(&|path| std::fs::read_to_string(path).ok(), granted, model_bytes)
}

/// Chooses by what `read` finds in the system's files, at most `granted`.
fn choose_from(read: &dyn Fn(&str) -> Option<String>, granted: usize, model_bytes: u64) -> Choice {
    let mut reasons = Vec::new();
    let mut home = Vec::new();
    let mut count = granted;
    if let Some(allowed) = allowed(read) {
        reasons.push(format!("{} CPUs allowed", allowed.len()));
        let mut cpus = allowed.clone();
        if let Some(fast) = fast(read, &cpus) {
            reasons.push(format!("{} on fast cores", fast.len()));
            cpus = fast;
        }
        if let Some((node, near)) = one_node(read, &cpus, model_bytes) {
            reasons.push(format!("{} on memory node {node}", near.len()));
            cpus = near;
        }
        let cores = cores(read, &cpus);
        if cores < cpus.len() {
            reasons.push(format!("{cores} physical cores"));
        }
        count = cores.min(granted.max(1));
        if cpus != allowed {
            home = cpus.into_iter().collect();
        }
    } else {
        reasons.push(format!("{granted} granted by the system"));
    }
    if let Some(quota) = quota::tightest(read) {
        reasons.push(format!("a quota of {quota} CPUs"));
        // Rounded down: threads that together ask for more than the quota are stopped for the rest of each period.
        count = count.min(quota as usize);
    }
    if count > MOST_THREADS {
        reasons.push(format!("at most {MOST_THREADS} unasked"));
    }
    Choice { threads: count.clamp(1, MOST_THREADS), home, reasons }
}

/// The CPUs that this thread may run on and that are switched on.
fn allowed(read: &dyn Fn(&str) -> Option<String>) -> Option<BTreeSet<usize>> {
    let status = read("/proc/thread-self/status").or_else(|| read("/proc/self/status"))?;
    let mut cpus = list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?);
    if let Some(online) = read("/sys/devices/system/cpu/online") {
        let online = list(&online);
        cpus.retain(|cpu| online.contains(cpu));
    }
    (!cpus.is_empty()).then_some(cpus)
}

/// The fast ones of `cpus`, where some are slower.
fn fast(read: &dyn Fn(&str) -> Option<String>, cpus: &BTreeSet<usize>) -> Option<BTreeSet<usize>> {
    let some_of = |fast: BTreeSet<usize>| (!fast.is_empty() && fast.len() < cpus.len()).then_some(fast);
    // Intel's hybrid processors name their kinds of core.
    if let (Some(performance), Some(_)) =
        (read("/sys/devices/cpu_core/cpus"), read("/sys/devices/cpu_atom/cpus"))
    {
        return some_of(list(&performance).intersection(cpus).copied().collect());
    }
    // ARM states a capacity; elsewhere the highest clock tells.
    ["cpu_capacity", "cpufreq/cpuinfo_max_freq"].iter().find_map(|file| {
        let speed = |cpu: usize| -> Option<f64> {
            read(&format!("/sys/devices/system/cpu/cpu{cpu}/{file}"))?.trim().parse().ok()
        };
        let speeds = cpus.iter().map(|&cpu| Some((cpu, speed(cpu)?))).collect::<Option<Vec<_>>>()?;
        let fastest = speeds.iter().map(|(_, speed)| *speed).fold(0.0, f64::max);
        some_of(speeds.iter().filter(|(_, speed)| *speed >= SLOW * fastest).map(|(cpu, _)| *cpu).collect())
    })
}

/// Where `cpus` lie on several memory nodes: the node with the most of them that also holds the model.
fn one_node(
    read: &dyn Fn(&str) -> Option<String>,
    cpus: &BTreeSet<usize>,
    model_bytes: u64,
) -> Option<(usize, BTreeSet<usize>)> {
    let folder = "/sys/devices/system/node";
    let nodes = list(&read(&format!("{folder}/online"))?).into_iter().filter_map(|node| {
        let here = list(&read(&format!("{folder}/node{node}/cpulist"))?);
        let here: BTreeSet<usize> = here.intersection(cpus).copied().collect();
        (!here.is_empty()).then_some((node, here))
    });
    let nodes: Vec<_> = nodes.collect();
    // The file's pages, the cache of keys and values and the buffers beside the weights.
    let need = model_bytes.saturating_add(model_bytes / 4);
    let holds = |node: usize| {
        let memory = read(&format!("{folder}/node{node}/meminfo")).unwrap_or_default();
        let total = memory.lines().find_map(|line| line.split_once("MemTotal:")).map(|(_, kb)| kb.trim());
        let kb = total.and_then(|kb| kb.split(' ').next()?.parse::<u64>().ok());
        kb.is_some_and(|kb| kb.saturating_mul(1024) >= need)
    };
    if nodes.len() < 2 {
        return None;
    }
    let fitting = nodes.into_iter().filter(|(node, _)| holds(*node));
    // Of equals the first.
    fitting.max_by_key(|(node, here)| (here.len(), std::cmp::Reverse(*node)))
}

/// Physical cores among `cpus`: two hardware threads of one share its caches and its way to memory.
fn cores(read: &dyn Fn(&str) -> Option<String>, cpus: &BTreeSet<usize>) -> usize {
    let first_of_its_core = |cpu: &&usize| {
        let siblings = read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let siblings = siblings.map(|text| list(&text)).unwrap_or_default();
        siblings.intersection(cpus).next().is_none_or(|first| first >= *cpu)
    };
    cpus.iter().filter(first_of_its_core).count()
}

/// A list as the kernel writes it, `0-3,8`; what is no number or no range is left out.
fn list(text: &str) -> BTreeSet<usize> {
    /// More CPUs than Linux can be built for: a bound on what a damaged file can make us count.
    const MOST: usize = 1 << 14;
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            numbers.extend(first..=last.min(MOST));
        }
    }
    numbers
}

#[cfg(test)]
mod tests;
