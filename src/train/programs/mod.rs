//! The programs of a run: a training step ([`Phase`], [`Segment`]), validation, and each network's forward pass alone.

mod evaluate;
mod parts;
mod perceptual;
mod step;
mod step_tape;
#[cfg(test)]
mod tests;
mod update;

use std::sync::Arc;

pub use evaluate::{BAND_METRICS, BAND_SUMS, BICUBIC, EvaluateOptions};
pub use step::{Phase, Segment};

use crate::Result;
use crate::config::Config;
use crate::loss::Adversarial;
use crate::metrics::Metric;
use crate::nn::{self, Layout, Network};
use crate::plan::Program;
use crate::types::DType;

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

/// A program, and what its output `metrics` holds.
#[derive(Debug)]
pub struct Recorded {
    /// What is computed.
    pub program: Program,
    /// The metrics of the channels of the output `metrics`.
    pub metrics: Vec<Metric>,
}

/// Writes programs for one config.
pub struct Programs {
    cfg: Arc<Config>,
    /// By [`Network`].
    layouts: [Layout; 2],
    perceptual: Option<Layout>,
    align: usize,
    ranks: usize,
}

impl Programs {
    /// Programs for `cfg`.
    ///
    /// # Errors
    /// If the networks of the config cannot be built.
    pub fn new(cfg: impl Into<Arc<Config>>) -> Result<Self> {
        let cfg = cfg.into();
        let layouts = [nn::generator_layout(&cfg)?, nn::discriminator_layout(&cfg)?];
        let perceptual = cfg.training.losses.has_perceptual().then(|| nn::perceptual_layout(&cfg)).transpose()?;
        Ok(Programs { cfg, layouts, perceptual, align: 1, ranks: 1 })
    }

    /// The same programs for a device that reads vectors of `align` channels: parts of feature maps start at multiples.
    #[must_use]
    pub fn aligned_to(self, align: usize) -> Self {
        Programs { align, ..self }
    }

    /// The same programs for one of `ranks` ranks, which average what each measures on its own batch.
    #[must_use]
    pub fn among(self, ranks: usize) -> Self {
        Programs { ranks, ..self }
    }

    /// What the programs are for.
    pub fn config(&self) -> &Arc<Config> {
        &self.cfg
    }

    /// A network's tensors.
    pub fn layout(&self, network: Network) -> &Layout {
        &self.layouts[network as usize]
    }

    /// The tensors of the network behind the perceptual term, where the config has one. They are never trained.
    pub fn perceptual(&self) -> Option<&Layout> {
        self.perceptual.as_ref()
    }

    /// Which adversarial objective the config names.
    pub fn objective(&self) -> Adversarial {
        Adversarial::of(&self.cfg.training.losses, self.synced_ranks() > 1)
    }

    /// Whether a network has statistics that it measures on batches.
    pub(crate) fn has_batch_norm(&self) -> bool {
        self.layouts.iter().any(|layout| layout.buffers.iter().any(update::is_measured))
    }

    /// The ranks whose batches a norm and a relativistic loss see as one.
    pub(crate) fn synced_ranks(&self) -> usize {
        if self.cfg.training.sync_batchnorm { self.ranks } else { 1 }
    }
}
