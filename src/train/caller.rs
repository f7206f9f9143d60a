//! A program that trains by a call of this library.

use std::sync::Arc;

use super::signals::WantsStop;
use super::step::StepReport;
use crate::log::Messages;

/// Called after each step with its number, from 0, and what it did; `false` stops the run with its state saved. The step
/// after it may be under way already and is then the last.
pub type OnStep = Arc<dyn Fn(u64, &StepReport) -> bool + Send + Sync>;

/// A program that trains by a call of this library, from whose thread it is called back. Its signal handlers stay as they
/// are.
#[derive(Clone)]
pub struct Caller {
    /// Told of each step.
    pub on_step: OnStep,
    /// Asked whether the run is to stop.
    pub wants_stop: WantsStop,
    /// Where messages go.
    pub messages: Messages,
}
