//! The programs of a run. Without gradient accumulation a step is one program on one tape, `pretrain` or
//! `adversarial`; with it, several (`accumulate`). Validation is `evaluate`.
//!
//! The order of an adversarial step: SR = G(LR) once; D's loss on HR and SR, D's update staged; then G's loss
//! through the updated D on the same SR; then all state changes, only if every loss and gradient norm is finite.

mod accumulate;
mod evaluate;
mod metrics;
mod parts;
mod perceptual;
mod update;

pub use evaluate::EvaluateOptions;
use metrics::Metrics;
use parts::Bound;

use super::names;
use crate::config::{AdvLoss, Config};
use crate::graph::Tape;
use crate::loss::Adversarial;
use crate::nn::Layout;
use crate::plan::Program;
use crate::types::DType;
use crate::{Result, nn};

/// Extent and types of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchShape {
    /// Images.
    pub batch: usize,
    /// HR rows and columns.
    pub hr: (usize, usize),
    /// Type of the raw HR pixels.
    pub hr_type: DType,
    /// Type of the raw LR pixels of paired data; `None` makes LR from HR.
    pub lr_type: Option<DType>,
}

/// Writes programs for one config.
pub struct Programs<'a> {
    cfg: &'a Config,
    generator: Layout,
    discriminator: Layout,
    perceptual: Option<Layout>,
    align: usize,
}

impl<'a> Programs<'a> {
    /// Programs for `cfg`.
    ///
    /// # Errors
    /// If the networks of the config cannot be built.
    pub fn new(cfg: &'a Config) -> Result<Self> {
        let (generator, discriminator) = (nn::generator_layout(cfg)?, nn::discriminator_layout(cfg)?);
        let perceptual = cfg.training.losses.has_perceptual().then(|| nn::perceptual_layout(cfg)).transpose()?;
        Ok(Programs { cfg, generator, discriminator, perceptual, align: 1 })
    }

    /// The same programs for a device that reads vectors of `align` channels: parts of feature maps start at multiples.
    #[must_use]
    pub fn aligned_to(self, align: usize) -> Self {
        Programs { align, ..self }
    }

    /// The generator's tensors.
    pub fn generator(&self) -> &Layout {
        &self.generator
    }

    /// The discriminator's tensors.
    pub fn discriminator(&self) -> &Layout {
        &self.discriminator
    }

    /// The tensors of the network behind the perceptual term, where the config has one. They are never trained.
    pub fn perceptual(&self) -> Option<&Layout> {
        self.perceptual.as_ref()
    }

    /// Which adversarial objective the config names.
    pub fn objective(&self) -> Adversarial {
        let losses = &self.cfg.training.losses;
        match losses.adv_loss_type {
            AdvLoss::Wasserstein => Adversarial::Wasserstein,
            AdvLoss::Bce if losses.relativistic_average_d => Adversarial::RelativisticBce,
            AdvLoss::Bce => Adversarial::Bce,
        }
    }

    /// The generator alone on the content loss.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn pretrain(&self, shape: BatchShape) -> Result<Program> {
        let (mut tape, mut metrics) = (Tape::new(), Metrics::default());
        let inputs = self.inputs(&mut tape, shape)?;
        let mut g = Bound::new(&mut tape, &self.generator, "", "");
        let objective = self.content_part(&mut tape, &inputs, &mut g, &mut metrics)?;
        let grad = self.gradient(&mut tape, objective, &g)?;
        let scaled = self.scale(&mut tape, &self.generator, grad)?;
        metrics.push(names::GENERATOR_GRAD_NORM, scaled.norm);
        let mut commits = Vec::new();
        self.commit_generator(&mut tape, &scaled, &g.buffers, &mut commits, &mut metrics)?;
        metrics.finish("pretrain", tape, vec![objective, scaled.square], commits)
    }

    /// Discriminator and generator.
    ///
    /// # Errors
    /// A shape error with the layer's path.
    pub fn adversarial(&self, shape: BatchShape) -> Result<Program> {
        let (mut tape, mut metrics) = (Tape::new(), Metrics::default());
        let inputs = self.inputs(&mut tape, shape)?;
        let mut g = Bound::new(&mut tape, &self.generator, "", "");
        let mut d = Bound::new(&mut tape, &self.discriminator, "", "");
        let sr = self.run_generator(&mut tape, &inputs, &mut g, true)?;

        let d_loss = self.discriminator_part(&mut tape, (inputs.hr, sr), &mut d, &mut metrics)?;
        let grad = self.gradient(&mut tape, d_loss, &d)?;
        let d_scaled = self.scale(&mut tape, &self.discriminator, grad)?;
        metrics.push(names::DISCRIMINATOR_GRAD_NORM, d_scaled.norm);
        let staged = self.updated_discriminator(&mut tape, &d, &d_scaled)?;
        let mut updated = d.with_params(staged);

        let losses = self.generator_part(&mut tape, (inputs.hr, sr), &mut updated, &mut metrics)?;
        let grad = self.gradient(&mut tape, losses.total, &g)?;
        let g_scaled = self.scale(&mut tape, &self.generator, grad)?;
        metrics.push(names::GENERATOR_GRAD_NORM, g_scaled.norm);

        let mut commits = Vec::new();
        self.commit_discriminator(&mut tape, &d_scaled, &updated.buffers, &mut commits)?;
        self.commit_generator(&mut tape, &g_scaled, &g.buffers, &mut commits, &mut metrics)?;
        let checks = vec![d_loss, d_scaled.square, losses.content, losses.adversarial, losses.total, g_scaled.square];
        metrics.finish("adversarial", tape, checks, commits)
    }
}
