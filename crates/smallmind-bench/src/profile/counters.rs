//! The kernel's counters through `perf_event_open(2)`: cycles, instructions, cache misses where the processor and the
//! kernel's policy allow them, faults and switches nearly everywhere. The only file of the profiler with `unsafe` code.
//! A counter that is refused is left out, and the refusal is told in words; nothing here can fail.
#![allow(unsafe_code, reason = "system calls that the standard library does not have")]

use serde::{Deserialize, Serialize};

/// A counter's name and what it counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// `instructions`.
    pub name: String,
    /// Events in all threads of the model.
    pub count: u64,
}

/// Open counters of this thread and of those it makes from now on.
#[derive(Debug)]
pub struct Counters {
    open: Vec<(&'static str, system::Counter)>,
    refused: Vec<(&'static str, String)>,
}

/// Name, type and number: `PERF_TYPE_HARDWARE` is 0 and `PERF_TYPE_SOFTWARE` 1 in `linux/perf_event.h`.
const EVENTS: [(&str, u32, u64); 9] = [
    ("cycles", 0, 0),
    ("instructions", 0, 1),
    ("cache references", 0, 2),
    ("cache misses", 0, 3),
    ("branches", 0, 4),
    ("branch misses", 0, 5),
    ("page faults", 1, 2),
    ("context switches", 1, 3),
    ("CPU migrations", 1, 4),
];

impl Counters {
    /// Opens what can be opened.
    pub fn open() -> Counters {
        let mut counters = Counters { open: Vec::new(), refused: Vec::new() };
        for (name, of_type, number) in EVENTS {
            match system::Counter::open(of_type, number) {
                Ok(counter) => counters.open.push((name, counter)),
                Err(cause) => counters.refused.push((name, cause.to_string())),
            }
        }
        counters
    }

    /// What every open counter says now.
    pub fn read(&self) -> Vec<u64> {
        self.open.iter().map(|(_, counter)| counter.read()).collect()
    }

    /// What was counted since, and which counters there are not and why.
    pub fn since(&self, before: &[u64]) -> (Vec<Counted>, String) {
        let now = self.read();
        let counts = self.open.iter().zip(now).zip(before).map(|(((name, _), now), before)| Counted {
            name: (*name).to_owned(),
            count: now.saturating_sub(*before),
        });
        (counts.collect(), missing(&self.refused))
    }
}

/// The refusals in one sentence; empty where there are none.
fn missing(refused: &[(&'static str, String)]) -> String {
    let Some((_, why)) = refused.first() else { return String::new() };
    let names: Vec<&str> = refused.iter().map(|(name, _)| *name).collect();
    let policy = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let hint = match policy.trim().parse::<i32>() {
        Ok(level) if level > 2 => {
            format!("; kernel.perf_event_paranoid is {level}, and 2 would let a program count itself")
        }
        _ => "; virtual machines often have no hardware counters".to_owned(),
    };
    format!("not counted: {} ({why}{hint})", names.join(", "))
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io::{self, Read};
    use std::os::fd::FromRawFd;

    /// One counter.
    #[derive(Debug)]
    pub(super) struct Counter(File);

    /// `struct perf_event_attr` up to its first published version's 64 bytes.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        of_type: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup_events: u32,
        bp_type: u32,
        config1: u64,
    }
    const _: () = assert!(size_of::<Attributes>() == 64);

    /// Bits of `flags`: threads made later are counted too; the kernel's own work is not.
    const INHERIT: u64 = 1 << 1;
    const EXCLUDE_KERNEL: u64 = 1 << 5;
    const EXCLUDE_HYPERVISOR: u64 = 1 << 6;

    impl Counter {
        pub(super) fn open(of_type: u32, config: u64) -> io::Result<Counter> {
            // Faults and switches happen in the kernel.
            let kernel = if of_type == 0 { EXCLUDE_KERNEL } else { 0 };
            let attributes = Attributes {
                of_type,
                size: 64,
                config,
                flags: INHERIT | kernel | EXCLUDE_HYPERVISOR,
                ..Attributes::default()
            };
            // This thread (0), on any processor (−1), in no group (−1), closed on exec.
            let (this, any, alone, cloexec) =
                (0 as libc::pid_t, -1 as libc::c_int, -1 as libc::c_int, 8 as libc::c_ulong);
            // SAFETY: the call reads the 64 bytes of `attributes`, as its `size` says, and returns a descriptor or −1.
            let fd = unsafe {
                libc::syscall(libc::SYS_perf_event_open, &raw const attributes, this, any, alone, cloexec)
            };
            match i32::try_from(fd) {
                Ok(fd) if fd >= 0 => {
                    // SAFETY: the descriptor was just opened and nobody else owns it.
                    Ok(Counter(unsafe { File::from_raw_fd(fd) }))
                }
                _ => Err(io::Error::last_os_error()),
            }
        }

        /// The count; 0 where it cannot be read.
        pub(super) fn read(&self) -> u64 {
            let mut bytes = [0; 8];
            match (&self.0).read_exact(&mut bytes) {
                Ok(()) => u64::from_ne_bytes(bytes),
                Err(_) => 0,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    #[derive(Debug)]
    pub(super) enum Counter {}

    impl Counter {
        pub(super) fn open(_of_type: u32, _config: u64) -> io::Result<Counter> {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no perf_event_open"))
        }

        pub(super) fn read(&self) -> u64 {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_counted_or_its_absence_is_explained() {
        let counters = Counters::open();
        let before = counters.read();
        let touched = std::hint::black_box(vec![1u8; 8 << 20]);
        let (counted, missing) = counters.since(&before);
        drop(touched);
        assert_eq!(counted.len() + counters.refused.len(), EVENTS.len());
        assert_eq!(missing.is_empty(), counters.refused.is_empty(), "{missing}");
        assert!(counters.refused.iter().all(|(name, _)| missing.contains(name)));
        // Where faults are counted, 8 MB of fresh memory made some.
        if let Some(faults) = counted.iter().find(|c| c.name == "page faults") {
            assert!(faults.count > 0, "{counted:?}");
        }
    }
}
