//! A trained generator on a device, and its plan for batches of windows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Meta;
use crate::config::Config;
use crate::log::Messages;
use crate::nn::{self, Network};
use crate::ops::prepare::Normalization;
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Choice, Choices, Device, PlanId, Run};
use crate::train::programs::Programs;
use crate::train::session::precision_of;
use crate::trained::{Checkpoint, map_noise};
use crate::types::{DType, Precision, Shape};
use crate::{Error, Result};

/// Extent and type of the batches of windows that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowShape {
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
pub(crate) struct Model {
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
        reuse_choices(checkpoint.meta(), device.as_mut(), messages);
        let checkpoint = checkpoint.path().to_owned();
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
        self.compile_program(&program)
    }

    fn compile_program(&self, program: &Program) -> Result<Plan> {
        let options = PlanOptions { precision: self.precision, ..PlanOptions::new(self.device.target()) };
        Plan::compile(program, options)
    }

    /// A plan for batches of images that are normalised already, (N,H,W,C) in f32; its memory in bytes is at most `limit`.
    /// It is the caller's, who gives it back by [`Model::unload`].
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] if it takes more; those of [`Model::prepare`].
    pub fn load_normalised(&mut self, batch: usize, size: (usize, usize), limit: usize) -> Result<PlanId> {
        let plan = self.compile_program(&self.programs.forward(batch, size)?)?;
        let needed = 4 * plan.arena_len + plan.held_bytes();
        if needed > limit {
            let [needed, limit] = [needed, limit].map(|bytes| bytes >> 20);
            let (height, width) = size;
            let message = format!(
                "{batch} images of {height} × {width} pixels at a time take {needed} MiB, and {limit} MiB are available"
            );
            return Err(Error::DeviceMemory { message });
        }
        let plan = self.device.load(plan)?;
        self.upload_noise(plan, batch)?;
        Ok(plan)
    }

    /// Gives up a plan.
    pub fn unload(&mut self, plan: PlanId) {
        self.device.unload(plan);
    }

    /// A plan that is ready to run. Every window is given the same latent noise, where the generator reads any.
    ///
    /// # Errors
    /// If a kernel does not compile or memory cannot be had.
    pub fn prepare(&mut self, shape: WindowShape) -> Result<PlanId> {
        if let Some((_, plan)) = self.plans.iter().find(|(known, _)| *known == shape) {
            return Ok(*plan);
        }
        let plan = self.device.load(self.compile(shape)?)?;
        self.device.upload(plan, "codes", &vec![0; shape.batch])?;
        self.upload_noise(plan, shape.batch)?;
        self.plans.push((shape, plan));
        Ok(plan)
    }

    /// The latent noise of each image of a batch, where the generator reads any.
    fn upload_noise(&mut self, plan: PlanId, batch: usize) -> Result<()> {
        let cfg = self.config().clone();
        if nn::is_stochastic(&cfg) {
            let noise = map_noise(&cfg, batch);
            self.device.upload(plan, "noise", bytemuck::cast_slice(&noise))?;
        }
        Ok(())
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

/// Gives the device the generator's weights and buffers.
fn set_weights(
    programs: &Programs,
    checkpoint: &mut Checkpoint,
    device: &mut dyn Device,
    averaged: bool,
) -> Result<()> {
    let layout = programs.layout(Network::Generator);
    let weights = checkpoint.weights(layout, averaged)?;
    device.set_state(&layout.params_state(), Shape::vector(layout.len), &weights.params)?;
    let buffers = layout.buffers.iter().zip(&weights.buffers);
    buffers.into_iter().try_for_each(|(buffer, values)| device.set_state(&buffer.name, buffer.shape, values))
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
