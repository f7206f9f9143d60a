//! The CUDA device: plans on NVIDIA GPUs, by the kernels of `kernels/`, compiled at run time for the plan's shapes.
//!
//! An op says which kernels it launches ([`KernelLaunch`]), on which arguments ([`Args`]); a [`driver::Driver`]
//! compiles and runs them, on the GPU or, for tests, on the host.

mod args;
pub mod driver;
mod exec;
mod finish;
pub mod host;
mod launch;
mod module;
mod peak;
mod resolve;

pub use args::{Args, DeviceView};
pub use exec::Cuda;
pub use finish::{Finish, Part, PointwiseCode};
pub use launch::{CudaCall, CudaCommit, KernelLaunch, THREADS};
pub use resolve::modules;
