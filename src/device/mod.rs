//! Devices: memory, execution of plans, and the state that outlives them.

pub mod choices;
pub mod cpu;
pub mod cuda;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use choices::{Choice, Choices};

use crate::Result;
use crate::plan::{Plan, Target};
use crate::tape::Shape;

/// A plan that a device has made ready to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanId(pub(crate) usize);

/// A run that was started, to be collected.
#[derive(Debug)]
#[must_use = "the device keeps what the run gives back until it is collected"]
pub struct Run {
    pub(crate) plan: PlanId,
    /// What the device knows it by.
    pub(crate) ticket: usize,
}

/// What one run gave back.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether every checked value was finite and the state changes were made.
    pub committed: bool,
    /// The plan's outputs in order, each contiguous in NHWC order.
    pub outputs: Vec<Vec<f32>>,
}

/// How far the kernels of a plan are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiling {
    /// Modules in all, one for each kernel with its extents.
    pub total: usize,
    /// Those that were there already, from an earlier run.
    pub cached: usize,
    /// Those that are done, the cached ones included.
    pub done: usize,
}

/// Is told the device's name and how far it is: first when it is known what the cache holds, then after each module.
pub type OnCompile = Box<dyn FnMut(&str, Compiling)>;

/// Is told what the user should know of a device that works on.
pub type OnWarning = Box<dyn FnMut(&str)>;

/// The most that a device can do, measured with the threads and the instruction set that it computes with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// Operations per second of f32 multiply-adds in registers, each counted as two.
    pub flops: f64,
    /// Bytes per second of a copy larger than the caches, read and written bytes counted.
    pub bandwidth: f64,
}

impl Peaks {
    /// Seconds that this work takes at least: the longer of its arithmetic and its traffic (the roofline model,
    /// Williams, Waterman and Patterson 2009).
    pub fn least_time(&self, flops: u64, bytes: u64) -> f64 {
        (flops as f64 / self.flops).max(bytes as f64 / self.bandwidth)
    }
}

/// Runs plans. State is held by name; all plans of a device share one arena.
pub trait Device {
    /// A short name for messages: `cpu (2 threads, avx2)`.
    fn describe(&self) -> String;

    /// What plans for this device are compiled for.
    fn target(&self) -> Target;

    /// Makes a plan ready.
    ///
    /// # Errors
    /// If the plan names a state that does not exist or has another size, or memory cannot be had.
    fn load(&mut self, plan: Plan) -> Result<PlanId>;

    /// Fills input slot `name` with raw little-endian elements; a slot that the plan does not have is ignored.
    ///
    /// # Errors
    /// If the number of bytes is not the slot's.
    fn upload(&mut self, plan: PlanId, name: &str, bytes: &[u8]) -> Result<()>;

    /// Starts a run of a plan on what was uploaded. Runs are done in the order of their starts. On a GPU the call does
    /// not wait for the run: the next one may be uploaded and started before it is collected. The CPU computes it here.
    ///
    /// # Errors
    /// Those of the driver; the CPU has none.
    fn start(&mut self, plan: PlanId) -> Result<Run>;

    /// Waits for a run and takes what it gave back.
    ///
    /// # Errors
    /// Those of the driver, the run's own included; the CPU has none.
    fn collect(&mut self, run: Run) -> Result<Outcome>;

    /// Runs a plan once and waits for it.
    ///
    /// # Errors
    /// Those of [`Device::start`] and [`Device::collect`].
    fn run(&mut self, plan: PlanId) -> Result<Outcome> {
        let run = self.start(plan)?;
        self.collect(run)
    }

    /// Creates a state or replaces its values.
    ///
    /// # Errors
    /// If memory cannot be had, or the state exists with another number of elements.
    fn set_state(&mut self, name: &str, shape: Shape, data: &[f32]) -> Result<()>;

    /// A copy of a state.
    ///
    /// # Errors
    /// If there is none of that name.
    fn state(&self, name: &str) -> Result<Vec<f32>>;

    /// The algorithms that loaded plans use, where the device had a choice; `None` where it never has one.
    fn choices(&self) -> Option<&Choices> {
        None
    }

    /// Of a plan's steps with several ways, the path and the kind that [`Device::choices`] knows it by.
    fn steps_with_choice(&self, _plan: PlanId) -> &[(Arc<str>, String)] {
        &[]
    }

    /// Takes algorithms of an earlier run on the same device and libraries for plans that are loaded later. What they
    /// do not name is timed.
    fn reuse(&mut self, _choices: Choices) {}

    /// Bytes of memory that states and plans can still take; `None` where nobody says.
    ///
    /// # Errors
    /// Those of the driver.
    fn available_memory(&self) -> Result<Option<usize>>;

    /// Fills working memory with NaN, so that a step that reads what none wrote becomes visible.
    ///
    /// # Errors
    /// Those of the driver.
    fn poison(&mut self) -> Result<()>;

    /// The plan behind an id.
    fn plan(&self, plan: PlanId) -> &Plan;

    /// Whether runs add up the time of each plan step, from now on.
    fn set_profile(&mut self, on: bool);

    /// Time spent in each step of a plan while profiled.
    fn times(&self, plan: PlanId) -> &[Duration];

    /// Measures what the device can do at most; takes a fraction of a second and needs idle processors.
    ///
    /// # Errors
    /// If the memory to copy cannot be had.
    fn peaks(&self) -> Result<Peaks>;
}

/// The bytes of a slice of floats, for [`Device::upload`].
pub fn bytes_of(data: &[f32]) -> &[u8] {
    // SAFETY: every byte of an f32 is initialised and u8 has no alignment.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), std::mem::size_of_val(data)) }
}
