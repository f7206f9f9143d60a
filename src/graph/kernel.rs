//! How an op runs on each kind of device.

use crate::device::cpu::{Ctx, Isa, Tile, TileSink, View, ViewMut};
use crate::device::cuda::{CudaCall, KernelLaunch, LibraryCall, PointwiseCode};
use crate::types::Shape;

/// Pointwise execution. One operand, the carrier, arrives in the tile and is transformed in place.
pub trait Pointwise: Send + Sync {
    /// Whether operand `input` (of the output's extent) may be the carrier.
    fn carrier(&self, input: usize) -> bool {
        input == 0
    }
    /// Replaces the carrier's values in `tile` by the output's. `operands` has an entry for each operand; that
    /// of the carrier must not be read.
    fn apply(&self, isa: Isa, tile: &mut Tile, carrier: usize, operands: &[View]);
    /// The same on a CUDA device, for operands of these extents.
    fn cuda(&self, operands: &[Shape]) -> PointwiseCode;
}

/// Operands of one kernel execution. All views may have a pixel stride larger than their channels.
pub struct KernelCall<'a> {
    /// Operands.
    pub inputs: &'a [View],
    /// Where the result goes; unused by [`Kernel::run_into`].
    pub output: ViewMut,
    /// As many floats as [`Kernel::scratch`] asked for, with any content.
    pub scratch: &'a mut [f32],
}

/// Execution of an op that is not pointwise.
pub trait Kernel: Send + Sync {
    /// Floats of scratch memory.
    fn scratch(&self, _inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        0
    }
    /// Computes the output.
    fn run(&self, ctx: &Ctx, call: KernelCall);
    /// Whether [`Kernel::run_into`] exists: the output is handed out in tiles and pointwise ops can be fused
    /// behind it.
    fn hosts_epilogue(&self) -> bool {
        false
    }
    /// Whether on the CPU the output may lie where operand 0 does, both contiguous and of one length: each item of
    /// work has read all that lies where it writes.
    fn works_in_place(&self, _inputs: &[Shape], _output: Shape) -> bool {
        false
    }
    /// Computes the output and hands each element to `sink` exactly once.
    fn run_into(&self, _ctx: &Ctx, _call: KernelCall, _sink: &dyn TileSink) {
        unreachable!("only kernels that host an epilogue are asked to")
    }
    /// The factor, at least 2, of an op that does what a pixel shuffle does to its operand. On a CUDA device the kernel
    /// that computes the operand can store its values where the shuffle would put them.
    fn shuffle_factor(&self) -> Option<usize> {
        None
    }
    /// Floats of scratch memory on a CUDA device.
    fn cuda_scratch(&self, _inputs: &[Shape], _output: Shape) -> usize {
        0
    }
    /// The launches that compute the output on a CUDA device. A kernel that hosts an epilogue hands every element
    /// of the output to `call.finish` exactly once, the others write `call.output`.
    fn cuda(&self, call: &CudaCall) -> Vec<KernelLaunch>;
    /// The same by Hopper's own instructions, `wgmma` and bulk copies, each way that may be the fastest with a name that
    /// means the same in every run; only asked of a kernel that a library can do too.
    fn cuda_warpgroups(&self, _call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        Vec::new()
    }
    /// Whether [`Kernel::cuda_library`] may have an answer.
    fn has_library(&self) -> bool {
        false
    }
    /// The same as one call of a library that writes `call.output` as it is, where a library has it; what is to become
    /// of the values after that is not its business.
    fn cuda_library(&self, _call: &CudaCall) -> Option<LibraryCall> {
        None
    }
}
