//! Plain values that every part of the engine speaks of: extents, element types, precisions, shapes of convolutions.

mod conv;
mod float;
mod precision;
mod shape;

pub use conv::{ConvShape, Pass, out_size};
pub use float::Float;
pub use precision::Precision;
pub use shape::{DType, Element, Shape};
