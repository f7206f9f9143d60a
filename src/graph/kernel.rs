//! How an op runs on each kind of device: a side of it for the CPU, one for CUDA devices, and, where a library has the
//! same, one for libraries.

use crate::device::cpu::{Ctx, Isa, Tile, TileSink, View, ViewMut};
use crate::device::cuda::{CudaCall, CudaCommitCall, KernelLaunch, LibraryCall, PointwiseCode};
use crate::types::Shape;

/// Execution of an op that is not pointwise.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    /// What a CPU runs.
    pub cpu: &'a dyn CpuKernel,
    /// What a CUDA device launches.
    pub cuda: &'a dyn CudaKernel,
    /// What a library can do instead.
    pub library: Option<&'a dyn LibraryKernel>,
    /// Whether pointwise ops can be fused behind it, on every device: the output is handed out in tiles.
    pub hosts_epilogue: bool,
    /// The factor, at least 2, of an op that does what a pixel shuffle does to its operand. Where the device can, the
    /// kernel that computes the operand stores its values where the shuffle would put them.
    pub shuffle_factor: Option<usize>,
}

impl<'a> Kernel<'a> {
    /// A kernel for every kind of device, which no library has.
    pub fn of<K: CpuKernel + CudaKernel>(op: &'a K) -> Kernel<'a> {
        Kernel { cpu: op, cuda: op, library: None, hosts_epilogue: false, shuffle_factor: None }
    }

    /// The same for an op that a library can do too.
    #[must_use]
    pub fn with_library(self, op: &'a dyn LibraryKernel) -> Kernel<'a> {
        Kernel { library: Some(op), ..self }
    }

    /// The same for an op that implements [`CpuKernel::run_into`] and, on CUDA devices, hands its values to
    /// [`CudaCall::finish`].
    #[must_use]
    pub fn with_epilogue(self) -> Kernel<'a> {
        Kernel { hosts_epilogue: true, ..self }
    }
}

/// Operands of one kernel execution. All views may have a pixel stride larger than their channels.
pub struct KernelCall<'a> {
    /// Operands.
    pub inputs: &'a [View],
    /// Where the result goes; unused by [`CpuKernel::run_into`].
    pub output: ViewMut,
    /// As many floats as [`CpuKernel::scratch`] asked for, with any content.
    pub scratch: &'a mut [f32],
}

/// The side of a kernel that a CPU runs.
pub trait CpuKernel: Send + Sync {
    /// Floats of scratch memory.
    fn scratch(&self, _inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        0
    }
    /// Computes the output.
    fn run(&self, ctx: &Ctx, call: KernelCall);
    /// Whether the output may lie where operand 0 does, both contiguous and of one length: each item of work has read
    /// all that lies where it writes.
    fn works_in_place(&self, _inputs: &[Shape], _output: Shape) -> bool {
        false
    }
    /// Computes the output and hands each element to `sink` exactly once.
    fn run_into(&self, _ctx: &Ctx, _call: KernelCall, _sink: &dyn TileSink) {
        unreachable!("only kernels that host an epilogue are asked to")
    }
}

/// The side of a kernel that a CUDA device launches.
pub trait CudaKernel: Send + Sync {
    /// Floats of scratch memory.
    fn scratch(&self, _inputs: &[Shape], _output: Shape) -> usize {
        0
    }
    /// The launches that compute the output. A kernel that hosts an epilogue hands every element of the output to
    /// `call.finish` exactly once, the others write `call.output`.
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch>;
    /// The same by Hopper's own instructions, `wgmma` and bulk copies, each way that may be the fastest with a name that
    /// means the same in every run; only asked of a kernel that a library can do too.
    fn warpgroups(&self, _call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        Vec::new()
    }
}

/// The side of a kernel that one call of a library computes.
pub trait LibraryKernel: Send + Sync {
    /// The call that writes `call.output` as it is, where a library has it; what is to become of the values after that
    /// is not its business.
    fn call(&self, call: &CudaCall) -> Option<LibraryCall>;
}

/// Pointwise execution. One operand, the carrier, arrives in the tile and is transformed in place.
#[derive(Clone, Copy)]
pub struct Pointwise<'a> {
    /// What a CPU runs.
    pub cpu: &'a dyn CpuPointwise,
    /// What a CUDA device runs.
    pub cuda: &'a dyn CudaPointwise,
    /// Whether every operand of the output's extent may be the carrier, not operand 0 alone.
    pub any_carrier: bool,
}

impl<'a> Pointwise<'a> {
    /// Execution on every kind of device, with operand 0 as the carrier.
    pub fn of<P: CpuPointwise + CudaPointwise>(op: &'a P) -> Pointwise<'a> {
        Pointwise { cpu: op, cuda: op, any_carrier: false }
    }

    /// The same for an op whose carrier may be any operand of the output's extent.
    #[must_use]
    pub fn with_any_carrier(self) -> Pointwise<'a> {
        Pointwise { any_carrier: true, ..self }
    }

    /// Whether operand `input`, if it has the output's extent, may be the carrier.
    pub fn may_carry(&self, input: usize) -> bool {
        self.any_carrier || input == 0
    }
}

/// The side of a pointwise op that a CPU runs.
pub trait CpuPointwise: Send + Sync {
    /// Replaces the carrier's values in `tile` by the output's. `operands` has an entry for each operand; that
    /// of the carrier must not be read.
    fn apply(&self, isa: Isa, tile: &mut Tile, carrier: usize, operands: &[View]);
}

/// The side of a pointwise op that a CUDA device runs.
pub trait CudaPointwise: Send + Sync {
    /// The function that replaces the carrier's value by the output's, for operands of these extents.
    fn code(&self, operands: &[Shape]) -> PointwiseCode;
}

/// The side of a state change that a CPU runs.
pub trait CpuCommit: Send + Sync {
    /// Updates `states` from the run's values. States are updated in the order of the program's commits.
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &[ViewMut]);
}

/// The side of a state change that a CUDA device launches.
pub trait CudaCommit: Send + Sync {
    /// The launches that update `call.states` where `call.ok` is not 0.
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch>;
}
