//! A training step, from top to bottom as it happens. It is a list of segments,
//!
//! ```text
//! discriminator gradients | discriminator update | generator gradients | generator update
//! ```
//! of which pretraining has the last two. A gradient segment ends with its network's bucket: the gradients and a verdict,
//! 0 or NaN, on the loss. Without gradient accumulation all segments are written on one tape, and each reads the values of
//! those before it. With accumulation each segment is a program of its own, and gradient segments run once per
//! micro-batch: buckets are summed in a state, and everything else that later segments need is held in `staged.*` states
//! ([`StepTape`]).
//!
//! Ops have no side effects: nothing that a checkpoint holds changes before the last segment, whose commits are made
//! only if the verdicts and both gradient norms are finite. The discriminator's update is staged until then.

use super::step_tape::StepTape;
use super::{BatchShape, Programs, Recorded};
use crate::Result;
use crate::metrics::Metric;
use crate::nn::Network;

/// What a step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The generator alone, on the content loss.
    Pretrain,
    /// The discriminator, then the generator.
    Adversarial,
}

/// A part of a step between two borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// The discriminator's loss on HR and SR, and its gradients.
    DiscriminatorGradients,
    /// The discriminator's new weights, staged.
    DiscriminatorUpdate,
    /// The generator's loss, in the adversarial phase through the updated discriminator, and its gradients.
    GeneratorGradients,
    /// All state changes of the step.
    GeneratorUpdate,
}

impl Phase {
    /// The segments of a step, in order.
    pub fn segments(self) -> &'static [Segment] {
        use Segment::{DiscriminatorGradients, DiscriminatorUpdate, GeneratorGradients, GeneratorUpdate};
        match self {
            Phase::Pretrain => &[GeneratorGradients, GeneratorUpdate],
            Phase::Adversarial => &[DiscriminatorGradients, DiscriminatorUpdate, GeneratorGradients, GeneratorUpdate],
        }
    }

    /// The networks that a step trains, in order.
    pub fn networks(self) -> &'static [Network] {
        match self {
            Phase::Pretrain => &[Network::Generator],
            Phase::Adversarial => &[Network::Discriminator, Network::Generator],
        }
    }

    /// The name of its steps in messages and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Pretrain => "pretrain",
            Phase::Adversarial => "adversarial",
        }
    }
}

impl Segment {
    /// Whether it works on images, once for each micro-batch; the others run once a step.
    pub fn takes_images(self) -> bool {
        matches!(self, Segment::DiscriminatorGradients | Segment::GeneratorGradients)
    }

    /// Its name in messages and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Segment::DiscriminatorGradients => "discriminator_gradients",
            Segment::DiscriminatorUpdate => "discriminator_update",
            Segment::GeneratorGradients => "generator_gradients",
            Segment::GeneratorUpdate => "generator_update",
        }
    }
}

impl Programs {
    /// A whole step as one program.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn step(&self, phase: Phase, shape: BatchShape) -> Result<Recorded> {
        let mut step = StepTape::joined(self, phase, shape);
        for segment in phase.segments() {
            self.write(*segment, &mut step)?;
        }
        step.finish(phase.name())
    }

    /// A segment of a step as a program of its own, for a step of several micro-batches.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn segment(&self, phase: Phase, segment: Segment, shape: BatchShape) -> Result<Recorded> {
        let mut step = StepTape::apart(self, phase, segment, shape);
        self.write(segment, &mut step)?;
        step.finish(segment.name())
    }

    fn write(&self, segment: Segment, step: &mut StepTape) -> Result<()> {
        step.begin(segment);
        match segment {
            Segment::DiscriminatorGradients => self.discriminator_gradients(step),
            Segment::DiscriminatorUpdate => self.discriminator_update(step),
            Segment::GeneratorGradients => self.generator_gradients(step),
            Segment::GeneratorUpdate => self.generator_update(step),
        }
    }

    /// SR = G(LR); D(y), then D(G(x)) on the SR that no gradient leaves; the loss with R1.
    fn discriminator_gradients(&self, step: &mut StepTape) -> Result<()> {
        let images = step.images()?;
        let loss = self.discriminator_loss(step, images)?;
        step.close_bucket(Network::Discriminator, loss)?;
        step.keep_buffers(Network::Discriminator);
        Ok(())
    }

    /// The weights that the generator's loss goes through.
    fn discriminator_update(&self, step: &mut StepTape) -> Result<()> {
        let grads = step.clipped(Network::Discriminator)?;
        step.measure(Metric::DiscriminatorGradNorm, grads.norm);
        let updated = self.updated_weights(step, Network::Discriminator, &grads)?;
        step.stage_discriminator(updated);
        Ok(())
    }

    /// On the same SR: the content loss alone, or with the adversarial loss, D(G(x)) first, then, if relativistic, D(y).
    fn generator_gradients(&self, step: &mut StepTape) -> Result<()> {
        let images = step.images()?;
        let objective = match step.phase() {
            Phase::Pretrain => self.pretraining_loss(step, images)?,
            Phase::Adversarial => self.generator_loss(step, images)?,
        };
        step.close_bucket(Network::Generator, objective)?;
        step.phase().networks().iter().for_each(|network| step.keep_buffers(*network));
        Ok(())
    }

    /// Adam's commits and the buffers' of each trained network, over ranks where there are several, then the average of the generator's new weights.
    fn generator_update(&self, step: &mut StepTape) -> Result<()> {
        let norm = step.clipped(Network::Generator)?.norm;
        step.measure(Metric::GeneratorGradNorm, norm);
        for network in step.phase().networks() {
            let grads = step.clipped(*network)?;
            step.check(*network, &grads)?;
            self.commit_network(step, *network, &grads)?;
            self.commit_rank_mean(step, *network);
        }
        self.commit_average(step)
    }
}
