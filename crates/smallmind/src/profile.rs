//! The stages of a run, and the probe that may watch them. Free where nobody watches: [`Off`] has no size and its calls
//! compile to nothing.
//!
//! A probe only records; what the records mean (tables, trees, shares of the machine's limits) is for others to say.

mod clock;
mod recorder;

pub use recorder::{Event, Node, Recorder};

/// A named stage, shared by profiler, reports and tests. Stages nest: a prefill holds passes, a pass layers, a layer the
/// stages of the figure of a transformer, and some of those the operators they consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// A file becomes a model.
    Load,
    /// A text becomes tokens.
    Tokenize,
    /// A prompt is computed.
    Prefill,
    /// One token of each sequence is computed.
    Decode,
    /// One forward pass.
    Pass,
    /// Rows of the embedding.
    Embed,
    /// Angles of the rows' positions.
    Rope,
    /// One layer of a pass.
    Layer,
    /// The norm before attention, and its result in the form that products take.
    AttnNorm,
    /// The products that give queries, keys and values.
    Qkv,
    /// Head norms, RoPE, and the write into the KV cache.
    QkNormRope,
    /// softmax(q · Kᵀ) · V.
    Attention,
    /// Attention's output product and the residual.
    AttnOut,
    /// The norm before the MLP.
    MlpNorm,
    /// The MLP's first products, and the activation of a gated one.
    MlpUp,
    /// The activation of a plain MLP, and the result in the form that products take.
    Activation,
    /// The MLP's last product and the residual.
    MlpDown,
    /// The last norm and the output product.
    Logits,
    /// Within a stage: activations become blocks of integers.
    Quantize,
    /// Within a stage: the matrix product.
    Product,
    /// Within a stage: the norm of what joins the residual stream, and the addition.
    PostNorm,
    /// Logits become a token.
    Sample,
    /// A token becomes text.
    Detokenize,
}

impl Stage {
    /// As reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Load => "load",
            Stage::Tokenize => "tokenize",
            Stage::Prefill => "prefill",
            Stage::Decode => "decode",
            Stage::Pass => "pass",
            Stage::Embed => "embed",
            Stage::Rope => "rope angles",
            Stage::Layer => "layer",
            Stage::AttnNorm => "attn_norm",
            Stage::Qkv => "qkv",
            Stage::QkNormRope => "qk_norm_rope",
            Stage::Attention => "attention",
            Stage::AttnOut => "attn_out",
            Stage::MlpNorm => "mlp_norm",
            Stage::MlpUp => "mlp_up",
            Stage::Activation => "activation",
            Stage::MlpDown => "mlp_down",
            Stage::Logits => "logits",
            Stage::Quantize => "quantize",
            Stage::Product => "product",
            Stage::PostNorm => "post_norm",
            Stage::Sample => "sample",
            Stage::Detokenize => "detokenize",
        }
    }
}

/// A stage, and the layer it belongs to where it belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// What is done.
    pub stage: Stage,
    /// Counted from 0.
    pub layer: Option<u32>,
}

impl From<Stage> for Scope {
    fn from(stage: Stage) -> Scope {
        Scope { stage, layer: None }
    }
}

impl Stage {
    /// The stage in a layer.
    pub fn of_layer(self, layer: usize) -> Scope {
        Scope { stage: self, layer: u32::try_from(layer).ok() }
    }
}

/// What one pass computed: with the model's plan this says how many operations and bytes each of its stages took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassShape {
    /// Tokens of all sequences.
    pub rows: usize,
    /// Sequences.
    pub sequences: usize,
    /// Positions that were filled before, of all sequences together.
    pub before: usize,
    /// Rows whose logits were wanted.
    pub logits: usize,
}

/// Heap allocations counted by whoever installed a counting allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Calls that asked for memory.
    pub calls: u64,
    /// Bytes they asked for; of a block that grew, the growth.
    pub bytes: u64,
    /// Bytes that are held now and were not before counting began; negative where more was given back.
    pub live: i64,
    /// The most that `live` ever was.
    pub peak: i64,
}

/// How to look at a counting allocator.
#[derive(Clone, Copy, Debug)]
pub struct AllocationHooks {
    /// The counts so far.
    pub now: fn() -> Allocated,
    /// Sets the peak, so that that of a part can be seen.
    pub set_peak: fn(i64),
}

/// Watches stages.
pub trait Probe {
    /// A stage begins, within the one that began last and has not ended.
    fn begin(&mut self, scope: Scope);

    /// The stage that began last ends.
    fn end(&mut self);

    /// As [`begin`](Probe::begin), where nothing worth a look at the clock has happened since the last stage began or ended.
    #[inline(always)]
    fn begin_at_once(&mut self, scope: Scope) {
        self.begin(scope);
    }

    /// As [`end`](Probe::end), where nothing worth a look at the clock has happened since the last stage ended.
    #[inline(always)]
    fn end_at_once(&mut self) {
        self.end();
    }

    /// A pass of this shape begins or has just begun.
    fn pass(&mut self, shape: PassShape);

    /// Runs one stage.
    #[inline(always)]
    fn stage<R>(&mut self, scope: Scope, run: impl FnOnce() -> R) -> R
    where
        Self: Sized,
    {
        self.begin(scope);
        let result = run();
        self.end();
        result
    }

    /// Runs one stage right behind the beginning or end of another.
    #[inline(always)]
    fn stage_at_once<R>(&mut self, scope: Scope, run: impl FnOnce() -> R) -> R
    where
        Self: Sized,
    {
        self.begin_at_once(scope);
        let result = run();
        self.end();
        result
    }

    /// Whether [`Probe::input`] does anything: else some inputs are never made in F32, and what it is given is void.
    const SEES_INPUTS: bool = false;

    /// Sees what the matrices of a stage are multiplied by, `[rows, k]`, before they are.
    #[inline(always)]
    fn input(&mut self, _stage: Stage, _layer: usize, _x: &[f32], _k: usize) {}
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Off;

impl Probe for Off {
    #[inline(always)]
    fn begin(&mut self, _scope: Scope) {}

    #[inline(always)]
    fn end(&mut self) {}

    #[inline(always)]
    fn pass(&mut self, _shape: PassShape) {}
}

impl<P: Probe> Probe for &mut P {
    #[inline(always)]
    fn begin(&mut self, scope: Scope) {
        (**self).begin(scope);
    }

    #[inline(always)]
    fn end(&mut self) {
        (**self).end();
    }

    #[inline(always)]
    fn begin_at_once(&mut self, scope: Scope) {
        (**self).begin_at_once(scope);
    }

    #[inline(always)]
    fn end_at_once(&mut self) {
        (**self).end_at_once();
    }

    #[inline(always)]
    fn pass(&mut self, shape: PassShape) {
        (**self).pass(shape);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watching_nothing_has_no_size() {
        assert_eq!(size_of::<Off>(), 0);
    }
}
