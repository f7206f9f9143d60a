//! `srgan`: trains super-resolution GANs for satellite imagery.
//!
//! Training steps are recorded once on a [`tape`], compiled to a static [`plan`] and replayed on a
//! [`device`]. Modules depend downwards only:
//!
//! ```text
//! train -> nn, loss (write ops on the tape), metrics, data, log, checkpoint
//! tape  -> records nodes and derives gradients; knows no op by name
//! ops   -> every op: shape rule, derivative rule, reference, CPU code
//! plan  -> dead code, fusion, aliasing, memory; a flat list of steps
//! device/cpu -> threads, SIMD kernels
//! device/cuda -> kernels compiled at run time for NVIDIA GPUs
//! ```

pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod doctor;
pub mod error;
pub mod files;
pub mod log;
pub mod loss;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod rng;
pub mod table;
pub mod tape;
#[cfg(test)]
pub(crate) mod testing;
pub mod train;

pub use error::{Error, Result};
