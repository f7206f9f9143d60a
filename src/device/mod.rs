//! What there is to compute with: the processor and NVIDIA GPUs, their memory, compilers and libraries. Nothing here knows
//! an op or a plan.

pub mod collective;
pub mod cpu;
pub mod cuda;
mod peaks;

pub use peaks::{Peaks, Workload};

/// How far the kernels of a plan are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiling {
    /// Modules in all, one for each kernel with its extents.
    pub total: usize,
    /// Those that were there already, from an earlier run.
    pub cached: usize,
    /// Those that are done, the cached ones included.
    pub done: usize,
}

/// Is told the device's name and how far it is: first when it is known what the cache holds, then after each module.
pub type OnCompile = Box<dyn FnMut(&str, Compiling)>;

/// Is told what the user should know of a device that works on.
pub type OnWarning = Box<dyn FnMut(&str)>;
