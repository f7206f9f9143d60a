//! The CPU device: threads, instruction sets and the compute kernels of the training engine.
//!
//! Activations are f32 in NHWC order, possibly channel slices of a wider buffer ([`View`]); weights are
//! O,kh,kw,I. Kernels hand finished values to a [`TileSink`], so that a fused epilogue runs while they are
//! in cache. Results are bit-identical for any number of threads: an item of work owns its outputs and
//! keeps their whole reduction in a fixed order, and the cut into items never looks at the thread count.

mod band;
mod buffer;
mod conv;
mod conv_shape;
mod direct;
mod exec;
mod extent;
mod float;
mod gemm;
mod isa;
mod memory;
mod micro;
mod pack;
mod peak;
mod pool;
mod products;
mod ready;
pub mod reference;
mod scratch;
mod simd;
mod stacked_weight_grad;
#[cfg(test)]
mod tests;
mod view;
mod weight_grad;
mod winograd;
mod winograd_conv;
mod winograd_weight_grad;
mod winograd_weights;

pub use buffer::Buffer;
pub use conv::{Algorithm, algorithm, conv2d, conv2d_input_grad, conv2d_weight_grad, scratch_len};
pub use conv_shape::{ConvShape, Pass, out_size};
pub use exec::Cpu;
pub use float::Float;
pub use gemm::{GemmShape, Matrix, gemm, gemm_scratch_len};
pub use isa::{Isa, IsaKind};
pub use pool::Pool;
pub use view::{Ctx, StoreTo, Tile, TileSink, View, ViewMut};
