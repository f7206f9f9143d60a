//! The CUDA device: plans on NVIDIA GPUs, by the kernels of `kernels/`, compiled at run time for the plan's shapes.
//!
//! An op says which kernels it launches ([`KernelLaunch`]), on which arguments ([`Args`]); a [`driver::Driver`]
//! compiles and runs them, on the GPU or, for tests, on the host.

mod args;
pub mod cache;
mod choose;
mod compile;
pub mod driver;
mod exec;
mod failure;
mod fill;
mod finish;
mod gpu;
mod gpus;
pub mod host;
mod launch;
pub mod libraries;
pub mod library_call;
mod limits;
mod math;
mod module;
pub mod nvrtc;
mod peak;
mod ptxas;
mod readback;
mod resolve;
mod ring;
pub mod search;
mod staging;
mod timing;

pub use args::{Args, ArgsContent, DeviceView, TensorMap};
pub use compile::machine_code;
pub use exec::Cuda;
#[cfg(test)]
pub(crate) use exec::prepare;
pub use fill::fill_module;
pub use finish::{Finish, Part, PointwiseCode};
pub use gpu::{FoundGpu, GpuDriver, GpuOptions};
pub use gpus::{Gpu, gpus};
pub use launch::{CudaCall, CudaCommit, KernelLaunch, THREADS};
pub use library_call::{Convolution, Factor, Layout, LibraryCall, LibraryOp, Product};
pub use peak::peak_modules;
pub use ptxas::Usage;
pub(crate) use resolve::copy;
pub use resolve::modules;
