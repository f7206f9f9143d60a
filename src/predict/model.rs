//! A trained generator on a device, and its plan for batches of windows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{LAST, Meta, TensorFile, compare_architecture};
use crate::config::{Config, IsaChoice};
use crate::log::Messages;
use crate::nn::{self, Layout, Network};
use crate::ops::prepare::Normalization;
use crate::plan::{Plan, PlanOptions};
use crate::rng::Stream;
use crate::runtime::{Choice, Choices, Device, PlanId, Run};
use crate::train::programs::Programs;
use crate::train::session::{Session, precision_of};
use crate::train::states::EMA;
use crate::train::step::latent_noise;
use crate::types::{DType, Precision, Shape};
use crate::{Error, Result};

/// PyTorch counts the batches that a batch norm has seen; nothing here reads it.
const BATCH_COUNT: &str = ".num_batches_tracked";

/// An opened checkpoint: its configuration, with what the command line says about where to run.
pub(crate) struct Checkpoint {
    path: PathBuf,
    file: TensorFile,
    meta: Meta,
    /// Whether there are averaged weights, and they have taken part in any step.
    pub has_average: bool,
    /// The configuration that the weights were trained with.
    pub cfg: Config,
}

impl Checkpoint {
    /// Opens a checkpoint file, or the last checkpoint of a run's folder. `config` is the configuration of a file that does
    /// not hold one, as those of opensr-srgan.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is none; [`Error::Config`] if the configuration or an override is wrong.
    pub fn open(path: &Path, config: Option<&Path>, overrides: &[String]) -> Result<Checkpoint> {
        let path = if path.is_dir() { path.join(LAST) } else { path.to_owned() };
        // Where and how fast the run trained says nothing about this machine.
        let here = ["Training.device=auto", "Training.num_threads=null"].map(str::to_owned);
        let overrides: Vec<String> = here.into_iter().chain(overrides.iter().cloned()).collect();
        let (file, meta, (mut cfg, _)) = match config {
            Some(config) => (TensorFile::open(&path)?, Meta::default(), Config::load(config, &overrides)?),
            None => {
                let (file, meta) = own(&path)?;
                let cfg = Config::from_yaml(&meta.config, Some(&path), &overrides)?;
                (file, meta, cfg)
            }
        };
        if !overrides.iter().any(|o| o.starts_with("Training.isa=")) {
            cfg.training.isa = IsaChoice::Auto;
        }
        let averaged = file.entries().iter().any(|e| e.name.starts_with(EMA));
        let has_average = averaged && (config.is_some() || meta.counters.ema_updates > 0);
        Ok(Checkpoint { path, file, meta, has_average, cfg })
    }

    /// The checkpoint's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a session of this generator the averaged or the live weights, as its live ones.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if its tensors are not those of its configuration, or not finite.
    pub fn restore(&mut self, session: &mut Session, averaged: bool) -> Result<()> {
        let names = Names::of(session.programs().layout(Network::Generator), averaged);
        names.check(session.programs().layout(Network::Generator), self)?;
        session.set_generator(|name| self.file.read_finite(&names.in_file(name)))
    }

    /// Its weights in words.
    pub fn describe(&self, averaged: bool) -> String {
        let weights = if averaged { "averaged weights" } else { "live weights" };
        match self.meta.step {
            0 => weights.to_owned(),
            step => format!("{weights} of step {step}"),
        }
    }
}

/// A checkpoint of this program, with its configuration.
fn own(path: &Path) -> Result<(TensorFile, Meta)> {
    const HINT: &str = "name the YAML that it was trained with: --config FILE";
    if TensorFile::open(path)?.is_of_torch() {
        let message = "a file of PyTorch does not hold the configuration of its networks";
        return Err(Error::checkpoint(path, message).with_hint(HINT));
    }
    let (file, meta) = TensorFile::open_checkpoint(path)?;
    if meta.config.is_empty() {
        return Err(Error::checkpoint(path, "it does not hold the configuration of its run").with_hint(HINT));
    }
    Ok((file, meta))
}

/// Extent and type of the batches of windows that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowShape {
    /// Windows.
    pub batch: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
    /// Type of the raw pixels.
    pub dtype: DType,
}

/// A generator on a device.
pub(super) struct Model {
    programs: Programs,
    device: Box<dyn Device>,
    precision: Precision,
    checkpoint: PathBuf,
    plans: Vec<(WindowShape, PlanId)>,
}

impl Model {
    /// The generator of a checkpoint on `device`, with averaged weights if `averaged`.
    ///
    /// # Errors
    /// If its tensors are not those of its configuration, or the device has no room for them.
    pub fn load(
        checkpoint: &mut Checkpoint,
        mut device: Box<dyn Device>,
        averaged: bool,
        messages: &Messages,
    ) -> Result<Model> {
        let cfg = Arc::new(checkpoint.cfg.clone());
        let asked = precision_of(&cfg);
        let precision = Some(asked).filter(|p| device.target().computes_in(*p)).unwrap_or_default();
        let programs = Programs::new(cfg)?.aligned_to(device.target().channel_alignment(precision));
        set_weights(&programs, checkpoint, device.as_mut(), averaged)?;
        reuse_choices(&checkpoint.meta, device.as_mut(), messages);
        let checkpoint = checkpoint.path.clone();
        Ok(Model { programs, device, precision, checkpoint, plans: Vec::new() })
    }

    /// What the weights were trained with.
    pub fn config(&self) -> &Arc<Config> {
        self.programs.config()
    }

    /// The checkpoint's file.
    pub fn checkpoint(&self) -> &Path {
        &self.checkpoint
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// The precision of the plans.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How raw pixels become network input.
    ///
    /// # Errors
    /// Fails if no op knows the method.
    pub fn normalization(&self) -> Result<Normalization> {
        self.programs.normalization()
    }

    /// Input pixels around its own place that an output pixel depends on; `None` if it depends on the whole window.
    ///
    /// # Errors
    /// If the generator cannot be written.
    pub fn reach(&self) -> Result<Option<usize>> {
        let (program, lr) = self.programs.predict(1, (32, 32), DType::F32)?;
        Ok(program.tape.reach(lr, program.outputs[0].1))
    }

    /// Bytes that a plan takes beside the weights.
    ///
    /// # Errors
    /// If the generator cannot work on windows of this extent.
    pub fn plan_bytes(&self, shape: WindowShape) -> Result<usize> {
        let plan = self.compile(shape)?;
        Ok(4 * plan.arena_len + plan.held_bytes())
    }

    fn compile(&self, shape: WindowShape) -> Result<Plan> {
        let (program, _) = self.programs.predict(shape.batch, (shape.height, shape.width), shape.dtype)?;
        let options = PlanOptions { precision: self.precision, ..PlanOptions::new(self.device.target()) };
        Plan::compile(&program, options)
    }

    /// A plan that is ready to run. Every window is given the same latent noise, where the generator reads any: windows of one map
    /// must agree.
    ///
    /// # Errors
    /// If a kernel does not compile or memory cannot be had.
    pub fn prepare(&mut self, shape: WindowShape) -> Result<PlanId> {
        if let Some((_, plan)) = self.plans.iter().find(|(known, _)| *known == shape) {
            return Ok(*plan);
        }
        let plan = self.device.load(self.compile(shape)?)?;
        self.device.upload(plan, "codes", &vec![0; shape.batch])?;
        let cfg = self.config().clone();
        if nn::is_stochastic(&cfg) {
            let noise = latent_noise(&cfg, Stream::ValidationNoise, 0, std::iter::repeat_n(0, shape.batch));
            self.device.upload(plan, "noise", bytemuck::cast_slice(&noise))?;
        }
        self.plans.push((shape, plan));
        Ok(plan)
    }

    /// Starts a run on raw windows, one after the other in `raw`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn start(&mut self, plan: PlanId, raw: &[u8]) -> Result<Run> {
        self.device.upload(plan, "lr", raw)?;
        self.device.start(plan)
    }

    /// Waits for a run: SR of all windows, normalised.
    ///
    /// # Errors
    /// If the device fails.
    pub fn collect(&mut self, run: Run) -> Result<Vec<f32>> {
        let mut outcome = self.device.collect(run)?;
        Ok(outcome.outputs.swap_remove(0))
    }
}

/// How a checkpoint calls the tensors of a generator.
struct Names {
    /// Before a live tensor's name.
    live: String,
    /// Before the name in the file.
    prefix: String,
}

impl Names {
    fn of(layout: &Layout, averaged: bool) -> Names {
        let live = format!("{}.", layout.prefix);
        Names { prefix: if averaged { EMA.to_owned() } else { live.clone() }, live }
    }

    fn in_file(&self, name: &str) -> String {
        format!("{}{}", self.prefix, name.strip_prefix(&self.live).unwrap_or(name))
    }

    /// Compares the tensors of a layout with those of the file.
    fn check(&self, layout: &Layout, checkpoint: &Checkpoint) -> Result<()> {
        let tensors = layout.params.iter().chain(&layout.buffers);
        let expected: Vec<_> = tensors.map(|t| (self.in_file(&t.name), t.file_shape())).collect();
        let mut found = checkpoint.file.shapes(&self.prefix);
        found.retain(|(name, _)| !name.ends_with(BATCH_COUNT));
        match compare_architecture(&expected, &found) {
            Some(table) => {
                let message = format!("its generator is not that of its configuration\n{table}");
                Err(Error::checkpoint(&checkpoint.path, message))
            }
            None => Ok(()),
        }
    }
}

/// Gives the device the generator's weights and buffers.
fn set_weights(
    programs: &Programs,
    checkpoint: &mut Checkpoint,
    device: &mut dyn Device,
    averaged: bool,
) -> Result<()> {
    let layout = programs.layout(Network::Generator);
    let names = Names::of(layout, averaged);
    names.check(layout, checkpoint)?;
    let file = &mut checkpoint.file;
    let flat = layout.filled(|tensor| file.read(&format!("{}{tensor}", names.prefix)))?;
    device.set_state(&layout.params_state(), Shape::vector(flat.len()), &flat)?;
    for buffer in &layout.buffers {
        let values = buffer.from_file(&file.read(&names.in_file(&buffer.name))?);
        device.set_state(&buffer.name, buffer.shape, &values)?;
    }
    Ok(())
}

/// Takes the algorithms that the run had chosen, where it ran on such a device.
fn reuse_choices(meta: &Meta, device: &mut dyn Device, messages: &Messages) {
    let Some(here) = device.choices().map(|choices| choices.timed_on.clone()) else { return };
    if here == meta.timed_on {
        let choice = |algorithm: &String| Choice { algorithm: algorithm.clone(), ..Choice::default() };
        let steps = meta.choices.iter().map(|(step, algorithm)| (step.clone(), choice(algorithm))).collect();
        device.reuse(Choices { timed_on: here, steps });
    } else {
        messages.info(&format!("algorithms are chosen for {here}"));
    }
}
