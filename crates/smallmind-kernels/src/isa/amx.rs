//! AMX: eight registers of up to 16 × 64 bytes, and one instruction that multiplies 16 tokens by 16 rows. The
//! operations are a trait with two implementations: the instructions, and plain Rust that means the same.
//!
//! Compilers offer the instructions as assembly only, and know nothing of the registers: code that they generate never
//! touches one, so what an instruction leaves in a register is there for the next. Before the instructions are offered,
//! they must give what the plain implementation gives, in this process ([`Amx::detect`]).
#![allow(unsafe_code, reason = "assembly, and loads with a stride as the hardware does them")]

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_load_si512,
    _mm512_permutexvar_epi16, _xgetbv,
};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::Isa;
use super::amx_emulated::Emulated;
use super::avx512::Avx512;
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
        // SAFETY: `Amx::detect` asks for AVX-512 BF16, and nothing else uses this type.
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
    let (mut tiles, mut plain) = unsafe { (T::configure(), <Emulated>::configure()) };
    // Loops, no closures: those would be compiled without the caller's instructions.
    let mut same = true;
    for round in 0..ROUNDS {
        let (a, b) = (bytes(), bytes());
        let signed = round % 2 == 0;
        let (x, y) = (floats(&a), floats(&b));
        same &= two_products(&mut tiles, &a, &b, signed) == two_products(&mut plain, &a, &b, signed)
            && floats_product(&mut tiles, &x, &y) == floats_product(&mut plain, &x, &y);
    }
    // One shape after the other: a thread has one set of registers.
    drop(tiles);
    // SAFETY: the caller's promise.
    let (mut tiles, mut plain) = unsafe { (T::Parts::configure(), Emulated::<true>::configure()) };
    for _ in 0..ROUNDS / 2 {
        let (a, b) = (bytes(), bytes());
        same &= part_products(&mut tiles, &a, &b) == part_products(&mut plain, &a, &b);
    }
    same
}

/// A product of each part of the activations.
fn part_products<T: PartTiles>(tiles: &mut T, a: &TileBytes, b: &TileBytes) -> [Sums; 2] {
    let mut out = [Sums([[-1; 16]; ROWS]); 2];
    let quants = a.0.map(ActQuants::of_bytes);
    let [first, last] = [&b.0[..ROWS / 2], &b.0[ROWS / 2..]].map(|half| std::array::from_fn(|j| half[j]));
    tiles.zero::<0>();
    tiles.zero::<3>();
    tiles.load_part::<4>(&quants, 0);
    tiles.load_part::<5>(&quants, 1);
    tiles.load_weights::<6>(&first);
    tiles.load_weights::<7>(&last);
    tiles.dot::<0, 4, 6>(true);
    tiles.dot::<3, 5, 7>(true);
    tiles.dot::<3, 4, 6>(true);
    tiles.store::<0>(&mut out[0]);
    tiles.store::<3>(&mut out[1]);
    out
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
    tiles.load::<5>(b.into());
    tiles.load::<7>(a.into());
    tiles.dot::<3, 5, 7>(signed);
    tiles.dot::<3, 4, 6>(signed);
    tiles.store::<0>(&mut out[0]);
    tiles.store::<3>(&mut out[1]);
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
    tiles.store::<1>(&mut out[0]);
    tiles.store::<2>(&mut out[1]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulation_gives_the_sums_of_the_definition() {
        // SAFETY: plain Rust.
        let mut tiles = unsafe { <Emulated>::configure() };
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
        impl Registers for Wrong {
            unsafe fn configure() -> Self {
                // SAFETY: plain Rust.
                Wrong(unsafe { <Emulated>::configure() })
            }
            fn zero<const C: usize>(&mut self) {
                self.0.zero::<C>();
            }
            fn dot<const C: usize, const A: usize, const B: usize>(&mut self, _: bool) {
                // Takes unsigned weights as signed ones.
                self.0.dot::<C, A, B>(true);
            }
            fn store<const C: usize>(&self, out: &mut Sums) {
                self.0.store::<C>(out);
            }
        }
        impl Tiles for Wrong {
            type Parts = Emulated<true>;
            fn load<const R: usize>(&mut self, from: TileRef<'_>) {
                self.0.load::<R>(from);
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
