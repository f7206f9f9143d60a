//! A config's networks on a device: states, compiled plans, and their exchange with checkpoints.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::names::{self, scalars};
use super::programs::{BatchShape, EvaluateOptions, Programs};
use crate::checkpoint::{TensorFile, compare_architecture};
use crate::config::{self, Config};
use crate::device::{Device, Outcome, PlanId, bytes_of};
use crate::nn::{Layout, Tensor};
use crate::plan::{Plan, PlanOptions, Precision, Program, Target};
use crate::tape::Shape;
use crate::{Error, Result};

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
}

/// The precision that a config means on a device.
fn precision_on(device: &dyn Device, cfg: &Config) -> Precision {
    match (device.target(), cfg.training.precision) {
        (Target::Cpu { .. }, _) | (Target::Cuda, config::Precision::F32) => Precision::F32,
        (Target::Cuda, config::Precision::Tf32) => Precision::Tf32,
        (Target::Cuda, config::Precision::Auto | config::Precision::Bf16) => Precision::Bf16,
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

/// A tensor's name without its network: `body.0.conv1.weight`.
fn bare<'t>(layout: &Layout, tensor: &'t Tensor) -> &'t str {
    tensor.name.strip_prefix(&layout.prefix).map_or(&tensor.name, |s| s.trim_start_matches('.'))
}

impl<'a> Session<'a> {
    /// Networks of `cfg` on `device` with the initial weights of the config's seed.
    ///
    /// # Errors
    /// If the networks cannot be built or memory cannot be had.
    pub fn new(cfg: &'a Config, device: Box<dyn Device>) -> Result<Self> {
        let precision = precision_on(&*device, cfg);
        let programs = Programs::new(cfg)?.aligned_to(precision.vector());
        let mut session = Session { cfg, programs, device, precision, plans: HashMap::new() };
        session.initialise()?;
        Ok(session)
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
        let asked = self.cfg.training.precision;
        let other = !matches!(asked, config::Precision::Auto | config::Precision::F32);
        let cpu = matches!(self.device.target(), Target::Cpu { .. });
        (cpu && other).then(|| format!("Training.precision is {}, but the cpu device computes in f32", asked.name()))
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// Whether runs add up the time of each plan step.
    pub fn set_profile(&mut self, on: bool) {
        self.device.set_profile(on);
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

    /// Runs a plan with this step's scalars.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, plan: PlanId, step: [f32; scalars::COUNT]) -> Result<Outcome> {
        self.device.upload(plan, scalars::SLOT, bytes_of(&step))?;
        self.device.run(plan)
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

    /// Every tensor of a checkpoint, in file order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn tensors(&self) -> Result<Vec<SavedTensor>> {
        let mut out = Vec::new();
        for (prefix, generator, state) in flat_states(&self.programs, self.has_ema()) {
            let layout = if generator { self.programs.generator() } else { self.programs.discriminator() };
            let flat = self.device.state(&state)?;
            for p in &layout.params {
                let data = p.to_file(layout.slice(p, &flat));
                out.push(SavedTensor { name: format!("{prefix}.{}", bare(layout, p)), shape: p.file_shape(), data });
            }
        }
        for (state, tensor) in self.buffers() {
            let data = tensor.to_file(&self.device.state(&state)?);
            out.push(SavedTensor { name: self.buffer_name(&state), shape: tensor.file_shape(), data });
        }
        Ok(out)
    }

    /// `ema.generator.x` is called `ema.x` in files.
    fn buffer_name(&self, state: &str) -> String {
        let averaged = format!("ema.{}.", self.programs.generator().prefix);
        state.strip_prefix(&averaged).map_or_else(|| state.to_owned(), |rest| format!("ema.{rest}"))
    }

    /// Takes every tensor of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with a table of differing names and extents, before anything is changed; then
    /// those of reading.
    pub fn restore(&mut self, file: &mut TensorFile, path: &std::path::Path) -> Result<()> {
        let found = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect::<Vec<_>>();
        let averaged = |name: &str| name.starts_with("ema.");
        let (wanted, present) = (self.has_ema(), found.iter().any(|(n, _)| averaged(n)));
        // An average that was switched on or off since is started from the live weights, or left alone.
        let counts = |(name, _): &(String, Vec<usize>)| !averaged(name) || (wanted && present);
        let expected: Vec<_> = self.tensor_shapes().into_iter().filter(counts).collect();
        let found: Vec<_> = found.into_iter().filter(counts).collect();
        if let Some(table) = compare_architecture(&expected, &found) {
            let message = format!("its tensors are not those of this configuration\n{table}");
            return Err(Error::checkpoint(path, message)
                .with_hint("use the configuration that the checkpoint was trained with (config.yaml beside it)"));
        }
        self.set_some_tensors(|name| !name.starts_with("ema") || present, |name| file.read(name))?;
        if wanted && !present { self.average_from_live() } else { Ok(()) }
    }

    /// The average starts at the live weights.
    fn average_from_live(&mut self) -> Result<()> {
        let generator = self.programs.generator().clone();
        let flat = self.device.state(&generator.params_state())?;
        self.device.set_state(&format!("ema.{}", generator.params_state()), Shape::vector(flat.len()), &flat)?;
        for b in &generator.buffers {
            let values = self.device.state(&b.name)?;
            self.device.set_state(&format!("ema.{}", b.name), b.shape, &values)?;
        }
        Ok(())
    }

    /// Takes the generator's and, where the file has them all, the discriminator's weights, nothing else.
    ///
    /// # Errors
    /// As [`Session::restore`].
    pub fn restore_weights(&mut self, file: &mut TensorFile, path: &std::path::Path) -> Result<Vec<String>> {
        let found = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect::<Vec<_>>();
        let mut taken = Vec::new();
        for generator in [true, false] {
            let layout = if generator { self.programs.generator() } else { self.programs.discriminator() };
            let prefix = format!("{}.", layout.prefix);
            let expected: Vec<_> = self.tensor_shapes().into_iter().filter(|(n, _)| n.starts_with(&prefix)).collect();
            let present: Vec<_> = found.iter().filter(|(n, _)| n.starts_with(&prefix)).cloned().collect();
            if !generator && present.is_empty() {
                continue;
            }
            if let Some(table) = compare_architecture(&expected, &present) {
                let message = format!("its {} is not that of this configuration\n{table}", layout.prefix);
                return Err(Error::checkpoint(path, message));
            }
            taken.push(layout.prefix.clone());
        }
        let wanted = taken.clone();
        self.set_some_tensors(|name| wanted.iter().any(|p| name.split('.').next() == Some(p)), |name| file.read(name))?;
        if self.has_ema() {
            self.average_from_live()?;
        }
        Ok(taken)
    }

    /// Names and file extents of all tensors of a checkpoint.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut out = Vec::new();
        for (prefix, generator, _) in flat_states(&self.programs, self.has_ema()) {
            let layout = if generator { self.programs.generator() } else { self.programs.discriminator() };
            let name = |p: &Tensor| format!("{prefix}.{}", bare(layout, p));
            out.extend(layout.params.iter().map(|p| (name(p), p.file_shape())));
        }
        out.extend(self.buffers().iter().map(|(state, t)| (self.buffer_name(state), t.file_shape())));
        out
    }

    /// Sets every tensor from `read`, which is given the name in files and answers in file order.
    ///
    /// # Errors
    /// Those of `read` and of the device.
    pub fn set_tensors(&mut self, read: impl FnMut(&str) -> Result<Vec<f32>>) -> Result<()> {
        self.set_some_tensors(|_| true, read)
    }

    fn set_some_tensors(
        &mut self,
        wanted: impl Fn(&str) -> bool,
        mut read: impl FnMut(&str) -> Result<Vec<f32>>,
    ) -> Result<()> {
        for (prefix, generator, state) in flat_states(&self.programs, self.has_ema()) {
            let layout = if generator { self.programs.generator() } else { self.programs.discriminator() };
            if !wanted(prefix) {
                continue;
            }
            let mut flat = vec![0.0; layout.len];
            for p in &layout.params {
                let values = p.from_file(&read(&format!("{prefix}.{}", bare(layout, p)))?);
                flat[p.offset..p.offset + values.len()].copy_from_slice(&values);
            }
            self.device.set_state(&state, Shape::vector(flat.len()), &flat)?;
        }
        for (state, tensor) in self.buffers() {
            let name = self.buffer_name(&state);
            if wanted(&name) {
                let values = tensor.from_file(&read(&name)?);
                self.device.set_state(&state, tensor.shape, &values)?;
            }
        }
        Ok(())
    }
}
