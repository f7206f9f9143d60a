//! The processor: threads, instruction sets, memory, and the inner loops that several ops share.
//!
//! Activations are f32 in NHWC order, possibly channel slices of a wider buffer ([`View`]). Kernels hand finished values
//! to a [`TileSink`], so that a fused epilogue runs while they are in cache. Results are bit-identical for any number of
//! threads: an item of work owns its outputs and keeps their whole reduction in a fixed order, and the cut into items
//! never looks at the thread count.

mod buffer;
mod gemm;
mod isa;
pub(crate) mod memory;
pub(crate) mod micro;
pub(crate) mod peak;
mod pool;
pub(crate) mod scratch;
pub(crate) mod simd;
#[cfg(test)]
pub(crate) mod testing;
mod tile;
mod view;

pub use buffer::Buffer;
pub use gemm::{GemmShape, Matrix, gemm, gemm_scratch_len};
pub use isa::{Isa, IsaKind};
pub use pool::Pool;
pub(crate) use tile::copy_pixels;
pub use tile::{Place, StoreTo, Tile, TileSink};
pub use view::{Ctx, RawView, View, ViewMut};
