//! Random numbers by counting: a number is a function of the seed and of what it is for, so there is no state to save
//! and no order to keep.

/// What numbers are for: streams of one seed that have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// First weights, by tensor.
    Weights = 1,
    /// Windows of the data.
    Data = 2,
    /// Dropped activations, by step and place.
    Dropout = 3,
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014).
fn mix(z: u64) -> u64 {
    let a = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

/// A key of numbers that are drawn one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn new(seed: u64, stream: Stream, which: u64) -> Key {
        let stream = mix((stream as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Key(mix(mix(seed ^ stream).wrapping_add(which.wrapping_mul(0xd6e8_feb8_6659_fd93))))
    }

    /// The `i`-th 64 bits.
    pub(crate) fn bits(self, i: u64) -> u64 {
        mix(self.0.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The `i`-th number of `[0, 1)`.
    pub(crate) fn unit(self, i: u64) -> f64 {
        (self.bits(i) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The `i`-th number of the standard normal distribution (Box and Muller 1958).
    pub(crate) fn normal(self, i: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit(2 * i)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit(2 * i + 1)).cos()
    }

    /// The `i`-th whole number below `n`.
    pub(crate) fn below(self, i: u64, n: usize) -> usize {
        ((u128::from(self.bits(i)) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let key = Key::new(1, Stream::Weights, 0);
        let n = 100_000;
        let (sum, squares) = (0..n).map(|i| key.normal(i)).fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        assert!((sum / n as f64).abs() < 0.01 && (squares / n as f64 - 1.0).abs() < 0.02);
    }

    #[test]
    fn streams_and_places_differ() {
        let first = |stream, which| Key::new(7, stream, which).bits(0);
        assert_ne!(first(Stream::Data, 0), first(Stream::Dropout, 0));
        assert_ne!(first(Stream::Data, 0), first(Stream::Data, 1));
        assert!((0..1000).all(|i| Key::new(7, Stream::Data, i).below(3, 10) < 10));
    }
}
