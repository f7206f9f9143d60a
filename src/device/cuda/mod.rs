//! NVIDIA GPUs: what is launched, how it is compiled, the libraries beside our own kernels, and the driver that runs it all.
//!
//! An op says which kernels it launches ([`KernelLaunch`]) on which arguments ([`Args`]); a [`driver::Driver`] compiles and
//! runs them, on a GPU ([`gpu`]) or, for tests and with the feature `host-driver`, on the host. Nothing here knows an op
//! or a plan.

pub mod compile;
pub mod driver;
pub mod gpu;
#[cfg(feature = "host-driver")]
pub mod host;
pub mod launch;
pub mod libraries;
pub mod pointer;
mod sources;

pub use compile::{Usage, machine_code};
pub use gpu::{FoundGpu, Gpu, GpuDriver, GpuOptions, gpus};
pub use launch::{
    Args, ArgsContent, Convolution, CudaCall, CudaCommitCall, DeviceView, Factor, Finish, KernelLaunch, Layout,
    LibraryCall, LibraryOp, Part, PointwiseCode, Product, THREADS, TensorMap,
};
