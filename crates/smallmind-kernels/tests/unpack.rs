//! The packed layouts and back: every row of every type is found again, byte for byte, and its values bit for bit, and no
//! layout changes unseen.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use proptest::prelude::*;
use smallmind_kernels::DType;
use smallmind_kernels::matmul::{LAYOUT, RowOrder, dequantize_row, unpack_row};
use smallmind_kernels::quant::dequantize;
use support::Random;
use support::weights::{self, Fill, Matrix, Scales};

fn assert_rows_come_back(w: &Matrix, order: RowOrder) {
    let mut row = vec![0xa5; w.dtype.bytes_of(w.k).unwrap()];
    let (mut values, mut expected) = (vec![-7.0; w.k], vec![7.0; w.k]);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for r in 0..w.rows {
        unpack_row(w.view(), r, &mut row);
        assert!(row == w.row(order.source(r)), "{} [{}, {}]: row {r}", w.dtype, w.rows, w.k);
        dequantize_row(w.view(), r, &mut values);
        dequantize(w.dtype, &row, &mut expected).unwrap();
        assert!(bits(&values) == bits(&expected), "{} [{}, {}]: values of row {r}", w.dtype, w.rows, w.k);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unpacking_is_the_inverse_of_packing_for_all_bytes(
        dtype in 0..13_usize,
        rows in 1..=50_usize,
        blocks in 1..=9_usize,
        seed: u64,
    ) {
        let dtype = DType::all().nth(dtype).unwrap();
        let k = if dtype.block_len() == 1 { 7 * blocks } else { dtype.block_len() * blocks };
        let mut r = Random::new(seed);
        let file = weights::file(dtype, rows, k, Fill::Random, Scales::Any, &mut r);
        assert_rows_come_back(&Matrix::new(dtype, rows, k, file), RowOrder::Natural);
    }
}

#[test]
fn rows_in_another_order_are_found_by_their_source() {
    let order = RowOrder::PairsToHalves { head_dim: 12, rope_dim: 8 };
    for dtype in DType::all() {
        let (rows, k) = (36, dtype.block_len().max(32));
        let file = weights::file(dtype, rows, k, Fill::Random, Scales::Any, &mut Random::new(5));
        assert_rows_come_back(&Matrix::packed_as(dtype, dtype, rows, k, file, order), order);
    }
}

/// FNV-1a, 64 bits.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// Files hold packed weights: where this fails, the layout changed, and `LAYOUT` must be raised with the digests.
#[test]
fn the_layout_changes_only_with_its_version() {
    let expected: (u32, [u64; 13]) = (
        2,
        [
            0x1eb2_7887_a853_e0d8,
            0x3eaf_7175_1183_408d,
            0x3eaf_7175_1183_408d,
            0xb04c_a4cc_1479_a5af,
            0x2080_9c7a_5e92_ed5d,
            0x95e0_e430_a422_028a,
            0xeccb_1af2_64cd_acab,
            0x12fc_e8e3_71a2_5504,
            0x5661_ad93_a786_3454,
            0x2227_ae86_8c0a_32ba,
            0x4ffd_81e5_8ff7_e300,
            0xa9a7_2c27_3d63_52fe,
            0xfd23_0918_47fd_2e50,
        ],
    );
    let found: Vec<u64> = DType::all()
        .map(|dtype| {
            let (rows, k) = (20, dtype.block_len().max(32) * 3);
            let bytes: Vec<u8> =
                (0..dtype.bytes_of(rows * k).unwrap()).map(|i| (i * 7 + i / 251) as u8).collect();
            digest(Matrix::new(dtype, rows, k, bytes).view().bytes())
        })
        .collect();
    assert_eq!((LAYOUT, found.as_slice()), (expected.0, expected.1.as_slice()), "{found:#x?}");
}
