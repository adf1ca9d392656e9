//! The families as a graph: from the engine's description of a model to parameters and a forward pass on the tape.

use std::sync::Arc;

use smallmind::model::arch::{EmbedScale, Mlp, Norm, Position, Qkv, Window};
use smallmind::model::slots::{Need, Shape as WeightShape, Slot, weights};
use smallmind::model::{Config, RopeScaling};

use crate::compute::Compute;
use crate::error::{Result, TrainError};
use crate::ops::activation::Middle;
use crate::ops::attention::Shape;
use crate::ops::linear::{Lora, Part};
use crate::ops::rope::{self, Rope};
use crate::param::{Param, ParamId};
use crate::rng::{Key, Stream};
use crate::tape::{Op, Tape, Var};

/// One normalization.
#[derive(Clone, Copy, Debug)]
struct NormIds {
    weight: ParamId,
    bias: Option<ParamId>,
}

/// The parameters of one layer.
#[derive(Clone, Debug)]
struct Layer {
    attn_norm: NormIds,
    qkv: Vec<Part>,
    out: Vec<Part>,
    mlp_norm: NormIds,
    /// Gate and up, or up alone.
    up: Vec<Part>,
    down: Vec<Part>,
}

/// What a forward pass does beside computing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// The part of values that is dropped; 0 outside of training.
    pub dropout: f32,
    /// What is dropped: the seed, and the number of the pass within the run.
    pub draw: (u64, u64),
    /// Keep only the layers' inputs, and compute the rest again on the way back.
    pub recompute: bool,
}

/// A model to train.
#[derive(Debug)]
pub struct TrainModel {
    /// Its numbers.
    pub config: Config,
    /// Its weights, in the order in which a file has them; adapters behind.
    pub params: Vec<Param>,
    embedding: ParamId,
    positions: Option<ParamId>,
    layers: Vec<Layer>,
    output_norm: NormIds,
    output: ParamId,
    rope: Option<Arc<[Vec<f32>; 2]>>,
    tape: Tape,
}

/// Which of the weights that a family may have a new model gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewModel {
    /// The embedding serves as the output matrix, too.
    pub tied: bool,
    /// Biases where the family may have them.
    pub biases: bool,
}

impl TrainModel {
    /// A new model with GPT-2's first weights: normal with a deviation of 0.02, a matrix that adds to the residual stream
    /// by √(2 · layers) less, norms 1, biases 0.
    ///
    /// # Errors
    /// Where the family has parts that training does not know.
    pub fn new(config: Config, new: NewModel, seed: u64) -> Result<TrainModel> {
        let residual = 0.02 / (2.0 * config.layers as f64).sqrt();
        let wanted = |need: Need, slot: Slot| match (need, slot) {
            (Need::Required, _) => true,
            (Need::Absent, _) | (_, Slot::RopeFreqs) => false,
            (Need::Optional, Slot::Output) => !new.tied,
            (Need::Optional, _) => new.biases,
        };
        let mut params = Vec::new();
        for (i, w) in weights(&config).into_iter().filter(|w| wanted(w.need, w.slot)).enumerate() {
            let key = Key::new(seed, Stream::Weights, i as u64);
            params.push(match w.shape {
                WeightShape::Matrix(rows, cols) => {
                    let adds = matches!(w.slot, Slot::AttnOut | Slot::MlpDown);
                    let deviation = if adds { residual } else { 0.02 };
                    let draw = |i| (key.normal(i as u64) * deviation) as f32;
                    Param::matrix(w.name, rows, cols, (0..rows * cols).map(draw).collect())
                }
                WeightShape::Vector(n) => {
                    let bias = w.name.ends_with(".bias");
                    Param::vector(w.name, vec![if bias { 0.0 } else { 1.0 }; n])
                }
            });
        }
        TrainModel::of(config, params)
    }

    /// A model of given weights: `params` in any order, named as in a GGUF file.
    ///
    /// # Errors
    /// Where the family has parts that training does not know, or a weight is missing.
    pub fn of(config: Config, params: Vec<Param>) -> Result<TrainModel> {
        supported(&config)?;
        let found = |slot: Slot, layer: usize| -> Option<ParamId> {
            let spec = weights(&config).into_iter().find(|w| w.slot == slot && w.layer == layer)?;
            params.iter().position(|p| p.name == spec.name).map(ParamId)
        };
        let required = |slot, layer| {
            found(slot, layer)
                .ok_or_else(|| TrainError::config(format!("the model has no weight {slot:?} {layer}")))
        };
        let norm = |weight, bias, layer| -> Result<NormIds> {
            Ok(NormIds { weight: required(weight, layer)?, bias: found(bias, layer) })
        };
        let part = |weight, bias, layer| -> Result<Part> {
            Ok(Part { weight: required(weight, layer)?, bias: found(bias, layer), lora: None })
        };
        let mut layers = Vec::new();
        for i in 0..config.layers {
            layers.push(Layer {
                attn_norm: norm(Slot::AttnNorm, Slot::AttnNormBias, i)?,
                qkv: match config.arch.qkv {
                    Qkv::Fused => vec![part(Slot::AttnQkv, Slot::AttnQkvBias, i)?],
                    Qkv::Split => vec![
                        part(Slot::AttnQ, Slot::AttnQBias, i)?,
                        part(Slot::AttnK, Slot::AttnKBias, i)?,
                        part(Slot::AttnV, Slot::AttnVBias, i)?,
                    ],
                },
                out: vec![part(Slot::AttnOut, Slot::AttnOutBias, i)?],
                mlp_norm: norm(Slot::MlpNorm, Slot::MlpNormBias, i)?,
                up: match config.arch.mlp {
                    Mlp::Plain => vec![part(Slot::MlpUp, Slot::MlpUpBias, i)?],
                    Mlp::Gated => vec![
                        part(Slot::MlpGate, Slot::MlpGateBias, i)?,
                        part(Slot::MlpUp, Slot::MlpUpBias, i)?,
                    ],
                },
                down: vec![part(Slot::MlpDown, Slot::MlpDownBias, i)?],
            });
        }
        let embedding = required(Slot::TokenEmbd, 0)?;
        let rope = (config.arch.position != Position::Learned)
            .then(|| Arc::new(rope::table(config.rope.base, config.rope.dim, config.context)));
        Ok(TrainModel {
            embedding,
            positions: found(Slot::PositionEmbd, 0),
            layers,
            output_norm: norm(Slot::OutputNorm, Slot::OutputNormBias, 0)?,
            output: found(Slot::Output, 0).unwrap_or(embedding),
            rope,
            tape: Tape::default(),
            config,
            params,
        })
    }

    /// Numbers that are trained.
    pub fn trained_len(&self) -> usize {
        self.params.iter().filter(|p| p.trained()).map(|p| p.data.len()).sum()
    }

    /// Freezes all weights and gives the named kinds of matrices adapters of this rank: A normal with a deviation of
    /// 1/√inputs, B zero, so that nothing changes at first (Hu et al. 2021).
    pub(crate) fn add_lora(&mut self, rank: usize, alpha: f32, targets: &[String], seed: u64) -> usize {
        self.params.iter_mut().for_each(Param::freeze);
        let mut made = 0;
        let params = &mut self.params;
        for layer in &mut self.layers {
            let parts = [&mut layer.qkv, &mut layer.out, &mut layer.up, &mut layer.down];
            for part in parts.into_iter().flatten() {
                let w = &params[part.weight.0];
                let (name, rows, cols) = (w.name.trim_end_matches(".weight").to_owned(), w.rows, w.cols);
                if !targets.iter().any(|t| name.ends_with(&format!(".{t}"))) {
                    continue;
                }
                let key = Key::new(seed, Stream::Weights, made);
                let deviation = 1.0 / (cols as f64).sqrt();
                let a = (0..rank * cols).map(|i| (key.normal(i as u64) * deviation) as f32).collect();
                let mut place = |kind: &str, rows, cols, data| {
                    params.push(Param::matrix(format!("{name}.lora_{kind}"), rows, cols, data));
                    ParamId(params.len() - 1)
                };
                let a = place("a", rank, cols, a);
                let b = place("b", rows, rank, vec![0.0; rows * rank]);
                part.lora = Some(Lora { a, b, scale: alpha / rank as f32 });
                made += 1;
            }
        }
        made as usize
    }

    /// The mean loss in nats of the targets that count, without gradients.
    pub fn evaluate(&mut self, c: &mut Compute, ids: &[u32], targets: &[u32], seq: usize) -> f64 {
        let logits = self.forward(c, ids, seq, Pass::default());
        let sum = self.tape.cross_entropy(c, logits, targets, 0.0);
        self.tape.clear(c);
        sum / counted(targets)
    }

    /// The mean loss, with `weight` times its gradient added to the parameters'. `ids` and `targets` are `[batch, seq]`.
    ///
    /// # Errors
    /// Where the loss is not a number: what it came from.
    pub fn gradient(
        &mut self,
        c: &mut Compute,
        (ids, targets): (&[u32], &[u32]),
        seq: usize,
        pass: Pass,
        weight: f32,
    ) -> Result<f64, String> {
        let logits = self.forward(c, ids, seq, pass);
        let n = counted(targets);
        let sum = self.tape.cross_entropy(c, logits, targets, weight / n as f32);
        if !sum.is_finite() {
            let weight = self.params.iter().find(|p| p.data.iter().any(|v| !v.is_finite()));
            let found = weight.map(|p| p.name.clone()).or_else(|| self.tape.first_bad(&self.params));
            self.tape.clear(c);
            return Err(found.unwrap_or_else(|| "the loss".to_owned()));
        }
        self.tape.backward(c, &mut self.params);
        Ok(sum / n)
    }

    /// The logits of all positions: `[batch · seq, vocab]`.
    pub fn logits(&mut self, c: &mut Compute, ids: &[u32], seq: usize) -> Vec<f32> {
        let logits = self.forward(c, ids, seq, Pass::default());
        let values = self.tape.value(logits).to_vec();
        self.tape.clear(c);
        values
    }

    fn forward(&mut self, c: &mut Compute, ids: &[u32], seq: usize, pass: Pass) -> Var {
        let mut tape = std::mem::take(&mut self.tape);
        let rows = ids.len();
        let mut places = 0u64;
        let mut drop = |tape: &mut Tape, c: &mut Compute, params: &[Param], x: Var| {
            if pass.dropout == 0.0 {
                return x;
            }
            places += 1;
            let which = pass.draw.1.wrapping_mul(1 << 20).wrapping_add(places);
            let key = Key::new(pass.draw.0, Stream::Dropout, which);
            tape.push(c, params, rows, Op::Dropout { x, keep: 1.0 - pass.dropout, key })
        };
        let params = &self.params;
        let embed = Op::Embed { table: self.embedding, positions: self.positions, ids: ids.to_vec(), seq };
        let x = tape.push(c, params, rows, embed);
        let mut x = drop(&mut tape, c, params, x);
        for layer in &self.layers {
            let start = tape.here();
            let h = self.norm(&mut tape, c, x, layer.attn_norm, rows);
            let mut h = linear(&mut tape, c, params, rows, h, &layer.qkv, None);
            if let Some(table) = &self.rope {
                let rope = self.rope(Arc::clone(table), seq);
                h = tape.push(c, params, rows, Op::Rope { x: h, rope });
            }
            let h = tape.push(c, params, rows, Op::Attention { qkv: h, shape: self.shape(seq) });
            x = add_to(&mut tape, c, params, (rows, pass.dropout), x, h, &layer.out, &mut drop);
            let h = self.norm(&mut tape, c, x, layer.mlp_norm, rows);
            let h = linear(&mut tape, c, params, rows, h, &layer.up, None);
            let h = tape.push(c, params, rows, Op::Middle { x: h, middle: self.middle() });
            x = add_to(&mut tape, c, params, (rows, pass.dropout), x, h, &layer.down, &mut drop);
            if pass.recompute {
                tape.forget(c, start);
            }
        }
        let x = self.norm(&mut tape, c, x, self.output_norm, rows);
        let output = Part { weight: self.output, bias: None, lora: None };
        let logits = linear(&mut tape, c, params, rows, x, &[output], None);
        self.tape = tape;
        logits
    }

    fn norm(&self, tape: &mut Tape, c: &mut Compute, x: Var, norm: NormIds, rows: usize) -> Var {
        let NormIds { weight, bias } = norm;
        tape.push(c, &self.params, rows, Op::Norm { x, weight, bias, eps: self.config.norm_eps })
    }

    fn rope(&self, table: Arc<[Vec<f32>; 2]>, seq: usize) -> Rope {
        let config = &self.config;
        Rope {
            heads: config.heads + config.kv_heads,
            head_dim: config.head_dim,
            pairs: config.arch.position == Position::RopePairs,
            table,
            half: config.rope.dim / 2,
            seq,
        }
    }

    fn shape(&self, seq: usize) -> Shape {
        let Config { heads, kv_heads, head_dim, attention_scale: scale, .. } = self.config;
        Shape { heads, kv_heads, head_dim, seq, scale }
    }

    fn middle(&self) -> Middle {
        Middle { act: self.config.arch.activation, mlp: self.config.arch.mlp, ffn: self.config.ffn }
    }
}

fn linear(
    tape: &mut Tape,
    c: &mut Compute,
    params: &[Param],
    rows: usize,
    x: Var,
    parts: &[Part],
    residual: Option<Var>,
) -> Var {
    tape.push(c, params, rows, Op::Linear { x, parts: parts.to_vec(), residual })
}

/// x + W h, with dropout on what is added.
#[allow(clippy::too_many_arguments, reason = "the state of a forward pass")]
fn add_to(
    tape: &mut Tape,
    c: &mut Compute,
    params: &[Param],
    (rows, dropout): (usize, f32),
    x: Var,
    h: Var,
    parts: &[Part],
    drop: &mut impl FnMut(&mut Tape, &mut Compute, &[Param], Var) -> Var,
) -> Var {
    if dropout == 0.0 {
        return linear(tape, c, params, rows, h, parts, Some(x));
    }
    let h = linear(tape, c, params, rows, h, parts, None);
    let h = drop(tape, c, params, h);
    tape.push(c, params, rows, Op::Add { a: x, b: h })
}

/// Targets that count.
fn counted(targets: &[u32]) -> f64 {
    targets.iter().filter(|t| **t != crate::ops::loss::IGNORED).count().max(1) as f64
}

/// Whether training knows every part of the family.
fn supported(config: &Config) -> Result<()> {
    let arch = config.arch;
    let what = if arch.qk_norm {
        "norms of the heads of Q and K"
    } else if arch.post_norms {
        "norms behind attention and MLP"
    } else if arch.window != Window::Full {
        "sliding windows"
    } else if arch.embed_scale != EmbedScale::One {
        "scaled embeddings"
    } else if config.rope.scaling != RopeScaling::None {
        "scaled rotary positions"
    } else if arch.norm == Norm::Rms && arch.position == Position::Learned {
        "RMSNorm with learned positions"
    } else {
        return Ok(());
    };
    Err(TrainError::Unsupported { family: arch.name.to_owned(), what })
}
