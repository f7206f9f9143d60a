//! `srgan`: trains super-resolution GANs for satellite imagery.
//!
//! Training steps are recorded once on a tape ([`graph`]), compiled to a static [`plan`] and replayed by a [`runtime`].
//! Modules use only what stands below them (`tests/ladder.rs` holds them to it):
//!
//! ```text
//! cli, embed         the doors: command lines, and what other programs and languages call
//! bench, doctor, evaluate, export, init, inspect, predict
//! trained            a generator in a file: configuration and weights
//! train              a run: schedule, step, loop, validation, report
//! nn, loss           networks and loss terms: write ops on the tape
//! runtime/{cpu,cuda} runs plans: memory, graphs, choice of algorithms
//! plan, autodiff     dead code, fusion, aliasing, memory | gradients by the ops' own rules
//! ops/<op>           an op's home: extent, derivative, reference, CPU code, CUDA launches
//! graph              the tape, and what an op has to say to stand on it
//! device/{cpu,cuda}  threads, SIMD, matrix products | driver, compiler, libraries: knows no op and no plan
//! types              Shape, DType, Precision, ConvShape
//! ```
//!
//! Beside the engine: [`metrics`] (the table of what is measured), [`config`] (typed YAML), [`data`] (scenes to
//! batches), [`log`] (what a run writes) and [`checkpoint`].

#![warn(clippy::undocumented_unsafe_blocks)]

pub mod autodiff;
pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod doctor;
pub mod embed;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod graph;
pub mod init;
pub mod inspect;
pub mod log;
pub mod loss;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod predict;
pub mod rng;
pub mod runtime;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod train;
pub mod trained;
pub mod types;

pub use crate::error::{Error, Result};
