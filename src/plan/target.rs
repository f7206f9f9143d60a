//! What passes ask about the device that a plan is for.

use std::fmt::Debug;

use crate::graph::Kernel;
use crate::types::{Precision, Shape};

/// A kind of device, by what plans for it may do. Passes ask these questions and never which kind it is: another kind
/// of device is another implementation, beside the runtime that runs its plans.
pub trait Target: Debug + Sync {
    /// Its name in messages: `cpu`.
    fn name(&self) -> &'static str;
    /// Whether it computes in `precision`; everything does in f32.
    fn computes_in(&self, precision: Precision) -> bool;
    /// Channels at whose multiples slices of a dense block start, so that products in `precision` read whole vectors.
    fn channel_alignment(&self, _precision: Precision) -> usize {
        1
    }
    /// Floats of scratch memory of a kernel.
    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], output: Shape) -> usize;
    /// Whether a kernel's output may lie where operand 0 does, both contiguous and of one length.
    fn works_in_place(&self, _kernel: &Kernel, _inputs: &[Shape], _output: Shape) -> bool {
        false
    }
    /// Whether a kernel that hosts an epilogue can store its values where a pixel shuffle would put them.
    fn fuses_shuffles(&self) -> bool {
        false
    }
    /// Whether a library may compute kernels that have a library call; a result that cannot go to the step's output then
    /// needs scratch memory.
    fn has_libraries(&self) -> bool {
        false
    }
}
