//! A step of several micro-batches (`Training.accumulate_grad_batches` = k > 1), as a sequence of programs:
//!
//! ```text
//! pretraining:  begin, content × k, update
//! adversarial:  begin, judge × k, stage, generate × k, update
//! ```
//! Gradients of the k parts, each divided by k, are summed in states; batch norm's statistics, spectral vectors
//! and D's new weights are kept in `staged.*` states. Nothing that a checkpoint holds changes before `update`,
//! which commits only if every number of the step was finite. G's pass computes SR again, with the same bits;
//! G's statistics move in that pass alone.

use std::sync::Arc;

use super::parts::Bound;
use super::update::commit_buffers;
use super::{BatchShape, Metrics, Programs};
use crate::Result;
use crate::graph::{Tape, Value};
use crate::nn::Layout;
use crate::ops::assign::{AddTo, Assign, Clear};
use crate::ops::mul::Scale;
use crate::plan::{Commit, Program};
use crate::train::names;
use crate::train::names::scalars;
use crate::types::Shape;

/// Prefix of states that hold a step's changes until it is certain that the step counts.
pub const STAGED: &str = "staged.";

/// Name of the state that sums a network's gradients.
fn sum_state(layout: &Layout) -> String {
    format!("{STAGED}{}.grad", layout.prefix)
}

impl Programs<'_> {
    /// Extra states of accumulation: name and extent.
    pub fn staged_states(&self) -> Vec<(String, Shape)> {
        let mut states = Vec::new();
        for layout in [&self.generator, &self.discriminator] {
            states.push((sum_state(layout), Shape::vector(layout.len)));
            states.extend(layout.buffers.iter().map(|b| (format!("{STAGED}{}", b.name), b.shape)));
        }
        let d = &self.discriminator;
        states.push((format!("{STAGED}{}", d.params_state()), Shape::vector(d.len)));
        states
    }

    /// Clears the sums and copies the buffers to their staged states.
    ///
    /// # Errors
    /// None for networks that could be built.
    pub fn accumulate_begin(&self) -> Result<Program> {
        let (mut tape, mut commits) = (Tape::new(), Vec::new());
        for layout in [&self.generator, &self.discriminator] {
            let states = vec![(sum_state(layout), Shape::vector(layout.len))];
            commits.push(Commit { op: Arc::new(Clear), inputs: vec![], states });
            let net = Bound::new(&mut tape, layout, "", "");
            commit_buffers(layout, STAGED, &net.buffers, &mut commits);
        }
        Ok(Program { name: "accumulate_begin", tape, outputs: vec![], checks: vec![], commits })
    }

    /// Adds a part of the objective's gradient to the network's sum and stages its buffers.
    fn add_gradient(&self, tape: &mut Tape, objective: Value, net: &Bound, commits: &mut Vec<Commit>) -> Result<()> {
        let share = 1.0 / self.cfg.training.accumulate_grad_batches as f32;
        let part = tape.push(Scale::by(share), &[objective])?;
        let grad = self.gradient(tape, part, net)?;
        let states = vec![(sum_state(net.layout), Shape::vector(net.layout.len))];
        commits.push(Commit { op: Arc::new(AddTo), inputs: vec![grad], states });
        commit_buffers(net.layout, STAGED, &net.buffers, commits);
        Ok(())
    }

    /// One micro-batch of pretraining.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn accumulate_content(&self, shape: BatchShape) -> Result<Program> {
        let (mut tape, mut metrics, mut commits) = (Tape::new(), Metrics::default(), Vec::new());
        let inputs = self.inputs(&mut tape, shape)?;
        let mut g = Bound::new(&mut tape, &self.generator, "", STAGED);
        let objective = self.content_part(&mut tape, &inputs, &mut g, &mut metrics)?;
        self.add_gradient(&mut tape, objective, &g, &mut commits)?;
        metrics.finish("accumulate_content", tape, vec![], commits)
    }

    /// One micro-batch of the discriminator's gradients.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn accumulate_judge(&self, shape: BatchShape) -> Result<Program> {
        let (mut tape, mut metrics, mut commits) = (Tape::new(), Metrics::default(), Vec::new());
        let inputs = self.inputs(&mut tape, shape)?;
        let mut g = Bound::new(&mut tape, &self.generator, "", STAGED);
        let mut d = Bound::new(&mut tape, &self.discriminator, "", STAGED);
        let sr = self.run_generator(&mut tape, &inputs, &mut g, true)?;
        let d_loss = self.discriminator_part(&mut tape, (inputs.hr, sr), &mut d, &mut metrics)?;
        self.add_gradient(&mut tape, d_loss, &d, &mut commits)?;
        metrics.finish("accumulate_judge", tape, vec![], commits)
    }

    /// D's weights after its update, into their staged state.
    ///
    /// # Errors
    /// None for networks that could be built.
    pub fn accumulate_stage(&self) -> Result<Program> {
        let (mut tape, metrics) = (Tape::new(), Metrics::default());
        let d = Bound::new(&mut tape, &self.discriminator, "", "");
        let n = Shape::vector(self.discriminator.len);
        let grad = tape.state(&sum_state(&self.discriminator), n);
        let scaled = self.scale(&mut tape, &self.discriminator, grad)?;
        let updated = self.updated_discriminator(&mut tape, &d, &scaled)?;
        let states = vec![(format!("{STAGED}{}", self.discriminator.params_state()), n)];
        let commits = vec![Commit { op: Arc::new(Assign), inputs: vec![updated], states }];
        metrics.finish("accumulate_stage", tape, vec![], commits)
    }

    /// One micro-batch of the generator's gradients through the staged discriminator.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn accumulate_generate(&self, shape: BatchShape) -> Result<Program> {
        let (mut tape, mut metrics, mut commits) = (Tape::new(), Metrics::default(), Vec::new());
        let inputs = self.inputs(&mut tape, shape)?;
        let mut g = Bound::new(&mut tape, &self.generator, "", STAGED);
        let mut d = Bound::new(&mut tape, &self.discriminator, STAGED, STAGED);
        let sr = self.run_generator(&mut tape, &inputs, &mut g, true)?;
        let losses = self.generator_part(&mut tape, (inputs.hr, sr), &mut d, &mut metrics)?;
        self.add_gradient(&mut tape, losses.total, &g, &mut commits)?;
        commit_buffers(&self.discriminator, STAGED, &d.buffers, &mut commits);
        metrics.finish("accumulate_generate", tape, vec![], commits)
    }

    /// All state changes of the step, only if its gradient norms and the guard scalar are finite.
    ///
    /// # Errors
    /// None for networks that could be built.
    pub fn accumulate_update(&self, adversarial: bool) -> Result<Program> {
        let (mut tape, mut metrics, mut commits) = (Tape::new(), Metrics::default(), Vec::new());
        let mut checks = vec![self.scalar(&mut tape, scalars::GUARD)?];
        if adversarial {
            let d = Bound::new(&mut tape, &self.discriminator, "", STAGED);
            let grad = tape.state(&sum_state(&self.discriminator), Shape::vector(self.discriminator.len));
            let scaled = self.scale(&mut tape, &self.discriminator, grad)?;
            metrics.push(names::DISCRIMINATOR_GRAD_NORM, scaled.norm);
            checks.push(scaled.square);
            self.commit_discriminator(&mut tape, &scaled, &d.buffers, &mut commits)?;
        }
        let g = Bound::new(&mut tape, &self.generator, "", STAGED);
        let grad = tape.state(&sum_state(&self.generator), Shape::vector(self.generator.len));
        let scaled = self.scale(&mut tape, &self.generator, grad)?;
        metrics.push(names::GENERATOR_GRAD_NORM, scaled.norm);
        checks.push(scaled.square);
        self.commit_generator(&mut tape, &scaled, &g.buffers, &mut commits, &mut metrics)?;
        metrics.finish("accumulate_update", tape, checks, commits)
    }
}
