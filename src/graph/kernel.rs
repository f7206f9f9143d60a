//! How an op runs on each kind of device: one trait for the CPU, one for CUDA devices, and one for ops that a library
//! can compute too.

use std::ops::Index;

use crate::device::cpu::{Ctx, Isa, StoreTo, Tile, TileSink, View, ViewMut};
use crate::device::cuda::{CudaCall, CudaCommitCall, KernelLaunch, LibraryCall, PointwiseCode};
use crate::types::Shape;

/// Execution of an op that is not pointwise.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    /// What a CPU runs.
    pub cpu: &'a dyn CpuKernel,
    /// What a CUDA device launches.
    pub cuda: &'a dyn CudaKernel,
    /// The library call that can take the CUDA kernel's place.
    pub library: Option<&'a dyn LibraryKernel>,
    /// Whether pointwise ops can be fused behind it, on every device: the output is handed out in tiles.
    pub hosts_epilogue: bool,
    /// The factor, at least 2, of an op that does what a pixel shuffle does to its operand. Where the device can, the
    /// kernel that computes the operand stores its values where the shuffle would put them.
    pub shuffle_factor: Option<usize>,
    /// What a device that is one of several ranks makes of the output before anything reads it.
    pub over_ranks: Option<OverRanks>,
}

/// An exchange between ranks, of a contiguous tensor of which each has its own values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverRanks {
    /// Every element becomes its mean over the ranks.
    Mean,
    /// Image `r`, of as many as there are ranks, becomes what rank `r` has there.
    Rows,
}

impl<'a> Kernel<'a> {
    /// A kernel for every kind of device, without a library call.
    pub fn of<K: CpuKernel + CudaKernel>(op: &'a K) -> Kernel<'a> {
        Kernel { cpu: op, cuda: op, library: None, hosts_epilogue: false, shuffle_factor: None, over_ranks: None }
    }

    /// The same with a library call as an alternative.
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

    /// The same for an op whose output the ranks of a run exchange.
    #[must_use]
    pub fn with_ranks(self, how: OverRanks) -> Kernel<'a> {
        Kernel { over_ranks: Some(how), ..self }
    }
}

/// Operands of one kernel execution. All views may have a pixel stride larger than their channels.
pub struct KernelCall<'a> {
    /// Operands.
    pub inputs: &'a [View<'a>],
    /// Where the result goes.
    pub output: ViewMut<'a>,
    /// As many floats as [`CpuKernel::scratch`] asked for, with any content.
    pub scratch: &'a mut [f32],
}

impl<'a> KernelCall<'a> {
    /// The same execution with a sink that stores the result, for [`CpuKernel::run_into`].
    pub fn into_tiles(self) -> (TiledCall<'a>, StoreTo<'a>) {
        let KernelCall { inputs, output, scratch } = self;
        (TiledCall { inputs, output: output.shape(), scratch }, StoreTo::new(output))
    }
}

/// Operands of one kernel execution whose result a [`TileSink`] takes.
pub struct TiledCall<'a> {
    /// Operands.
    pub inputs: &'a [View<'a>],
    /// Extent of the result.
    pub output: Shape,
    /// As many floats as [`CpuKernel::scratch`] asked for, with any content.
    pub scratch: &'a mut [f32],
}

/// A kernel's promise that its output may overwrite operand 0.
#[derive(Clone, Copy, Debug)]
pub struct InPlace(());

impl InPlace {
    /// The kernel works in place.
    ///
    /// # Safety
    /// While an item of work holds a slice of operand 0 or of the output, no item writes or has a slice to write what
    /// lies there, and each item has read all of operand 0 that lies where it writes.
    pub const unsafe fn declared() -> InPlace {
        InPlace(())
    }
}

/// The side of a kernel that a CPU runs.
pub trait CpuKernel: Send + Sync {
    /// Floats of scratch memory.
    fn scratch(&self, _inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        0
    }
    /// Computes the output.
    fn run(&self, ctx: &Ctx, call: KernelCall);
    /// Whether the output may lie where operand 0 does, both contiguous and of one length.
    fn works_in_place(&self, _inputs: &[Shape], _output: Shape) -> Option<InPlace> {
        None
    }
    /// Computes the output and hands each element to `sink` exactly once.
    fn run_into(&self, _ctx: &Ctx, _call: TiledCall, _sink: &dyn TileSink) {
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
    /// Alternatives to [`launches`](CudaKernel::launches) that use `wgmma` and bulk copies, which only Hopper has. Each is
    /// a candidate for the fastest; its name means the same in every run. Called only for kernels with a library call.
    fn warpgroups(&self, _call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        Vec::new()
    }
}

/// The side of a kernel that one call of a library computes.
pub trait LibraryKernel: Send + Sync {
    /// The library call that writes the op's plain result to `call.output`; `None` if the library cannot compute it.
    /// The runtime applies fused stages afterwards.
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
    /// Replaces the carrier's values in `tile` by the output's.
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands);
}

/// The operands of a pointwise op, of which the carrier's values are in the tile: they are read there, as the carrier's
/// own memory may already hold the output.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    views: &'a [View<'a>],
    carrier: usize,
}

impl<'a> Operands<'a> {
    /// `views` has an entry for each operand, `carrier` is the place of the carrier's.
    pub fn new(views: &'a [View<'a>], carrier: usize) -> Operands<'a> {
        Operands { views, carrier }
    }

    /// Which operand is the carrier.
    pub fn carrier(&self) -> usize {
        self.carrier
    }

    /// The extent of operand `k`, which may be the carrier.
    pub fn shape(&self, k: usize) -> Shape {
        self.views[k].shape()
    }

    /// Operand `k`, if there are as many.
    ///
    /// # Panics
    /// If it is the carrier.
    pub fn get(&self, k: usize) -> Option<&View<'a>> {
        assert!(k != self.carrier, "operand {k} is in the tile");
        self.views.get(k)
    }
}

impl<'a> Index<usize> for Operands<'a> {
    type Output = View<'a>;

    fn index(&self, k: usize) -> &View<'a> {
        assert!(k != self.carrier, "operand {k} is in the tile");
        &self.views[k]
    }
}

/// The side of a pointwise op that a CUDA device runs.
pub trait CudaPointwise: Send + Sync {
    /// The function that replaces the carrier's value by the output's, for operands of these extents.
    fn code(&self, operands: &[Shape]) -> PointwiseCode;
}

/// The side of a state change that a CPU runs.
pub trait CpuCommit: Send + Sync {
    /// Updates `states` from the run's values. States are updated in the order of the program's commits.
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &mut [ViewMut]);
}

/// The side of a state change that a CUDA device launches.
pub trait CudaCommit: Send + Sync {
    /// The launches that update `call.states` where `call.ok` is not 0.
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch>;
}
