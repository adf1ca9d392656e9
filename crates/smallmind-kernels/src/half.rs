//! The two 16-bit float types as bit patterns: IEEE 754 binary16 (F16) and bfloat16 (BF16), to and from `f32`.
//! Scalar reference; it may not use hardware conversions, whose results it must equal.

/// 2^-24, the value of the last bit of a subnormal F16.
const F16_SUBNORMAL_STEP: f32 = 5.960_464_5e-8;
/// `f32` bits of 2^-14, the smallest normal F16.
const F16_MIN_NORMAL: u32 = 0x3880_0000;
/// `f32` bits of 65520, halfway between the largest finite F16 (65504) and the next power of two.
const F16_OVERFLOW: u32 = 0x477f_f000;
/// `f32` bits of infinity: larger magnitudes are NaN.
const F32_INFINITY: u32 = 0x7f80_0000;

/// The largest finite F16.
pub const F16_MAX: f32 = 65504.0;

/// The exact value of F16 bits. A signalling NaN becomes quiet and keeps its payload, as F16C and NEON do it.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let mantissa = u32::from(bits & 0x3ff);
    let magnitude = match (exponent, mantissa) {
        (0, m) => (m as f32 * F16_SUBNORMAL_STEP).to_bits(),
        (31, 0) => F32_INFINITY,
        (31, m) => F32_INFINITY | 0x0040_0000 | (m << 13),
        (e, m) => ((e + 112) << 23) | (m << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// The nearest F16 (ties to even): 65520 and more become infinity, NaN stays NaN (quiet, upper payload bits kept).
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > F32_INFINITY {
        0x7e00 | ((magnitude >> 13) as u16 & 0x3ff)
    } else if magnitude >= F16_OVERFLOW {
        0x7c00
    } else if magnitude < F16_MIN_NORMAL {
        // In [0.5, 1) the last bit of an f32 is worth 2^-24, so the sum is rounded where a subnormal F16 is.
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits()) as u16
    } else {
        let ties_to_even = 0xfff + ((magnitude >> 13) & 1);
        ((magnitude + ties_to_even - (112 << 23)) >> 13) as u16
    };
    sign | half
}

/// The exact value of BF16 bits (the upper half of an `f32`).
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest BF16 (ties to even); NaN stays NaN (quiet).
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if bits & 0x7fff_ffff > F32_INFINITY {
        return (bits >> 16) as u16 | 0x0040;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value of F16 bits from the definition, in f64.
    fn f16_by_definition(bits: u16) -> f64 {
        let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
        let (e, m) = (i32::from(bits >> 10) & 31, f64::from(bits & 0x3ff));
        match e {
            0 => sign * m * 2f64.powi(-24),
            31 if m == 0.0 => sign * f64::INFINITY,
            31 => f64::NAN,
            _ => sign * (1.0 + m / 1024.0) * 2f64.powi(e - 15),
        }
    }

    #[test]
    fn every_f16_has_the_value_of_the_definition_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (value, expected) = (f16_to_f32(bits), f16_by_definition(bits));
            if expected.is_nan() {
                assert!(value.is_nan(), "{bits:#06x}");
                assert_eq!(f32_to_f16(value), bits | 0x200, "{bits:#06x}: NaN keeps sign and payload");
            } else {
                assert_eq!(f64::from(value), expected, "{bits:#06x}");
                assert_eq!(value.is_sign_negative(), bits & 0x8000 != 0, "{bits:#06x}");
                assert_eq!(f32_to_f16(value), bits, "{bits:#06x}");
            }
        }
    }

    #[test]
    fn f16_rounds_to_nearest_and_ties_to_even_between_all_neighbours() {
        for low in 0..0x7c00_u16 {
            // The neighbour of the largest finite value counts as 65536 when deciding about rounding.
            let a = f16_to_f32(low);
            let b = if low == 0x7bff { 65536.0 } else { f16_to_f32(low + 1) };
            let middle = (a + b) / 2.0;
            let even = if low & 1 == 0 { low } else { low + 1 };
            for sign in [0, 0x8000_u16] {
                let signed = |v: f32| if sign == 0 { v } else { -v };
                assert_eq!(f32_to_f16(signed(middle)), sign | even, "tie above {low:#06x}");
                assert_eq!(f32_to_f16(signed(middle.next_down())), sign | low, "below tie {low:#06x}");
                assert_eq!(f32_to_f16(signed(middle.next_up())), sign | (low + 1), "above tie {low:#06x}");
            }
        }
        for (value, bits) in
            [(f32::INFINITY, 0x7c00), (f32::MAX, 0x7c00), (-f32::MAX, 0xfc00), (1e-30, 0), (-1e-45, 0x8000)]
        {
            assert_eq!(f32_to_f16(value), bits, "{value}");
        }
        assert_eq!(f16_to_f32(0x7bff), F16_MAX);
    }

    #[test]
    fn every_bf16_comes_back() {
        for bits in 0..=u16::MAX {
            let value = bf16_to_f32(bits);
            let expected = if value.is_nan() { bits | 0x40 } else { bits };
            assert_eq!(f32_to_bf16(value), expected, "{bits:#06x}");
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_and_ties_to_even_between_all_neighbours() {
        for low in 0..0x7f80_u16 {
            let middle = (u32::from(low) << 16) | 0x8000;
            let even = if low & 1 == 0 { low } else { low + 1 };
            for sign in [0, 0x8000_u16] {
                let signed = |bits: u32| f32::from_bits(bits | (u32::from(sign) << 16));
                assert_eq!(f32_to_bf16(signed(middle)), sign | even, "tie above {low:#06x}");
                assert_eq!(f32_to_bf16(signed(middle - 1)), sign | low, "below tie {low:#06x}");
                assert_eq!(f32_to_bf16(signed(middle + 1)), sign | (low + 1), "above tie {low:#06x}");
            }
        }
        assert!(
            bf16_to_f32(f32_to_bf16(f32::from_bits(0x7f80_0001))).is_nan(),
            "the only payload bit is cut off"
        );
    }
}
