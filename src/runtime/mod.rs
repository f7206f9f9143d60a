//! Runs plans: their memory, the states that outlive them, and the choice of algorithms.

pub mod choices;
pub mod cpu;
pub mod cuda;

use std::sync::Arc;
use std::time::Duration;

pub use choices::{Choice, Choices};
pub use cpu::{Cpu, CpuTarget};
pub use cuda::{Cuda, CudaTarget};

use crate::Result;
use crate::device::collective::Ranks;
use crate::device::{Peaks, Workload};
use crate::plan::{Plan, Target};
use crate::types::Shape;

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

/// The time of a part of a plan's runs.
#[derive(Clone, Debug, PartialEq)]
pub struct PartTime {
    /// What it does: the names of its ops, and, where there are several, of the kernels or the library's algorithm.
    pub label: String,
    /// What it has to do in one run.
    pub work: Workload,
    /// The time that it took in all profiled runs.
    pub time: Duration,
}

/// Runs plans. State is held by name; all plans of a device share one arena.
pub trait Device {
    /// A short name for messages: `cpu (2 threads, avx2)`.
    fn describe(&self) -> String;

    /// What plans for this device are compiled for.
    fn target(&self) -> &dyn Target;

    /// The ranks that this device is one of: buckets of gradients are averaged over them at the borders of segments, and
    /// states where a commit says so.
    fn ranks(&self) -> Ranks {
        Ranks::default()
    }

    /// Makes a plan ready.
    ///
    /// # Errors
    /// Fails if the plan names a state that does not exist or has another size, or memory cannot be had.
    fn load(&mut self, plan: Plan) -> Result<PlanId>;

    /// Gives up what a plan holds, where the device can: its id names nothing from now on.
    fn unload(&mut self, _plan: PlanId) {}

    /// Fills input slot `name` with raw little-endian elements; a slot that the plan does not have is ignored.
    ///
    /// # Errors
    /// Fails if the number of bytes is not the slot's.
    fn upload(&mut self, plan: PlanId, name: &str, bytes: &[u8]) -> Result<()>;

    /// Starts a run of a plan on what was uploaded. Runs are done in the order of their starts. On a GPU the call does
    /// not wait for the run: the next one may be uploaded and started before it is collected. The CPU computes it here.
    ///
    /// # Errors
    /// Fails if the GPU or the library between ranks reports an error.
    fn start(&mut self, plan: PlanId) -> Result<Run>;

    /// Waits for a run and takes what it gave back.
    ///
    /// # Errors
    /// Fails if the GPU reports an error, also one of the run itself; never on the CPU.
    fn collect(&mut self, run: Run) -> Result<Outcome>;

    /// Runs a plan once and waits for it.
    ///
    /// # Errors
    /// Fails if the GPU reports an error; never on the CPU.
    fn run(&mut self, plan: PlanId) -> Result<Outcome> {
        let run = self.start(plan)?;
        self.collect(run)
    }

    /// Creates a state or replaces its values.
    ///
    /// # Errors
    /// Fails if memory cannot be had, or the state exists with another number of elements.
    fn set_state(&mut self, name: &str, shape: Shape, data: &[f32]) -> Result<()>;

    /// A copy of a state.
    ///
    /// # Errors
    /// Fails if there is none of that name.
    fn state(&self, name: &str) -> Result<Vec<f32>>;

    /// Shows a state to `read`, where it can without a copy.
    ///
    /// # Errors
    /// Fails if there is none of that name, or if `read` fails.
    fn with_state(&self, name: &str, read: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        read(&self.state(name)?)
    }

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

    /// Bytes of memory that states and plans can still take; `None` if that is not known.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    fn available_memory(&self) -> Result<Option<usize>>;

    /// Fills working memory with NaN, so that a step that reads what none wrote becomes visible.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    fn poison(&mut self) -> Result<()>;

    /// The plan behind an id.
    fn plan(&self, plan: PlanId) -> &Plan;

    /// Bytes that states and plans take now in memory of the device's own; `None` if they are in that of the process.
    fn memory_in_use(&self) -> Option<usize> {
        None
    }

    /// Whether runs add up the time of each part of a plan, from now on.
    fn set_profile(&mut self, on: bool);

    /// Times of the parts of a plan in its profiled runs: of each step, in their order, then, where the device times
    /// them, of state changes and the rest.
    fn times(&self, plan: PlanId) -> Vec<PartTime>;

    /// The ways in which the device can do a step of a loaded plan, this program's own, [`choices::OWN`], first.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    fn ways(&mut self, plan: PlanId, step: usize) -> Result<Vec<String>>;

    /// Runs one step of a loaded plan `runs` times in one of its ways and returns the total time. The operands are
    /// whatever memory holds. On a GPU the time is measured on the device and with cold caches: before each run, outside
    /// the measured time, a pass goes over a buffer larger than the last-level cache.
    ///
    /// # Errors
    /// Fails if the GPU reports an error, or the library of this way cannot do the step.
    fn time_step(&mut self, plan: PlanId, step: usize, way: &str, runs: u64) -> Result<Duration>;

    /// Measures the device's peak rates; takes a fraction of a second and needs an otherwise idle machine.
    ///
    /// # Errors
    /// Fails if the memory to copy cannot be had.
    fn peaks(&self) -> Result<Peaks>;
}
