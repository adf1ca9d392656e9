//! The random numbers of sampling: xoshiro256++ seeded by SplitMix64. Its stream is part of the interface: a seed
//! gives the same text in every version, so nothing here may change. It takes no entropy by itself.
//!
//! Sources: D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators" (2021), xoshiro256++ 1.0;
//! G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators" (2014) for SplitMix64.

/// xoshiro256++: 256 bits of state, period 2^256 - 1.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed`: the state is the first four outputs of SplitMix64 started at `seed`.
    pub(crate) fn new(seed: u64) -> Rng {
        let mut z = seed;
        let state = [(); 4].map(|()| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let a = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            b ^ (b >> 31)
        });
        Rng { state }
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Uniform in `[0, 1)`: the upper 53 bits of one output.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_the_reference_code() {
        // State {1, 2, 3, 4}: the first outputs of the authors' C code.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!([(); 4].map(|()| rng.next_u64()), expected);
        // SplitMix64 from 0.
        let state =
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
        assert_eq!(Rng::new(0).state, state);
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mut rng = Rng::new(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let u = rng.unit();
            assert!((0.0..1.0).contains(&u));
            tenths[(u * 10.0) as usize] += 1;
        }
        for n in tenths {
            assert!((9_600..10_400).contains(&n), "{tenths:?}");
        }
    }
}
