//! AMX in plain Rust, bit for bit: what the instructions are proved against, and what stands in for them in tests on CPUs
//! that lack them.
#![allow(unsafe_code, reason = "loads with a stride as the hardware does them")]

use std::arch::x86_64::{__m512, __m512i};

use super::amx::{BfTiles, LINE, ROWS, TileMut, TileRef, Tiles};

/// The instructions in plain Rust, after the operations in Intel's manual (volume 2: `TDPBSSD` and its neighbours).
pub(crate) struct Emulated {
    tiles: [[[u8; LINE]; ROWS]; 8],
}

impl Tiles for Emulated {
    unsafe fn configure() -> Self {
        // Whatever the registers held: every product must set what it uses.
        Emulated { tiles: [[[0xa5; LINE]; ROWS]; 8] }
    }

    fn load<const R: usize>(&mut self, from: TileRef<'_>) {
        for (i, row) in self.tiles[R].iter_mut().enumerate() {
            // SAFETY: a `TileRef` is made from references to 16 rows of 64 bytes, or by one who promises them.
            *row = unsafe { from.first.add(i * from.stride).cast::<[u8; LINE]>().read() };
        }
    }

    fn zero<const C: usize>(&mut self) {
        self.tiles[C] = [[0; LINE]; ROWS];
    }

    #[inline(always)]
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self, signed: bool) {
        for m in 0..ROWS {
            let mut sums = self.tiles[C][m];
            for (four, row) in self.tiles[A][m].as_chunks::<4>().0.iter().zip(&self.tiles[B]) {
                for (sum, column) in sums.as_chunks_mut::<4>().0.iter_mut().zip(row.as_chunks::<4>().0) {
                    let mut total = i32::from_le_bytes(*sum);
                    for (x, w) in four.iter().zip(column) {
                        let w = if signed { i32::from(w.cast_signed()) } else { i32::from(*w) };
                        total = total.wrapping_add(i32::from(x.cast_signed()) * w);
                    }
                    *sum = total.to_le_bytes();
                }
            }
            self.tiles[C][m] = sums;
        }
    }

    fn store<const C: usize>(&self, out: TileMut<'_>) {
        for (i, row) in self.tiles[C].iter().enumerate() {
            // SAFETY: a `TileMut` is made from a reference to 16 rows of 64 bytes, or by one who promises them.
            unsafe { out.first.add(i * out.stride).cast::<[u8; LINE]>().write(*row) };
        }
    }
}

/// To bfloat16 as the hardware rounds: to nearest even, denormals to zero.
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let bits = if x.is_subnormal() { bits & 0x8000_0000 } else { bits };
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

impl BfTiles for Emulated {
    #[inline(always)]
    fn dot_bf16<const C: usize, const A: usize, const B: usize>(&mut self) {
        let normal = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
        let value = |b: &[u8]| normal(f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16));
        for m in 0..ROWS {
            for n in 0..16 {
                let mut chains = [0.0f32; 2];
                for j in 0..ROWS {
                    for (i, chain) in chains.iter_mut().enumerate() {
                        let a = value(&self.tiles[A][m][4 * j + 2 * i..]);
                        let b = value(&self.tiles[B][j][4 * n + 2 * i..]);
                        *chain = normal(a.mul_add(b, *chain));
                    }
                }
                let c = &mut self.tiles[C][m][4 * n..4 * n + 4];
                let before = normal(f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
                let sum = normal(before + normal(chains[0] + chains[1]));
                c.copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    fn rounded(first: __m512, last: __m512) -> __m512i {
        let (first, last) = (lanes(first), lanes(last));
        words(std::array::from_fn(|i| bf16(if i < 16 { first[i] } else { last[i - 16] })))
    }

    fn pairs(even: __m512, odd: __m512) -> __m512i {
        let (even, odd) = (lanes(even), lanes(odd));
        words(std::array::from_fn(|i| bf16(if i % 2 == 0 { even[i / 2] } else { odd[i / 2] })))
    }
}

fn lanes(a: __m512) -> [f32; 16] {
    // SAFETY: 64 bytes of floats either way.
    unsafe { std::mem::transmute::<__m512, [f32; 16]>(a) }
}

fn words(a: [u16; 32]) -> __m512i {
    // SAFETY: 64 bytes of integers either way.
    unsafe { std::mem::transmute::<[u16; 32], __m512i>(a) }
}
