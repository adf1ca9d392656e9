//! Bits against the field's: `testdata/golden/dequant/<TYPE>.bin`, made by `scripts/make_dequant_golden.py` with the
//! `gguf` Python package, and digests of what that package's quantizers give.
//!
//! A fixture is `u32` byte count, the stored bytes, `u32` value count, the values as `f32`; all little-endian.

use smallmind_kernels::DType;
use smallmind_kernels::quant::{dequantize, quantize};
use std::path::Path;

/// The next `u32` count and that many items of `size` bytes.
fn section<'a>(file: &'a [u8], at: &mut usize, size: usize) -> &'a [u8] {
    let count = u32::from_le_bytes([file[*at], file[*at + 1], file[*at + 2], file[*at + 3]]) as usize;
    let start = *at + 4;
    *at = start + count * size;
    &file[start..*at]
}

#[test]
fn dequantized_values_have_the_bits_of_the_gguf_package() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/dequant");
    if !folder.exists() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
        println!("skipped: run scripts/make_dequant_golden.py to make {}", folder.display());
        return;
    }
    // F32 has no fixture: its bytes are its values.
    for dtype in DType::all().filter(|t| *t != DType::F32) {
        let path = folder.join(format!("{dtype}.bin"));
        let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut at = 0;
        let stored = section(&file, &mut at, 1);
        let expected: Vec<f32> =
            section(&file, &mut at, 4).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(at, file.len(), "{dtype}: the fixture ends with its values");
        assert!(!expected.is_empty(), "{dtype}: the fixture has values");

        let mut found = vec![0.0; expected.len()];
        dequantize(dtype, stored, &mut found).unwrap();
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            // The sign and payload of a NaN that an operation makes are not defined.
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same, "{dtype}: value {i} is {a:e}, the gguf package has {b:e}");
        }
    }
}

#[test]
fn f32_bytes_are_the_values_themselves() {
    let x = [0.0_f32, -1.5, f32::INFINITY, f32::MIN_POSITIVE / 4.0];
    let mut bytes = [0; 16];
    quantize(DType::F32, &x, &mut bytes).unwrap();
    assert_eq!(bytes[4..8], (-1.5_f32).to_le_bytes());
    let mut back = [0.0; 4];
    dequantize(DType::F32, &bytes, &mut back).unwrap();
    assert_eq!(back, x);
}

/// FNV-1a, 64 bits.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// 24-bit integers from a linear congruential generator, scaled by a power of two that changes with the block.
fn stream(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |i: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 - 8_388_608.0) * 2.0_f32.powi(-24 - (i / 32 % 8) as i32)
    };
    (0..n).map(&mut next).collect()
}

#[test]
fn types_of_32_values_are_quantized_to_the_bytes_of_the_gguf_package() {
    let x = stream(8192);
    for (dtype, expected) in [
        (DType::F16, 0xad92_6bea_8650_2b37_u64),
        (DType::BF16, 0x1bde_0939_8ef1_5c8f),
        (DType::Q8_0, 0xe64f_3c57_9f40_e293),
        (DType::Q4_0, 0x3c93_6b4b_8f11_5b9d),
        (DType::Q4_1, 0xb939_8c7c_d5a7_41ea),
        (DType::Q5_0, 0xff95_4238_1726_4911),
        (DType::Q5_1, 0x0e82_0c8e_f99e_3017),
    ] {
        let mut bytes = vec![0; dtype.bytes_of(x.len()).unwrap()];
        quantize(dtype, &x, &mut bytes).unwrap();
        assert_eq!(digest(&bytes), expected, "{dtype}");
    }
}

/// Quantizing is integer and `f32` arithmetic in a fixed order: a changed digest is a changed file for users.
#[test]
fn k_types_are_quantized_to_the_same_bytes_as_ever() {
    let x = stream(8192);
    let found: Vec<(DType, u64)> = [DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K]
        .into_iter()
        .map(|dtype| {
            let mut bytes = vec![0; dtype.bytes_of(x.len()).unwrap()];
            quantize(dtype, &x, &mut bytes).unwrap();
            (dtype, digest(&bytes))
        })
        .collect();
    assert_eq!(
        found,
        [
            (DType::Q2_K, 0xe46b_8966_d64f_7faa),
            (DType::Q3_K, 0xad6f_208b_f846_7ba8),
            (DType::Q4_K, 0x6e77_9ce8_28c4_4098),
            (DType::Q5_K, 0xd798_972a_0d7a_152a),
            (DType::Q6_K, 0xacc6_7653_8440_f8bb),
        ]
    );
}
