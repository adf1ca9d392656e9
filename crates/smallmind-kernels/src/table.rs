//! The kernel tables: one per ISA, chosen once. Every entry is the generic body compiled for that ISA's instructions.
#![allow(unsafe_code, reason = "calls functions compiled for instructions whose proof is in hand")]

use std::sync::OnceLock;

use crate::dtype::DType;
use crate::gemm::Mat;
use crate::gemm::bf16::Piece as BfGemmPiece;
#[cfg(target_arch = "x86_64")]
use crate::gemm::bf16_tile;
use crate::gemm::piece::{self as gemm, Piece as GemmPiece};
use crate::isa::Isa;
#[cfg(all(target_arch = "x86_64", debug_assertions))]
use crate::isa::avx2::Avx512Vl;
use crate::isa::scalar::Scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use crate::isa::wasm::Simd128;
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    amx,
    amx_proof::Amx,
    avx2::{Avx2, AvxVnni},
    avx512::{Avx512, Avx512Bw},
};
#[cfg(target_arch = "aarch64")]
use crate::isa::{
    i8mm::I8mm,
    neon::{Neon, NeonDotprod},
};
use crate::matmul::acts::{ActMeta, ActQuants};
use crate::matmul::tile::{self, Leaves, Piece};
use crate::matmul::{self, int8, takes_quantized};
use crate::ops::attention::{self, PageTask, Partial};
use crate::ops::backward::AdamStep;
use crate::ops::pages::{self, PageMut};
#[cfg(target_arch = "x86_64")]
use crate::ops::tile_attention;
use crate::ops::{activation, backward, elementwise, norm, quantize, rope};

/// The functions of one ISA. Slices of one call have equal lengths unless said otherwise.
pub struct Kernels {
    /// What `SMALLMIND_ISA` calls it.
    pub name: &'static str,
    pub(crate) matmul_piece: fn(&Piece<'_>),
    /// Quantizes a part of one row of a tile of activations: all of `x`, the first of its spans that is wanted, the tile's
    /// height, the row in it, and as many of the tile's blocks, `[blocks, height]`, of all [`act_blocks`] or fewer.
    ///
    /// [`act_blocks`]: crate::matmul::act_blocks
    pub quantize: fn(&[f32], usize, usize, usize, &mut [ActQuants], &mut [ActMeta]),
    /// The fast class of products.
    pub fast: FastKernels,
    /// Products of plain matrices in bfloat16, where the CPU has matrix units for it.
    pub bf16: Option<Bf16Kernels>,
    /// RMSNorm of one row: `x`, weight, eps, out.
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// LayerNorm of one row: `x`, weight, bias, eps, out.
    pub layer_norm: fn(&[f32], &[f32], &[f32], f32, &mut [f32]),
    /// RoPE of one head: head, cosines, sines (`rope_dim / 2` each).
    pub rope: fn(&mut [f32], &[f32], &[f32]),
    /// `gate = silu(gate) · up`.
    pub silu_mul: fn(&mut [f32], &[f32]),
    /// `gate = gelu(gate) · up`, tanh form.
    pub gelu_mul: fn(&mut [f32], &[f32]),
    /// `x = silu(x)`.
    pub silu: fn(&mut [f32]),
    /// `x = gelu(x)`, tanh form.
    pub gelu: fn(&mut [f32]),
    /// `x += y`.
    pub add: fn(&mut [f32], &[f32]),
    /// `x *= s`.
    pub scale: fn(&mut [f32], f32),
    /// Writes K and V of one position of one head into its page: page, slot, k, v.
    pub write_kv: fn(PageMut<'_>, usize, &[f32], &[f32]),
    /// Attention of some queries over one page.
    pub attend_page: fn(&mut PageTask<'_>),
    /// Merges a later page's partial attention: state, out, page's state, page's out.
    pub merge_partial: fn(&mut Partial, &mut [f32], Partial, &[f32]),
    /// The attention's output from its weighted sum: state, out.
    pub finish_attention: fn(Partial, &mut [f32]),
    /// `x = softmax(scale · x)`: x, scale, and where ln Σ exp(scale · x) goes.
    pub softmax: fn(&mut [f32], f32, &mut f32),
    /// Softmax of each row's first `from + row + 1` values, zeros behind them for a vector at least; all values are to be
    /// numbers: x, the distance of rows (a multiple of 16), from, scale.
    pub causal_softmax: fn(&mut [f32], usize, usize, f32),
    /// Its derivative, in place: p, dp, the distance of rows, from, scale.
    pub causal_softmax_back: fn(&[f32], &mut [f32], usize, usize, f32),
    /// `dy = dy · gelu'(x)`: x, dy.
    pub gelu_back: fn(&[f32], &mut [f32]),
    /// `dy = dy · silu'(x)`: x, dy.
    pub silu_back: fn(&[f32], &mut [f32]),
    /// `sum[j] += Σ x[i · stride + j]`, rows ascending: x, stride, sum.
    pub column_sums: fn(&[f32], usize, &mut [f32]),
    /// A step of AdamW: its numbers, gradients, weights, and both means.
    pub adamw: fn(&AdamStep, &[f32], &mut [f32], &mut [f32], &mut [f32]),
    /// RMSNorm's derivative: x, weight, eps, dy; adds to dx and dweight.
    pub rms_norm_back: fn(&[f32], &[f32], f32, &[f32], &mut [f32], &mut [f32]),
    /// LayerNorm's derivative: x, weight, eps, dy; adds to dx, dweight and dbias.
    pub layer_norm_back: fn(&[f32], &[f32], f32, &[f32], &mut [f32], &mut [f32], &mut [f32]),
    pub(crate) gemm_pack: fn(Mat<'_>, &mut [f32]),
    pub(crate) gemm_piece: fn(&mut GemmPiece<'_>),
}

/// What the fast class computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPrecision {
    /// Activations of 8 bits with a scale for 32 values; unquantized weights are multiplied as in the exact class.
    Int8,
    /// Weights and activations in bfloat16.
    Bf16,
}

impl std::fmt::Display for FastPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FastPrecision::Int8 => "with activations of 8 bits",
            FastPrecision::Bf16 => "in bfloat16",
        })
    }
}

/// The functions of the fast class ([`crate::matmul::Class`]).
#[derive(Clone, Copy)]
pub struct FastKernels {
    /// Which bits the class has.
    pub precision: FastPrecision,
    pub(crate) matmul_piece: fn(&Piece<'_>),
    /// Makes one row of a tile of activations what products of the class take: as [`Kernels::quantize`] for whole blocks of
    /// 32 values, without what belongs to them besides.
    pub round: fn(&[f32], usize, usize, &mut [ActQuants]),
}

impl FastKernels {
    /// Whether products with these weights are of the class, or else exact.
    pub fn takes(&self, weights: DType) -> bool {
        self.precision == FastPrecision::Bf16 || takes_quantized(weights)
    }
}

/// The functions of [`crate::gemm::bf16`].
#[derive(Clone, Copy)]
pub struct Bf16Kernels {
    pub(crate) gemm_pack_a: fn(Mat<'_>, &mut [ActQuants]),
    pub(crate) gemm_pack_b: fn(Mat<'_>, &mut [ActQuants]),
    pub(crate) gemm_piece: fn(&mut BfGemmPiece<'_>),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}

/// Makes `fn matmul_piece`, a function for each format: in a single one all of them would be inlined, and the compiler
/// takes more time for one long function than for many short ones. `$several` multiplies tiles of several tokens.
macro_rules! matmul_piece {
    ($isa:ident, $compiled:meta, $several:expr) => {
        #[allow(clippy::undocumented_unsafe_blocks, reason = "the lint does not see comments in a macro's arguments")]
        fn matmul_piece(p: &Piece<'_>) {
            matmul::by_format!(p.w.dtype(), F => {
                #[$compiled]
                fn of_format(p: &Piece<'_>) {
                    #[allow(unused_unsafe, reason = "plain Rust needs no proof")]
                    // SAFETY: the table is reachable only through a proof that the CPU has the instructions.
                    tile::rows::<_, F>(unsafe { $isa::assume() }, $several, p);
                }
                #[allow(unused_unsafe, reason = "plain Rust needs no features")]
                // SAFETY: as above.
                unsafe { of_format(p) }
            }, G => {
                #[$compiled]
                fn of_format(p: &Piece<'_>) {
                    #[allow(unused_unsafe, reason = "plain Rust needs no proof")]
                    // SAFETY: as above.
                    float::rows::<_, G>(unsafe { $isa::assume() }, p);
                }
                #[allow(unused_unsafe, reason = "plain Rust needs no features")]
                // SAFETY: as above.
                unsafe { of_format(p) }
            });
        }
    };
}

/// Makes `fn $table(proof) -> &'static Kernels`: for each entry a function with the ISA's target features around the
/// generic body, which is inlined into it with all its leaves.
macro_rules! kernel_table {
    ($table:ident, $isa:ident, $compiled:meta,
     $($field:ident = $body:path: fn($($arg:ident: $ty:ty),*);)*) => {
        fn $table(_proof: $isa) -> &'static Kernels {
            $(
                #[$compiled]
                fn $field($($arg: $ty),*) {
                    #[allow(unused_unsafe, reason = "plain Rust needs no proof")]
                    // SAFETY: the table is reachable only through a proof that the CPU has the instructions.
                    let isa = unsafe { $isa::assume() };
                    $body(isa, $($arg),*);
                }
            )*
            #[$compiled]
            fn round(x: &[f32], height: usize, row: usize, out: &mut [ActQuants]) {
                #[allow(unused_unsafe, reason = "plain Rust needs no proof")]
                // SAFETY: as above.
                int8::quantize(unsafe { $isa::assume() }, x, height, row, out);
            }
            matmul_piece!($isa, $compiled, Leaves);
            fn fast_piece(p: &Piece<'_>) {
                #[$compiled]
                fn of_quantized(p: &Piece<'_>) {
                    #[allow(unused_unsafe, reason = "plain Rust needs no proof")]
                    // SAFETY: as above.
                    int8::piece(unsafe { $isa::assume() }, p);
                }
                if !takes_quantized(p.w.dtype()) {
                    return matmul_piece(p);
                }
                #[allow(unused_unsafe, reason = "plain Rust needs no features")]
                // SAFETY: as above.
                unsafe { of_quantized(p) }
            }
            static TABLE: Kernels = Kernels {
                name: <$isa as Isa>::NAME,
                matmul_piece,
                fast: FastKernels {
                    precision: FastPrecision::Int8,
                    matmul_piece: fast_piece,
                    round: |x, height, row, out| {
                        #[allow(unused_unsafe, reason = "the plain table needs no features")]
                        // SAFETY: this table is handed out only by a function that takes the ISA's proof.
                        unsafe { round(x, height, row, out) }
                    },
                },
                bf16: None,
                $($field: |$($arg),*| {
                    #[allow(unused_unsafe, reason = "the plain table needs no features")]
                    // SAFETY: this table is handed out only by a function that takes the ISA's proof.
                    unsafe { $field($($arg),*) }
                },)*
            };
            &TABLE
        }
    };
}

macro_rules! tables {
    ($($(#[$cfg:meta])* $table:ident, $isa:ident, $compiled:meta;)*) => {
        $($(#[$cfg])* kernel_table!($table, $isa, $compiled,
            quantize = quantize::quantize:
                fn(x: &[f32], first: usize, height: usize, row: usize, quants: &mut [ActQuants], metas: &mut [ActMeta]);
            rms_norm = norm::rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            layer_norm = norm::layer_norm: fn(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
            rope = rope::rope: fn(x: &mut [f32], cos: &[f32], sin: &[f32]);
            silu_mul = activation::silu_mul: fn(gate: &mut [f32], up: &[f32]);
            gelu_mul = activation::gelu_mul: fn(gate: &mut [f32], up: &[f32]);
            silu = activation::silu_in_place: fn(x: &mut [f32]);
            gelu = activation::gelu_in_place: fn(x: &mut [f32]);
            add = elementwise::add: fn(x: &mut [f32], y: &[f32]);
            scale = elementwise::scale: fn(x: &mut [f32], s: f32);
            write_kv = pages::write_kv: fn(page: PageMut<'_>, slot: usize, k: &[f32], v: &[f32]);
            attend_page = attention::attend_page: fn(task: &mut PageTask<'_>);
            merge_partial = attention::merge: fn(state: &mut Partial, out: &mut [f32], page: Partial, page_out: &[f32]);
            finish_attention = attention::finish: fn(state: Partial, out: &mut [f32]);
            softmax = backward::softmax: fn(x: &mut [f32], scale: f32, log_sum: &mut f32);
            causal_softmax = backward::causal_softmax: fn(x: &mut [f32], stride: usize, from: usize, scale: f32);
            causal_softmax_back = backward::causal_softmax_back:
                fn(p: &[f32], dp: &mut [f32], stride: usize, from: usize, scale: f32);
            gelu_back = backward::gelu_back: fn(x: &[f32], dy: &mut [f32]);
            silu_back = backward::silu_back: fn(x: &[f32], dy: &mut [f32]);
            column_sums = backward::column_sums: fn(x: &[f32], stride: usize, sum: &mut [f32]);
            adamw = backward::adamw: fn(s: &AdamStep, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]);
            rms_norm_back = backward::rms_norm_back:
                fn(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]);
            layer_norm_back = backward::layer_norm_back:
                fn(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32], dbias: &mut [f32]);
            gemm_pack = gemm::pack: fn(b: Mat<'_>, out: &mut [f32]);
            gemm_piece = gemm::piece: fn(p: &mut GemmPiece<'_>);
        );)*
    };
}

tables! {
    #[cfg(target_arch = "x86_64")]
    avx512, Avx512, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    avx512bw, Avx512Bw, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    avxvnni, AvxVnni, target_feature(enable = "avxvnni,avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    avx2, Avx2, target_feature(enable = "avx2,fma,f16c");
    #[cfg(all(target_arch = "x86_64", debug_assertions))]
    avx512vl, Avx512Vl, target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2,fma,f16c");
    #[cfg(target_arch = "aarch64")]
    neon_dotprod, NeonDotprod, target_feature(enable = "neon,dotprod");
    #[cfg(target_arch = "aarch64")]
    neon, Neon, target_feature(enable = "neon");
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    simd128, Simd128, inline(never);
    scalar, Scalar, inline(never);
}

/// Makes `fn $table(proof) -> &'static Kernels`: the table of AVX-512 with another matrix product, by tiles.
#[cfg(target_arch = "x86_64")]
macro_rules! tile_table {
    ($(#[$cfg:meta])* $table:ident, $name:literal, $proof:ty, $tiles:ty) => {
        $(#[$cfg])*
        fn $table(_proof: $proof) -> &'static Kernels {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            fn matmul_piece(p: &Piece<'_>) {
                // SAFETY: the table is reachable only through a proof that the CPU has the instructions, and that
                // the process may use the tiles.
                unsafe {
                    let isa = Avx512::assume();
                    matmul::amx::piece::<_, $tiles>(isa, p, avx512(isa).matmul_piece);
                }
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            fn attend_page(task: &mut PageTask<'_>) {
                // SAFETY: as above.
                unsafe {
                    let isa = Avx512::assume();
                    tile_attention::attend_page::<_, $tiles>(isa, task, avx512(isa).attend_page);
                }
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
            fn fast_piece(p: &Piece<'_>) {
                // SAFETY: as above.
                unsafe { matmul::amx::fast::piece::<$tiles>(Avx512::assume(), p) }
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
            fn round(x: &[f32], height: usize, row: usize, out: &mut [ActQuants]) {
                // SAFETY: as above.
                matmul::amx::fast::round::<$tiles>(unsafe { Avx512::assume() }, x, height, row, out);
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
            fn gemm_pack_a(a: Mat<'_>, out: &mut [ActQuants]) {
                // SAFETY: as above.
                bf16_tile::pack_a::<$tiles>(unsafe { Avx512::assume() }, a, out);
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
            fn gemm_pack_b(b: Mat<'_>, out: &mut [ActQuants]) {
                // SAFETY: as above.
                bf16_tile::pack_b::<$tiles>(unsafe { Avx512::assume() }, b, out);
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
            fn bf_gemm_piece(p: &mut BfGemmPiece<'_>) {
                // SAFETY: as above.
                unsafe { bf16_tile::piece::<$tiles>(Avx512::assume(), p) }
            }
            static TABLE: OnceLock<Kernels> = OnceLock::new();
            // SAFETY: the proof holds this one.
            let vectors = avx512(unsafe { Avx512::assume() });
            TABLE.get_or_init(|| Kernels {
                name: $name,
                matmul_piece: |p| {
                    // SAFETY: this table is handed out only by a function that takes the proof.
                    unsafe { matmul_piece(p) }
                },
                attend_page: |task| {
                    // SAFETY: as above.
                    unsafe { attend_page(task) }
                },
                fast: FastKernels {
                    precision: FastPrecision::Bf16,
                    // SAFETY: as above.
                    matmul_piece: |p| unsafe { fast_piece(p) },
                    // SAFETY: as above.
                    round: |x, height, row, out| unsafe { round(x, height, row, out) },
                },
                bf16: Some(Bf16Kernels {
                    // SAFETY: as above.
                    gemm_pack_a: |a, out| unsafe { gemm_pack_a(a, out) },
                    // SAFETY: as above.
                    gemm_pack_b: |b, out| unsafe { gemm_pack_b(b, out) },
                    // SAFETY: as above.
                    gemm_piece: |p| unsafe { bf_gemm_piece(p) },
                }),
                ..*vectors
            })
        }
    };
}
#[cfg(target_arch = "x86_64")]
tile_table!(amx, "amx", Amx, amx::Hardware);
#[cfg(target_arch = "x86_64")]
tile_table!(
    #[cfg(debug_assertions)]
    amx_emulated,
    "amx-emulated",
    Avx512,
    crate::isa::amx_emulated::Emulated
);

/// The table of NEON with the dot product instruction, with another matrix product for several tokens.
#[cfg(target_arch = "aarch64")]
fn neon_i8mm(_proof: I8mm) -> &'static Kernels {
    matmul_piece!(
        NeonDotprod,
        target_feature(enable = "neon,dotprod,i8mm"),
        // SAFETY: the table is reachable only through a proof that the CPU has the instructions.
        unsafe { I8mm::assume() }
    );
    static TABLE: OnceLock<Kernels> = OnceLock::new();
    // SAFETY: the proof holds this one.
    let dotprod = neon_dotprod(unsafe { NeonDotprod::assume() });
    TABLE.get_or_init(|| Kernels { name: "neon-i8mm", matmul_piece, ..*dotprod })
}

/// A name of `SMALLMIND_ISA`, and its table where this CPU can run it.
type Candidate = (&'static str, fn() -> Option<&'static Kernels>);

/// The fastest first; the plain table, which is always there, is the last.
///
/// Measured on a Zen 4: 256-bit VNNI multiplies 0.85 to 1.5 times as fast as 512 bits without for many tokens, 0.7 times
/// for one; 512 bits without VNNI 1.3 to 1.7 times as fast as AVX2. No CPU known to us has the former two alone.
const CANDIDATES: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    ("amx", || Amx::detect().map(amx)),
    #[cfg(target_arch = "x86_64")]
    (Avx512::NAME, || Avx512::detect().map(avx512)),
    #[cfg(target_arch = "x86_64")]
    (AvxVnni::NAME, || AvxVnni::detect().map(avxvnni)),
    #[cfg(target_arch = "x86_64")]
    (Avx512Bw::NAME, || Avx512Bw::detect().map(avx512bw)),
    #[cfg(target_arch = "x86_64")]
    (Avx2::NAME, || Avx2::detect().map(avx2)),
    // The next two prove code whose instructions a machine lacks: in builds for tests, and never the fastest.
    #[cfg(all(target_arch = "x86_64", debug_assertions))]
    (Avx512Vl::NAME, || Avx512Vl::detect().map(avx512vl)),
    #[cfg(all(target_arch = "x86_64", debug_assertions))]
    ("amx-emulated", || Avx512::detect().map(amx_emulated)),
    #[cfg(target_arch = "aarch64")]
    ("neon-i8mm", || I8mm::detect().map(neon_i8mm)),
    #[cfg(target_arch = "aarch64")]
    (NeonDotprod::NAME, || NeonDotprod::detect().map(neon_dotprod)),
    #[cfg(target_arch = "aarch64")]
    (Neon::NAME, || Neon::detect().map(neon)),
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    (Simd128::NAME, || Simd128::detect().map(simd128)),
    (Scalar::NAME, || Scalar::detect().map(scalar)),
];

/// Every table that this CPU can run, the fastest first: what tests iterate over.
pub fn available() -> Vec<&'static Kernels> {
    CANDIDATES.iter().filter_map(|(_, table)| table()).collect()
}

/// `SMALLMIND_ISA` asks for what this CPU lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa {
    asked: String,
}

impl std::fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = available().iter().map(|k| k.name).collect();
        write!(
            f,
            "SMALLMIND_ISA={} is not available on this CPU: unset it, or choose one of {}",
            self.asked.escape_debug(),
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownIsa {}

/// The table of the whole process: the best available, or the one that `SMALLMIND_ISA` names. Chosen at the first call.
///
/// # Errors
/// Where the variable names an ISA that this CPU lacks.
pub fn kernels() -> Result<&'static Kernels, UnknownIsa> {
    static CHOSEN: OnceLock<Result<&'static Kernels, UnknownIsa>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| {
            let asked = std::env::var("SMALLMIND_ISA").unwrap_or_default();
            // Only what is asked for is tried: forcing one is also the way around the others.
            CANDIDATES
                .iter()
                .filter(|(name, _)| asked.is_empty() || *name == asked)
                .find_map(|(_, table)| table())
                .ok_or(UnknownIsa { asked })
        })
        .clone()
}
