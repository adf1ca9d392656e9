//! Whether this process may use AMX: the CPU's word, the system's, and products that are those of the emulation.
#![allow(unsafe_code, reason = "asks the system in assembly, and runs the instructions to be proved")]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::amx::{BfTiles, Hardware, LINE, ROWS, Sums, TileBytes, Tiles};
use super::amx_emulated::Emulated;
use super::avx512::Avx512;

/// Proof of AMX-TILE, AMX-INT8 and AMX-BF16, of the system's permission to use them, and of AVX-512 with VNNI for the rest.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Asks once per process: the permission makes the system reserve 8 KB more for each thread's registers.
    pub(crate) fn detect() -> Option<Self> {
        static PROVEN: OnceLock<bool> = OnceLock::new();
        PROVEN
            .get_or_init(|| {
                // SAFETY: the first two say that the CPU and the system have and grant the tile registers.
                Avx512::detect().is_some()
                    && is_x86_feature_detected!("avx512bf16")
                    && supported()
                    && permitted()
                    && unsafe { proof() }
            })
            .then_some(Amx(()))
    }
}

/// Whether the CPU has AMX-TILE with palette 1, AMX-INT8 and AMX-BF16, and the system saves the registers.
fn supported() -> bool {
    if __cpuid(0).eax < 0x1d {
        return false;
    }
    let (leaf1, leaf7) = (__cpuid(1), __cpuid_count(7, 0));
    let xsave = leaf1.ecx & (1 << 26) != 0 && leaf1.ecx & (1 << 27) != 0;
    // AMX-BF16, AMX-TILE, AMX-INT8: no CPU has one without the others.
    let tiles = [22, 24, 25].into_iter().all(|bit| leaf7.edx & (1 << bit) != 0);
    if !xsave || !tiles {
        return false;
    }
    // SAFETY: the CPU has XSAVE and the system turned it on.
    let saved = unsafe { _xgetbv(0) };
    // Palette 1: registers, bytes of a row, and rows.
    let palette = __cpuid_count(0x1d, 1);
    let (names, row_bytes, rows) = (palette.ebx >> 16, palette.ebx & 0xffff, palette.ecx & 0xffff);
    saved & (0b11 << 17) == 0b11 << 17 && names >= 8 && row_bytes >= 64 && rows >= 16
}

/// Asks Linux for the tile data: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, for the whole process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    let result: isize;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") 0x1023_usize,
            in("rsi") 18_usize,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// [`proves_itself`], with the instructions that its caller has asked for: without them each fused multiply-add of the
/// emulation is a call, and the proof takes several times as long.
///
/// # Safety
/// The CPU has the instructions, and the process may use the tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
unsafe fn proof() -> bool {
    // SAFETY: the caller's promise.
    unsafe { proves_itself::<Hardware>() }
}

/// Products that are tried: each of them meets every register row and column with other bytes; more of them would be most
/// of the time in which a mapped model gets ready.
const ROUNDS: usize = 16;

/// Whether products of random bytes are those of the emulation.
///
/// # Safety
/// The process may use the tiles.
#[inline(always)]
unsafe fn proves_itself<T: BfTiles>() -> bool {
    let mut state = 1_u64;
    let mut bytes = || {
        let mut tile = TileBytes([[0; LINE]; ROWS]);
        tile.0.as_flattened_mut().fill_with(|| {
            // Knuth's linear congruential generator, its upper bits.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        tile
    };
    // SAFETY: the caller's promise.
    let (mut tiles, mut plain) = unsafe { (T::configure(), Emulated::configure()) };
    // Loops, no closures: those would be compiled without the caller's instructions.
    let mut same = true;
    for round in 0..ROUNDS {
        let (a, b) = (bytes(), bytes());
        let signed = round % 2 == 0;
        let (x, y) = (floats(&a), floats(&b));
        same &= two_products(&mut tiles, &a, &b, signed) == two_products(&mut plain, &a, &b, signed)
            && floats_product(&mut tiles, &x, &y) == floats_product(&mut plain, &x, &y);
    }
    same
}

/// Two products in registers of their own, one of them of two steps.
#[inline(always)]
fn two_products<T: Tiles>(tiles: &mut T, a: &TileBytes, b: &TileBytes, signed: bool) -> [Sums; 2] {
    let mut out = [Sums([[-1; 16]; ROWS]); 2];
    tiles.zero::<0>();
    tiles.zero::<3>();
    tiles.load::<4>(a.into());
    tiles.load::<6>(b.into());
    tiles.dot::<0, 4, 6>(signed);
    tiles.load_passing::<5>(b.into());
    tiles.load_passing::<7>(a.into());
    tiles.dot::<3, 5, 7>(signed);
    tiles.dot::<3, 4, 6>(signed);
    tiles.store::<0>((&mut out[0]).into());
    tiles.store::<3>((&mut out[1]).into());
    out
}

/// The same mantissas and signs, of numbers between 2⁻¹⁵ and 2¹⁶: nothing overflows.
fn floats(tile: &TileBytes) -> TileBytes {
    let mut floats = TileBytes(tile.0);
    for word in floats.0.as_flattened_mut().as_chunks_mut::<2>().0 {
        let bits = u16::from_le_bytes(*word);
        *word = (bits & 0x8f7f | (112 + (bits >> 7 & 31)) << 7).to_le_bytes();
    }
    floats
}

/// A product of two steps and one of the factors exchanged.
#[inline(always)]
fn floats_product<T: BfTiles>(tiles: &mut T, x: &TileBytes, y: &TileBytes) -> [Sums; 2] {
    let mut out = [Sums([[-1; 16]; ROWS]); 2];
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.load::<4>(x.into());
    tiles.load::<6>(y.into());
    tiles.dot_bf16::<1, 4, 6>();
    tiles.dot_bf16::<2, 6, 4>();
    tiles.dot_bf16::<2, 4, 6>();
    tiles.store::<1>((&mut out[0]).into());
    tiles.store::<2>((&mut out[1]).into());
    out
}

#[cfg(test)]
mod tests {
    use std::arch::x86_64::{__m512, __m512i};

    use super::super::amx::{TileMut, TileRef};
    use super::*;

    #[test]
    fn the_emulation_gives_the_sums_of_the_definition() {
        // SAFETY: plain Rust.
        let mut tiles = unsafe { Emulated::configure() };
        let bytes = |factor: usize| {
            let mut tile = TileBytes([[0; LINE]; ROWS]);
            for (i, b) in tile.0.as_flattened_mut().iter_mut().enumerate() {
                *b = (i * factor % 256) as u8;
            }
            tile
        };
        let (a, b) = (bytes(37), bytes(91));
        for signed in [false, true] {
            let [once, twice] = two_products(&mut tiles, &a, &b, signed);
            let sum = |a: &TileBytes, b: &TileBytes, t: usize, r: usize| {
                let terms = (0..64).map(|k| {
                    let byte = b.0[k / 4][4 * r + k % 4];
                    let w = if signed { i32::from(byte as i8) } else { i32::from(byte) };
                    w * i32::from(a.0[t][k] as i8)
                });
                terms.sum::<i32>()
            };
            for (t, r) in (0..16).flat_map(|t| (0..16).map(move |r| (t, r))) {
                let expected = (sum(&a, &b, t, r), sum(&b, &a, t, r) + sum(&a, &b, t, r));
                assert_eq!((once.0[t][r], twice.0[t][r]), expected, "token {t}, row {r}, signed {signed}");
            }
        }
    }

    #[test]
    fn tiles_that_give_other_sums_are_not_offered() {
        struct Wrong(Emulated);
        impl Tiles for Wrong {
            unsafe fn configure() -> Self {
                // SAFETY: plain Rust.
                Wrong(unsafe { Emulated::configure() })
            }
            fn load<const R: usize>(&mut self, from: TileRef<'_>) {
                self.0.load::<R>(from);
            }
            fn zero<const C: usize>(&mut self) {
                self.0.zero::<C>();
            }
            fn dot<const C: usize, const A: usize, const B: usize>(&mut self, _: bool) {
                // Takes unsigned weights as signed ones.
                self.0.dot::<C, A, B>(true);
            }
            fn store<const C: usize>(&self, out: TileMut<'_>) {
                self.0.store::<C>(out);
            }
        }
        impl BfTiles for Wrong {
            fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
                self.0.dot_bf16::<C, A, B>();
            }
            fn rounded(first: __m512, last: __m512) -> __m512i {
                Emulated::rounded(first, last)
            }
            fn pairs(even: __m512, odd: __m512) -> __m512i {
                Emulated::pairs(even, odd)
            }
        }
        // SAFETY: plain Rust.
        unsafe {
            assert!(proves_itself::<Emulated>());
            assert!(!proves_itself::<Wrong>());
        }
    }

    #[test]
    fn asking_for_amx_never_crashes_and_always_answers_the_same() {
        let first = Amx::detect().is_some();
        assert!(!first || supported());
        assert_eq!(Amx::detect().is_some(), first);
    }
}
