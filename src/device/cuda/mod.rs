//! The CUDA device: plans on NVIDIA GPUs, by kernels of `kernels/`, compiled at run time for the plan's shapes.

pub mod driver;
