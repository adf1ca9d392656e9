//! The forward pass: tokens in, logits out, for every family. Prefill is a pass with many rows of one sequence, decode
//! one with one row of each of some sequences: the same function, and by the kernels' contract the same bits.

use smallmind_kernels::matmul::{
    ActQuants, Acts, Gated, Product, dequantize_row, matmul, matmul_gated, takes_quantized,
};

use super::activations::{ActBuffer, Form, exact_form, form};
use super::arch::{Activation, Mlp, Position};
use super::attention;
use super::pass::{Pass, Span};
use super::plan::{Layer, Linear, NormWeights};
use super::scratch::{Row, Scratch};
use super::weights::dequantize;
use crate::profile::{PassShape, Probe, Stage};

/// Computes the spans' tokens and appends them to their caches. Returns the logits that were asked for,
/// `[rows, vocab]`, spans in order.
pub(crate) fn forward<'s, P: Probe>(
    pass: Pass<'_>,
    scratch: &'s mut Scratch,
    spans: &mut [Span<'_>],
    probe: &mut P,
) -> &'s mut [f32] {
    let Pass { config, plan, kernels, .. } = pass;
    let s = &mut *scratch;
    s.rows.clear();
    for (i, span) in spans.iter().enumerate() {
        let first = span.kv.len();
        s.rows.extend((0..span.tokens.len()).map(|t| Row { span: i, position: first + t }));
    }
    let n = s.rows.len();
    let hidden = config.hidden;

    probe.begin(Stage::Pass.into());
    probe.pass(shape(spans));
    probe.stage_at_once(Stage::Embed.into(), || embed(pass, s, spans));
    probe.stage_at_once(Stage::Rope.into(), || rope_angles(pass, s));
    for (index, layer) in plan.layers.iter().enumerate() {
        let of = |stage: Stage| stage.of_layer(index);
        probe.begin_at_once(of(Stage::Layer));
        let qkv = form(pass.fast(), &[&layer.q, &layer.k, &layer.v]);
        probe.stage_at_once(of(Stage::AttnNorm), || {
            norm_rows(pass, &layer.attn_norm, &s.x[..n * hidden], &mut s.h, &mut s.acts, qkv);
        });
        probe.input(Stage::Qkv, index, &s.h[..n * hidden], hidden);
        probe.stage_at_once(of(Stage::Qkv), || {
            let acts = s.acts.acts(qkv, &s.h[..n * hidden], hidden);
            let mut products = [
                product(pass, &layer.q, &mut s.q),
                product(pass, &layer.k, &mut s.k),
                product(pass, &layer.v, &mut s.v),
            ];
            matmul(kernels, pass.pool, acts, &mut products);
        });
        probe.stage_at_once(of(Stage::QkNormRope), || attention::turn(pass, layer, index, s, spans));
        let attended =
            probe.stage_at_once(of(Stage::Attention), || attention::attend(pass, layer, index, s, spans));
        let (out, q_dim) = (form(pass.fast(), &[&layer.out]), config.q_dim());
        probe.begin_at_once(of(Stage::AttnOut));
        probe.stage_at_once(of(Stage::Quantize), || {
            let attn = (&mut s.attn[..n * q_dim], q_dim);
            s.acts.make((kernels, pass.pool), out, attn, &|row, attn| {
                attended.bring(config, &s.items, &s.tasks, row, attn);
            });
        });
        probe.input(Stage::AttnOut, index, &s.attn[..n * q_dim], q_dim);
        let joined = Joined { layer: index, linear: &layer.out, post: layer.post_attn_norm.as_deref() };
        let attn = s.acts.acts(out, &s.attn[..n * q_dim], q_dim);
        joined.residual(pass, attn, &mut s.x, [&mut s.h, &mut s.h2], probe);
        probe.end_at_once();
        let up = match &layer.gate {
            Some(gate) => form(pass.fast(), &[gate, &layer.up]),
            None => form(pass.fast(), &[&layer.up]),
        };
        let (down, ffn) = (form(pass.fast(), &[&layer.down]), config.ffn);
        probe.stage_at_once(of(Stage::MlpNorm), || {
            norm_rows(pass, &layer.mlp_norm, &s.x[..n * hidden], &mut s.h, &mut s.acts, up);
        });
        probe.input(Stage::MlpUp, index, &s.h[..n * hidden], hidden);
        // Of the fast class, what the last product takes is rounded as soon as it is there. (Not where the first products
        // have weights that the class does not take.)
        let of_class = [up, down].iter().all(|form| *form == Form::Rounded);
        let at_once = layer.gate.is_some() && of_class && !P::SEES_INPUTS;
        probe.stage_at_once(of(Stage::MlpUp), || {
            let acts = s.acts.acts(up, &s.h[..n * hidden], hidden);
            let rounded = at_once.then(|| s.gated.rounded(n, ffn));
            mlp_up(pass, layer, acts, &mut s.gate, &mut s.up, rounded);
        });
        let acts = if at_once { &mut s.gated } else { &mut s.acts };
        probe.stage_at_once(of(Stage::Activation), || {
            if !at_once {
                activate(pass, down, &mut s.gate[..n * ffn], acts);
            }
        });
        probe.input(Stage::MlpDown, index, &s.gate[..n * ffn], ffn);
        probe.begin_at_once(of(Stage::MlpDown));
        let joined = Joined { layer: index, linear: &layer.down, post: layer.post_mlp_norm.as_deref() };
        let gated = acts.acts(down, &s.gate[..n * ffn], ffn);
        joined.residual(pass, gated, &mut s.x, [&mut s.h, &mut s.h2], probe);
        probe.end_at_once();
        probe.end_at_once();
    }
    for span in spans.iter_mut() {
        span.kv.advance(span.tokens.len());
    }
    let out = logits(pass, s, spans, probe);
    probe.end_at_once();
    out
}

/// What the pass is to compute.
fn shape(spans: &[Span<'_>]) -> PassShape {
    PassShape {
        rows: spans.iter().map(|s| s.tokens.len()).sum(),
        sequences: spans.len(),
        before: spans.iter().map(|s| s.kv.len()).sum(),
        logits: spans.iter().map(|s| s.logits).sum(),
    }
}

fn product<'a>(pass: Pass<'a>, linear: &'a Linear, out: &'a mut [f32]) -> Product<'a> {
    let w = pass.plan.arena.get(&linear.w);
    Product { w, bias: linear.bias.as_deref(), out, stride: w.rows(), accumulate: false }
}

/// x[row] = embedding[token] · scale (+ the learned position).
fn embed(pass: Pass<'_>, s: &mut Scratch, spans: &[Span<'_>]) {
    let Pass { config, plan, gguf, kernels, pool, .. } = pass;
    let hidden = config.hidden;
    let Some(table) = gguf.tensor("token_embd.weight") else { return };
    let (data, dtype) = (gguf.data(table), table.dtype);
    let row_bytes = dtype.bytes_of(hidden).unwrap_or(0);
    let packed = plan.embedding.as_ref().map(|m| plan.arena.get(m));
    let (rows, n) = (&s.rows, s.rows.len());
    pool.chunks(&mut s.x[..n * hidden], hidden, &|i, x| {
        let Row { span, position } = rows[i];
        let token = spans[span].tokens[position - spans[span].kv.len()] as usize;
        match packed {
            Some(table) => dequantize_row(table, token, x),
            None => dequantize(dtype, &data[token * row_bytes..(token + 1) * row_bytes], x),
        }
        if plan.embed_scale != 1.0 {
            (kernels.scale)(x, plan.embed_scale);
        }
        if let Some(positions) = &plan.positions {
            (kernels.add)(x, &positions[position * hidden..(position + 1) * hidden]);
        }
    });
}

/// Cosines and sines of every row's position, in f64 and rounded once.
fn rope_angles(pass: Pass<'_>, s: &mut Scratch) {
    let half = pass.config.rope.dim / 2;
    if pass.config.arch.position == Position::Learned {
        return;
    }
    let rows = &s.rows;
    let n = rows.len();
    for ((table, cos), sin) in pass.plan.ropes.iter().zip(&mut s.cos).zip(&mut s.sin) {
        pass.pool.chunks2(&mut cos[..n * half], half, &mut sin[..n * half], half, &|i, cos, sin| {
            for ((c, s), freq) in cos.iter_mut().zip(sin).zip(&table.freq) {
                let (sine, cosine) = (rows[i].position as f64 * freq).sin_cos();
                *c = cosine as f32 * table.magnitude;
                *s = sine as f32 * table.magnitude;
            }
        });
    }
}

/// h = norm(x), and its quantized form where a product takes it.
fn norm_rows(pass: Pass<'_>, w: &NormWeights, x: &[f32], h: &mut [f32], acts: &mut ActBuffer, form: Form) {
    let hidden = pass.config.hidden;
    acts.make((pass.kernels, pass.pool), form, (&mut h[..x.len()], hidden), &|i, h| {
        norm(pass, w, &x[i * hidden..(i + 1) * hidden], h);
    });
}

/// One row's normalization.
fn norm(pass: Pass<'_>, w: &NormWeights, x: &[f32], out: &mut [f32]) {
    let eps = pass.config.norm_eps;
    match &w.bias {
        Some(bias) => (pass.kernels.layer_norm)(x, &w.weight, bias, eps, out),
        None => (pass.kernels.rms_norm)(x, &w.weight, eps, out),
    }
}

/// A product whose result joins the residual stream.
struct Joined<'a> {
    layer: usize,
    linear: &'a Linear,
    /// Of families that norm what joins.
    post: Option<&'a [f32]>,
}

impl Joined<'_> {
    /// x += W · acts, or x += norm(W · acts).
    fn residual<P: Probe>(
        &self,
        pass: Pass<'_>,
        acts: Acts<'_>,
        x: &mut [f32],
        [h, h2]: [&mut [f32]; 2],
        probe: &mut P,
    ) {
        let Pass { config, kernels, pool, .. } = pass;
        let hidden = config.hidden;
        let n = acts.tokens;
        let of = |stage: Stage| stage.of_layer(self.layer);
        match self.post {
            None => probe.stage_at_once(of(Stage::Product), || {
                let mut p = product(pass, self.linear, &mut x[..n * hidden]);
                p.accumulate = true;
                matmul(kernels, pool, acts, &mut [p]);
            }),
            Some(weight) => {
                let out = &mut h2[..n * hidden];
                probe.stage_at_once(of(Stage::Product), || {
                    matmul(kernels, pool, acts, &mut [product(pass, self.linear, out)]);
                });
                let out = &*out;
                probe.stage_at_once(of(Stage::PostNorm), || {
                    pool.chunks2(&mut x[..n * hidden], hidden, &mut h[..n * hidden], hidden, &|i, x, h| {
                        (kernels.rms_norm)(&out[i * hidden..(i + 1) * hidden], weight, config.norm_eps, h);
                        (kernels.add)(x, h);
                    });
                });
            }
        }
    }
}

/// gate = act(gate · h) · (up · h), or up · h where the MLP is plain; `rounded` takes the gated result instead.
fn mlp_up(
    pass: Pass<'_>,
    layer: &Layer,
    acts: Acts<'_>,
    gate: &mut [f32],
    up: &mut [f32],
    rounded: Option<&mut [ActQuants]>,
) {
    let Pass { config, kernels, pool, .. } = pass;
    match &layer.gate {
        Some(g) => {
            let activation = match config.arch.activation {
                Activation::Silu => kernels.silu_mul,
                Activation::Gelu => kernels.gelu_mul,
            };
            let (gate, up) = (product(pass, g, gate), product(pass, &layer.up, up));
            matmul_gated(kernels, pool, acts, Gated { gate, up, activation, rounded });
        }
        // The plain MLP's one product goes where the activation works in place.
        None => matmul(kernels, pool, acts, &mut [product(pass, &layer.up, gate)]),
    }
}

/// gate = act(gate) where the MLP is plain, and the quantized form where a product takes it.
fn activate(pass: Pass<'_>, down: Form, gate: &mut [f32], acts: &mut ActBuffer) {
    let Pass { config, kernels, pool, .. } = pass;
    acts.make((kernels, pool), down, (gate, config.ffn), &|_, gate| match (
        config.arch.mlp,
        config.arch.activation,
    ) {
        (Mlp::Gated, _) => {}
        (Mlp::Plain, Activation::Silu) => (kernels.silu)(gate),
        (Mlp::Plain, Activation::Gelu) => (kernels.gelu)(gate),
    });
}

/// The last norm and the output product of the rows that asked for it.
fn logits<'s, P: Probe>(
    pass: Pass<'_>,
    s: &'s mut Scratch,
    spans: &[Span<'_>],
    probe: &mut P,
) -> &'s mut [f32] {
    let Pass { config, plan, kernels, pool, .. } = pass;
    let (hidden, vocab) = (config.hidden, config.vocab);
    probe.begin(Stage::Logits.into());
    let mut wanted = 0;
    let mut row = 0;
    for span in spans {
        row += span.tokens.len();
        for r in row - span.logits..row {
            let (x, h) =
                (&s.x[r * hidden..(r + 1) * hidden], &mut s.h[wanted * hidden..(wanted + 1) * hidden]);
            norm(pass, &plan.output_norm, x, h);
            wanted += 1;
        }
    }
    let form = exact_form(takes_quantized(plan.output_dtype()));
    probe.stage(Stage::Quantize.into(), || {
        s.acts.make((kernels, pool), form, (&mut s.h[..wanted * hidden], hidden), &|_, _| {});
    });
    let acts = s.acts.acts(form, &s.h[..wanted * hidden], hidden);
    let out = &mut s.logits[..wanted * vocab];
    let w = plan.arena.get(&plan.output);
    probe.stage_at_once(Stage::Product.into(), || {
        matmul(kernels, pool, acts, &mut [Product { w, bias: None, out, stride: vocab, accumulate: false }]);
    });
    probe.end_at_once();
    &mut s.logits[..wanted * vocab]
}
