//! AMX: eight registers of up to 16 × 64 bytes, and one instruction that multiplies 16 tokens by 16 rows. The
//! operations are traits with two implementations: the instructions, and plain Rust that means the same (`amx_emulated`).
//!
//! Compilers offer the instructions as assembly only, and know nothing of the registers: code that they generate never
//! touches one, so what an instruction leaves in a register is there for the next. Before the instructions are offered,
//! they must give what the plain implementation gives, in this process (`amx_proof`).
#![allow(unsafe_code, reason = "assembly, and loads with a stride as the hardware does them")]

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_load_si512, _mm512_permutexvar_epi16,
};
use std::marker::PhantomData;

use super::Isa;
use crate::matmul::acts::ActQuants;

/// Rows of a register, each of [`LINE`] bytes.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row.
pub(super) const LINE: usize = 64;

/// What one register holds. Of weights, row `j` holds values `4j..4j + 4` of 16 outputs.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TileBytes(pub(crate) [[u8; LINE]; ROWS]);

impl TileBytes {
    /// Zeros.
    pub(crate) const ZERO: TileBytes = TileBytes([[0; LINE]; ROWS]);
}

/// Sums of 16 tokens and 16 outputs: integers, or the bits of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[i32; 16]; ROWS]);

impl Sums {
    pub(crate) const ZERO: Sums = Sums([[0; 16]; ROWS]);
}

/// 16 rows of 64 bytes side by side.
#[derive(Clone, Copy)]
pub(crate) struct TileRef<'a>(pub(super) *const u8, PhantomData<&'a u8>);

impl<'a> From<&'a TileBytes> for TileRef<'a> {
    #[inline(always)]
    fn from(tile: &'a TileBytes) -> Self {
        TileRef(std::ptr::from_ref(tile).cast(), PhantomData)
    }
}

impl<'a> From<&'a Sums> for TileRef<'a> {
    #[inline(always)]
    fn from(sums: &'a Sums) -> Self {
        TileRef(std::ptr::from_ref(sums).cast(), PhantomData)
    }
}

impl<'a> From<&'a [ActQuants; ROWS]> for TileRef<'a> {
    #[inline(always)]
    fn from(tile: &'a [ActQuants; ROWS]) -> Self {
        TileRef(tile.as_ptr().cast(), PhantomData)
    }
}
const _: () = assert!(size_of::<TileBytes>() == ROWS * LINE && size_of::<ActQuants>() == LINE);
const _: () = assert!(size_of::<Sums>() == ROWS * LINE);

/// What a body that multiplies by tiles needs besides, to bring weights to memory and sums back.
pub(crate) trait TileIsa: Isa {
    fn iload(self, x: &[i32; 16]) -> Self::I;
    /// Bytes, wrapping.
    fn bsub(self, a: Self::B, b: Self::B) -> Self::B;
    fn bstore(self, a: Self::B, out: &mut [u8; 64]);
    /// Byte `N` of every four, signed.
    fn byte<const N: u32>(self, a: Self::B) -> Self::I;
    /// The bits as they are.
    fn floats(self, a: Self::I) -> Self::F;
}

/// The registers of this thread, by number, in one of the shapes below.
pub(crate) trait Registers {
    /// Configures the registers; dropping the value gives them back.
    ///
    /// # Safety
    /// The process may use the tile registers.
    unsafe fn configure() -> Self;

    /// Sets a register to zero.
    fn zero<const C: usize>(&mut self);
    /// `C[t][r] += Σ_{j, i<4} A[t][4j + i] · B[j][4r + i]` over all `j` of the shape, in 32 bits; bytes of A signed, of B
    /// as told.
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self, signed: bool);
    /// Writes a register, of 0 to 3.
    fn store<const C: usize>(&self, out: &mut Sums);
}

/// Eight registers of 16 × 64 bytes.
pub(crate) trait Tiles: Registers {
    /// The same registers in the other shape.
    type Parts: PartTiles;

    /// Fills a register.
    fn load<const R: usize>(&mut self, from: TileRef<'_>);
}

/// Registers for one part of the activations at a time, whose weights are bytes as they lie in memory: 6 and 7 have 8
/// rows of 64 bytes, 4 and 5 have 16 of 32, and 0 to 3 are whole, for sums.
pub(crate) trait PartTiles: Registers {
    /// Fills register 4 or 5 with the upper (0) or the lower (1) part of 16 tokens.
    fn load_part<const R: usize>(&mut self, from: &[ActQuants; ROWS], part: usize);
    /// Fills register 6 or 7.
    fn load_weights<const R: usize>(&mut self, from: &[[u8; LINE]; ROWS / 2]);
}

/// Registers that multiply bfloat16, and the conversions to it. Denormals count as zero.
pub(crate) trait BfTiles: Tiles {
    /// `C[t][r] += Σ_{j<16} A[t][2j] · B[j][2r] + Σ_{j<16} A[t][2j + 1] · B[j][2r + 1]`: two chains of fused
    /// multiply-adds from zero, `j` ascending, whose sum is added to C.
    fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self);
    /// 32 values in order, rounded to nearest even.
    fn rounded(first: __m512, last: __m512) -> __m512i;
    /// The values of both alternating, `even` first.
    fn pairs(even: __m512, odd: __m512) -> __m512i;
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

/// Rows and bytes of a row of a register.
pub(super) const fn shape(parts: bool, register: usize) -> (usize, usize) {
    match register {
        4 | 5 if parts => (ROWS, LINE / 2),
        6 | 7 if parts => (ROWS / 2, LINE),
        _ => (ROWS, LINE),
    }
}

const fn config(parts: bool) -> Config {
    let mut c = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut r = 0;
    while r < 8 {
        let (rows, bytes) = shape(parts, r);
        (c.rows[r], c.row_bytes[r]) = (rows as u8, bytes as u16);
        r += 1;
    }
    c
}

/// Of [`Tiles`] and of [`PartTiles`].
static CONFIGS: [Config; 2] = [config(false), config(true)];

/// The instructions, on registers in the shape of [`Tiles`] or, of `PARTS`, of [`PartTiles`].
pub(crate) struct Hardware<const PARTS: bool = false>(
    /// The registers are this thread's.
    PhantomData<*const ()>,
);

/// `asm!` for the register whose number a constant holds.
macro_rules! by_register {
    ($r:expr, |$name:ident| $asm:expr) => {
        by_register!(@ $r, $name, $asm; 0 "0", 1 "1", 2 "2", 3 "3", 4 "4", 5 "5", 6 "6", 7 "7")
    };
    (@ $r:expr, $name:ident, $asm:expr; $($n:literal $text:literal),*) => {
        match $r {
            $($n => {
                macro_rules! $name { () => { $text } }
                $asm
            })*
            _ => unreachable!("there are eight registers"),
        }
    };
}

impl<const PARTS: bool> Hardware<PARTS> {
    /// Fills a register from rows that are 64 bytes apart.
    ///
    /// # Safety
    /// As many rows and bytes as the register's shape has are there.
    #[inline(always)]
    unsafe fn load_from<const R: usize>(&mut self, from: *const u8) {
        // SAFETY: `self` proves the registers are configured; the rest is the caller's promise.
        by_register!(R, |r| unsafe {
            asm!(
                concat!("tileloadd tmm", r!(), ", [{from} + {line}*1]"),
                from = in(reg) from,
                line = in(reg) LINE,
                options(nostack, preserves_flags, readonly),
            )
        });
    }
}

impl Tiles for Hardware {
    type Parts = Hardware<true>;

    #[inline(always)]
    fn load<const R: usize>(&mut self, from: TileRef<'_>) {
        // SAFETY: a `TileRef` is made from references to 16 rows of 64 bytes only.
        unsafe { self.load_from::<R>(from.0) }
    }
}

impl PartTiles for Hardware<true> {
    #[inline(always)]
    fn load_part<const R: usize>(&mut self, from: &[ActQuants; ROWS], part: usize) {
        const { assert!(R == 4 || R == 5, "a register of another shape") };
        let from = from.as_ptr().cast::<u8>().wrapping_add(LINE / 2 * (part & 1));
        // SAFETY: 16 rows, of which one half each is read.
        unsafe { self.load_from::<R>(from) }
    }

    #[inline(always)]
    fn load_weights<const R: usize>(&mut self, from: &[[u8; LINE]; ROWS / 2]) {
        const { assert!(R == 6 || R == 7, "a register of another shape") };
        // SAFETY: 8 rows of 64 bytes.
        unsafe { self.load_from::<R>(from.as_ptr().cast()) }
    }
}

impl<const PARTS: bool> Registers for Hardware<PARTS> {
    #[inline(always)]
    unsafe fn configure() -> Self {
        let config = &raw const CONFIGS[usize::from(PARTS)];
        // SAFETY: the caller's promise, and 64 bytes that describe registers within the limits of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, preserves_flags, readonly)) };
        Hardware(PhantomData)
    }

    #[inline(always)]
    fn zero<const C: usize>(&mut self) {
        // SAFETY: `self` proves the registers are configured, here and below.
        by_register!(C, |c| unsafe {
            asm!(concat!("tilezero tmm", c!()), options(nostack, nomem, preserves_flags))
        });
    }

    #[inline(always)]
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self, signed: bool) {
        macro_rules! dot {
            ($name:literal) => {
                by_register!(C, |c| by_register!(A, |a| by_register!(
                    B,
                    // SAFETY: registers only, of one shape.
                    |b| unsafe {
                        asm!(
                            concat!($name, " tmm", c!(), ", tmm", a!(), ", tmm", b!()),
                            options(nostack, nomem, preserves_flags),
                        )
                    }
                )))
            };
        }
        if signed { dot!("tdpbssd") } else { dot!("tdpbsud") }
    }

    #[inline(always)]
    fn store<const C: usize>(&self, out: &mut Sums) {
        // SAFETY: the reference proves 16 rows of 64 bytes.
        by_register!(C, |c| unsafe {
            asm!(
                concat!("tilestored [{out} + {line}*1], tmm", c!()),
                out = in(reg) out,
                line = in(reg) LINE,
                options(nostack, preserves_flags),
            )
        });
    }
}

impl BfTiles for Hardware {
    #[inline(always)]
    fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
        by_register!(C, |c| by_register!(A, |a| by_register!(
            B,
            // SAFETY: registers only, of one shape.
            |b| unsafe {
                asm!(
                    concat!("tdpbf16ps tmm", c!(), ", tmm", a!(), ", tmm", b!()),
                    options(nostack, nomem, preserves_flags),
                )
            }
        )));
    }

    #[inline(always)]
    fn rounded(first: __m512, last: __m512) -> __m512i {
        // SAFETY: the proof asks for AVX-512 BF16, and nothing else uses this type.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(last, first)) }
    }

    #[inline(always)]
    fn pairs(even: __m512, odd: __m512) -> __m512i {
        // SAFETY: as above.
        unsafe {
            _mm512_permutexvar_epi16(
                _mm512_load_si512((&raw const ALTERNATING).cast()),
                Self::rounded(even, odd),
            )
        }
    }
}

/// 0, 16, 1, 17, … 15, 31.
static ALTERNATING: Aligned32 = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + 16 * (i % 2)) as u16;
        i += 1;
    }
    Aligned32(order)
};

#[repr(C, align(64))]
struct Aligned32([u16; 32]);

impl<const PARTS: bool> Drop for Hardware<PARTS> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `self` proves the CPU has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}
