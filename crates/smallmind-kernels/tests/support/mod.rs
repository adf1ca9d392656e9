//! What the kernel tests share: random and adversarial numbers, aligned buffers, pages of a KV cache, and the comparison
//! of bits. It computes nothing that a kernel computes; `contract` does, in its own way.

pub(crate) mod contract;
pub(crate) mod products;
pub(crate) mod weights;

use std::ops::Range;

use smallmind_kernels::attention::{
    PageMut, PageRef, PageTask, Partial, Queries, integer_page_len, padded, page_len, q8_page_len,
};
use smallmind_kernels::matmul::{ActMeta, ActQuants, Class, TILE, act_blocks, act_len, act_rows};
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{ALIGN, Kernels, available};

/// SplitMix64: the same numbers on every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// In [-1, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub(crate) fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    /// Of random sign and mantissa, between 10^-`decades` and 10^`decades`.
    pub(crate) fn spread(&mut self, decades: f32) -> f32 {
        let size = 10.0_f32.powf(decades * self.unit());
        size * (1.0 + self.unit().abs()) * if self.bits() & 1 == 0 { 1.0 } else { -1.0 }
    }
}

/// Finite vectors of `n` values that kernels could get wrong, each with its name.
pub(crate) fn adversarial(n: usize, seed: u64) -> Vec<(&'static str, Vec<f32>)> {
    let mut r = Random::new(seed ^ n as u64);
    let sign = |i: usize| if i % 3 == 1 { -1.0 } else { 1.0 };
    let mut vectors = vec![
        ("zeros", vec![0.0; n]),
        ("zeros of both signs", (0..n).map(|i| 0.0 * sign(i)).collect()),
        ("the largest values", (0..n).map(|i| f32::MAX * sign(i)).collect()),
        ("one large value", (0..n).map(|i| if i == n / 2 { -1e30 } else { 1e-30 }).collect()),
        ("ties", (0..n).map(|i| (i % 255) as f32 - 127.0 + if i % 2 == 0 { 0.5 } else { 0.0 }).collect()),
    ];
    let mut random = |name, f: &mut dyn FnMut(&mut Random, usize) -> f32| {
        vectors.push((name, (0..n).map(|i| f(&mut r, i)).collect::<Vec<f32>>()));
    };
    random("units", &mut |r, _| r.unit());
    random("activations", &mut |r, _| 20.0 * r.unit());
    random("denormals", &mut |r, i| f32::from_bits((r.bits() as u32 & 0x007f_ffff) >> r.below(23)) * sign(i));
    random("nearly denormals", &mut |r, _| 4e-37 * r.unit());
    random("a huge spread", &mut |r, _| r.spread(37.0));
    random("cancelling", &mut |r, i| 1e7 * sign(i) * if i % 3 == 2 { 0.5 } else { 1.0 } + r.unit());
    vectors
}

/// A pool of `threads` threads; of one where there are no threads.
pub(crate) fn pool(threads: usize) -> Pool {
    Pool::new(if cfg!(target_family = "wasm") { 1 } else { threads }).unwrap()
}

/// The plain table and the others of this CPU.
pub(crate) fn scalar_and_others() -> (&'static Kernels, Vec<&'static Kernels>) {
    let mut all = available();
    let scalar = all.pop().unwrap();
    assert_eq!(scalar.name, "scalar", "the plain table is the last");
    if all.is_empty() {
        println!("this CPU has no ISA to compare with plain Rust");
    }
    (scalar, all)
}

/// Asserts that two slices have equal bits; a NaN equals any NaN.
#[track_caller]
pub(crate) fn assert_bits(found: &[f32], expected: &[f32], context: impl FnOnce() -> String) {
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert_eq!(found.len(), expected.len(), "lengths");
    if let Some(i) = (0..found.len()).find(|&i| !same(found[i], expected[i])) {
        panic!("{}: value {i} is {:e}, expected {:e}", context(), found[i], expected[i]);
    }
}

/// Bytes on the boundary that packed matrices need.
pub(crate) struct Aligned {
    room: Vec<u8>,
    range: Range<usize>,
}

impl Aligned {
    /// `len` bytes, not zero: what a buffer that is used again holds.
    pub(crate) fn used(len: usize) -> Aligned {
        let room = vec![0xa5; len + ALIGN];
        let start = room.as_ptr().align_offset(ALIGN);
        Aligned { room, range: start..start + len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[self.range.clone()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.range.clone()]
    }
}

/// Quantized activations.
pub(crate) struct Quantized {
    pub(crate) quants: Vec<ActQuants>,
    pub(crate) metas: Vec<ActMeta>,
}

impl Quantized {
    /// `x` as the fast class takes it.
    pub(crate) fn rounded(kernels: &Kernels, x: &[f32], k: usize) -> Quantized {
        let tokens = x.len() / k;
        let len = act_len(tokens, k, Class::Fast);
        let mut this = Quantized { quants: vec![ActQuants::ZERO; len], metas: vec![ActMeta::ZERO; len] };
        let height = act_rows(tokens, Class::Fast).min(TILE);
        let tile = height * act_blocks(k);
        for (t, x) in x.chunks_exact(k).enumerate() {
            let at = t / TILE * tile..(t / TILE + 1) * tile;
            (kernels.fast.round)(x, height, t % TILE, &mut this.quants[at]);
        }
        this
    }

    /// Of `x`, `[tokens, k]`, over what a buffer that is used again holds.
    pub(crate) fn new(kernels: &Kernels, x: &[f32], k: usize) -> Quantized {
        let tokens = x.len() / k;
        let len = act_len(tokens, k, Class::Exact);
        let mut this = Quantized { quants: vec![ActQuants::ZERO; len], metas: vec![ActMeta::ZERO; len] };
        let height = act_rows(tokens, Class::Exact).min(TILE);
        for pass in 0..2 {
            let tile = height * act_blocks(k);
            for (t, x) in x.chunks_exact(k).enumerate() {
                let ones = vec![1.0; act_blocks(k) * 32];
                let at = t / TILE * tile..(t / TILE + 1) * tile;
                let (quants, metas) = (&mut this.quants[at.clone()], &mut this.metas[at]);
                (kernels.quantize)(if pass == 0 { &ones } else { x }, 0, height, t % TILE, quants, metas);
            }
        }
        this
    }
}

/// One page of the KV cache of one head.
#[derive(Clone)]
pub(crate) enum Page {
    I16(Vec<i16>, Vec<f32>),
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8(Vec<i8>, Vec<u16>),
}

impl Page {
    pub(crate) fn q8(head_dim: usize) -> Page {
        let (quants, scales) = q8_page_len(head_dim);
        Page::Q8(vec![0; quants], vec![0; scales])
    }

    /// One of each type.
    pub(crate) fn all(head_dim: usize) -> [Page; 4] {
        [Page::i16(head_dim), Page::f16(head_dim), Page::f32(head_dim), Page::q8(head_dim)]
    }

    pub(crate) fn i16(head_dim: usize) -> Page {
        let (words, units) = integer_page_len(head_dim);
        Page::I16(vec![0; words], vec![0.0; units])
    }

    pub(crate) fn f16(head_dim: usize) -> Page {
        Page::F16(vec![0; page_len(head_dim)])
    }

    pub(crate) fn f32(head_dim: usize) -> Page {
        Page::F32(vec![0.0; page_len(head_dim)])
    }

    pub(crate) fn write(&mut self, kernels: &Kernels, slot: usize, k: &[f32], v: &[f32]) {
        let page = match self {
            Page::I16(words, units) => PageMut::I16 { words, units },
            Page::F16(p) => PageMut::F16(p),
            Page::F32(p) => PageMut::F32(p),
            Page::Q8(quants, scales) => PageMut::Q8 { quants, scales },
        };
        (kernels.write_kv)(page, slot, k, v);
    }

    /// The bits of everything stored.
    pub(crate) fn bits(&self) -> Vec<u32> {
        match self {
            Page::I16(words, units) => {
                words.iter().map(|v| *v as u32).chain(units.iter().map(|v| v.to_bits())).collect()
            }
            Page::F16(p) => p.iter().map(|&v| v.into()).collect(),
            Page::F32(p) => p.iter().map(|v| v.to_bits()).collect(),
            Page::Q8(quants, scales) => {
                quants.iter().map(|v| *v as u32).chain(scales.iter().map(|&v| v.into())).collect()
            }
        }
    }

    fn view(&self) -> PageRef<'_> {
        match self {
            Page::I16(words, units) => PageRef::I16 { words, units },
            Page::F16(p) => PageRef::F16(p),
            Page::F32(p) => PageRef::F32(p),
            Page::Q8(quants, scales) => PageRef::Q8 { quants, scales },
        }
    }

    /// Attends `seen.len()` queries at once; rows of queries that see nothing are NaN.
    pub(crate) fn attend(
        &self,
        attend_page: fn(&mut PageTask<'_>),
        head_dim: usize,
        q: &[f32],
        seen: &[Range<usize>],
    ) -> (Vec<Partial>, Vec<f32>) {
        let width = padded(head_dim);
        let mut state = vec![Partial { max: f32::NAN, sum: f32::NAN }; seen.len()];
        let mut out = vec![f32::NAN; seen.len() * width];
        attend_page(&mut PageTask {
            page: self.view(),
            q: Queries { rows: q, group: 1, stride: head_dim },
            head_dim,
            seen,
            state: &mut state,
            out: &mut out,
        });
        for (row, seen) in out.chunks_exact_mut(width).zip(seen) {
            if seen.is_empty() {
                row.fill(f32::NAN);
            }
        }
        (state, out)
    }
}
