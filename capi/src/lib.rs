//! The C library: functions over [`engine::embed`] that take pointers and give a status. No panic leaves them, null pointers
//! are refused, and an error's text is kept for [`srgan_last_error`].
//!
//! `include/srgan.h` is written from this crate by cbindgen.

// The names that C sees.
#![allow(clippy::missing_safety_doc)]
#![warn(clippy::undocumented_unsafe_blocks)]

mod arguments;
mod errors;
mod generator;
mod messages;
mod training;

use std::ffi::c_char;

pub use errors::{Status, srgan_last_error};
pub use generator::{
    Generator, Shape, srgan_generator_band_name, srgan_generator_bands, srgan_generator_close,
    srgan_generator_description, srgan_generator_normalisation, srgan_generator_open, srgan_generator_predict,
    srgan_generator_run, srgan_generator_scale, srgan_generator_step,
};
pub use messages::{OnMessage, srgan_set_messages, srgan_set_program};
pub use training::{Metric, OnStep, Run, Step, TrainOptions, srgan_train};

/// Number of the binary interface: that of the library's SONAME. A program may compare it with srgan_abi_version().
pub const SRGAN_ABI_VERSION: u32 = 0;

/// srgan_generator_open: the live weights, although the checkpoint has averaged ones.
pub const SRGAN_LIVE: u32 = 1;
/// srgan_generator_run: pixels are those of the files of the training, in and out, instead of normalised ones.
pub const SRGAN_RAW: u32 = 2;
/// srgan_generator_predict: replace a map that is there.
pub const SRGAN_OVERWRITE: u32 = 4;
/// srgan_generator_predict: go on with an unfinished map; leave a finished one alone.
pub const SRGAN_RESUME: u32 = 8;
/// srgan_generator_predict: accept values that the network was not trained for.
pub const SRGAN_FORCE: u32 = 16;

/// Version of the library: "0.1.0". Never null; the text lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn srgan_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The library's SRGAN_ABI_VERSION.
#[unsafe(no_mangle)]
pub extern "C" fn srgan_abi_version() -> u32 {
    SRGAN_ABI_VERSION
}
