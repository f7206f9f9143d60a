//! The tape, and what an op has to say to stand on it.
//!
//! A training step is written once (network code calls [`Tape::push`]), differentiated by [`Tape::gradients`], which
//! appends ordinary nodes, and compiled by [`crate::plan`]. Nothing here knows an op by name: shape rules, derivatives
//! and kernels live with the ops (`src/ops/<op>`), behind the traits [`Op`] and [`CommitOp`]; what runs is one trait for
//! each kind of device ([`CpuKernel`], [`CudaKernel`], [`LibraryKernel`], and likewise for pointwise ops and commits).

mod kernel;
mod onnx;
mod op;
mod reach;
mod reference;
mod tape;

pub use kernel::{
    CpuCommit, CpuKernel, CpuPointwise, CudaCommit, CudaKernel, CudaPointwise, InPlace, Kernel, KernelCall,
    LibraryKernel, Operands, OverRanks, Pointwise, TiledCall,
};
pub use onnx::{OnnxAttribute, OnnxChain, OnnxInput, OnnxNode};
pub(crate) use op::same_shape;
pub use op::{Application, Axis, CommitOp, Exec, Op, Rounding, ViewOf};
pub use reach::Reach;
pub use reference::Tensor64;
pub use tape::{Node, Segment, Source, Tape, Value};
