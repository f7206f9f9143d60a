//! A config's networks on a device: states, compiled plans, and their exchange with checkpoints.

mod exchange;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::programs::{BatchShape, EvaluateOptions, Phase, Programs, Recorded, Segment};
use super::scalars;
use super::states::{self, FlatState, Start};
use crate::config::{self, Config};
use crate::device::collective::Ranks;
use crate::metrics::Metric;
use crate::nn::Tensor;
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Choices, Device, Outcome, PlanId, Run};
use crate::types::{Precision, Shape};
use crate::{Error, Result};

pub use weights::Restored;

/// A program for one extent of batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A training step on one batch.
    Step(Phase, BatchShape),
    /// What comes before the first micro-batch of a step with gradient accumulation.
    Begin(Phase, BatchShape),
    /// A segment of such a step.
    Segment(Phase, Segment, BatchShape),
    /// Validation.
    Evaluate(BatchShape, EvaluateOptions),
    /// The generator's forward pass: batch, LR rows, LR columns.
    Forward(usize, usize, usize),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Step(phase, _) => f.write_str(phase.name()),
            Key::Begin(phase, _) => write!(f, "{}: begin", phase.name()),
            Key::Segment(phase, segment, _) => write!(f, "{}: {}", phase.name(), segment.name()),
            Key::Evaluate(BatchShape { batch, hr: (height, width), .. }, options) => {
                write!(f, "evaluate {batch}×{height}×{width}")?;
                let parts = [
                    (options.ema, "average"),
                    (options.discriminator, "D"),
                    (options.images, "images"),
                    (options.bicubic, "bicubic"),
                ];
                parts.iter().filter(|(on, _)| *on).try_for_each(|(_, what)| write!(f, ", {what}"))
            }
            Key::Forward(batch, height, width) => write!(f, "forward {batch}×{height}×{width}"),
        }
    }
}

/// A tensor as a checkpoint holds it.
#[derive(Clone, Debug)]
pub struct SavedTensor {
    /// Name.
    pub name: String,
    /// Extent in the file.
    pub shape: Vec<usize>,
    /// Elements in the file's order.
    pub data: Vec<f32>,
}

/// Networks, optimisers and averages of one config on one device.
pub struct Session {
    programs: Programs,
    device: Box<dyn Device>,
    precision: Precision,
    plans: HashMap<Key, PlanId>,
    /// Plans that were compiled and not loaded, with their metrics.
    compiled: HashMap<Key, (Plan, Vec<Metric>)>,
    /// The metrics in each plan's output `metrics`.
    metrics: HashMap<PlanId, Vec<Metric>>,
    /// Runs that were started and not collected, or that failed.
    open_runs: usize,
}

/// What the states take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBytes {
    /// Weights, buffers, their average, and the weights of the perceptual network.
    pub weights: usize,
    /// Moments, and what gradient accumulation keeps.
    pub optimiser: usize,
}

/// The precision that a config means where the device computes in it.
pub(crate) fn precision_of(cfg: &Config) -> Precision {
    match cfg.training.precision {
        config::Precision::F32 => Precision::F32,
        config::Precision::Tf32 => Precision::Tf32,
        config::Precision::Auto | config::Precision::Bf16 => Precision::Bf16,
    }
}

impl Session {
    /// Networks of `cfg` on `device` with the initial weights of the config's seed; that of the perceptual term has
    /// random weights too, until [`Session::set_perceptual`].
    ///
    /// # Errors
    /// If the networks cannot be built or do not fit into the device's memory.
    pub fn new(cfg: impl Into<Arc<Config>>, device: Box<dyn Device>) -> Result<Self> {
        let (programs, target) = (Programs::new(cfg)?, device.target());
        let asked = precision_of(programs.config());
        let precision = Some(asked).filter(|p| target.computes_in(*p)).unwrap_or_default();
        let programs = programs.aligned_to(target.channel_alignment(precision)).among(device.ranks().count());
        let (plans, compiled, metrics) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut session = Session { programs, device, precision, plans, compiled, metrics, open_runs: 0 };
        session.check_memory()?;
        session.initialise()?;
        Ok(session)
    }

    /// What the session is for.
    pub fn config(&self) -> &Arc<Config> {
        self.programs.config()
    }

    /// Refuses networks whose states alone are more than the device has room for.
    fn check_memory(&self) -> Result<()> {
        let StateBytes { weights, optimiser } = self.state_bytes();
        let available = self.device.available_memory()?.unwrap_or(usize::MAX);
        if weights + optimiser <= available {
            return Ok(());
        }
        let [weights, optimiser, available] = [weights, optimiser, available].map(|bytes| bytes >> 20);
        let message = format!(
            "the networks need {} MiB (weights {weights}, optimiser {optimiser}), {available} MiB are available",
            weights + optimiser
        );
        Err(Error::config("Generator", message).with_hint("use fewer n_channels or n_blocks"))
    }

    /// What the session's states take.
    pub fn state_bytes(&self) -> StateBytes {
        let floats = |states: &[FlatState], start| -> usize {
            let of_start = states.iter().filter(|state| state.start == start);
            of_start.map(|state| self.programs.layout(state.network).len).sum()
        };
        let flat = states::flat_states(&self.programs, self.has_ema());
        let buffers: usize = self.buffers().iter().map(|(_, b)| b.shape.len()).sum();
        let perceptual = self.programs.perceptual().map_or(0, |l| l.len);
        let staged: usize = self.staged_states().iter().map(|(_, shape)| shape.len()).sum();
        StateBytes {
            weights: 4 * (floats(&flat, Start::Weights) + buffers + perceptual),
            optimiser: 4 * (floats(&flat, Start::Zeros) + staged),
        }
    }

    /// Elements of the largest tensor of a checkpoint.
    pub fn largest_tensor(&self) -> usize {
        self.tensor_shapes().iter().map(|(_, shape)| shape.iter().product()).max().unwrap_or(0)
    }

    /// What passes the borders between the segments of a step, where these are programs of their own.
    fn staged_states(&self) -> Vec<(String, Shape)> {
        let apart = self.config().training.accumulate_grad_batches > 1;
        if apart { states::staged_states(&self.programs) } else { Vec::new() }
    }

    /// The programs' source.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// In which precision this session's programs compute.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A warning where the config asks for another precision than the device has.
    pub fn precision_note(&self) -> Option<String> {
        let (asked, device) = (self.config().training.precision, self.device.target().name());
        let other = asked != config::Precision::Auto && precision_of(self.config()) != self.precision;
        other.then(|| {
            format!("Training.precision is {}, but the {device} device computes in {}", asked.name(), self.precision)
        })
    }

    /// The ranks that the device is one of.
    pub fn ranks(&self) -> Ranks {
        self.device.ranks()
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// Loads plans, so that what has to be compiled and chosen for them is compiled and chosen.
    ///
    /// # Errors
    /// Fails if a kernel does not compile or the plan does not fit in memory.
    pub fn load_all(&mut self, keys: &[Key]) -> Result<Vec<PlanId>> {
        keys.iter().map(|key| self.plan(*key)).collect()
    }

    /// Takes algorithms of an earlier run on the same device, before a plan is loaded.
    pub fn reuse(&mut self, choices: Choices) {
        self.device.reuse(choices);
    }

    /// Whether runs add up the time of each part of their plan.
    pub fn set_profile(&mut self, on: bool) {
        self.device.set_profile(on);
    }

    /// The ways in which the device can do a step of a loaded plan.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn ways(&mut self, plan: PlanId, step: usize) -> Result<Vec<String>> {
        self.device.ways(plan, step)
    }

    /// The time of `runs` runs of one step of a loaded plan, see [`Device::time_step`].
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn time_step(&mut self, plan: PlanId, step: usize, way: &str, runs: u64) -> Result<Duration> {
        self.device.time_step(plan, step, way, runs)
    }

    fn has_ema(&self) -> bool {
        self.config().training.ema.enabled
    }

    fn initialise(&mut self) -> Result<()> {
        let seed = self.config().training.seed;
        for FlatState { network, name, start, .. } in states::flat_states(&self.programs, self.has_ema()) {
            let layout = self.programs.layout(network);
            let values = match start {
                Start::Weights => layout.initial_params(seed),
                Start::Zeros => vec![0.0; layout.len],
            };
            self.device.set_state(&name, Shape::vector(values.len()), &values)?;
        }
        for (name, tensor) in self.buffers() {
            self.device.set_state(&name, tensor.shape, &tensor.initial(seed))?;
        }
        if let Some(layout) = self.programs.perceptual() {
            self.device.set_state(&layout.params_state(), Shape::vector(layout.len), &layout.initial_params(seed))?;
        }
        for (name, shape) in self.staged_states() {
            self.device.set_state(&name, shape, &vec![0.0; shape.len()])?;
        }
        self.set_counters([0; 3])
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        states::buffers(&self.programs, self.has_ema())
    }

    /// The plan of a program, compiled at its first use.
    ///
    /// # Errors
    /// Shape errors of the networks, or memory that cannot be had.
    pub fn plan(&mut self, key: Key) -> Result<PlanId> {
        if let Some(id) = self.plans.get(&key) {
            return Ok(*id);
        }
        self.compile(key)?;
        let compiled = self.compiled.remove(&key);
        let (plan, metrics) = compiled.ok_or_else(|| Error::Internal(format!("the plan {key} is gone")))?;
        let id = self.device.load(plan)?;
        self.plans.insert(key, id);
        self.metrics.insert(id, metrics);
        Ok(id)
    }

    /// The metrics in the output `metrics` of a plan that [`Session::plan`] gave.
    pub fn metrics(&self, plan: PlanId) -> &[Metric] {
        self.metrics.get(&plan).map_or(&[], Vec::as_slice)
    }

    /// Makes a plan ready that reads this session's states.
    ///
    /// # Errors
    /// If it names a state that does not exist, or memory cannot be had.
    pub fn load(&mut self, plan: Plan) -> Result<PlanId> {
        self.device.load(plan)
    }

    /// Compiles a program without making it ready; it is kept until [`Session::plan`] does that.
    ///
    /// # Errors
    /// Shape errors of the networks.
    pub fn compile(&mut self, key: Key) -> Result<&Plan> {
        if !self.compiled.contains_key(&key) {
            let Recorded { program, metrics } = self.record(key)?;
            let plan = self.compile_program(&program)?;
            self.compiled.insert(key, (plan, metrics));
        }
        Ok(&self.compiled[&key].0)
    }

    /// Forgets compiled plans but those of `keys`.
    pub fn keep_compiled(&mut self, keys: &[Key]) {
        self.compiled.retain(|key, _| keys.contains(key));
    }

    fn record(&self, key: Key) -> Result<Recorded> {
        match key {
            Key::Step(phase, shape) => self.programs.step(phase, shape),
            Key::Begin(phase, shape) => self.programs.begin(phase, shape),
            Key::Segment(phase, segment, shape) => self.programs.segment(phase, segment, shape),
            Key::Evaluate(shape, options) => self.programs.evaluate(shape, options),
            Key::Forward(batch, height, width) => {
                let program = self.programs.forward(batch, (height, width))?;
                Ok(Recorded { program, metrics: vec![] })
            }
        }
    }

    fn compile_program(&self, program: &Program) -> Result<Plan> {
        let options = PlanOptions { precision: self.precision, ..PlanOptions::new(self.device.target()) };
        Plan::compile(program, options)
    }

    /// Fills an input slot.
    ///
    /// # Errors
    /// If the number of bytes is not the slot's.
    pub fn upload(&mut self, plan: PlanId, slot: &str, bytes: &[u8]) -> Result<()> {
        self.device.upload(plan, slot, bytes)
    }

    /// Starts a run of a plan with this step's scalars, to be collected.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn start(&mut self, plan: PlanId, step: [f32; scalars::COUNT]) -> Result<Run> {
        self.device.upload(plan, scalars::SLOT, bytemuck::cast_slice(&step))?;
        self.open_runs += 1;
        self.device.start(plan)
    }

    /// Waits for a run and takes what it gave back.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn collect(&mut self, run: Run) -> Result<Outcome> {
        let outcome = self.device.collect(run)?;
        self.open_runs -= 1;
        Ok(outcome)
    }

    /// Waits for a run and takes the mean over the ranks of what it gave back on each. One of which nobody knows that mean
    /// counts as not collected.
    ///
    /// # Errors
    /// Fails if the device does, or the library between ranks.
    pub fn collect_over_ranks(&mut self, run: Run) -> Result<Outcome> {
        let (mut outcome, ranks) = (self.device.collect(run)?, self.ranks());
        outcome.outputs.iter_mut().try_for_each(|values| ranks.mean(values))?;
        self.open_runs -= 1;
        Ok(outcome)
    }

    /// Runs a plan with this step's scalars and waits for it.
    ///
    /// # Errors
    /// Fails if the device fails.
    pub fn run(&mut self, plan: PlanId, step: [f32; scalars::COUNT]) -> Result<Outcome> {
        let run = self.start(plan, step)?;
        self.collect(run)
    }

    /// Whether every run that was started has succeeded. Only then are the states those after a whole step: a run that
    /// failed may have changed some of them.
    pub fn is_settled(&self) -> bool {
        self.open_runs == 0
    }
}
