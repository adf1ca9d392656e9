//! The packed layouts of unquantized weights and their inner loop: F32 activations, one fused multiply-add chain per
//! output, `k` ascending.

use super::format::{GROUP, Pod};
use super::tile::{PREFETCH_BYTES, Piece};
use crate::aligned::cast;
use crate::isa::Isa;
use crate::isa::stream::Stream;

/// `k` values of one unit.
pub(crate) const UNIT_K: usize = 16;

/// 16 values of `k` of 16 rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct FloatUnit<T> {
    pub(crate) w: [[T; GROUP]; UNIT_K],
}
// SAFETY: floats without padding (1,024 bytes, a multiple of the alignment).
#[allow(unsafe_code, reason = "floats only")]
unsafe impl Pod for FloatUnit<f32> {}
// SAFETY: integers without padding (512 bytes, a multiple of the alignment).
#[allow(unsafe_code, reason = "integers only")]
unsafe impl Pod for FloatUnit<u16> {}

/// One packed layout of unquantized weights.
pub(crate) trait FloatFormat {
    /// As stored.
    type Item: Copy + Default;
    /// 16 rows of one `k`, as f32.
    fn load<I: Isa>(isa: I, w: &[Self::Item; GROUP]) -> I::F;
    /// One stored value from its little-endian bytes in the file.
    fn item(bytes: &[u8]) -> Self::Item;
    /// Its inverse.
    fn put(item: Self::Item, bytes: &mut [u8]);
}

/// F32.
pub(crate) struct F32;
impl FloatFormat for F32 {
    type Item = f32;
    #[inline(always)]
    fn load<I: Isa>(isa: I, w: &[f32; GROUP]) -> I::F {
        isa.load(w)
    }
    fn item(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
    fn put(item: f32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&item.to_le_bytes());
    }
}

/// F16.
pub(crate) struct F16;
impl FloatFormat for F16 {
    type Item = u16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, w: &[u16; GROUP]) -> I::F {
        isa.load_f16(w)
    }
    fn item(b: &[u8]) -> u16 {
        u16::from_le_bytes([b[0], b[1]])
    }
    fn put(item: u16, bytes: &mut [u8]) {
        bytes.copy_from_slice(&item.to_le_bytes());
    }
}

/// BF16.
pub(crate) struct BF16;
impl FloatFormat for BF16 {
    type Item = u16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, w: &[u16; GROUP]) -> I::F {
        isa.load_bf16(w)
    }
    fn item(b: &[u8]) -> u16 {
        u16::from_le_bytes([b[0], b[1]])
    }
    fn put(item: u16, bytes: &mut [u8]) {
        bytes.copy_from_slice(&item.to_le_bytes());
    }
}

/// The piece's rows for all its tokens.
#[inline(always)]
pub(crate) fn rows<I: Isa, F: FloatFormat>(isa: I, p: &Piece<'_>)
where
    FloatUnit<F::Item>: Pod,
{
    let k = p.w.k();
    let per_group = k.div_ceil(UNIT_K);
    let Some(units) = cast::<FloatUnit<F::Item>>(p.w.bytes()) else { return };
    let groups = |g: usize| &units[g * per_group..(g + 1) * per_group];
    // Several groups at once hide the latency of the one chain that each output is, and share what is read of the
    // activations; two of them stay in the first-level cache while the tokens pass by.
    macro_rules! tokens {
        ($groups:expr, $g:expr, $t:ident, $width:expr; $($count:literal)*) => {
            match $width {
                $($count if I::TOKENS >= $count => {
                    let mut x: [&[f32]; $count] = [&[]; $count];
                    for (i, x) in x.iter_mut().enumerate() {
                        *x = p.floats($t + i);
                    }
                    tile::<I, F, _, $count>(isa, p, $groups, x, $g, $t);
                    $t += $count;
                })*
                _ => {
                    tile::<I, F, _, 1>(isa, p, $groups, [p.floats($t)], $g, $t);
                    $t += 1;
                }
            }
        };
    }
    // As many passes as the registers ask for, of one width or nearly.
    let width = |left: usize| left.div_ceil(left.div_ceil(I::TOKENS));
    let mut g = p.groups.start;
    while g < p.groups.end {
        let mut t = 0;
        let left = p.groups.end - g;
        if left >= 6 && p.stream.read_by::<I>(p.tokens == 1) == Stream::Followed {
            // So many streams are followed, and the more there are the fewer end where rows do.
            let six: [_; 6] = std::array::from_fn(|i| groups(g + i));
            tile::<I, F, _, 1>(isa, p, six, [p.floats(t)], g, t);
            g += 6;
        } else if left >= 4 && p.tokens < 4 {
            let quad = [groups(g), groups(g + 1), groups(g + 2), groups(g + 3)];
            while t < p.tokens {
                // Twice the groups of below, so half the tokens.
                let width = if I::TOKENS >= 8 { p.tokens - t } else { 1 };
                tokens!(quad, g, t, width; 2 3);
            }
            g += 4;
        } else if left >= 2 {
            let pair = [groups(g), groups(g + 1)];
            while t < p.tokens {
                tokens!(pair, g, t, width(p.tokens - t); 2 3 4 5 6 7 8);
            }
            g += 2;
        } else {
            while t < p.tokens {
                tokens!([groups(g)], g, t, width(p.tokens - t); 2 4 8);
            }
            g += 1;
        }
    }
}

#[inline(always)]
fn tile<I: Isa, F: FloatFormat, const G: usize, const T: usize>(
    isa: I,
    p: &Piece<'_>,
    groups: [&[FloatUnit<F::Item>]; G],
    x: [&[f32]; T],
    first_group: usize,
    first_token: usize,
) {
    let mut acc = [[isa.splat(0.0); T]; G];
    let whole = x[0].len() / UNIT_K;
    for u in 0..groups[0].len() {
        let steps = if u < whole { UNIT_K } else { x[0].len() % UNIT_K };
        for kk in 0..steps {
            let k = u * UNIT_K + kk;
            let mut xs = [isa.splat(0.0); T];
            for t in 0..T {
                xs[t] = isa.splat(x[t][k]);
            }
            for g in 0..G {
                let w = &groups[g][u].w[kk];
                // A line at a time; the groups are so many streams, of which each is this far ahead.
                if T <= 2 && kk * size_of_val(w) % 64 == 0 {
                    p.stream.read_by::<I>(T == 1).ask(
                        isa,
                        std::ptr::from_ref(w).cast(),
                        PREFETCH_BYTES / G,
                        true,
                    );
                }
                let w = F::load(isa, w);
                for t in 0..T {
                    acc[g][t] = isa.fma(w, xs[t], acc[g][t]);
                }
            }
        }
    }
    for g in 0..G {
        for t in 0..T {
            p.store(isa, first_group + g, first_token + t, acc[g][t]);
        }
    }
}
