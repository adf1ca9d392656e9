//! The screened matrix: the same outputs as the plain one, and the largest of them found without the others.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use smallmind_kernels::matmul::{
    ActBlock, Acts, FileRows, MAX_TOP, PackedRef, Product, RowOrder, act_blocks, groups, matmul, pack_rows,
    pack_screened, packed_bytes, screened_bytes, top_outputs,
};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{DType, Kernels, available};
use support::{Aligned, Random};

/// Q8_0 rows: random quants, scales of the kind `make` gives.
fn file(rows: usize, k: usize, r: &mut Random, mut scale: impl FnMut(&mut Random, usize) -> u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in 0..rows {
        for _ in 0..k / 32 {
            bytes.extend(scale(r, row).to_le_bytes());
            bytes.extend((0..32).map(|_| r.bits() as u8));
        }
    }
    bytes
}

struct Both {
    plain: Aligned,
    screened: Aligned,
    rows: usize,
    k: usize,
}

impl Both {
    fn new(bytes: &[u8], rows: usize, k: usize) -> Both {
        let from = FileRows { dtype: DType::Q8_0, bytes, rows, k, order: RowOrder::Natural };
        let mut plain = Aligned::used(packed_bytes(DType::Q8_0, rows, k).unwrap());
        pack_rows(from, DType::Q8_0, 0, plain.bytes_mut());
        let (group, all) = screened_bytes(rows, k).unwrap();
        let mut screened = Aligned::used(all);
        // In two steps, as a loader does.
        let (first, rest) = screened.bytes_mut().split_at_mut(group * (groups(rows) / 2));
        pack_screened(from, 0, first);
        pack_screened(from, groups(rows) / 2, rest);
        Both { plain, screened, rows, k }
    }

    fn plain(&self) -> PackedRef<'_> {
        PackedRef::new(DType::Q8_0, self.rows, self.k, self.plain.bytes()).unwrap()
    }

    fn screened(&self) -> PackedRef<'_> {
        PackedRef::screened(self.rows, self.k, self.screened.bytes()).unwrap()
    }
}

fn quantized(kernels: &Kernels, x: &[f32], k: usize, parts: usize) -> Vec<ActBlock> {
    let mut blocks = vec![ActBlock::ZERO; x.len() / k * act_blocks(k) * parts];
    let quantize = if parts == 1 { kernels.quantize } else { kernels.quantize_wide };
    for (x, blocks) in x.chunks_exact(k).zip(blocks.chunks_exact_mut(act_blocks(k) * parts)) {
        quantize(x, blocks);
    }
    blocks
}

fn product(kernels: &Kernels, pool: &Pool, w: PackedRef<'_>, tokens: usize, blocks: &[ActBlock]) -> Vec<u32> {
    let mut out = vec![0.0; tokens * w.rows()];
    let products = &mut [Product { w, bias: None, out: &mut out, stride: w.rows(), accumulate: false }];
    matmul(kernels, pool, Acts { tokens, x: &[], blocks }, products);
    out.into_iter().map(f32::to_bits).collect()
}

fn some_scale(r: &mut Random, _: usize) -> u16 {
    // 2⁻⁸ to 2⁻⁶, both signs.
    0x1c00 + (r.bits() as u16 & 0x07ff) + if r.bits() & 1 == 0 { 0x8000 } else { 0 }
}

#[test]
fn a_screened_matrix_gives_the_plain_ones_bits() {
    let mut r = Random::new(1);
    for (rows, k) in [(1, 32), (16, 64), (17, 96), (100, 320), (49, 640)] {
        let both = Both::new(&file(rows, k, &mut r, some_scale), rows, k);
        for tokens in [1, 2, 4, 7] {
            let x: Vec<f32> = (0..tokens * k).map(|_| r.unit()).collect();
            for kernels in available() {
                for parts in [1, 2] {
                    let blocks = quantized(kernels, &x, k, parts);
                    for threads in [1, 3] {
                        let pool = Pool::new(threads).unwrap();
                        let [plain, screened] = [both.plain(), both.screened()]
                            .map(|w| product(kernels, &pool, w, tokens, &blocks));
                        assert!(
                            plain == screened,
                            "[{rows}, {k}], {tokens} tokens, {parts} parts, {}",
                            kernels.name
                        );
                    }
                }
            }
        }
    }
}

/// Searches and compares with a full product: who is among the largest has its bits there, nobody else matters.
fn check(both: &Both, x: &[f32], what: &str) {
    for kernels in available() {
        for parts in [1, 2] {
            let blocks = quantized(kernels, x, both.k, parts);
            for threads in [1, 2, 5] {
                let pool = Pool::new(threads).unwrap();
                let full = product(kernels, &pool, both.plain(), 1, &blocks);
                let full: Vec<f32> = full.into_iter().map(f32::from_bits).collect();
                let mut sorted: Vec<f32> = full.iter().copied().filter(|v| !v.is_nan()).collect();
                sorted.sort_unstable_by(|a, b| b.total_cmp(a));
                for top in [1, 2, 40, MAX_TOP] {
                    if top > both.rows {
                        continue;
                    }
                    let mut best = vec![7.0; threads * top];
                    let mut out = vec![f32::NAN; both.rows];
                    top_outputs(kernels, &pool, both.screened(), &blocks, top, &mut best, &mut out);
                    let context =
                        format!("{what}, top {top}, {parts} parts, {threads} threads, {}", kernels.name);
                    let least = sorted.get(top - 1).copied().unwrap_or(f32::NEG_INFINITY);
                    for (row, (got, want)) in out.iter().zip(&full).enumerate() {
                        if *want >= least {
                            assert_eq!(got.to_bits(), want.to_bits(), "{context}: row {row}");
                        } else {
                            let exact = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                            assert!(exact || *got == f32::NEG_INFINITY, "{context}: row {row} is {got}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_largest_outputs_are_found_exactly_among_random_rows() {
    let mut r = Random::new(2);
    for (rows, k) in [(1, 32), (64, 32), (200, 96), (1000, 256)] {
        let both = Both::new(&file(rows, k, &mut r, some_scale), rows, k);
        for round in 0..3 {
            let x: Vec<f32> = (0..k).map(|_| 3.0 * r.unit()).collect();
            check(&both, &x, &format!("[{rows}, {k}] round {round}"));
        }
    }
}

#[test]
fn most_rows_are_left_out_where_few_stand_out() {
    let mut r = Random::new(3);
    let (rows, k) = (4096, 128);
    // Every hundredth row is 64 times as large.
    let both =
        Both::new(&file(rows, k, &mut r, |_, row| if row % 100 == 0 { 0x3400 } else { 0x1c00 }), rows, k);
    let x: Vec<f32> = (0..k).map(|_| r.unit()).collect();
    let kernels = available()[0];
    let blocks = quantized(kernels, &x, k, 2);
    let pool = Pool::new(2).unwrap();
    let (mut best, mut out) = (vec![0.0; 2], vec![0.0; rows]);
    top_outputs(kernels, &pool, both.screened(), &blocks, 1, &mut best, &mut out);
    let computed = out.iter().filter(|v| **v > f32::NEG_INFINITY).count();
    assert!(computed <= rows / 4, "{computed} of {rows} rows were computed");
}

#[test]
fn ties_and_near_ties_are_all_computed() {
    let mut r = Random::new(4);
    let (rows, k) = (300, 64);
    let mut bytes = file(rows, k, &mut r, some_scale);
    // Rows that differ only in their lower bits, by one step of one quant, or not at all.
    let row_bytes = k / 32 * 34;
    let first = bytes[..row_bytes].to_vec();
    for row in 1..200 {
        let at = row * row_bytes;
        bytes[at..at + row_bytes].copy_from_slice(&first);
        if row % 3 == 1 {
            bytes[at + 2 + row % 32] ^= 1;
        }
    }
    let both = Both::new(&bytes, rows, k);
    for sign in [1.0, -1.0] {
        let x: Vec<f32> = (0..k).map(|_| sign * r.unit()).collect();
        check(&both, &x, "near ties");
    }
    check(&both, &vec![0.0; k], "all outputs zero");
}

#[test]
fn extreme_quants_scales_and_activations_lose_nothing() {
    let mut r = Random::new(5);
    let (rows, k) = (96, 96);
    for (what, scale) in
        [("zero", 0u16), ("subnormal", 1), ("largest", 0x7bff), ("infinite", 0x7c00), ("NaN", 0x7e00)]
    {
        // One row in three has the odd scale.
        let mut bytes = file(rows, k, &mut r, |r, row| if row % 3 == 0 { scale } else { some_scale(r, row) });
        for (i, b) in bytes.iter_mut().enumerate().filter(|(i, _)| i % 34 > 1) {
            match i % 5 {
                0 => *b = 0x80,
                1 => *b = 0x7f,
                _ => {}
            }
        }
        let both = Both::new(&bytes, rows, k);
        for size in [1e-38, 1e-20, 1.0, 1e20] {
            let x: Vec<f32> = (0..k).map(|_| size * r.unit()).collect();
            check(&both, &x, &format!("{what} scales, activations of {size:e}"));
        }
    }
}
