//! What plans for a CPU may do.

use crate::graph::Kernel;
use crate::plan::Target;
use crate::types::{Precision, Shape};

/// The CPU with as many compute threads: kernels work in place where they say so, everything is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTarget {
    /// Compute threads.
    pub threads: usize,
}

impl Target for CpuTarget {
    fn name(&self) -> &'static str {
        "cpu"
    }
    fn computes_in(&self, precision: Precision) -> bool {
        precision == Precision::F32
    }
    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], output: Shape) -> usize {
        kernel.cpu.scratch(inputs, output, self.threads)
    }
    fn works_in_place(&self, kernel: &Kernel, inputs: &[Shape], output: Shape) -> bool {
        kernel.cpu.works_in_place(inputs, output).is_some()
    }
}
