//! Who asks for what is read in streams, weights above all: the CPU's own prefetchers, or we ahead of them.

use std::sync::OnceLock;

use super::Isa;

/// How what is read in streams comes from memory in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// We ask for all of it, some way ahead.
    Asked,
    /// The CPU follows what is read fast and in the order of its bytes, better than we can: what we ask for waits in the
    /// first-level cache's few places for misses. The rest we ask for, to be read once.
    Followed,
}

/// How far ahead we ask for what the prefetchers of [`Stream::Followed`] do not follow: measured best of 0.5 to 8 KB.
const ONCE_BYTES: usize = 4096;

impl Stream {
    /// AMD's CPUs follow, as measured on a Zen 4 (docs/performance-zen4.md); Intel's were faster where asked
    /// (docs/performance.md). A hint changes no result.
    #[inline]
    pub(crate) fn of_this_cpu() -> Stream {
        static THIS: OnceLock<Stream> = OnceLock::new();
        *THIS.get_or_init(|| if is_amd() { Stream::Followed } else { Stream::Asked })
    }

    /// This, where it is read as fast as prefetchers follow: with large vectors, and with `little` to do for each line.
    #[inline(always)]
    pub(crate) fn read_by<I: Isa>(self, little: bool) -> Stream {
        if I::READS_FAST && little { self } else { Stream::Asked }
    }

    /// Asks for a line `bytes` behind the one at `p`, or nearer; where lines are `followed` only if this CPU does not.
    #[inline(always)]
    pub(crate) fn ask(self, isa: impl Isa, p: *const u8, bytes: usize, followed: bool) {
        match self {
            Stream::Asked => isa.prefetch(p.wrapping_add(bytes)),
            Stream::Followed if followed => {}
            Stream::Followed => isa.prefetch_once(p.wrapping_add(ONCE_BYTES)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}
