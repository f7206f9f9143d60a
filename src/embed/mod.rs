//! What other programs call, in Rust or through the packages for C (`capi/`) and Python (`python/`): a trained generator on
//! images in memory or on whole scenes ([`Generator`]), training with a say after each step ([`train`]), and the metrics of
//! images ([`measure`]).
//!
//! Images are f32, channels first: (N, C, H, W), without gaps. Signal handlers stay as they are, nothing is printed unless
//! the caller hands over [`Messages`](crate::log::Messages), and no call panics on bad input.

mod generator;
mod images;
mod measures;
mod training;
mod worker;

pub use generator::{Generator, OpenOptions, Pixels};
pub use measures::{MeasureOptions, Measures, measure};
pub use training::{ConfigSource, EmbeddedRun, TrainOptions, load_config, train};
