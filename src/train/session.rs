//! A config's networks on a device: states, compiled plans, and their exchange with checkpoints.

mod exchange;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use super::names;
use super::names::scalars;
use super::programs::{BatchShape, EvaluateOptions, Programs};
use crate::config::Config;
use crate::nn::{Layout, Tensor};
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Choices, Device, Outcome, PlanId, Run};
use crate::types::{Precision, Shape};
use crate::{Error, Result, config};

/// A program for one extent of batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The generator alone.
    Pretrain(BatchShape),
    /// Discriminator and generator.
    Adversarial(BatchShape),
    /// Validation.
    Evaluate(BatchShape, EvaluateOptions),
    /// The generator's forward pass: batch, LR rows, LR columns.
    Forward(usize, usize, usize),
    /// A part of a step with gradient accumulation.
    Accumulate(Part),
}

/// The parts of a step with gradient accumulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Clears the sums.
    Begin,
    /// Content gradients of a micro-batch, in pretraining.
    Content(BatchShape),
    /// The discriminator's gradients of a micro-batch.
    Judge(BatchShape),
    /// The discriminator's staged update.
    Stage,
    /// The generator's gradients of a micro-batch.
    Generate(BatchShape),
    /// All state changes; whether the discriminator is one of them.
    Update(bool),
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
pub struct Session<'a> {
    cfg: &'a Config,
    programs: Programs<'a>,
    device: Box<dyn Device>,
    precision: Precision,
    plans: HashMap<Key, PlanId>,
    /// Runs that were started and have not ended well.
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
fn precision_of(cfg: &Config) -> Precision {
    match cfg.training.precision {
        config::Precision::F32 => Precision::F32,
        config::Precision::Tf32 => Precision::Tf32,
        config::Precision::Auto | config::Precision::Bf16 => Precision::Bf16,
    }
}

/// The flat states that have one value per parameter: name in checkpoints, network, state name.
fn flat_states(programs: &Programs, ema: bool) -> Vec<(&'static str, bool, String)> {
    let (g, d) = (programs.generator().params_state(), programs.discriminator().params_state());
    let mut states = vec![
        ("generator", true, g.clone()),
        ("discriminator", false, d),
        ("optim_g.exp_avg", true, names::G_EXP_AVG.into()),
        ("optim_g.exp_avg_sq", true, names::G_EXP_AVG_SQ.into()),
        ("optim_d.exp_avg", false, names::D_EXP_AVG.into()),
        ("optim_d.exp_avg_sq", false, names::D_EXP_AVG_SQ.into()),
    ];
    if ema {
        states.push(("ema", true, format!("ema.{g}")));
    }
    states
}

impl<'a> Session<'a> {
    /// Networks of `cfg` on `device` with the initial weights of the config's seed; that of the perceptual term has
    /// random weights too, until [`Session::set_perceptual`].
    ///
    /// # Errors
    /// If the networks cannot be built or do not fit into the device's memory.
    pub fn new(cfg: &'a Config, device: Box<dyn Device>) -> Result<Self> {
        let target = device.target();
        let precision = Some(precision_of(cfg)).filter(|p| target.computes_in(*p)).unwrap_or_default();
        let programs = Programs::new(cfg)?.aligned_to(target.channel_alignment(precision));
        let mut session = Session { cfg, programs, device, precision, plans: HashMap::new(), open_runs: 0 };
        session.check_memory()?;
        session.initialise()?;
        Ok(session)
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
        let (g, d) = (self.programs.generator(), self.programs.discriminator());
        let buffers = |l: &Layout| l.buffers.iter().map(|b| b.shape.len()).sum::<usize>();
        let perceptual = self.programs.perceptual().map_or(0, |l| l.len);
        let average = if self.has_ema() { g.len + buffers(g) } else { 0 };
        let staged = match self.cfg.training.accumulate_grad_batches {
            1 => 0,
            _ => self.programs.staged_states().iter().map(|(_, shape)| shape.len()).sum(),
        };
        StateBytes {
            weights: 4 * (g.len + d.len + buffers(g) + buffers(d) + average + perceptual),
            optimiser: 4 * (2 * (g.len + d.len) + staged),
        }
    }

    /// The programs' source.
    pub fn programs(&self) -> &Programs<'a> {
        &self.programs
    }

    /// In which precision this session's programs compute.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A warning where the config asks for another precision than the device has.
    pub fn precision_note(&self) -> Option<String> {
        let (asked, device) = (self.cfg.training.precision, self.device.target().name());
        let other = asked != config::Precision::Auto && precision_of(self.cfg) != self.precision;
        other.then(|| {
            format!("Training.precision is {}, but the {device} device computes in {}", asked.name(), self.precision)
        })
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// Loads plans, so that what has to be compiled and chosen for them is compiled and chosen.
    ///
    /// # Errors
    /// Those of [`Session::plan`].
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
    /// Those of the device.
    pub fn ways(&mut self, plan: PlanId, step: usize) -> Result<Vec<String>> {
        self.device.ways(plan, step)
    }

    /// The time of `runs` runs of one step of a loaded plan, see [`Device::time_step`].
    ///
    /// # Errors
    /// Those of the device.
    pub fn time_step(&mut self, plan: PlanId, step: usize, way: &str, runs: u64) -> Result<Duration> {
        self.device.time_step(plan, step, way, runs)
    }

    fn has_ema(&self) -> bool {
        self.cfg.training.ema.enabled
    }

    fn initialise(&mut self) -> Result<()> {
        let seed = self.cfg.training.seed;
        for (_, generator, state) in flat_states(&self.programs, self.has_ema()) {
            let layout = if generator { self.programs.generator() } else { self.programs.discriminator() };
            let values = if state.ends_with(".params") { layout.initial_params(seed) } else { vec![0.0; layout.len] };
            self.device.set_state(&state, Shape::vector(values.len()), &values)?;
        }
        for (name, tensor) in self.buffers() {
            self.device.set_state(&name, tensor.shape, &tensor.initial(seed))?;
        }
        if let Some(layout) = self.programs.perceptual() {
            self.device.set_state(&layout.params_state(), Shape::vector(layout.len), &layout.initial_params(seed))?;
        }
        if self.cfg.training.accumulate_grad_batches > 1 {
            for (state, shape) in self.programs.staged_states() {
                self.device.set_state(&state, shape, &vec![0.0; shape.len()])?;
            }
        }
        for counter in [names::G_UPDATES, names::D_UPDATES, names::EMA_UPDATES] {
            self.device.set_state(counter, Shape::SCALAR, &[0.0])?;
        }
        Ok(())
    }

    /// All buffers by state name: both networks', and the averaged generator's.
    fn buffers(&self) -> Vec<(String, Tensor)> {
        let (g, d) = (self.programs.generator(), self.programs.discriminator());
        let mut all: Vec<_> = g.buffers.iter().chain(&d.buffers).map(|b| (b.name.clone(), b.clone())).collect();
        if self.has_ema() {
            all.extend(g.buffers.iter().map(|b| (format!("ema.{}", b.name), b.clone())));
        }
        all
    }

    /// The plan of a program, compiled at its first use.
    ///
    /// # Errors
    /// Shape errors of the networks, or memory that cannot be had.
    pub fn plan(&mut self, key: Key) -> Result<PlanId> {
        if let Some(id) = self.plans.get(&key) {
            return Ok(*id);
        }
        let plan = self.compile(key)?;
        let id = self.device.load(plan)?;
        self.plans.insert(key, id);
        Ok(id)
    }

    /// Makes a plan ready that reads this session's states.
    ///
    /// # Errors
    /// If it names a state that does not exist, or memory cannot be had.
    pub fn load(&mut self, plan: Plan) -> Result<PlanId> {
        self.device.load(plan)
    }

    /// Compiles a program without making it ready.
    ///
    /// # Errors
    /// Shape errors of the networks.
    pub fn compile(&self, key: Key) -> Result<Plan> {
        let program = match key {
            Key::Pretrain(shape) => self.programs.pretrain(shape)?,
            Key::Adversarial(shape) => self.programs.adversarial(shape)?,
            Key::Evaluate(shape, options) => self.programs.evaluate(shape, options)?,
            Key::Forward(batch, height, width) => self.programs.forward(batch, (height, width))?,
            Key::Accumulate(part) => self.part(part)?,
        };
        let options = PlanOptions { precision: self.precision, ..PlanOptions::new(self.device.target()) };
        Plan::compile(&program, options)
    }

    fn part(&self, part: Part) -> Result<Program> {
        match part {
            Part::Begin => self.programs.accumulate_begin(),
            Part::Content(shape) => self.programs.accumulate_content(shape),
            Part::Judge(shape) => self.programs.accumulate_judge(shape),
            Part::Stage => self.programs.accumulate_stage(),
            Part::Generate(shape) => self.programs.accumulate_generate(shape),
            Part::Update(adversarial) => self.programs.accumulate_update(adversarial),
        }
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
    /// Those of the device.
    pub fn start(&mut self, plan: PlanId, step: [f32; scalars::COUNT]) -> Result<Run> {
        self.device.upload(plan, scalars::SLOT, bytemuck::cast_slice(&step))?;
        self.open_runs += 1;
        self.device.start(plan)
    }

    /// Waits for a run and takes what it gave back.
    ///
    /// # Errors
    /// Those of the device.
    pub fn collect(&mut self, run: Run) -> Result<Outcome> {
        let outcome = self.device.collect(run)?;
        self.open_runs -= 1;
        Ok(outcome)
    }

    /// Runs a plan with this step's scalars and waits for it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, plan: PlanId, step: [f32; scalars::COUNT]) -> Result<Outcome> {
        let run = self.start(plan, step)?;
        self.collect(run)
    }

    /// Whether every run that was started has ended well. Only then the states are those after a whole step: a run
    /// that failed may have changed some of them.
    pub fn is_settled(&self) -> bool {
        self.open_runs == 0
    }

    /// Updates done: generator, discriminator, EMA.
    ///
    /// # Errors
    /// Those of the device.
    pub fn counters(&self) -> Result<[u64; 3]> {
        let read = |name: &str| Ok(self.device.state(name)?.first().map_or(0, |v| *v as u64));
        Ok([read(names::G_UPDATES)?, read(names::D_UPDATES)?, read(names::EMA_UPDATES)?])
    }

    /// Sets the numbers of updates done.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_counters(&mut self, counters: [u64; 3]) -> Result<()> {
        for (name, value) in [names::G_UPDATES, names::D_UPDATES, names::EMA_UPDATES].iter().zip(counters) {
            self.device.set_state(name, Shape::SCALAR, &[value as f32])?;
        }
        Ok(())
    }
}
