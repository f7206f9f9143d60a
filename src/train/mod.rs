//! Training: from a config to a run folder.

mod algorithms;
mod begin;
mod caller;
mod host;
mod imagery;
mod memory;
mod open;
pub mod perceptual;
pub mod plans;
mod poster;
pub mod programs;
pub mod ranks;
mod run;
mod run_dir;
mod saving;
pub mod scalars;
pub mod schedule;
pub mod self_check;
pub mod session;
pub mod signals;
pub mod states;
pub mod step;
mod summary;
mod table;
mod trainer;
pub mod validate;
mod wandb;

pub use caller::{Caller, OnStep};
pub use open::{DeviceOptions, data_settings, open_device, open_device_with};
pub use perceptual::torch_hub;
pub use run::{FinishedRun, RunOptions, describe_begin, run, run_on};
pub use run_dir::RunDir;
pub(crate) use summary::{check_patch, steps_per_epoch};
pub use summary::{dry_run, dry_run_on};
