//! Which tensor is stored as what: llama.cpp's mixes as a table. The names say the type of most matrices; some matrices
//! hurt more when they lose bits, and get more of them. Source of the rules: `llama-quant.cpp` of llama.cpp.

use smallmind_kernels::DType;

use crate::model::slots::{Shape, Slot};

/// A named choice of types.
#[derive(Debug)]
pub struct Mix {
    /// As `--type` and GGUF call it.
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// Type of what no rule names.
    pub base: DType,
    rules: &'static [Rule],
}

/// Matrices of these slots, in layers where `when` holds, get this type; the first rule that fits counts.
#[derive(Debug)]
struct Rule {
    slots: &'static [Slot],
    when: When,
    dtype: DType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// The first n layers.
    First(usize),
    /// The first 1/n of the layers.
    FirstPart(usize),
    /// The first eighth, where importances are known.
    FirstEighthByImportance,
    /// The first and last eighth, and every third layer between.
    MoreBits,
    /// At least four query heads share a key/value head, so V is small.
    SharedByFour,
}

const fn rule(slots: &'static [Slot], when: When, dtype: DType) -> Rule {
    Rule { slots, when, dtype }
}

const fn mix(name: &'static str, file_type: u32, base: DType, rules: &'static [Rule]) -> Mix {
    Mix { name, file_type, base, rules }
}

const VALUES: &[Slot] = &[Slot::AttnV, Slot::AttnQkv];
const OUT: &[Slot] = &[Slot::AttnOut];
const DOWN: &[Slot] = &[Slot::MlpDown];

/// Every mix, smallest first within its kind.
pub const MIXES: &[Mix] = &[
    mix("F32", 0, DType::F32, &[]),
    mix("F16", 1, DType::F16, &[]),
    mix("BF16", 32, DType::BF16, &[]),
    mix("Q8_0", 7, DType::Q8_0, &[]),
    mix("Q4_0", 2, DType::Q4_0, &[rule(DOWN, When::FirstEighthByImportance, DType::Q4_1)]),
    mix("Q4_1", 3, DType::Q4_1, &[]),
    mix("Q5_0", 8, DType::Q5_0, &[rule(DOWN, When::FirstEighthByImportance, DType::Q5_1)]),
    mix("Q5_1", 9, DType::Q5_1, &[]),
    mix(
        "Q2_K",
        10,
        DType::Q2_K,
        &[
            rule(VALUES, When::SharedByFour, DType::Q4_K),
            rule(VALUES, When::Always, DType::Q3_K),
            rule(DOWN, When::Always, DType::Q3_K),
            rule(OUT, When::Always, DType::Q3_K),
        ],
    ),
    mix("Q3_K_S", 11, DType::Q3_K, &[]),
    mix(
        "Q3_K_M",
        12,
        DType::Q3_K,
        &[
            rule(VALUES, When::First(2), DType::Q5_K),
            rule(VALUES, When::Always, DType::Q4_K),
            rule(DOWN, When::FirstPart(16), DType::Q5_K),
            rule(DOWN, When::Always, DType::Q4_K),
            rule(OUT, When::Always, DType::Q4_K),
        ],
    ),
    mix(
        "Q3_K_L",
        13,
        DType::Q3_K,
        &[
            rule(VALUES, When::Always, DType::Q5_K),
            rule(DOWN, When::Always, DType::Q5_K),
            rule(OUT, When::Always, DType::Q5_K),
        ],
    ),
    mix(
        "Q4_K_S",
        14,
        DType::Q4_K,
        &[rule(VALUES, When::First(4), DType::Q5_K), rule(DOWN, When::FirstPart(8), DType::Q5_K)],
    ),
    mix(
        "Q4_K_M",
        15,
        DType::Q4_K,
        &[rule(VALUES, When::MoreBits, DType::Q6_K), rule(DOWN, When::MoreBits, DType::Q6_K)],
    ),
    mix("Q5_K_S", 16, DType::Q5_K, &[]),
    mix(
        "Q5_K_M",
        17,
        DType::Q5_K,
        &[rule(VALUES, When::MoreBits, DType::Q6_K), rule(DOWN, When::MoreBits, DType::Q6_K)],
    ),
    mix("Q6_K", 18, DType::Q6_K, &[]),
];

/// Other names of mixes.
const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

/// Layers of the models of 70 billion parameters, whose V matrices are an eighth of Q's: more bits for them cost nothing.
const DEEP: usize = 80;

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) slot: Slot,
    pub(super) layer: usize,
    pub(super) layers: usize,
    /// Query heads that share one key/value head.
    pub(super) group: usize,
    /// Whether importances are given.
    pub(super) importance: bool,
    /// Whether the embedding is the output matrix too.
    pub(super) tied: bool,
}

impl Mix {
    /// The mix of that name, in either case.
    pub fn find(name: &str) -> Option<&'static Mix> {
        let is = |n: &str| n.eq_ignore_ascii_case(name);
        let name_of = ALIASES.iter().find(|(alias, _)| is(alias)).map_or(name, |(_, mix)| mix);
        MIXES.iter().find(|m| m.name.eq_ignore_ascii_case(name_of))
    }

    /// The type of the matrix at a place whose rows have `k` values, before [`fitting`].
    pub(super) fn dtype(&self, at: Place, k: usize) -> DType {
        if at.slot == Slot::Output || (at.slot == Slot::TokenEmbd && at.tied) {
            return match self.base {
                DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0 => self.base,
                base if !k.is_multiple_of(base.block_len()) => DType::Q8_0,
                _ => DType::Q6_K,
            };
        }
        let fits = |rule: &&Rule| rule.slots.contains(&at.slot) && rule.when.holds(at);
        let dtype = self.rules.iter().find(fits).map_or(self.base, |rule| rule.dtype);
        let few = matches!(dtype, DType::Q3_K | DType::Q4_K);
        if few && at.layers == DEEP && VALUES.contains(&at.slot) { DType::Q5_K } else { dtype }
    }
}

impl When {
    fn holds(self, at: Place) -> bool {
        let (i, n) = (at.layer, at.layers);
        match self {
            When::Always => true,
            When::First(count) => i < count,
            When::FirstPart(part) => i < n / part,
            When::FirstEighthByImportance => at.importance && i < n / 8,
            When::MoreBits => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            When::SharedByFour => at.group >= 4,
        }
    }
}

/// `dtype`, or for rows of `k` values that are no whole blocks of it the type of shorter blocks that comes nearest.
pub(super) fn fitting(dtype: DType, k: usize) -> DType {
    if k.is_multiple_of(dtype.block_len()) {
        return dtype;
    }
    let shorter = match dtype {
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    if k.is_multiple_of(shorter.block_len()) { shorter } else { DType::F16 }
}

/// Whether weights of a slot are ever quantized: matrices, but for learned positions, which are few and added as they are.
pub(super) fn quantizable(slot: Slot, shape: Shape) -> bool {
    matches!(shape, Shape::Matrix(..)) && slot != Slot::PositionEmbd
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: Slot, layer: usize) -> Place {
        Place { slot, layer, layers: 32, group: 4, importance: false, tied: false }
    }

    #[test]
    fn names_and_aliases_are_found_in_either_case() {
        for mix in MIXES {
            assert_eq!(Mix::find(&mix.name.to_lowercase()).map(|m| m.name), Some(mix.name));
        }
        assert_eq!(Mix::find("q4_k").map(|m| m.name), Some("Q4_K_M"));
        assert!(Mix::find("IQ4_NL").is_none());
    }

    #[test]
    fn sensitive_matrices_get_more_bits() {
        let of = |name: &str, slot, layer| Mix::find(name).unwrap().dtype(at(slot, layer), 4096);
        assert_eq!(of("Q4_K_M", Slot::AttnV, 0), DType::Q6_K);
        assert_eq!(of("Q4_K_M", Slot::AttnV, 4), DType::Q4_K);
        assert_eq!(of("Q4_K_M", Slot::MlpDown, 6), DType::Q6_K);
        assert_eq!(of("Q4_K_M", Slot::MlpDown, 28), DType::Q6_K);
        assert_eq!(of("Q4_K_M", Slot::MlpUp, 0), DType::Q4_K);
        assert_eq!(of("Q4_K_S", Slot::AttnV, 3), DType::Q5_K);
        assert_eq!(of("Q4_K_S", Slot::MlpDown, 4), DType::Q4_K);
        assert_eq!(of("Q3_K_M", Slot::MlpDown, 1), DType::Q5_K);
        assert_eq!(of("Q3_K_M", Slot::AttnOut, 1), DType::Q4_K);
        assert_eq!(of("Q2_K", Slot::AttnV, 9), DType::Q4_K);
        assert_eq!(of("Q4_0", Slot::Output, 0), DType::Q6_K);
        assert_eq!(of("Q8_0", Slot::Output, 0), DType::Q8_0);
        assert_eq!(of("F16", Slot::Output, 0), DType::F16);
    }

    #[test]
    fn what_importance_depth_and_ties_change() {
        let of = |name: &str, at: Place| Mix::find(name).unwrap().dtype(at, 4096);
        let down = Place { importance: true, ..at(Slot::MlpDown, 3) };
        assert_eq!((of("Q4_0", down), of("Q4_0", at(Slot::MlpDown, 3))), (DType::Q4_1, DType::Q4_0));
        let deep = Place { layers: 80, layer: 40, ..at(Slot::AttnV, 40) };
        assert_eq!(of("Q3_K_S", deep), DType::Q5_K);
        let embedding = at(Slot::TokenEmbd, 0);
        assert_eq!(of("Q4_K_M", embedding), DType::Q4_K);
        assert_eq!(of("Q4_K_M", Place { tied: true, ..embedding }), DType::Q6_K);
        assert_eq!(of("Q2_K", Place { group: 3, ..at(Slot::AttnV, 9) }), DType::Q3_K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_take_a_shorter_type() {
        assert_eq!(fitting(DType::Q4_K, 512), DType::Q4_K);
        assert_eq!(fitting(DType::Q4_K, 576), DType::Q5_0);
        assert_eq!(fitting(DType::Q6_K, 576), DType::Q8_0);
        assert_eq!(fitting(DType::Q2_K, 100), DType::F16);
        assert_eq!(fitting(DType::Q8_0, 100), DType::F16);
        assert_eq!(fitting(DType::BF16, 100), DType::BF16);
    }
}
