//! Training: from a config to a run folder.

mod algorithms;
mod memory;
pub mod names;
mod open;
pub mod perceptual;
pub mod programs;
mod run;
mod saving;
pub mod self_check;
pub mod session;
pub mod signals;
pub mod step;
mod summary;
mod table;
mod trainer;
pub mod validate;

pub use open::{DeviceOptions, data_settings, open_device, open_device_with};
pub use perceptual::torch_hub;
pub use run::{RunOptions, run, run_on};
pub(crate) use summary::{check_patch, steps_per_epoch, train_shape};
pub use summary::{dry_run, dry_run_on};
