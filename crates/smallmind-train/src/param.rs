//! Trained weights: values, gradients, and how the optimizer treats them.

/// A weight matrix `[rows, cols]`, or a vector (one row).
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name in a GGUF file, or an adapter's.
    pub name: String,
    /// Outputs; 1 for a vector.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Whether it is stored as a vector.
    pub vector: bool,
    /// The values, row by row.
    pub data: Vec<f32>,
    /// The gradient of the loss; empty where it is not trained.
    pub grad: Vec<f32>,
    /// Whether weight decay pulls on it: matrices, not norms and biases.
    pub decay: bool,
}

/// The place of a parameter in the list of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(pub(crate) usize);

impl Param {
    /// A matrix.
    pub(crate) fn matrix(name: String, rows: usize, cols: usize, data: Vec<f32>) -> Param {
        let grad = vec![0.0; data.len()];
        Param { name, rows, cols, vector: false, data, grad, decay: true }
    }

    /// A vector.
    pub(crate) fn vector(name: String, data: Vec<f32>) -> Param {
        let grad = vec![0.0; data.len()];
        Param { name, rows: 1, cols: data.len(), vector: true, data, grad, decay: false }
    }

    /// Not to be trained.
    pub(crate) fn freeze(&mut self) {
        self.grad = Vec::new();
    }

    /// Whether it is trained.
    pub fn trained(&self) -> bool {
        !self.grad.is_empty()
    }
}
