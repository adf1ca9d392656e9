//! AMX: eight registers of up to 16 × 64 bytes, and one instruction that multiplies 16 tokens by 16 rows. The
//! operations are traits with two implementations: the instructions, and plain Rust that means the same (`amx_emulated`).
//!
//! Compilers offer the instructions as assembly only, and know nothing of the registers: code that they generate never
//! touches one, so what an instruction leaves in a register is there for the next. Before the instructions are offered,
//! they must give what the plain implementation gives, in this process (`amx_proof`).
#![allow(unsafe_code, reason = "assembly, and loads with a stride as the hardware does them")]

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512bh, __m512d, __m512i, _mm512_cvtne2ps_pbh, _mm512_load_si512, _mm512_permutexvar_epi16,
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

/// Sums of 16 tokens and 16 outputs: integers, or the bits of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[i32; 16]; ROWS]);

impl Sums {
    pub(crate) const ZERO: Sums = Sums([[0; 16]; ROWS]);
}

/// 16 rows of 64 bytes: the first one, and how many bytes lie from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct TileRef<'a> {
    pub(super) first: *const u8,
    pub(super) stride: usize,
    rows: PhantomData<&'a u8>,
}

/// The same, to be written.
pub(crate) struct TileMut<'a> {
    pub(super) first: *mut u8,
    pub(super) stride: usize,
    rows: PhantomData<&'a mut u8>,
}

impl<'a> TileRef<'a> {
    #[inline(always)]
    fn side_by_side<T>(rows: &'a [T; ROWS]) -> Self {
        const { assert!(size_of::<T>() == LINE) };
        TileRef { first: rows.as_ptr().cast(), stride: LINE, rows: PhantomData }
    }
}

impl TileMut<'_> {
    /// Rows of 16 floats, `stride` floats apart.
    ///
    /// # Safety
    /// This thread may write all of them, and nobody else uses them while the value lives.
    #[inline(always)]
    pub(crate) unsafe fn of_rows(first: *mut f32, stride: usize) -> Self {
        TileMut { first: first.cast(), stride: stride * size_of::<f32>(), rows: PhantomData }
    }
}

impl<'a> From<&'a TileBytes> for TileRef<'a> {
    #[inline(always)]
    fn from(tile: &'a TileBytes) -> Self {
        TileRef::side_by_side(&tile.0)
    }
}

impl<'a> From<&'a Sums> for TileRef<'a> {
    #[inline(always)]
    fn from(sums: &'a Sums) -> Self {
        TileRef::side_by_side(&sums.0)
    }
}

impl<'a> From<&'a [ActQuants; ROWS]> for TileRef<'a> {
    #[inline(always)]
    fn from(tile: &'a [ActQuants; ROWS]) -> Self {
        TileRef::side_by_side(tile)
    }
}

impl<'a> From<&'a mut Sums> for TileMut<'a> {
    #[inline(always)]
    fn from(sums: &'a mut Sums) -> Self {
        TileMut { first: sums.0.as_mut_ptr().cast(), stride: LINE, rows: PhantomData }
    }
}
const _: () = assert!(size_of::<TileBytes>() == ROWS * LINE && size_of::<ActQuants>() == LINE);
const _: () = assert!(size_of::<Sums>() == ROWS * LINE);

/// What a body that multiplies by tiles needs besides, to bring weights to memory and sums back.
pub(crate) trait TileIsa: Isa {
    fn iload(self, x: &[i32; 16]) -> Self::I;
    /// Bytes, wrapping.
    fn bsub(self, a: Self::B, b: Self::B) -> Self::B;
    /// As they are, in f64.
    fn doubles(self, x: Self::F) -> [__m512d; 2];
    /// [`Isa::wscaled`] of `Σ sums · weights` of 16 outputs, where the last weight is 1.
    fn scaled_sums<const N: usize>(
        self,
        sums: [&[i32; 16]; N],
        weights: [f64; N],
        bounds: [__m512d; 2],
        unit: f64,
    ) -> Self::F;
    /// The lower word of each lane, twice.
    fn pairs_of(self, a: Self::I) -> Self::B;
    /// The upper and the lower bytes of `q · s + m` in 16 bits, wrapping: unsigned bytes `q`, [`TileIsa::pairs_of`] the
    /// numbers of their rows.
    fn two_planes(self, q: Self::B, s: Self::B, m: Self::B) -> [Self::B; 2];
    fn bstore(self, a: Self::B, out: &mut [u8; 64]);
    /// The upper and the lower bytes of two pairs of words a lane, in the order of the four words.
    fn byte_planes(self, first: Self::B, last: Self::B) -> [Self::B; 2];
    /// Cuts integers of 16 bits into `q = 256 · hi + lo` with -128 <= lo < 128. Contract: `q` is at most 32,639.
    fn store_bytes(self, q: [Self::I; 4], hi: &mut [u8; 64], lo: &mut [u8; 64]);
    /// Byte `N` of every four, signed.
    fn byte<const N: u32>(self, a: Self::B) -> Self::I;
    /// The bits as they are.
    fn floats(self, a: Self::I) -> Self::F;
}

/// The registers of this thread, by number: eight of 16 × 64 bytes.
pub(crate) trait Tiles {
    /// Configures the registers; dropping the value gives them back.
    ///
    /// # Safety
    /// The process may use the tile registers.
    unsafe fn configure() -> Self;

    /// Fills a register.
    fn load<const R: usize>(&mut self, from: TileRef<'_>);
    /// [`Tiles::load`] of what passes by: it should not displace what stays in the first-level cache.
    #[inline(always)]
    fn load_passing<const R: usize>(&mut self, from: TileRef<'_>) {
        self.load::<R>(from);
    }
    /// Sets a register to zero.
    fn zero<const C: usize>(&mut self);
    /// `C[t][r] += Σ_{j<16, i<4} A[t][4j + i] · B[j][4r + i]`, in 32 bits; bytes of A signed, of B
    /// as told.
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self, signed: bool);
    /// Writes a register.
    fn store<const C: usize>(&self, out: TileMut<'_>);
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

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut r = 0;
    while r < 8 {
        (row_bytes[r], rows[r]) = (LINE as u16, ROWS as u8);
        r += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// The instructions.
pub(crate) struct Hardware(
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

/// A register from memory by the instruction of this name.
macro_rules! fill {
    ($name:literal, $r:expr, $from:expr) => {
        // SAFETY: the caller has `self`, which proves the registers are configured; a `TileRef` is made from
        // references to 16 rows of 64 bytes, or by one who promises them.
        by_register!($r, |r| unsafe {
            asm!(
                concat!($name, " tmm", r!(), ", [{from} + {line}*1]"),
                from = in(reg) $from.first,
                line = in(reg) $from.stride,
                options(nostack, preserves_flags, readonly),
            )
        })
    };
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure() -> Self {
        // SAFETY: the caller's promise, and 64 bytes that describe registers within the limits of palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly))
        };
        Hardware(PhantomData)
    }

    #[inline(always)]
    fn load<const R: usize>(&mut self, from: TileRef<'_>) {
        fill!("tileloadd", R, from);
    }

    #[inline(always)]
    fn load_passing<const R: usize>(&mut self, from: TileRef<'_>) {
        fill!("tileloaddt1", R, from);
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
    fn store<const C: usize>(&self, out: TileMut<'_>) {
        // SAFETY: a `TileMut` is made from a reference to 16 rows of 64 bytes, or by one who promises them.
        by_register!(C, |c| unsafe {
            asm!(
                concat!("tilestored [{out} + {line}*1], tmm", c!()),
                out = in(reg) out.first,
                line = in(reg) out.stride,
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

impl Drop for Hardware {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `self` proves the CPU has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}
