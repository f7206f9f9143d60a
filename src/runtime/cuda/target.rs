//! What plans for a CUDA device may do.

use crate::graph::Kernel;
use crate::plan::Target;
use crate::types::{Precision, Shape};

/// A CUDA device: kernels store shuffled values, libraries may take their place, tensor cores multiply bf16 and tf32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaTarget;

impl Target for CudaTarget {
    fn name(&self) -> &'static str {
        "cuda"
    }
    fn computes_in(&self, _precision: Precision) -> bool {
        true
    }
    /// Channels of 16 bytes, the unit in which tensor cores are fed.
    fn channel_alignment(&self, precision: Precision) -> usize {
        match precision {
            Precision::F32 => 1,
            Precision::Tf32 => 4,
            Precision::Bf16 => 8,
        }
    }
    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], output: Shape) -> usize {
        kernel.cuda.scratch(inputs, output)
    }
    fn fuses_shuffles(&self) -> bool {
        true
    }
    fn has_libraries(&self) -> bool {
        true
    }
}
