//! Properties that every quantized type has; golden bits against the field's are in `tests/quant.rs`.

use super::*;
use crate::half::f32_to_f16;
use proptest::prelude::*;

fn quantized() -> impl Iterator<Item = DType> {
    DType::all().filter(|t| form(*t).is_some())
}

/// Dequantized again.
fn round_trip(dtype: DType, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; dtype.bytes_of(x.len()).unwrap()];
    quantize(dtype, x, &mut bytes).unwrap();
    let mut back = vec![f32::NAN; x.len()];
    dequantize(dtype, &bytes, &mut back).unwrap();
    back
}

/// Root mean square error relative to the root mean square of `x`.
fn relative_error(dtype: DType, x: &[f32]) -> f64 {
    let back = round_trip(dtype, x);
    let sum = |v: &mut dyn Iterator<Item = f64>| v.map(|e| e * e).sum::<f64>();
    let error = sum(&mut x.iter().zip(&back).map(|(a, b)| f64::from(a - b)));
    (error / sum(&mut x.iter().map(|&a| f64::from(a)))).sqrt()
}

/// Sums of 12 uniform numbers: close to normal, from a fixed generator.
fn normal(n: usize, deviation: f32) -> Vec<f32> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * deviation).collect()
}

/// A bound on the error of any one value, for values of magnitude up to `largest`, in F16-exact ranges.
fn bound(dtype: DType, largest: f32) -> f32 {
    // Span covered by the quants (twice the magnitude), in steps; centred types reach one step less on one side.
    // The K types choose by squares, so the worst value of a sub-block may be off by more than half a step, and
    // small sub-blocks share the step of the integer scales.
    let form = form(dtype).unwrap();
    let step = 2.0 * largest / ((1 << form.bits) - 1) as f32;
    match dtype {
        DType::Q8_0 | DType::Q4_1 | DType::Q5_1 => 0.6 * step,
        DType::Q4_0 | DType::Q5_0 => 1.1 * step,
        _ => 2.0 * step,
    }
}

#[test]
fn every_form_agrees_with_the_sizes_of_its_type() {
    for dtype in DType::all() {
        if let Some(form) = form(dtype) {
            assert_eq!(form.len, dtype.block_len(), "{dtype}");
            assert!(form.len <= MAX_BLOCK_LEN && form.groups() <= MAX_GROUPS, "{dtype}");
        } else {
            assert_eq!(dtype.block_len(), 1, "{dtype}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused_with_the_numbers() {
    let (x, mut bytes) = ([0.0; 33], [0; 64]);
    let error = quantize(DType::Q4_1, &x, &mut bytes).unwrap_err();
    assert_eq!(error, BlockError::PartialBlock { dtype: DType::Q4_1, len: 33 });
    let error = quantize(DType::Q4_1, &x[..32], &mut bytes).unwrap_err();
    assert_eq!(error, BlockError::WrongBytes { dtype: DType::Q4_1, len: 32, expected: 20, found: 64 });
    assert!(error.to_string().contains("20 bytes"), "{error}");
    assert!(dequantize(DType::F16, &bytes[..3], &mut [0.0; 2]).is_err());
    let mut integers = Unpacked::default();
    assert_eq!(
        unpack(DType::F32, &[0; 4], &mut integers),
        Err(BlockError::NotQuantized { dtype: DType::F32 })
    );
    assert!(unpack(DType::Q6_K, &bytes, &mut integers).is_err());
    assert!(pack(DType::Q6_K, &integers, &mut bytes).is_err());
    assert_eq!(quantize(DType::Q6_K, &[], &mut []), Ok(()), "no values are a whole number of blocks");
}

#[test]
fn whole_numbers_that_a_type_can_hold_come_back() {
    for dtype in quantized() {
        let form = form(dtype).unwrap();
        let quants = 1_usize << form.bits;
        let middle = if form.offset == Offset::None { quants / 2 } else { 2 };
        // Every quant in turn; Q8_0 has no -128, and its block does not hold all of them.
        let x: Vec<f32> = match dtype {
            DType::Q8_0 => (0..32).map(|i| (i * 8) as f32 - 121.0).collect(),
            _ => (0..form.len).map(|i| (i % quants) as f32 - middle as f32).collect(),
        };
        let back = round_trip(dtype, &x);
        if form.groups() == 1 {
            assert_eq!(back, x, "{dtype}");
        } else {
            // The scales of sub-blocks are rounded as well.
            let worst = x.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 0.005 * quants as f32, "{dtype}: {worst}");
        }
        assert_eq!(round_trip(dtype, &vec![0.0; form.len]), vec![0.0; form.len], "{dtype}");
    }
}

#[test]
fn errors_on_normal_weights_are_as_small_as_the_bits_allow() {
    let x = normal(256 * 64, 0.02);
    let mut found = Vec::new();
    for (dtype, at_most) in [
        (DType::F16, 0.0003),
        (DType::BF16, 0.0025),
        (DType::Q8_0, 0.006),
        (DType::Q6_K, 0.02),
        (DType::Q5_K, 0.04),
        (DType::Q5_1, 0.045),
        (DType::Q5_0, 0.05),
        (DType::Q4_K, 0.08),
        (DType::Q4_1, 0.09),
        (DType::Q4_0, 0.1),
        (DType::Q3_K, 0.16),
        (DType::Q2_K, 0.32),
    ] {
        let error = relative_error(dtype, &x);
        found.push((dtype, error, at_most));
    }
    for (dtype, error, at_most) in found {
        assert!(error < at_most, "{dtype}: relative error {error} is not below {at_most}");
    }
}

#[test]
fn hostile_values_never_panic_and_give_finite_blocks() {
    let patterns: [&[f32]; 9] = [
        &[f32::NAN],
        &[f32::INFINITY, f32::NEG_INFINITY],
        &[f32::MAX, 1.0, f32::MIN, f32::NAN],
        &[1e-45, -1e-42, 0.0],
        &[1e-30, 1e30],
        &[1e-8, -3e-8],
        &[-0.0],
        &[1e6, -5e7, 3.0],
        &[-1.0],
    ];
    for dtype in quantized() {
        for pattern in patterns {
            let x: Vec<f32> = pattern.iter().copied().cycle().take(form(dtype).unwrap().len).collect();
            let back = round_trip(dtype, &x);
            assert!(back.iter().all(|v| v.is_finite()), "{dtype} {pattern:?}: {back:?}");
        }
    }
}

/// Σ importance · error².
fn weighted_error(x: &[f32], back: &[f32], importance: &[f32]) -> f64 {
    x.iter().zip(back).zip(importance).map(|((a, b), w)| f64::from(*w) * f64::from(a - b).powi(2)).sum()
}

fn weighted_round_trip(dtype: DType, x: &[f32], importance: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; dtype.bytes_of(x.len()).unwrap()];
    quantize_weighted(dtype, x, importance, &mut bytes).unwrap();
    let mut back = vec![0.0; x.len()];
    dequantize(dtype, &bytes, &mut back).unwrap();
    back
}

#[test]
fn importance_lowers_the_error_where_it_matters() {
    let x = normal(256 * 16, 0.02);
    // One column in eight matters a hundred times as much as the others.
    let importance: Vec<f32> = (0..x.len()).map(|i| if i % 8 == 3 { 9.0 } else { 0.09 }).collect();
    for dtype in quantized() {
        let plain = weighted_error(&x, &round_trip(dtype, &x), &importance);
        let weighted = weighted_error(&x, &weighted_round_trip(dtype, &x, &importance), &importance);
        let bound = if dtype == DType::Q8_0 { plain } else { 0.9 * plain };
        assert!(weighted <= bound, "{dtype}: {weighted:e} against {plain:e}");
    }
    assert!(quantize_weighted(DType::Q4_0, &x[..32], &x[..31], &mut [0; 18]).is_err());
}

#[test]
fn columns_without_importance_do_no_harm() {
    let x = normal(256, 0.02);
    for dtype in quantized() {
        for importance in [[0.0; 256], [1e6; 256]] {
            let back = weighted_round_trip(dtype, &x, &importance);
            let error = weighted_error(&x, &back, &[1.0; 256]).sqrt()
                / weighted_error(&x, &[0.0; 256], &[1.0; 256]).sqrt();
            assert!(error < 0.5, "{dtype}: relative error {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packing_is_the_inverse_of_unpacking_for_all_bytes(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for dtype in quantized() {
            let block = &bytes[..dtype.block_bytes()];
            let form = form(dtype).unwrap();
            let mut integers = Unpacked::default();
            // Old contents must not shine through.
            integers.q.fill(0xff);
            unpack(dtype, block, &mut integers).unwrap();
            prop_assert!(integers.q[..form.len].iter().all(|q| u32::from(*q) < 1 << form.bits), "{}", dtype);
            for &s in &integers.scales[..form.groups()] {
                prop_assert!((form.scale_range.0..=form.scale_range.1).contains(&i32::from(s)), "{}", dtype);
            }
            let mut again = vec![0xa5; block.len()];
            pack(dtype, &integers, &mut again).unwrap();
            prop_assert_eq!(&again[..], block, "{}", dtype);
        }
    }

    #[test]
    fn no_value_is_off_by_more_than_the_step_explains(
        unit in prop::collection::vec(-1.0_f32..1.0, 256), exponent in -6..6_i32,
    ) {
        let largest = 2.0_f32.powi(exponent);
        let x: Vec<f32> = unit.iter().map(|v| v * largest).collect();
        for dtype in quantized() {
            let bound = bound(dtype, largest);
            for (i, (a, b)) in x.iter().zip(round_trip(dtype, &x)).enumerate() {
                prop_assert!((a - b).abs() <= bound, "{} value {}: {} became {}, bound {}", dtype, i, a, b, bound);
            }
        }
    }

    #[test]
    fn any_bits_quantize_without_panic_to_finite_blocks(bits in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
        for dtype in quantized() {
            prop_assert!(round_trip(dtype, &x).iter().all(|v| v.is_finite()), "{}", dtype);
        }
    }

    #[test]
    fn any_bits_of_any_importance_quantize_to_finite_blocks(
        bits in prop::collection::vec(any::<u32>(), 256),
        importance in prop::collection::vec(0.0_f32..1e6, 256),
    ) {
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
        for dtype in quantized() {
            let back = weighted_round_trip(dtype, &x, &importance);
            prop_assert!(back.iter().all(|v| v.is_finite()), "{}", dtype);
        }
    }

    #[test]
    fn any_bytes_dequantize_without_panic_and_equal_the_formula(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for dtype in quantized() {
            let block = &bytes[..dtype.block_bytes()];
            let form = form(dtype).unwrap();
            let mut out = vec![0.0; form.len];
            dequantize(dtype, block, &mut out).unwrap();
            let mut u = Unpacked::default();
            unpack(dtype, block, &mut u).unwrap();
            let (d, m) = (f64::from(f16_to_f32(u.d)), f64::from(f16_to_f32(u.m)));
            if !(d.is_finite() && m.is_finite()) {
                continue;
            }
            for (i, &value) in out.iter().enumerate() {
                let g = i / form.group;
                let q = if form.signed { f64::from(u.q[i] as i8) } else { f64::from(u.q[i]) - f64::from(form.zero) };
                let offset = match form.offset {
                    Offset::None => 0.0,
                    Offset::AddM => -m,
                    Offset::SubMinTimesM => m * f64::from(u.mins[g]),
                };
                let product = d * f64::from(u.scales[g]) * q;
                let tolerance = 1e-6 * (product.abs() + offset.abs());
                prop_assert!((f64::from(value) - (product - offset)).abs() <= tolerance, "{} value {}", dtype, i);
            }
        }
    }

    #[test]
    fn quantizing_twice_changes_nothing_much(unit in prop::collection::vec(-1.0_f32..1.0, 256)) {
        for dtype in quantized() {
            let once = round_trip(dtype, &unit);
            let scale = f16_to_f32(f32_to_f16(bound(dtype, 1.0)));
            for (a, b) in once.iter().zip(round_trip(dtype, &once)) {
                prop_assert!((a - b).abs() <= scale, "{}", dtype);
            }
        }
    }
}
