//! Every leaf of every instruction set against plain Rust, at the values where instructions differ.

use super::scalar::Scalar;
use super::*;
use crate::half;

/// Calls `$test(isa)` for each instruction set that this CPU has.
macro_rules! each_isa {
    ($test:ident) => {
        $test(Scalar::assume());
        #[cfg(target_arch = "x86_64")]
        {
            avx2::Avx2::detect().into_iter().for_each($test);
            avx2::AvxVnni::detect().into_iter().for_each($test);
            avx512::Avx512::detect().into_iter().for_each($test);
            avx512::Avx512Bw::detect().into_iter().for_each($test);
        }
        #[cfg(target_arch = "aarch64")]
        {
            neon::Neon::detect().into_iter().for_each($test);
            neon::NeonDotprod::detect().into_iter().for_each($test);
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        wasm::Simd128::detect().into_iter().for_each($test);
    };
}

/// Zeros, ties, denormals, infinities, NaN: numbers that are rounded, compared and converted in ways of their own.
const ODD: [f32; 32] = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.499_999_8,
    1.0,
    -1.0,
    f32::MIN_POSITIVE,
    -1e-45,
    1e-45,
    5.877e-39,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
    65504.0,
    65519.996,
    65520.0,
    -65536.0,
    5.960_464_5e-8,
    2.980_232_2e-8,
    2.980_232_6e-8,
    6.1e-5,
    1.000_488_3,
    1.001_464_8,
    3.402_823_3e38,
    1e30,
];

/// Random bits: xorshift.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }
}

fn floats<I: Isa>(isa: I, a: I::F) -> [f32; 16] {
    let mut out = [0.0; 16];
    isa.store(a, &mut out);
    out
}

fn integers<I: Isa>(isa: I, a: I::I) -> [i32; 16] {
    let mut out = [0; 16];
    isa.istore(a, &mut out);
    out
}

/// Equal bits, or both NaN.
#[track_caller]
fn same(found: [f32; 16], expected: [f32; 16], isa: &str, what: &str, of: impl std::fmt::Debug) {
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let equal = f.to_bits() == e.to_bits() || (f.is_nan() && e.is_nan());
        assert!(equal, "{what} on {isa}, lane {i}: {f:e} and not {e:e}, of {of:?}");
    }
}

#[test]
fn arithmetic_has_the_bits_of_plain_rust_at_odd_values() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(7);
        for round in 0..2000 {
            // Every pair of odd values first, then any bits.
            let mut next = |i: usize| {
                if round < 64 { ODD[i % 32] } else { f32::from_bits(bits.next()) }
            };
            let a: [f32; 16] = std::array::from_fn(|i| next(i + (round & 1) * 16));
            let b: [f32; 16] = std::array::from_fn(|i| next(i + round / 2));
            let c: [f32; 16] = std::array::from_fn(|i| next(i * 3 + round));
            let (x, y, z) = (isa.load(&a), isa.load(&b), isa.load(&c));
            let of = (a, b, c);
            same(floats(isa, isa.add(x, y)), s.add(a, b), I::NAME, "add", of);
            same(floats(isa, isa.sub(x, y)), s.sub(a, b), I::NAME, "sub", of);
            same(floats(isa, isa.mul(x, y)), s.mul(a, b), I::NAME, "mul", of);
            same(floats(isa, isa.div(x, y)), s.div(a, b), I::NAME, "div", of);
            same(floats(isa, isa.fma(x, y, z)), s.fma(a, b, c), I::NAME, "fma", of);
            same(floats(isa, isa.max(x, y)), s.max(a, b), I::NAME, "max", of);
            same(floats(isa, isa.min(x, y)), s.min(a, b), I::NAME, "min", of);
            let small = a.map(|v| if v.abs() < 2e9 { v } else { 0.5 });
            assert_eq!(
                integers(isa, isa.to_i32(isa.load(&small))),
                s.to_i32(small),
                "to_i32 of {small:?} on {}",
                I::NAME
            );
        }
    }
    each_isa!(test);
}

#[test]
fn half_precision_is_converted_as_the_reference_converts_it() {
    fn test<I: Isa>(isa: I) {
        for start in (0..=u16::MAX).step_by(16) {
            let x: [u16; 16] = std::array::from_fn(|i| start + i as u16);
            same(floats(isa, isa.load_f16(&x)), x.map(half::f16_to_f32), I::NAME, "load_f16", x);
            same(floats(isa, isa.load_bf16(&x)), x.map(half::bf16_to_f32), I::NAME, "load_bf16", x);
        }
        let mut bits = Bits(9);
        for round in 0..5000 {
            let x: [f32; 16] = std::array::from_fn(|i| match round {
                0 | 1 => ODD[i + 16 * round],
                // Near a tie of two halves.
                _ if round % 2 == 0 => {
                    let low = bits.next();
                    f32::from_bits((half::f16_to_f32(low as u16).to_bits() | 0x1000) - (low >> 31))
                }
                _ => f32::from_bits(bits.next()),
            });
            let mut found = [0; 16];
            isa.store_f16(isa.load(&x), &mut found);
            let value = |h: u16| half::f16_to_f32(h);
            same(
                found.map(value),
                x.map(|v| value(half::f32_to_f16(v))),
                I::NAME,
                "store_f16",
                x.map(f32::to_bits),
            );
        }
    }
    each_isa!(test);
}

#[test]
fn integers_have_the_bits_of_plain_rust() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(11);
        for _ in 0..500 {
            let bytes: [u8; 16] = std::array::from_fn(|_| bits.next() as u8);
            let signed = bytes.map(u8::cast_signed);
            let (x, y) = (bits.next().cast_signed(), bits.next().cast_signed());
            assert_eq!(integers(isa, isa.load_u8(&bytes)), s.load_u8(&bytes), "load_u8 on {}", I::NAME);
            assert_eq!(integers(isa, isa.load_i8(&signed)), s.load_i8(&signed), "load_i8 on {}", I::NAME);
            let (mut found, mut want) = ([0; 16], [0; 16]);
            isa.store_i8(isa.ishl::<3>(isa.load_i8(&signed)), &mut found);
            s.store_i8(s.ishl::<3>(s.load_i8(&signed)), &mut want);
            assert_eq!(found, want, "store_i8 on {}", I::NAME);
            let any = isa.iadd(isa.iadd(isa.ishl::<20>(isa.load_i8(&signed)), isa.isplat(x)), isa.isplat(y));
            let want = s.iadd(s.iadd(s.ishl::<20>(s.load_i8(&signed)), s.isplat(x)), s.isplat(y));
            assert_eq!(integers(isa, any), want, "iadd on {}", I::NAME);
            assert_eq!(integers(isa, isa.ishl::<23>(any)), s.ishl::<23>(want), "ishl on {}", I::NAME);
            same(floats(isa, isa.to_f32(any)), s.to_f32(want), I::NAME, "to_f32", want);
            same(floats(isa, isa.bits_to_f32(any)), s.bits_to_f32(want), I::NAME, "bits_to_f32", want);
        }
    }
    each_isa!(test);
}

#[test]
fn products_of_bytes_are_exact_up_to_their_contract_and_see_every_byte() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(13);
        for round in 0..2000 {
            let extreme = |b: u32, ends: [u8; 2]| if round % 2 == 0 { ends[b as usize & 1] } else { b as u8 };
            let w: [u8; 64] = std::array::from_fn(|_| extreme(bits.next(), [0x80, 0x7f]));
            let mut x: [i8; 4] =
                std::array::from_fn(|_| extreme(bits.next(), [0x81, 0x7f]).cast_signed().max(-127));
            if round % 3 == 0 {
                x = [0; 4];
                x[round % 4] = 1;
            }
            let bias = I::BIAS * x.iter().map(|x| i32::from(*x)).sum::<i32>();
            let seen = |v| integers(isa, isa.dot_i8(isa.isplat(-bias), v, &x));
            let want = |v| s.dot_i8(s.isplat(0), v, &x);
            assert_eq!(seen(isa.bload(&w)), want(w), "dot_i8 of {w:?} and {x:?} on {}", I::NAME);
            let m = bits.next() as u8;
            let (b, mask, splat) = (isa.bload(&w), isa.bsplat(m), s.bsplat(m));
            assert_eq!(seen(isa.band(b, mask)), want(s.band(w, splat)), "band on {}", I::NAME);
            assert_eq!(seen(isa.bor(b, mask)), want(s.bor(w, splat)), "bor on {}", I::NAME);
            assert_eq!(seen(isa.bxor(b, mask)), want(s.bxor(w, splat)), "bxor on {}", I::NAME);
            assert_eq!(seen(isa.bshl::<3>(b)), want(s.bshl::<3>(w)), "bshl on {}", I::NAME);
            assert_eq!(seen(isa.bshr::<4>(b)), want(s.bshr::<4>(w)), "bshr on {}", I::NAME);
            let w7 = w.map(|w| w & 0x7f);
            assert_eq!(
                integers(isa, isa.dot_u7(isa.isplat(-5), isa.bload(&w7), &x)),
                s.dot_u7(s.isplat(-5), w7, &x),
                "dot_u7 of {w7:?} and {x:?} on {}",
                I::NAME
            );
        }
    }
    each_isa!(test);
}

/// Any integers, out of what leaves offer.
fn integers_of<I: Isa>(isa: I, lanes: &[i32; 16]) -> I::I {
    let [b0, b1, b2, b3]: [[u8; 16]; 4] =
        std::array::from_fn(|byte| std::array::from_fn(|i| lanes[i].to_le_bytes()[byte]));
    let up = isa.iadd(isa.ishl::<8>(isa.load_u8(&b3)), isa.load_u8(&b2));
    let down = isa.iadd(isa.ishl::<8>(isa.load_u8(&b1)), isa.load_u8(&b0));
    isa.iadd(isa.ishl::<16>(up), down)
}

#[test]
fn nibbles_are_multiplied_by_pairs_of_scales_as_in_plain_rust() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(31);
        for round in 0..300 {
            let extreme = round % 2 == 0;
            let mut next = |ends: [i32; 2], any: i32| match bits.next() {
                b if extreme => ends[b as usize & 1],
                b => (b % (2 * any.cast_unsigned())) as i32 - any,
            };
            let w: [[u8; 64]; 8] =
                std::array::from_fn(|_| std::array::from_fn(|_| next([0, 15], 8).rem_euclid(16) as u8));
            let x: [[i8; 4]; 8] =
                std::array::from_fn(|_| std::array::from_fn(|_| next([-127, 127], 127) as i8));
            // Scales of 16 bits that a bound allows, and minima.
            let [first, last]: [[i32; 16]; 2] =
                std::array::from_fn(|_| std::array::from_fn(|_| next([-21_760, 21_760], 21_760)));
            let parts = [next([-2_032, 2_032], 2_032) as i16, next([-2_032, 2_032], 2_032) as i16];
            let acc: [i32; 16] = std::array::from_fn(|_| next([i32::MIN, i32::MAX], 1 << 30));

            for (w, x) in [(w, x), ([[15; 64]; 8], [[127; 4]; 8]), ([[15; 64]; 8], [[-127; 4]; 8])] {
                let found = integers(isa, isa.dot_nibbles(&w.map(|w| isa.bload(&w)), &x));
                assert_eq!(found, s.dot_nibbles(&w, &x), "dot_nibbles on {}", I::NAME);
            }
            let by = [&first, &last].map(|lanes| integers_of(isa, lanes));
            let found = isa.narrow(integers_of(isa, &acc), &w.map(|w| isa.bload(&w)), &x, by);
            let found = integers(isa, isa.pair_mac(found, by, parts));
            let by = [first, last];
            assert_eq!(found, s.pair_mac(s.narrow(acc, &w, &x, by), by, parts), "on {}", I::NAME);
            let found = isa.imac(integers_of(isa, &acc), integers_of(isa, &first), integers_of(isa, &last));
            assert_eq!(integers(isa, found), s.imac(acc, first, last), "imac on {}", I::NAME);
        }
    }
    each_isa!(test);
}

#[test]
fn nibbles_of_a_span_are_multiplied_by_a_scale_for_each_block() {
    fn test<I: Isa>(isa: I) {
        let mut bits = Bits(41);
        for round in 0..300 {
            let extreme = round % 2 == 0;
            // All of one sign, and mixed.
            let one = bits.next() as usize & 1;
            let mut next = |ends: [i32; 2], any: i32| match bits.next() {
                _ if round % 4 == 0 => ends[one],
                b if extreme => ends[b as usize & 1],
                b => (b % (2 * any.cast_unsigned())) as i32 - any,
            };
            let w: [[[u8; 64]; 8]; 2] = std::array::from_fn(|_| {
                std::array::from_fn(|_| std::array::from_fn(|_| next([0, 15], 8).rem_euclid(16) as u8))
            });
            let x: [[[i8; 4]; 16]; 2] = std::array::from_fn(|_| {
                std::array::from_fn(|_| std::array::from_fn(|_| next([-127, 127], 127) as i8))
            });
            let by: [[i32; 16]; 2] =
                std::array::from_fn(|_| std::array::from_fn(|_| next([-4_352, 4_352], 4_352)));
            let acc: [i32; 16] = std::array::from_fn(|_| next([i32::MIN, i32::MAX], 1 << 30));
            let sums =
                x.map(|x| [0, 1].map(|b| x[8 * b..][..8].as_flattened().iter().map(|x| i16::from(*x)).sum()));

            let quants = w.map(|w| w.map(|w| isa.bload(&w)));
            let scales = by.each_ref().map(|lanes| integers_of(isa, lanes));
            let found = isa.narrow_span([integers_of(isa, &acc); 2], &quants, [&x[0], &x[1]], scales, &sums);
            for (x, found) in x.iter().zip(found) {
                let expected: [i32; 16] = std::array::from_fn(|r| {
                    (0..2).fold(acc[r], |acc, b| {
                        let sum: i32 = (0..32)
                            .map(|i| {
                                let q = i32::from(w[b][i / 4][4 * r + i % 4]) - I::MIDDLE;
                                q * i32::from(x[8 * b + i / 4][i % 4])
                            })
                            .sum();
                        acc.wrapping_add(sum.wrapping_mul(by[b][r]))
                    })
                });
                assert_eq!(integers(isa, found), expected, "on {}", I::NAME);
            }
        }
    }
    each_isa!(test);
}

#[test]
fn words_are_multiplied_in_pairs_and_added_with_wrapping() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(37);
        for round in 0..300 {
            let mut word = || match bits.next() {
                b if round % 3 == 0 => [-32_767, -1, 0, 32_767][b as usize & 3],
                b => (b as i16).max(-32_767),
            };
            let w: [[i16; 2]; 16] = std::array::from_fn(|_| [word(), word()]);
            let x = [word(), word()];
            let acc: [i32; 16] = std::array::from_fn(|_| i32::from(word()) << 16);
            let found = isa.dot_words(integers_of(isa, &acc), isa.load_words(&w), x);
            let expected: [i32; 16] = std::array::from_fn(|r| {
                let [first, last] = [0, 1].map(|i| i32::from(w[r][i]) * i32::from(x[i]));
                acc[r].wrapping_add(first).wrapping_add(last)
            });
            assert_eq!(integers(isa, found), expected, "on {}", I::NAME);
            assert_eq!(s.dot_words(acc, s.load_words(&w), x), expected);
        }
    }
    each_isa!(test);
}

#[test]
fn lanes_are_folded_onto_each_other_by_halves() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(41);
        for round in 0..600 {
            let lanes: [f32; 16] = std::array::from_fn(|_| match bits.next() {
                b if round % 2 == 0 => ODD[b as usize % ODD.len()],
                b => (b as i32) as f32 * 1e-3,
            });
            let a = isa.load(&lanes);
            let same = |found: f32, expected: f32| {
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
            };
            assert!(same(isa.sum(a), s.sum(lanes)), "the sum of {lanes:?} on {}", I::NAME);
            assert!(same(isa.max_lane(a), s.max_lane(lanes)), "the largest of {lanes:?} on {}", I::NAME);
            let mut found = [0; 16];
            isa.istore(isa.bits(a), &mut found);
            assert_eq!(found, lanes.map(|x| x.to_bits().cast_signed()), "bits on {}", I::NAME);
        }
    }
    each_isa!(test);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn words_are_cut_into_planes_of_bytes() {
    use amx::TileIsa;
    let Some(isa) = avx512::Avx512::detect() else { return };
    let mut bits = Bits(43);
    for _ in 0..300 {
        let mut word = || match bits.next() {
            b if b % 4 == 0 => [-32_767, -129, -128, -1, 0, 127, 128, 32_639][b as usize >> 2 & 7],
            b => (b as i16).clamp(-32_767, 32_639),
        };
        let [first, last]: [[[i16; 2]; 16]; 2] =
            std::array::from_fn(|_| std::array::from_fn(|_| [word(), word()]));
        let planes = isa.byte_planes(isa.load_words(&first), isa.load_words(&last));
        let mut stored = [[0; 64]; 2];
        for (plane, stored) in planes.into_iter().zip(&mut stored) {
            isa.bstore(plane, stored);
        }
        for r in 0..16 {
            for (i, word) in first[r].into_iter().chain(last[r]).enumerate() {
                let bytes = word.to_le_bytes();
                assert_eq!([stored[0][4 * r + i], stored[1][4 * r + i]], [bytes[1], bytes[0]], "{word}");
            }
        }

        let q: [[i32; 16]; 4] = std::array::from_fn(|_| std::array::from_fn(|_| word().into()));
        let (mut hi, mut lo) = ([0_u8; 64], [0_u8; 64]);
        isa.store_bytes(q.each_ref().map(|q| integers_of(isa, q)), &mut hi, &mut lo);
        for (i, q) in q.as_flattened().iter().enumerate() {
            let [hi, lo] = [hi[i], lo[i]].map(|byte| i32::from(byte.cast_signed()));
            assert_eq!(256 * hi + lo, *q);
        }
    }
}

#[test]
fn products_of_integers_are_added_in_64_bits_and_scaled_once_in_f64() {
    fn test<I: Isa>(isa: I) {
        let s = Scalar::assume();
        let mut bits = Bits(23);
        for round in 0..300 {
            let mut word = || match bits.next() {
                b if round % 3 == 0 => [i32::MIN, -1, 1, i32::MAX][b as usize & 3],
                b => b as i32 >> (b >> 28),
            };
            let [a, b, c]: [[i32; 16]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| word()));
            let x = word();
            let of = |lanes: &[i32; 16]| integers_of(isa, lanes);
            let sums =
                isa.wmac_all(isa.wmac(isa.wmac(isa.wzero(), of(&a), of(&b)), of(&b), of(&c)), of(&a), x);
            let expected = s.wmac_all(s.wmac(s.wmac(s.wzero(), a, b), b, c), a, x);
            let mut found = [0; 16];
            isa.wstore(sums, &mut found);
            assert_eq!(found, expected, "{a:?}, {b:?}, {c:?}, {x} on {}", I::NAME);

            // As large as sums become.
            let small = |x: [i32; 16]| x.map(|x| x >> 8);
            let (sums, expected) =
                (isa.wmac(isa.wzero(), of(&small(a)), of(&small(b))), s.wmac([0; 16], small(a), small(b)));
            let bound: [f32; 16] = std::array::from_fn(|i| (i as f32 + 0.3) * 1.7e-3);
            let unit = 1.0 / f64::from(3 + round);
            let mut scaled = [0.0; 16];
            isa.store(isa.wscaled(sums, isa.load(&bound), unit), &mut scaled);
            let by_hand = std::array::from_fn::<f32, 16, _>(|i| {
                (expected[i] as f64 * f64::from(bound[i]) * unit) as f32
            });
            assert_eq!(scaled.map(f32::to_bits), by_hand.map(f32::to_bits), "scaled on {}", I::NAME);
        }
    }
    each_isa!(test);
}

#[cfg(target_arch = "aarch64")]
#[test]
fn the_matrix_instruction_sums_each_row_with_each_part_of_the_activations() {
    use crate::matmul::acts::{ActBlock, ActQuants};

    let (Some(by), Some(isa)) = (i8mm::I8mm::detect(), neon::NeonDotprod::detect()) else {
        return println!("skipped: this CPU has no matrix multiplication of bytes");
    };
    let s = Scalar::assume();
    let mut bits = Bits(17);
    for round in 0..500 {
        let mut extreme = |ends: [u8; 2]| match bits.next() {
            b if round % 2 == 0 => ends[b as usize & 1],
            b => b as u8,
        };
        let w: [[u8; 64]; 8] = std::array::from_fn(|_| std::array::from_fn(|_| extreme([0x80, 0x7f])));
        let mut part = || {
            let mut x: [u8; 64] =
                std::array::from_fn(|_| extreme([0x81, 0x7f]).cast_signed().max(-127).cast_unsigned());
            if round % 3 == 0 {
                x = [0; 64];
                x[round % 64] = 1;
            }
            ActQuants::of_bytes(x)
        };
        let (hi, lo) = (part(), part());
        let x = ActBlock::of(&hi, &lo, round);
        let sum = |part: &[[i8; 4]; 8], of: std::ops::Range<usize>| {
            of.fold([0; 16], |sum, j| s.dot_i8(sum, w[j], &part[j]))
        };
        let vectors = w.map(|w| isa.bload(&w));
        for pairs in [0..4, 0..2, 2..4] {
            let vectors_of = 2 * pairs.start..2 * pairs.end;
            let joined = s.iadd(s.ishl::<7>(sum(x.hi, vectors_of.clone())), sum(x.lo, vectors_of));
            let found = integers(isa, by.joined(&vectors, x, pairs.clone()));
            assert_eq!(found, joined, "pairs {pairs:?} of {x:?} with {w:?}");
        }
    }
}
