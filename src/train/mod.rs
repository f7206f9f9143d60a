//! Training: from a config to a run folder.

pub mod names;
mod open;
pub mod programs;
mod run;
mod saving;
pub mod session;
pub mod signals;
pub mod step;
mod summary;
mod table;
mod trainer;
pub mod validate;

pub use open::{data_settings, open_device};
pub use run::{RunOptions, run, run_on};
pub use summary::dry_run;
pub(crate) use summary::{check_patch, steps_per_epoch, train_shape};
