//! The plan: family, numbers and weights joined once, all options resolved, so that the forward pass only reads.

use smallmind_formats::{FormatError, Gguf};
use smallmind_kernels::DType;
use smallmind_kernels::matmul::RowOrder;
use smallmind_kernels::threads::Pool;

use super::arch::{EmbedScale, Position, Qkv};
use super::config::{Config, Rope, RopeScaling};
use super::slots::Slot;
use super::weights::{Arena, Job, Loader, Matrix};
use crate::error::Result;
use crate::profile::Stage;

/// y = W x + b.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) w: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
}

/// Weights of one normalization.
#[derive(Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Vec<f32>,
    /// Of LayerNorm.
    pub(crate) bias: Option<Vec<f32>>,
}

/// One transformer layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: NormWeights,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) out: Linear,
    pub(crate) post_attn_norm: Option<Vec<f32>>,
    pub(crate) mlp_norm: NormWeights,
    pub(crate) gate: Option<Linear>,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) post_mlp_norm: Option<Vec<f32>>,
    /// Positions the layer sees, the current one included.
    pub(crate) window: Option<usize>,
    /// Which of the plan's RoPE tables turns this layer's heads.
    pub(crate) rope: Option<usize>,
}

impl Layer {
    /// All of its matrices.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.q, &self.k, &self.v, &self.out, &self.up, &self.down].into_iter().chain(&self.gate)
    }
}

/// The angles of one RoPE variant: cos and sin of `position · freq[i]`, times `magnitude`.
#[derive(Debug)]
pub(crate) struct RopeTable {
    /// Radians a position, `rope_dim / 2` of them.
    pub(crate) freq: Vec<f64>,
    pub(crate) magnitude: f32,
}

/// A packed matrix, as reports show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixInfo {
    /// The stage that multiplies by it.
    pub stage: Stage,
    /// Its layer, where it has one.
    pub layer: Option<usize>,
    /// The packed type.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub k: usize,
    /// Bytes in memory.
    pub bytes: usize,
}

/// The model, ready to run.
pub(crate) struct Plan {
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: NormWeights,
    pub(crate) output: Matrix,
    /// Of whose rows tokens become vectors; `None` where they are read from the file's own, so that only the rows of seen
    /// tokens ever come into memory.
    pub(crate) embedding: Option<Matrix>,
    pub(crate) ropes: Vec<RopeTable>,
    pub(crate) embed_scale: f32,
    /// `[context, hidden]` where positions are learned.
    pub(crate) positions: Option<Vec<f32>>,
    pub(crate) arena: Arena,
}

/// Reads all weights of a checked file.
pub(crate) fn build(gguf: &Gguf, config: &Config, precise: bool, pool: &Pool) -> Result<Plan> {
    let mut load = Loader::new(gguf, config, precise)?;
    let plan = wire(&mut load, config)?;
    Ok(Plan { arena: load.pack(pool)?, ..plan })
}

/// The matrices that [`build`] packs of a GGUF file, in the order in which a token meets them.
pub(crate) fn matrices<'g>(gguf: &'g Gguf, config: &'g Config) -> Result<Vec<Job<'g>>> {
    let mut load = Loader::new(gguf, config, false)?;
    wire(&mut load, config)?;
    Ok(load.into_jobs())
}

/// Everything but the packed bytes.
fn wire(load: &mut Loader<'_>, config: &Config) -> Result<Plan> {
    let arch = config.arch;
    let turned = match arch.position {
        Position::RopePairs => {
            RowOrder::PairsToHalves { head_dim: config.head_dim, rope_dim: config.rope.dim }
        }
        Position::RopeHalves | Position::Learned => RowOrder::Natural,
    };
    let mut ropes = Vec::new();
    if arch.position != Position::Learned {
        let factors = load.vector(Slot::RopeFreqs, 0)?;
        ropes.push(rope_table(&config.rope, factors.as_deref())?);
        if let Some(base) = arch.window_rope_base.filter(|_| config.window.is_some()) {
            // Windowed layers never see far positions, so they are not scaled.
            let rope = Rope { dim: config.rope.dim, base, scaling: RopeScaling::None };
            ropes.push(rope_table(&rope, None)?);
        }
    }
    let mut layers = Vec::with_capacity(config.layers);
    for i in 0..config.layers {
        let [q, k, v] = qkv(load, config, i, turned)?;
        let window = config.layer_window(i);
        let local = usize::from(window.is_some() && ropes.len() > 1);
        layers.push(Layer {
            attn_norm: norm(load, Slot::AttnNorm, Slot::AttnNormBias, i)?,
            q,
            k,
            v,
            q_norm: load.vector(Slot::AttnQNorm, i)?,
            k_norm: load.vector(Slot::AttnKNorm, i)?,
            out: linear(load, Slot::AttnOut, Slot::AttnOutBias, i, RowOrder::Natural)?,
            post_attn_norm: load.vector(Slot::PostAttnNorm, i)?,
            mlp_norm: norm(load, Slot::MlpNorm, Slot::MlpNormBias, i)?,
            gate: match load.tensor(Slot::MlpGate, i)? {
                Some(_) => Some(linear(load, Slot::MlpGate, Slot::MlpGateBias, i, RowOrder::Natural)?),
                None => None,
            },
            up: linear(load, Slot::MlpUp, Slot::MlpUpBias, i, RowOrder::Natural)?,
            down: linear(load, Slot::MlpDown, Slot::MlpDownBias, i, RowOrder::Natural)?,
            post_mlp_norm: load.vector(Slot::PostMlpNorm, i)?,
            window,
            rope: (!ropes.is_empty()).then_some(local),
        });
    }
    let output = match load.matrix(Slot::Output, 0, RowOrder::Natural)? {
        Some(m) => m,
        None => required(load.matrix(Slot::TokenEmbd, 0, RowOrder::Natural)?),
    };
    let plan = Plan {
        layers,
        output_norm: norm(load, Slot::OutputNorm, Slot::OutputNormBias, 0)?,
        output,
        embedding: load.embedding()?,
        ropes,
        embed_scale: match arch.embed_scale {
            EmbedScale::One => 1.0,
            EmbedScale::SqrtHidden => (config.hidden as f32).sqrt(),
        },
        positions: load.vector(Slot::PositionEmbd, 0)?,
        arena: Arena::default(),
    };
    Ok(plan)
}

fn required<T>(found: Option<T>) -> T {
    match found {
        Some(t) => t,
        None => unreachable!("the slot table says the family requires it, and the loader checked"),
    }
}

fn norm(load: &Loader<'_>, weight: Slot, bias: Slot, layer: usize) -> Result<NormWeights> {
    Ok(NormWeights { weight: required(load.vector(weight, layer)?), bias: load.vector(bias, layer)? })
}

/// Biases follow their rows' order.
fn ordered(bias: Vec<f32>, order: RowOrder) -> Vec<f32> {
    (0..bias.len()).map(|row| bias[order.source(row)]).collect()
}

fn linear(load: &mut Loader<'_>, weight: Slot, bias: Slot, layer: usize, order: RowOrder) -> Result<Linear> {
    let bias = load.vector(bias, layer)?.map(|b| ordered(b, order));
    Ok(Linear { w: required(load.matrix(weight, layer, order)?), bias })
}

fn qkv(load: &mut Loader<'_>, config: &Config, layer: usize, turned: RowOrder) -> Result<[Linear; 3]> {
    match config.arch.qkv {
        Qkv::Split => Ok([
            linear(load, Slot::AttnQ, Slot::AttnQBias, layer, turned)?,
            linear(load, Slot::AttnK, Slot::AttnKBias, layer, turned)?,
            linear(load, Slot::AttnV, Slot::AttnVBias, layer, RowOrder::Natural)?,
        ]),
        Qkv::Fused => {
            let tensor = required(load.tensor(Slot::AttnQkv, layer)?);
            let bias = load.vector(Slot::AttnQkvBias, layer)?;
            let (q, kv) = (config.q_dim(), config.kv_dim());
            let mut part = |rows: std::ops::Range<usize>, order| -> Result<Linear> {
                let bias = bias.as_ref().map(|b| ordered(b[rows.clone()].to_vec(), order));
                Ok(Linear { w: load.rows_of(tensor, rows, order)?, bias })
            };
            Ok([part(0..q, turned)?, part(q..q + kv, turned)?, part(q + kv..q + 2 * kv, RowOrder::Natural)?])
        }
    }
}

/// RoPE frequencies: θᵢ = base^(−2i/d) (Su et al. 2021), divided by the file's factors (Llama 3.1), scaled linearly or by
/// YaRN's ramp between interpolation and extrapolation (Peng et al. 2023, section 3.2).
fn rope_table(rope: &Rope, factors: Option<&[f32]>) -> Result<RopeTable> {
    let d = rope.dim as f64;
    let base = f64::from(rope.base);
    let mut freq: Vec<f64> = (0..rope.dim / 2).map(|i| base.powf(-2.0 * i as f64 / d)).collect();
    if let Some(factors) = factors {
        for (f, factor) in freq.iter_mut().zip(factors) {
            if !(factor.is_finite() && *factor > 0.0) {
                let message = format!("`rope_freqs.weight` holds {factor}, which is no frequency factor");
                return Err(crate::Error::Parameter(message));
            }
            *f /= f64::from(*factor);
        }
    }
    let mut magnitude = 1.0;
    match rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear(factor) => freq.iter_mut().for_each(|f| *f /= f64::from(factor)),
        RopeScaling::Yarn { factor, original, attn_factor, beta_fast, beta_slow } => {
            // The dimension that turns `beta` times within the original context.
            let dimension = |beta: f32| {
                d * (original as f64 / (f64::from(beta) * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
            };
            let low = dimension(beta_fast).floor().max(0.0);
            let high = dimension(beta_slow).ceil().min(d - 1.0);
            for (i, f) in freq.iter_mut().enumerate() {
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let (interpolated, extrapolated) = (*f / f64::from(factor), *f);
                *f = interpolated * ramp + extrapolated * (1.0 - ramp);
            }
            magnitude = attn_factor * (1.0 + 0.1 * factor.ln());
        }
    }
    Ok(RopeTable { freq, magnitude })
}

impl Plan {
    /// Bytes that one decoded token reads: all matrices but the embedding's rows.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.arena.bytes()
    }

    /// Every packed matrix, in the order in which a token meets them.
    pub(crate) fn matrices(&self) -> Vec<MatrixInfo> {
        let mut all = Vec::new();
        let mut add = |stage: Stage, layer: Option<usize>, w: &Matrix| {
            let bytes = self.arena.get(w).bytes().len();
            all.push(MatrixInfo { stage, layer, dtype: w.dtype(), rows: w.rows, k: w.k, bytes });
        };
        for (i, l) in self.layers.iter().enumerate() {
            for linear in [&l.q, &l.k, &l.v] {
                add(Stage::Qkv, Some(i), &linear.w);
            }
            add(Stage::AttnOut, Some(i), &l.out.w);
            for linear in l.gate.iter().chain([&l.up]) {
                add(Stage::MlpUp, Some(i), &linear.w);
            }
            add(Stage::MlpDown, Some(i), &l.down.w);
        }
        add(Stage::Logits, None, &self.output);
        all
    }

    /// Bytes of everything that is no matrix.
    pub(crate) fn vector_bytes(&self) -> usize {
        let of = |v: &Option<Vec<f32>>| v.as_ref().map_or(0, Vec::len);
        let norm = |n: &NormWeights| n.weight.len() + of(&n.bias);
        let layers = self.layers.iter().map(|l| {
            let norms = norm(&l.attn_norm) + norm(&l.mlp_norm);
            let heads = [&l.q_norm, &l.k_norm, &l.post_attn_norm, &l.post_mlp_norm];
            norms + l.linears().map(|l| of(&l.bias)).sum::<usize>() + heads.into_iter().map(of).sum::<usize>()
        });
        4 * (layers.sum::<usize>() + norm(&self.output_norm) + of(&self.positions))
    }

    /// The packed type of the output matrix.
    pub(crate) fn output_dtype(&self) -> DType {
        self.output.dtype()
    }
}

/// "no such tensor" for a file whose numbers do not fit each other.
pub(crate) fn check_vocabulary(gguf: &Gguf, config: &Config, tokens: usize) -> Result<()> {
    if tokens == config.vocab {
        return Ok(());
    }
    let message = format!("holds {tokens} tokens, and the embedding has {} rows", config.vocab);
    Err(FormatError::invalid(gguf.path(), "tokenizer.ggml.tokens", message).into())
}
