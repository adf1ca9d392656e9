//! The bytes that one decoded token has to read, counted from a model file.

use std::path::Path;

use smallmind::{Config, Gguf, KvCache, KvPrecision};

use crate::Result;

/// What a token of this model reads.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// The matrices and vectors of every layer and of the output, as stored.
    pub weights: f64,
    /// K and V of one position of one layer, in half precision.
    layer_kv: f64,
    /// The positions that each layer can see, at most.
    windows: Vec<usize>,
}

impl Bytes {
    /// Of a model file.
    ///
    /// # Errors
    /// Where the file is no model that we read.
    pub fn of_file(path: &Path) -> Result<Bytes> {
        Bytes::of(&Gguf::open(path)?)
    }

    /// Of an opened file.
    ///
    /// # Errors
    /// Where its numbers are no model's that we know.
    pub fn of(gguf: &Gguf) -> Result<Bytes> {
        let config = Config::read(gguf)?;
        // Of an embedding one row is read, unless it is the output matrix as well.
        let tied = gguf.tensor("output.weight").is_none();
        let read = gguf.tensors().iter().filter(|t| match t.name.as_str() {
            "token_embd.weight" => tied,
            "position_embd.weight" => false,
            _ => true,
        });
        let weights = read.map(|t| t.bytes() as f64).sum();
        let all_layers = KvCache::bytes_per_token(&config, KvPrecision::I16);
        let layer_kv = all_layers as f64 / config.layers.max(1) as f64;
        let windows = (0..config.layers).map(|l| config.layer_window(l).unwrap_or(usize::MAX)).collect();
        Ok(Bytes { weights, layer_kv, windows })
    }

    /// Of one token on average, while `generated` tokens are decoded behind `depth`.
    pub fn at(&self, depth: usize, generated: usize) -> f64 {
        let positions = depth + generated / 2;
        let seen: usize = self.windows.iter().map(|window| positions.min(*window)).sum();
        self.weights + self.layer_kv * seen as f64
    }

    /// Of one sequence's token where `sequences` decode together and share the weights.
    pub fn shared(&self, sequences: usize, depth: usize, generated: usize) -> f64 {
        self.at(depth, generated) - self.weights + self.weights / sequences as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallmind::DType;
    use smallmind::preset::Preset;

    #[test]
    fn a_token_reads_all_weights_but_the_embeddings_and_the_positions_before_it() {
        let preset = Preset::find("small").unwrap();
        let bytes = Bytes::of(&preset.build(DType::F32, 1).unwrap()).unwrap();
        assert_eq!(bytes.weights, 4.0 * (470_528.0 - 256.0 * 128.0 - 64.0 * 128.0));
        // Two layers, K and V, 128 values of 16 bits and the units of 4 heads, at position 10 + 50 / 2.
        assert_eq!(bytes.at(10, 50) - bytes.weights, 2.0 * 2.0 * (128.0 * 2.0 + 4.0 * 4.0) * 35.0);
        assert_eq!(bytes.shared(4, 0, 0), bytes.weights / 4.0);
    }

    #[test]
    fn a_window_bounds_what_a_layer_reads() {
        let bytes = Bytes { weights: 100.0, layer_kv: 2.0, windows: vec![512, usize::MAX] };
        assert_eq!(bytes.at(1000, 0), 100.0 + 2.0 * 512.0 + 2.0 * 1000.0);
    }
}
