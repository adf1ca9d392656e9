//! AMX: eight registers of up to 16 × 64 bytes, and one instruction that multiplies 16 tokens by 16 rows. The
//! operations are a trait with two implementations: the instructions, and plain Rust that means the same.
//!
//! Compilers offer the instructions as assembly only. No machine with AMX has run this yet; so before the instructions
//! are offered, they must give what the plain implementation gives, in this process ([`Amx::detect`]).
#![allow(unsafe_code, reason = "assembly, and loads with a stride as the hardware does them")]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::Isa;
use super::avx512::Avx512;
use crate::matmul::format::ActBlock;

/// Tokens of one product.
pub(crate) const TOKENS: usize = 16;

/// Weights of 16 rows and 32 values, interleaved as in the packed layouts.
pub(crate) type Weights = [[u8; 64]; 8];

/// Sums of 16 tokens and 16 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[i32; 16]; TOKENS]);

impl Sums {
    pub(crate) const ZERO: Sums = Sums([[0; 16]; TOKENS]);
}

/// What a body that multiplies by tiles needs besides, to bring weights to memory and sums back.
pub(crate) trait TileIsa: Isa {
    fn iload(self, x: &[i32; 16]) -> Self::I;
    fn bstore(self, a: Self::B, out: &mut [u8; 64]);
}

/// Tile registers configured for this thread.
pub(crate) trait Tiles {
    /// Configures the registers; dropping the value gives them back.
    ///
    /// # Safety
    /// The process may use the tile registers.
    unsafe fn configure() -> Self;

    /// `out[t][r] = Σ_{j<8, i<4} w[j][4r + i] · x[t · stride].q[j][i]`, exact.
    ///
    /// # Panics
    /// Where `x` has no block `15 · stride`.
    fn multiply(&mut self, x: &[ActBlock], stride: usize, w: &Weights, signed: bool, out: &mut Sums);
}

/// Operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Register 0: the sums. 1: 32 quants of 16 tokens. 2: the weights.
static CONFIG: Config = {
    let mut c = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    (c.rows[0], c.row_bytes[0]) = (16, 64);
    (c.rows[1], c.row_bytes[1]) = (16, 32);
    (c.rows[2], c.row_bytes[2]) = (8, 64);
    c
};

/// Bytes from one row of weights, or of sums, to the next.
const LINE: usize = 64;

/// The address of the first token's quants, and the bytes from one token to the next.
#[inline(always)]
fn rows_of(x: &[ActBlock], stride: usize) -> (*const u8, usize) {
    assert!(x.len() > (TOKENS - 1) * stride, "tiles: too few activations");
    (x.as_ptr().cast(), stride * size_of::<ActBlock>())
}
// A token's 32 quants are the first bytes of its block.
const _: () = assert!(std::mem::offset_of!(ActBlock, q) == 0 && size_of::<ActBlock>() >= 32);

/// The instructions.
pub(crate) struct Hardware(
    /// The registers are this thread's.
    std::marker::PhantomData<*const ()>,
);

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure() -> Self {
        // SAFETY: the caller's promise, and 64 bytes that describe three registers within the limits of palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly))
        };
        Hardware(std::marker::PhantomData)
    }

    #[inline(always)]
    fn multiply(&mut self, x: &[ActBlock], stride: usize, w: &Weights, signed: bool, out: &mut Sums) {
        let (x, stride) = rows_of(x, stride);
        // One block from the loads to the store: between two blocks nothing keeps a tile register.
        macro_rules! product {
            ($dot:literal) => {
                asm!(
                    "tilezero tmm0",
                    "tileloadd tmm1, [{x} + {stride}*1]",
                    "tileloadd tmm2, [{w} + {line}*1]",
                    $dot,
                    "tilestored [{out} + {line}*1], tmm0",
                    x = in(reg) x,
                    stride = in(reg) stride,
                    w = in(reg) w,
                    out = in(reg) out,
                    line = in(reg) LINE,
                    out("tmm0") _,
                    out("tmm1") _,
                    out("tmm2") _,
                    options(nostack, preserves_flags),
                )
            };
        }
        // SAFETY: `self` proves the registers are configured; `rows_of` checked 16 rows of 32 bytes; the references
        // prove 8 rows of weights and 16 of sums, 64 bytes each.
        unsafe {
            if signed { product!("tdpbssd tmm0, tmm1, tmm2") } else { product!("tdpbsud tmm0, tmm1, tmm2") }
        }
    }
}

impl Drop for Hardware {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `self` proves the CPU has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}

/// The instructions in plain Rust, after the operations in Intel's manual (volume 2: `TDPBSSD` and its neighbours).
/// Where the hardware raises an exception, this panics.
pub(crate) struct Emulated {
    config: &'static Config,
    tiles: [[[u8; 64]; 16]; 8],
}

impl Emulated {
    fn zero(&mut self, tile: usize) {
        self.tiles[tile] = [[0; 64]; 16];
    }

    /// # Safety
    /// As many rows of as many bytes as the register is configured for lie at `base`, each `stride` bytes behind the
    /// last.
    unsafe fn load(&mut self, tile: usize, base: *const u8, stride: usize) {
        self.zero(tile);
        let bytes = usize::from(self.config.row_bytes[tile]);
        for r in 0..usize::from(self.config.rows[tile]) {
            // SAFETY: the caller's promise.
            let row = unsafe { std::slice::from_raw_parts(base.add(r * stride), bytes) };
            self.tiles[tile][r][..bytes].copy_from_slice(row);
        }
    }

    /// `c += a · b` over quadruples of bytes; those of `a` are signed.
    fn dot(&mut self, c: usize, a: usize, b: usize, signed: bool) {
        let Config { row_bytes, rows, .. } = self.config;
        assert!(
            rows[c] == rows[a] && row_bytes[c] == row_bytes[b] && row_bytes[a] == 4 * u16::from(rows[b]),
            "tiles: shapes that do not fit raise an exception"
        );
        for m in 0..usize::from(rows[c]) {
            let mut sums = self.tiles[c][m];
            for k in 0..usize::from(row_bytes[a]) / 4 {
                let four = &self.tiles[a][m].as_chunks::<4>().0[k];
                let columns = self.tiles[b][k].as_chunks::<4>().0;
                let width = usize::from(row_bytes[c]) / 4;
                for (sum, column) in sums.as_chunks_mut::<4>().0[..width].iter_mut().zip(columns) {
                    let mut total = i32::from_le_bytes(*sum);
                    for (x, w) in four.iter().zip(column) {
                        let w = if signed { i32::from(w.cast_signed()) } else { i32::from(*w) };
                        total = total.wrapping_add(i32::from(x.cast_signed()) * w);
                    }
                    *sum = total.to_le_bytes();
                }
            }
            self.tiles[c][m] = sums;
        }
    }

    /// # Safety
    /// As for [`Emulated::load`], to be written.
    unsafe fn store(&self, base: *mut u8, stride: usize, tile: usize) {
        let bytes = usize::from(self.config.row_bytes[tile]);
        for r in 0..usize::from(self.config.rows[tile]) {
            // SAFETY: the caller's promise.
            let row = unsafe { std::slice::from_raw_parts_mut(base.add(r * stride), bytes) };
            row.copy_from_slice(&self.tiles[tile][r][..bytes]);
        }
    }
}

impl Tiles for Emulated {
    unsafe fn configure() -> Self {
        // Whatever the registers held: every product must set what it uses.
        Emulated { config: &CONFIG, tiles: [[[0xa5; 64]; 16]; 8] }
    }

    fn multiply(&mut self, x: &[ActBlock], stride: usize, w: &Weights, signed: bool, out: &mut Sums) {
        let (x, stride) = rows_of(x, stride);
        self.zero(0);
        // SAFETY: `rows_of` checked 16 rows of 32 bytes; the references prove 8 rows of weights and 16 of sums.
        unsafe {
            self.load(1, x, stride);
            self.load(2, w.as_ptr().cast(), LINE);
            self.dot(0, 1, 2, signed);
            self.store(std::ptr::from_mut(out).cast(), LINE, 0);
        }
    }
}

/// Proof of AMX-TILE and AMX-INT8, of the system's permission to use them, and of AVX-512 with VNNI for the rest.
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
                    && supported()
                    && permitted()
                    && unsafe { proves_itself::<Hardware>() }
            })
            .then_some(Amx(()))
    }
}

/// Whether the CPU has AMX-TILE with palette 1 and AMX-INT8, and the system saves the registers.
fn supported() -> bool {
    if __cpuid(0).eax < 0x1d {
        return false;
    }
    let (leaf1, leaf7) = (__cpuid(1), __cpuid_count(7, 0));
    let xsave = leaf1.ecx & (1 << 26) != 0 && leaf1.ecx & (1 << 27) != 0;
    let tiles = leaf7.edx & (1 << 24) != 0 && leaf7.edx & (1 << 25) != 0;
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

/// Whether products of random bytes are those of the emulation.
///
/// # Safety
/// The process may use the tiles.
unsafe fn proves_itself<T: Tiles>() -> bool {
    const STRIDE: usize = 3;
    let mut state = 1_u64;
    let mut byte = || {
        // Knuth's linear congruential generator, its upper bits.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    // SAFETY: the caller's promise.
    let (mut tiles, mut plain) = unsafe { (T::configure(), Emulated::configure()) };
    for round in 0..64 {
        let mut x = [ActBlock::ZERO; TOKENS * STRIDE];
        for q in x.iter_mut().flat_map(|x| x.q.as_flattened_mut()) {
            *q = byte().cast_signed();
        }
        let mut w: Weights = [[0; 64]; 8];
        w.as_flattened_mut().fill_with(&mut byte);
        let (mut found, mut expected) = (Sums([[-1; 16]; TOKENS]), Sums::ZERO);
        tiles.multiply(&x, STRIDE, &w, round % 2 == 0, &mut found);
        plain.multiply(&x, STRIDE, &w, round % 2 == 0, &mut expected);
        if found != expected {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulation_gives_the_sums_of_the_definition() {
        // SAFETY: plain Rust.
        let mut tiles = unsafe { Emulated::configure() };
        for signed in [false, true] {
            let mut x = [ActBlock::ZERO; 2 * TOKENS];
            for (i, q) in x.iter_mut().flat_map(|x| x.q.as_flattened_mut()).enumerate() {
                *q = (i * 37 % 256) as u8 as i8;
            }
            let mut w: Weights = [[0; 64]; 8];
            for (i, w) in w.as_flattened_mut().iter_mut().enumerate() {
                *w = (i * 91 % 256) as u8;
            }
            let mut out = Sums::ZERO;
            tiles.multiply(&x[1..], 2, &w, signed, &mut out);
            for (t, row) in out.0.iter().enumerate() {
                for (r, sum) in row.iter().enumerate() {
                    let terms = (0..32).map(|k| {
                        let byte = w[k / 4][4 * r + k % 4];
                        let w = if signed { i32::from(byte as i8) } else { i32::from(byte) };
                        w * i32::from(x[1 + 2 * t].q[k / 4][k % 4])
                    });
                    assert_eq!(*sum, terms.sum::<i32>(), "token {t}, row {r}, signed {signed}");
                }
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
            fn multiply(&mut self, x: &[ActBlock], stride: usize, w: &Weights, _: bool, out: &mut Sums) {
                // Takes unsigned weights as signed ones.
                self.0.multiply(x, stride, w, true, out);
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
