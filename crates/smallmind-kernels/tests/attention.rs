//! Attention over several pages of the KV cache: the same bits however queries are grouped, and close to softmax
//! attention in f64.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program: failing is its job"
)]

#[allow(dead_code, reason = "each test program uses a part")]
mod support;

use std::ops::Range;

use proptest::prelude::*;
use smallmind_kernels::attention::{PAGE, Partial, padded};
use smallmind_kernels::half::{f16_to_f32, f32_to_f16};
use smallmind_kernels::{Kernels, available};
use support::{Page, Random, assert_bits};

/// The keys and values of one head, in pages.
struct Cache {
    head_dim: usize,
    pages: Vec<Page>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Cache {
    fn random(kernels: &Kernels, empty: Page, head_dim: usize, positions: usize, r: &mut Random) -> Cache {
        let mut pages = vec![empty; positions.div_ceil(PAGE)];
        let (k, v) = (r.units(positions * head_dim), r.units(positions * head_dim));
        for (i, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            pages[i / PAGE].write(kernels, i % PAGE, k, v);
        }
        Cache { head_dim, pages, k, v }
    }

    /// What the cache keeps of what it was given.
    fn stored(&self) -> (Vec<f32>, Vec<f32>) {
        let bytes = |x: &[f32]| -> Vec<f32> {
            let scale = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
            let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let quant = |x: &f32| (x * factor).round_ties_even();
            x.iter().map(|x| quant(x) * f16_to_f32(f32_to_f16(scale))).collect()
        };
        let words = |x: &[f32]| -> Vec<f32> {
            let unit = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 8_191.0;
            x.iter().map(|x| (x * (1.0 / unit)).round_ties_even() * unit).collect()
        };
        let keep = |x: &Vec<f32>| match &self.pages[0] {
            Page::I16(..) => x.chunks(self.head_dim).flat_map(words).collect(),
            Page::F16(_) => x.iter().map(|x| f16_to_f32(f32_to_f16(*x))).collect(),
            Page::F32(_) => x.clone(),
            Page::Q8(..) => x.chunks(self.head_dim).flat_map(|x| x.chunks(32)).flat_map(bytes).collect(),
        };
        (keep(&self.k), keep(&self.v))
    }

    /// How far outputs may be from those of what was given.
    fn bound(&self) -> f64 {
        match self.pages[0] {
            Page::F32(_) => 1e-5,
            Page::I16(..) | Page::F16(_) => 1e-3,
            Page::Q8(..) => 0.02,
        }
    }

    /// How far outputs may be from those of what is stored.
    fn rounding(&self) -> f64 {
        match self.pages[0] {
            // Queries and weights become integers, too.
            Page::I16(..) => 1e-3,
            _ => 1e-5,
        }
    }

    /// Queries in groups of `group`: pages ascending, partial results merged, `[queries, padded(head_dim)]`.
    fn attend(&self, kernels: &Kernels, q: &[f32], seen: &[Range<usize>], group: usize) -> Vec<f32> {
        let width = padded(self.head_dim);
        let mut all = Vec::new();
        for (q, seen) in q.chunks(group * self.head_dim).zip(seen.chunks(group)) {
            let mut states = vec![Partial::EMPTY; seen.len()];
            let mut out = vec![0.0; seen.len() * width];
            for (i, page) in self.pages.iter().enumerate() {
                let clip = |at: usize| at.clamp(i * PAGE, (i + 1) * PAGE) - i * PAGE;
                let here: Vec<Range<usize>> = seen.iter().map(|s| clip(s.start)..clip(s.end)).collect();
                let (page_states, page_out) = page.attend(kernels.attend_page, self.head_dim, q, &here);
                let rows = out.chunks_exact_mut(width).zip(page_out.chunks_exact(width));
                for ((state, page), (out, page_out)) in states.iter_mut().zip(page_states).zip(rows) {
                    (kernels.merge_partial)(state, out, page, page_out);
                }
            }
            for (state, out) in states.iter().zip(out.chunks_exact_mut(width)) {
                (kernels.finish_attention)(*state, out);
            }
            all.extend(out);
        }
        all
    }
}

/// Softmax attention of one query in f64.
fn reference(head_dim: usize, q: &[f32], k: &[f32], v: &[f32], seen: Range<usize>) -> Vec<f64> {
    let row = |x: &[f32], i: usize| -> Vec<f64> {
        x[i * head_dim..(i + 1) * head_dim].iter().map(|v| f64::from(*v)).collect()
    };
    let q = row(q, 0);
    let scores: Vec<f64> = seen.clone().map(|i| row(k, i).iter().zip(&q).map(|(k, q)| k * q).sum()).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let mut out = vec![0.0; head_dim];
    for (i, score) in seen.zip(scores) {
        let weight = (score - max).exp() / total;
        out.iter_mut().zip(row(v, i)).for_each(|(o, v)| *o += weight * v);
    }
    out
}

/// Queries scaled as in a model, each with the positions it sees: itself and all before, or a window of them.
fn queries(head_dim: usize, positions: usize, n: usize, r: &mut Random) -> (Vec<f32>, Vec<Range<usize>>) {
    let scale = 4.0 / (head_dim as f32).sqrt();
    let q = r.units(n * head_dim).iter().map(|q| q * scale).collect();
    let seen = (0..n)
        .map(|i| match i % 4 {
            0 => 0..positions - i % positions,
            1 => (positions - i % positions).saturating_sub(300)..positions - i % positions,
            2 => 0..1 + r.below(positions),
            _ => {
                let from = r.below(positions);
                from..from + 1 + r.below(positions - from)
            }
        })
        .collect();
    (q, seen)
}

#[track_caller]
fn within(found: &[f32], expected: &[f64], bound: f64, context: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= bound, "{context}: {found} is {error:e} from {expected}");
    }
}

#[test]
fn queries_in_any_grouping_and_on_any_isa_give_the_same_bits() {
    let mut r = Random::new(1);
    for head_dim in [1, 8, 24, 64, 80, 128, 256, 260] {
        for empty in Page::all(head_dim) {
            for positions in [9, 256, 257, 700] {
                let cache = Cache::random(available()[0], empty.clone(), head_dim, positions, &mut r);
                let (q, seen) = queries(head_dim, positions, 35, &mut r);
                let expected = cache.attend(available()[0], &q, &seen, 1);
                assert!(expected.iter().all(|v| v.is_finite()));
                for kernels in available() {
                    for group in [1, 2, 3, 4, 5, 9, 12, 17, 18, 35] {
                        let found = cache.attend(kernels, &q, &seen, group);
                        assert_bits(&found, &expected, || {
                            format!("{group} at once, head_dim {head_dim}, {positions} on {}", kernels.name)
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn attention_over_pages_is_softmax_attention() {
    let mut r = Random::new(2);
    for head_dim in [8, 16, 24, 64, 80, 128, 256] {
        for empty in Page::all(head_dim) {
            for positions in [8, 255, 256, 800] {
                let cache = Cache::random(available()[0], empty.clone(), head_dim, positions, &mut r);
                let (q, seen) = queries(head_dim, positions, 8, &mut r);
                let (k, v) = cache.stored();
                for kernels in available() {
                    let out = cache.attend(kernels, &q, &seen, 8);
                    for (i, out) in out.chunks_exact(padded(head_dim)).enumerate() {
                        let q = &q[i * head_dim..(i + 1) * head_dim];
                        let (out, rest) = out.split_at(head_dim);
                        let context = format!("head_dim {head_dim}, {:?} on {}", seen[i], kernels.name);
                        let of_stored = reference(head_dim, q, &k, &v, seen[i].clone());
                        within(out, &of_stored, cache.rounding(), &context);
                        let of_given = reference(head_dim, q, &cache.k, &cache.v, seen[i].clone());
                        within(out, &of_given, cache.bound(), &context);
                        assert!(rest.iter().all(|v| *v == 0.0), "{context}: the padding is zero");
                    }
                }
            }
        }
    }
}

#[test]
fn one_seen_position_gives_its_value_exactly() {
    let mut r = Random::new(3);
    for head_dim in [8, 64, 80] {
        let cache = Cache::random(available()[0], Page::f32(head_dim), head_dim, 600, &mut r);
        let q = r.units(4 * head_dim);
        let seen = [0..1, 255..256, 256..257, 599..600];
        for kernels in available() {
            let out = cache.attend(kernels, &q, &seen, 4);
            for (out, seen) in out.chunks_exact(padded(head_dim)).zip(&seen) {
                let v = &cache.v[seen.start * head_dim..seen.end * head_dim];
                assert_bits(&out[..head_dim], v, || format!("{seen:?} on {}", kernels.name));
            }
        }
    }
}

#[test]
fn what_a_query_does_not_see_changes_no_bit_of_its_output() {
    let (head_dim, mut r) = (64, Random::new(4));
    for empty in Page::all(head_dim) {
        for kernels in available() {
            let mut cache = Cache::random(kernels, empty.clone(), head_dim, 512, &mut r);
            let q = r.units(3 * head_dim);
            // The third query makes the kernel pass over all positions.
            let seen = [5..300, 290..291, 0..512];
            let before = cache.attend(kernels, &q, &seen, 3);
            for slot in [0, 1, 4, 300 % PAGE, 301 % PAGE, PAGE - 1] {
                let page = usize::from(slot != 0 && slot != 1 && slot != 4);
                // So large that even the smallest weight there is, e^-87, would show.
                let size = if let Page::F32(_) | Page::I16(..) = empty { 1e38 } else { 6e4 };
                let huge: Vec<f32> = r.units(head_dim).iter().map(|v| size * v).collect();
                cache.pages[page].write(kernels, slot, &r.units(head_dim), &huge);
            }
            let after = cache.attend(kernels, &q, &seen, 3);
            let (theirs, last) = (2 * head_dim, 3 * head_dim);
            assert_bits(&after[..theirs], &before[..theirs], || format!("on {}", kernels.name));
            assert_ne!(after[theirs..last], before[theirs..last], "the third query sees the change");
        }
    }
}

#[test]
fn scores_that_are_far_apart_leave_the_largest_alone() {
    let head_dim = 16;
    for kernels in available() {
        // One position of each of two pages stands out by hundreds, one of them more.
        let mut pages = vec![Page::f32(head_dim); 2];
        for (i, page) in pages.iter_mut().enumerate() {
            for slot in 0..PAGE {
                let key = [if slot == 77 { 20.0 + 10.0 * i as f32 } else { -30.0 }; 16];
                page.write(kernels, slot, &key, &[(i * PAGE + slot) as f32; 16]);
            }
        }
        let cache = Cache { head_dim, pages, k: Vec::new(), v: Vec::new() };
        let out = cache.attend(kernels, &[1.0; 16], std::slice::from_ref(&(0..512)), 1);
        assert_eq!(out, [(PAGE + 77) as f32; 16], "on {}", kernels.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes_give_the_same_bits_and_softmax_attention(
        head_dim in 1..=160_usize,
        positions in 10..=600_usize,
        n in 1..=40_usize,
        group in 1..=40_usize,
        stored in 0..4_usize,
        seed: u64,
    ) {
        let mut r = Random::new(seed);
        let empty = Page::all(head_dim)[stored].clone();
        let cache = Cache::random(available()[0], empty, head_dim, positions, &mut r);
        let (q, seen) = queries(head_dim, positions, n, &mut r);
        let expected = cache.attend(available()[0], &q, &seen, 1);
        let (k, v) = cache.stored();
        for (i, out) in expected.chunks_exact(padded(head_dim)).enumerate() {
            let of_stored = reference(head_dim, &q[i * head_dim..][..head_dim], &k, &v, seen[i].clone());
            within(out, &of_stored, cache.rounding(), &format!("head_dim {head_dim}, {:?}", seen[i]));
        }
        for kernels in available() {
            let found = cache.attend(kernels, &q, &seen, group);
            assert_bits(&found, &expected, || format!("{group} at once on {}", kernels.name));
        }
    }
}
