//! Everything a run writes for people and other programs to read.
//!
//! A run folder holds `config.yaml`, `run.json`, `metrics.csv`, TensorBoard event files, `val/step_<n>.png`, the
//! checkpoints, `train.log` and, made of these, `report.html`. [`MetricsLog`] writes numbers and pictures on a thread of its
//! own, [`Panels`] draws pictures, [`Messages`], [`Progress`] and [`CompileProgress`] talk to the user.

mod append;
mod clock;
mod compiling;
mod console;
mod csv;
mod events;
mod lines;
mod maps;
mod metrics;
mod page;
mod panel;
mod picture;
mod progress;
mod wandb;

pub use clock::local_time;
pub use compiling::CompileProgress;
pub use console::{Messages, RunLogFile};
pub use lines::{say, say_error};
pub use maps::MapProgress;
pub use metrics::{MetricsLog, Row, Scalar};
pub use page::{EVALUATION_TEXT, HELD_OUT, Page, REPORT, RunFacts, write_comparison, write_run};
pub use panel::{PanelImages, PanelShape, Panels};
pub use picture::Picture;
pub use progress::{Progress, StepInfo};
pub use wandb::{WandbInfo, WandbRun, new_id};
