//! What a stage computes and moves: a pure function of the plan and of a pass's shape, so that a measured time can be
//! set beside what the machine could do. Bytes are the least that must move: each input read and each result written
//! once.

use smallmind_kernels::matmul::{ActMeta, ActQuants, Class, act_len, takes_quantized};

use super::activations::{Form, exact_form, form};
use super::config::Config;
use super::plan::{Layer, Linear, Plan};
use crate::kv::{KvCache, KvPrecision};
use crate::profile::{PassShape, Scope, Stage};

/// The work of one stage in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Arithmetic operations of the mathematics: a multiply-add is two.
    pub flops: f64,
    /// Arithmetic operations that are executed: products with quantized weights take two bytes an
    /// activation. Of the exact class.
    pub ops: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// Whether most of the arithmetic is of 8-bit integers, and else in single precision.
    pub quantized: bool,
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            ops: self.ops + other.ops,
            bytes: self.bytes + other.bytes,
            quantized: if other.ops > self.ops { other.quantized } else { self.quantized },
        }
    }
}

/// Everything a cost depends on.
#[derive(Clone, Copy)]
pub(crate) struct Costs<'a> {
    pub(crate) config: &'a Config,
    pub(crate) plan: &'a Plan,
    pub(crate) precision: KvPrecision,
    pub(crate) shape: PassShape,
}

const F32: f64 = 4.0;

impl Costs<'_> {
    /// The cost of a stage, where it is one that the model knows; `within` is the stage around it.
    pub(crate) fn of(self, within: Option<Stage>, scope: Scope) -> Option<Cost> {
        let Costs { config: c, shape, .. } = self;
        let n = shape.rows as f64;
        let (d, half) = (c.hidden as f64, (c.rope.dim / 2) as f64);
        let layer = match scope.layer {
            Some(layer) => self.plan.layers.get(layer as usize),
            None => None,
        };
        let cost = match (scope.stage, layer) {
            (Stage::Embed, _) => elementwise(n * d, 1.0, 2.0),
            (Stage::Rope, _) => elementwise(n * half * 2.0 * self.plan.ropes.len() as f64, 1.0, 1.0),
            (Stage::AttnNorm, Some(l)) => self.norm(form(None, &[&l.q, &l.k, &l.v])),
            (Stage::Qkv, Some(l)) => {
                let form = form(None, &[&l.q, &l.k, &l.v]);
                self.products(&[&l.q, &l.k, &l.v], form, shape.rows)
            }
            (Stage::QkNormRope, Some(_)) => {
                // Queries are read and written; keys and values read, and written to the cache.
                let (q, kv) = (n * c.q_dim() as f64, n * c.kv_dim() as f64);
                let turn = elementwise(q + kv, 6.0, 1.0);
                let cache = n * self.position_bytes();
                Cost { bytes: F32 * (2.0 * q + 2.0 * kv) + cache, ..turn }
            }
            (Stage::Attention, Some(l)) => self.attention(l),
            (Stage::AttnOut | Stage::MlpDown, Some(_)) => self.joined(scope)?,
            (Stage::MlpNorm, Some(l)) => self.norm(up_form(l)),
            (Stage::MlpUp, Some(l)) => match &l.gate {
                Some(gate) => {
                    let products = self.products(&[gate, &l.up], up_form(l), shape.rows);
                    products + elementwise(n * c.ffn as f64, 10.0, 0.0)
                }
                None => self.products(&[&l.up], up_form(l), shape.rows),
            },
            (Stage::Activation, Some(l)) => {
                let form = form(None, &[&l.down]);
                match l.gate {
                    Some(_) => self.quantize(form, c.ffn, shape.rows),
                    None => elementwise(n * c.ffn as f64, 10.0, 2.0) + self.blocks(form, c.ffn, shape.rows),
                }
            }
            (Stage::Logits, _) => {
                let norm = elementwise(shape.logits as f64 * d, 4.0, 2.0);
                let parts = [Stage::Quantize, Stage::Product].map(|s| self.of(Some(Stage::Logits), s.into()));
                parts.into_iter().flatten().fold(norm, |all, part| all + part)
            }
            (Stage::Quantize | Stage::Product | Stage::PostNorm, _) => {
                self.part(within?, scope.stage, layer)?
            }
            _ => return None,
        };
        Some(cost)
    }

    /// A stage that is a product and what belongs to it.
    fn joined(self, scope: Scope) -> Option<Cost> {
        let parts = [Stage::Quantize, Stage::Product, Stage::PostNorm];
        let parts = parts.map(|stage| self.of(Some(scope.stage), Scope { stage, layer: scope.layer }));
        parts.into_iter().flatten().reduce(|all, part| all + part)
    }

    /// An operator within a stage.
    fn part(self, within: Stage, stage: Stage, layer: Option<&Layer>) -> Option<Cost> {
        let (c, rows) = (self.config, self.shape.rows);
        let (linear, form, post, k) = match (within, layer) {
            (Stage::AttnOut, Some(l)) => {
                (&l.out, form(None, &[&l.out]), l.post_attn_norm.is_some(), c.q_dim())
            }
            (Stage::MlpDown, Some(l)) => (&l.down, form(None, &[&l.down]), l.post_mlp_norm.is_some(), c.ffn),
            (Stage::Logits, _) => {
                let form = exact_form(takes_quantized(self.plan.output_dtype()));
                let w = &self.plan.output;
                let rows = self.shape.logits;
                return match stage {
                    Stage::Quantize => Some(self.quantize(form, c.hidden, rows)),
                    Stage::Product => {
                        Some(product(w.rows, w.k, self.plan.arena.get(w).bytes().len(), form, rows))
                    }
                    _ => None,
                };
            }
            _ => return None,
        };
        match stage {
            // What enters the MLP's last product was quantized with the activation.
            Stage::Quantize if within == Stage::AttnOut => Some(self.quantize(form, k, rows)),
            Stage::Product => Some(self.products(&[linear], form, rows)),
            Stage::PostNorm if post => Some(elementwise((rows * c.hidden) as f64, 5.0, 3.0)),
            _ => None,
        }
    }

    /// A norm of every row, and its quantized form.
    fn norm(self, form: Form) -> Cost {
        let values = (self.shape.rows * self.config.hidden) as f64;
        elementwise(values, 4.0, 2.0) + self.blocks(form, self.config.hidden, self.shape.rows)
    }

    fn quantize(self, form: Form, k: usize, rows: usize) -> Cost {
        match form {
            Form::Float => Cost::default(),
            _ => elementwise((rows * k) as f64, 0.0, 1.0) + self.blocks(form, k, rows),
        }
    }

    /// Writing activations as blocks.
    fn blocks(self, form: Form, k: usize, rows: usize) -> Cost {
        let values = if form == Form::Float { 0.0 } else { (rows * k) as f64 };
        Cost { flops: 3.0 * values, ops: 3.0 * values, bytes: block_bytes(form, k, rows), quantized: false }
    }

    fn products(self, linears: &[&Linear], form: Form, rows: usize) -> Cost {
        let of = |l: &&Linear| product(l.w.rows, l.w.k, self.plan.arena.get(&l.w).bytes().len(), form, rows);
        let all = linears.iter().map(of).fold(Cost::default(), |all, one| all + one);
        // They share one input.
        let shared = linears.len().saturating_sub(1) as f64;
        let input = linears.first().map_or(0.0, |l| input_bytes(l.w.k, form, rows));
        Cost { bytes: all.bytes - shared * input, ..all }
    }

    /// K and V of one position in one layer, in bytes.
    fn position_bytes(self) -> f64 {
        let all = KvCache::bytes_per_token(self.config, self.precision);
        all as f64 / self.config.layers.max(1) as f64
    }

    /// Sequences are taken to be equally long.
    fn attention(self, layer: &Layer) -> Cost {
        let (c, shape) = (self.config, self.shape);
        let sequences = shape.sequences.max(1);
        let (before, rows) = (shape.before / sequences, shape.rows.div_ceil(sequences));
        let window = layer.window.unwrap_or(usize::MAX);
        let seen: usize = (0..rows).map(|i| (before + i + 1).min(window)).sum();
        let kept = (before + rows).min(window.saturating_add(rows - usize::from(rows > 0)));
        let scale = sequences as f64;
        let flops = 4.0 * scale * seen as f64 * c.q_dim() as f64;
        let cache = scale * kept as f64 * self.position_bytes();
        let own = 2.0 * F32 * (shape.rows * c.q_dim()) as f64;
        Cost { flops, ops: flops, bytes: cache + own, quantized: false }
    }
}

fn up_form(layer: &Layer) -> Form {
    match &layer.gate {
        Some(gate) => form(None, &[gate, &layer.up]),
        None => form(None, &[&layer.up]),
    }
}

/// `per_value` operations on each of so many values that go through `streams` reads or writes.
fn elementwise(values: f64, per_value: f64, streams: f64) -> Cost {
    let flops = per_value * values;
    Cost { flops, ops: flops, bytes: F32 * streams * values, quantized: false }
}

fn block_bytes(form: Form, k: usize, rows: usize) -> f64 {
    let block = size_of::<ActQuants>() + size_of::<ActMeta>();
    if form == Form::Float { 0.0 } else { (act_len(rows, k, Class::Exact) * block) as f64 }
}

fn input_bytes(k: usize, form: Form, rows: usize) -> f64 {
    if form == Form::Float { F32 * (rows * k) as f64 } else { block_bytes(form, k, rows) }
}

/// C[rows, out] = A[rows, k] · B[out, k]ᵀ.
fn product(out: usize, k: usize, weight_bytes: usize, form: Form, rows: usize) -> Cost {
    let flops = 2.0 * rows as f64 * out as f64 * k as f64;
    let parts = if form == Form::Float { 1.0 } else { 2.0 };
    let weights = if rows == 0 { 0.0 } else { weight_bytes as f64 };
    let bytes = weights + input_bytes(k, form, rows) + F32 * (rows * out) as f64;
    Cost { flops, ops: parts * flops, bytes, quantized: form != Form::Float }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LoadOptions, Model};
    use crate::preset::Preset;
    use smallmind_kernels::DType;

    fn small(dtype: DType) -> Model {
        let gguf = Preset::find("small").unwrap().build(dtype, 1).unwrap();
        Model::from_gguf(gguf, &LoadOptions { threads: Some(1), precise: false }).unwrap()
    }

    fn cost(model: &Model, within: Option<Stage>, scope: Scope, rows: usize, before: usize) -> Cost {
        let shape = PassShape { rows, sequences: 1, before, logits: 1 };
        model.cost(within, scope, shape).unwrap()
    }

    #[test]
    fn products_and_attention_have_the_operations_of_their_shapes() {
        let model = small(DType::F32);
        let of = |stage: Stage, rows, before| cost(&model, None, stage.of_layer(0), rows, before).flops;
        // hidden 128: three products of 128 × 128, four times as wide an MLP, four heads of 32.
        assert_eq!(of(Stage::Qkv, 1, 0), 2.0 * 3.0 * 128.0 * 128.0);
        assert_eq!(of(Stage::MlpUp, 5, 0), 5.0 * 2.0 * 128.0 * 512.0);
        // Position 10 sees 11 positions; rows at 0, 1 and 2 see 1 + 2 + 3.
        assert_eq!(of(Stage::Attention, 1, 10), 4.0 * 11.0 * 128.0);
        assert_eq!(of(Stage::Attention, 3, 0), 4.0 * 6.0 * 128.0);
        let output = cost(&model, Some(Stage::Logits), Stage::Product.into(), 5, 0);
        assert_eq!((output.flops, output.quantized), (2.0 * 256.0 * 128.0, false));
    }

    #[test]
    fn a_token_reads_every_packed_weight_once() {
        for dtype in [DType::F32, DType::Q8_0] {
            let model = small(dtype);
            let layers = model.config().layers;
            let stages = [Stage::Qkv, Stage::AttnOut, Stage::MlpUp, Stage::MlpDown];
            let in_layers: f64 = (0..layers)
                .flat_map(|layer| stages.map(|s| cost(&model, None, s.of_layer(layer), 1, 0)))
                .map(|c| {
                    assert_eq!(c.quantized, dtype == DType::Q8_0);
                    c.bytes
                })
                .sum();
            let bytes = in_layers + cost(&model, None, Stage::Logits.into(), 1, 0).bytes;
            let weights = model.weight_bytes() as f64;
            assert!(bytes > weights && bytes < 1.2 * weights, "{bytes} for {weights} bytes of weights");
        }
    }

    #[test]
    fn eleven_bits_are_executed_as_two_times_eight() {
        let model = small(DType::Q8_0);
        let of = |stage: Stage| cost(&model, None, stage.of_layer(0), 4, 0);
        assert_eq!(of(Stage::Qkv).ops, 2.0 * of(Stage::Qkv).flops);
        let float = cost(&small(DType::F32), None, Stage::Qkv.of_layer(0), 4, 0);
        assert_eq!((float.ops, float.flops), (of(Stage::Qkv).flops, of(Stage::Qkv).flops));
        assert_eq!(model.cost(None, Stage::Sample.into(), PassShape::default()), None);
    }
}
