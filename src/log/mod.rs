//! Everything a run writes for people and other programs to read.
//!
//! A run folder holds `config.yaml`, `metrics.csv`, TensorBoard event files, `val/step_<n>.png`, the
//! checkpoints (see [`crate::checkpoint`]) and `train.log`. [`RunDir`] names and locks it, [`MetricsLog`]
//! writes numbers and pictures on a thread of its own, [`Panels`] draws pictures, [`Messages`], [`Progress`]
//! and [`CompileProgress`] talk to the user.

mod append;
mod atomic;
mod compiling;
mod console;
mod csv;
mod events;
mod metrics;
mod panel;
mod progress;
mod run_dir;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use atomic::advice;
pub use atomic::write_atomic;
pub use compiling::CompileProgress;
pub use console::{Messages, RunLogFile};
pub use metrics::{MetricsLog, Scalar};
pub use panel::{PanelShape, Panels, Picture};
pub use progress::{Progress, StepInfo};
pub use run_dir::RunDir;
pub use table::Table;
