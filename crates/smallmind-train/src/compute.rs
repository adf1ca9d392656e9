//! What every operation needs: the kernels, the threads, and memory that is used again step after step.

use std::collections::BTreeMap;

use smallmind_kernels::gemm::{Into, Mat, bf16, gemm, scratch_len};
use smallmind_kernels::matmul::ActQuants;
use smallmind_kernels::threads::Pool;
use smallmind_kernels::{Kernels, kernels};

use crate::config::Precision;
use crate::error::{Result, TrainError};

/// Rows that one task of a row-wise operation takes.
pub(crate) const ROWS: usize = 16;

/// Kernels, threads and spare buffers.
#[derive(Debug)]
pub struct Compute {
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: Pool,
    /// Buffers by length: asking the system for memory in every step costs more than many operations.
    spare: BTreeMap<usize, Vec<Vec<f32>>>,
    scratch: Vec<f32>,
    /// Scratch memory of products in bfloat16, where they are asked for.
    bf16: Option<Vec<ActQuants>>,
}

impl Compute {
    /// With so many threads, and products of this precision.
    ///
    /// # Errors
    /// Where `SMALLMIND_ISA` names what this CPU lacks, the system grants no threads, or bfloat16 is asked for and the
    /// instruction set in use has no matrix units for it.
    pub fn new(threads: usize, precision: Precision) -> Result<Compute> {
        let kernels = kernels().map_err(smallmind::Error::from)?;
        let bf16 = match (precision, kernels.bf16) {
            (Precision::F32, _) => None,
            (Precision::Bf16, Some(_)) => Some(Vec::new()),
            (Precision::Bf16, None) => {
                return Err(TrainError::config(format!(
                    "precision is bf16, and the instruction set in use ({}) has no matrix units for it: leave it out, or \
                     train on a CPU with AMX",
                    kernels.name
                )));
            }
        };
        let granted = std::thread::available_parallelism().map_or(threads, std::num::NonZero::get);
        let pool =
            Pool::sharing(threads, granted).map_err(|cause| smallmind::Error::Threads { threads, cause })?;
        Ok(Compute { kernels, pool, spare: BTreeMap::new(), scratch: Vec::new(), bf16 })
    }

    /// A buffer of any content.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        self.spare.get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| vec![0.0; len])
    }

    /// A buffer of zeros.
    pub(crate) fn zeros(&mut self, len: usize) -> Vec<f32> {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// A buffer of this content.
    pub(crate) fn copy(&mut self, of: &[f32]) -> Vec<f32> {
        let mut buffer = self.take(of.len());
        buffer.copy_from_slice(of);
        buffer
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        if !buffer.is_empty() {
            self.spare.entry(buffer.len()).or_default().push(buffer);
        }
    }

    /// C = A · B on all threads, in the run's precision; see [`gemm`].
    pub(crate) fn gemm(
        &mut self,
        a: Mat<'_>,
        b: Mat<'_>,
        sizes: [usize; 3],
        c: (&mut [f32], usize),
        into: Into<'_>,
    ) {
        let [m, n, k] = sizes;
        if let (Some(scratch), Some(kernels)) = (&mut self.bf16, &self.kernels.bf16) {
            let need = bf16::scratch_len(m, n, k);
            if scratch.len() < need {
                scratch.resize(need, ActQuants::ZERO);
            }
            return bf16::gemm(kernels, &self.pool, a, b, c, into, scratch);
        }
        let need = scratch_len(m, n, k);
        if self.scratch.len() < need {
            self.scratch.resize(need, 0.0);
        }
        gemm(self.kernels, Some(&self.pool), a, b, c, into, &mut self.scratch);
    }
}
