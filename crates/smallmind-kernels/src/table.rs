//! The kernel tables: one per ISA, chosen once. Every entry is the generic body compiled for that ISA's instructions.
#![allow(unsafe_code, reason = "calls functions compiled for instructions whose proof is in hand")]

use std::sync::OnceLock;

use crate::isa::Isa;
#[cfg(target_arch = "aarch64")]
use crate::isa::neon::{Neon, NeonDotprod};
use crate::isa::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::isa::{avx2::Avx2, avx512::Avx512};
use crate::matmul::format::ActBlock;
use crate::matmul::screen::{self, Search};
use crate::matmul::tile::{self, Piece};
use crate::ops::attention::{self, PageMut, PageTask, Partial};
use crate::ops::{activation, elementwise, norm, quantize, rope};

/// The functions of one ISA. Slices of one call have equal lengths unless said otherwise.
pub struct Kernels {
    /// What `SMALLMIND_ISA` calls it.
    pub name: &'static str,
    pub(crate) matmul_piece: fn(&Piece<'_>),
    pub(crate) screen: fn(&mut Search<'_>),
    pub(crate) refine: fn(&mut Search<'_>),
    /// Quantizes one row to [`ActBlock`]s: `x`, then `act_blocks(x.len())` blocks.
    pub quantize: fn(&[f32], &mut [ActBlock]),
    /// Quantizes one row to 16 bits: `x`, then `2 · act_blocks(x.len())` blocks.
    pub quantize_wide: fn(&[f32], &mut [ActBlock]),
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
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
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
            static TABLE: Kernels = Kernels {
                name: <$isa as Isa>::NAME,
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
            matmul_piece = tile::piece: fn(p: &Piece<'_>);
            screen = screen::screen: fn(s: &mut Search<'_>);
            refine = screen::refine: fn(s: &mut Search<'_>);
            quantize = quantize::quantize: fn(x: &[f32], out: &mut [ActBlock]);
            quantize_wide = quantize::quantize_wide: fn(x: &[f32], out: &mut [ActBlock]);
            rms_norm = norm::rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            layer_norm = norm::layer_norm: fn(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
            rope = rope::rope: fn(x: &mut [f32], cos: &[f32], sin: &[f32]);
            silu_mul = activation::silu_mul: fn(gate: &mut [f32], up: &[f32]);
            gelu_mul = activation::gelu_mul: fn(gate: &mut [f32], up: &[f32]);
            silu = activation::silu_in_place: fn(x: &mut [f32]);
            gelu = activation::gelu_in_place: fn(x: &mut [f32]);
            add = elementwise::add: fn(x: &mut [f32], y: &[f32]);
            scale = elementwise::scale: fn(x: &mut [f32], s: f32);
            write_kv = attention::write_kv: fn(page: PageMut<'_>, slot: usize, k: &[f32], v: &[f32]);
            attend_page = attention::attend_page: fn(task: &mut PageTask<'_>);
            merge_partial = attention::merge: fn(state: &mut Partial, out: &mut [f32], page: Partial, page_out: &[f32]);
            finish_attention = attention::finish: fn(state: Partial, out: &mut [f32]);
        );)*
    };
}

tables! {
    #[cfg(target_arch = "x86_64")]
    avx512, Avx512, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    avx2, Avx2, target_feature(enable = "avx2,fma,f16c");
    #[cfg(target_arch = "aarch64")]
    neon_dotprod, NeonDotprod, target_feature(enable = "neon,dotprod");
    #[cfg(target_arch = "aarch64")]
    neon, Neon, target_feature(enable = "neon");
    scalar, Scalar, inline(never);
}

/// Every table that this CPU can run, the fastest first: what tests iterate over.
pub fn available() -> Vec<&'static Kernels> {
    [
        #[cfg(target_arch = "x86_64")]
        Avx512::detect().map(avx512),
        #[cfg(target_arch = "x86_64")]
        Avx2::detect().map(avx2),
        #[cfg(target_arch = "aarch64")]
        NeonDotprod::detect().map(neon_dotprod),
        #[cfg(target_arch = "aarch64")]
        Neon::detect().map(neon),
        Scalar::detect().map(scalar),
    ]
    .into_iter()
    .flatten()
    .collect()
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
            let all = available();
            match std::env::var("SMALLMIND_ISA") {
                Ok(asked) if !asked.is_empty() => {
                    all.into_iter().find(|k| k.name == asked).ok_or(UnknownIsa { asked })
                }
                // The plain table is always there and last.
                _ => Ok(all[0]),
            }
        })
        .clone()
}
