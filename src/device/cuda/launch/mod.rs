//! What ops say about CUDA: which kernels they launch, on which operands, and what becomes of the results.

pub mod args;
pub mod finish;
pub mod library;

pub use args::{Args, ArgsContent, DeviceView, TensorMap};
pub use finish::{Finish, Part, PointwiseCode};
pub use library::{Convolution, Factor, Layout, LibraryCall, LibraryOp, Product};

use super::pointer::DevicePtr;
use crate::types::Precision;

/// Threads of a block where an op has no reason for another number.
pub const THREADS: usize = 256;

/// One launch, before it is compiled.
#[derive(Clone, Debug)]
pub struct KernelLaunch {
    /// Stem of the file in `kernels/`.
    pub file: &'static str,
    /// The kernel: a function template over its argument struct.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [usize; 3],
    /// Threads of a block, along x; `Args::THREADS` in the kernel.
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: usize,
    /// The arguments.
    pub args: Args,
}

impl KernelLaunch {
    /// A launch of `blocks` blocks of [`THREADS`] threads.
    pub fn new(file: &'static str, kernel: &'static str, blocks: usize, args: Args) -> KernelLaunch {
        KernelLaunch { file, kernel, grid: [blocks, 1, 1], threads: THREADS, shared_bytes: 0, args }
    }

    /// A launch with one thread for each of `items`.
    pub fn over(file: &'static str, kernel: &'static str, items: usize, args: Args) -> KernelLaunch {
        KernelLaunch::new(file, kernel, items.div_ceil(THREADS), args.size("items", items))
    }

    /// Pointwise stages on values that are in memory.
    pub fn pointwise(from: DeviceView, finish: &Finish) -> KernelLaunch {
        let vector = if from.has_vectors() && from.shape.c().is_multiple_of(4) { finish.vector() } else { 1 };
        let items = from.shape.len() / vector;
        let args = Args::new().input("from", from).finish(finish).fixed("V", vector);
        KernelLaunch::over("pointwise", "pointwise", items, args)
    }

    /// A copy of a tensor, rounded to the elements of `to`.
    pub fn copy(from: DeviceView, to: DeviceView) -> KernelLaunch {
        KernelLaunch::pointwise(from, &Finish::store(to))
    }

    /// The same launch with another grid.
    #[must_use]
    pub fn with_grid(self, grid: [usize; 3]) -> KernelLaunch {
        KernelLaunch { grid, ..self }
    }

    /// The same launch with another number of threads.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> KernelLaunch {
        KernelLaunch { threads, ..self }
    }

    /// The same launch with dynamic shared memory.
    #[must_use]
    pub fn with_shared_bytes(self, shared_bytes: usize) -> KernelLaunch {
        KernelLaunch { shared_bytes, ..self }
    }
}

/// Operands of one execution of an op.
#[derive(Debug)]
pub struct CudaCall<'a> {
    /// Operands.
    pub inputs: &'a [DeviceView],
    /// Where the result goes; an op that hosts an epilogue uses `finish` instead.
    pub output: DeviceView,
    /// As many floats as the op asked for, with any content, 64-byte aligned.
    pub scratch: DevicePtr,
    /// What becomes of finished values.
    pub finish: Finish,
    /// In which precision products are computed.
    pub precision: Precision,
}

/// Operands of one state change.
#[derive(Debug)]
pub struct CudaCommitCall<'a> {
    /// Values that it reads.
    pub inputs: &'a [DeviceView],
    /// States that it changes.
    pub states: &'a [DeviceView],
    /// One `int`: the change counts only where it is not 0.
    pub ok: DevicePtr,
}
