//! Adversarial objectives on logits (N,h,w,1), and the R1 gradient penalty.

use crate::config::{AdvLoss, Losses};
use crate::graph::{Tape, Value};
use crate::metrics::Metric;
use crate::ops::add::Add;
use crate::ops::bce::{BceLogits, MeanSigmoid};
use crate::ops::mul::Scale;
use crate::ops::rank_mean::RankMean;
use crate::ops::sum_to::{mean, sum_product_to};
use crate::types::Shape;
use crate::{Error, Result};

/// How discriminator and generator are set against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Adversarial {
    /// Binary cross-entropy of each logit (Goodfellow et al., "Generative adversarial nets", 2014).
    Bce,
    /// Binary cross-entropy of each logit against the mean of the other side's (Jolicoeur-Martineau, "The
    /// relativistic discriminator", 2018). Gradients flow through the means.
    RelativisticBce {
        /// Whether the means are over the batches of all ranks, not this one's alone.
        over_ranks: bool,
    },
    /// Difference of the means (Arjovsky et al., "Wasserstein GAN", 2017).
    Wasserstein,
}

impl Adversarial {
    /// The objective that a config names; its means are over all ranks if they are `synced`.
    pub fn of(losses: &Losses, synced: bool) -> Self {
        match losses.adv_loss_type {
            AdvLoss::Wasserstein => Adversarial::Wasserstein,
            AdvLoss::Bce if losses.relativistic_average_d => Adversarial::RelativisticBce { over_ranks: synced },
            AdvLoss::Bce => Adversarial::Bce,
        }
    }
}

/// `real − mean(fake)` and `fake − mean(real)`.
fn relative(tape: &mut Tape, [real, fake]: [Value; 2], over_ranks: bool) -> Result<[Value; 2]> {
    let mut minus_mean = |logits: Value, others: Value| {
        let own = mean(tape, others)?;
        let reference = if over_ranks { tape.push(RankMean, &[own])? } else { own };
        tape.push(Add::DIFFERENCE, &[logits, reference])
    };
    Ok([minus_mean(real, fake)?, minus_mean(fake, real)?])
}

fn bce(tape: &mut Tape, logits: Value, target: f32) -> Result<Value> {
    tape.push(BceLogits { target }, &[logits])
}

/// The discriminator's loss, a scalar: bce ½\[BCE(real, target) + BCE(fake, 0)\]; relativistic
/// BCE(real − mean fake, target) + BCE(fake − mean real, 0); wasserstein mean fake − mean real. `target` is 1,
/// or less with label smoothing.
///
/// # Errors
/// If `target` is not a probability.
pub fn discriminator_loss(tape: &mut Tape, kind: Adversarial, real: Value, fake: Value, target: f32) -> Result<Value> {
    tape.scoped("discriminator_loss", |tape| match kind {
        Adversarial::Bce => {
            let terms = [bce(tape, real, target)?, bce(tape, fake, 0.0)?];
            tape.push(Add { alpha: 0.5, beta: 0.5 }, &terms)
        }
        Adversarial::RelativisticBce { over_ranks } => {
            let [real, fake] = relative(tape, [real, fake], over_ranks)?;
            let terms = [bce(tape, real, target)?, bce(tape, fake, 0.0)?];
            tape.push(Add::SUM, &terms)
        }
        Adversarial::Wasserstein => {
            let means = [mean(tape, fake)?, mean(tape, real)?];
            tape.push(Add::DIFFERENCE, &means)
        }
    })
}

/// The generator's adversarial loss, a scalar: bce BCE(fake, 1); relativistic
/// ½\[BCE(real − mean fake, 0) + BCE(fake − mean real, 1)\]; wasserstein −mean fake. Only the relativistic
/// loss reads `real`.
///
/// # Errors
/// [`Error::Internal`] if the relativistic loss is not given `real`.
pub fn generator_loss(tape: &mut Tape, kind: Adversarial, fake: Value, real: Option<Value>) -> Result<Value> {
    tape.scoped("generator_loss", |tape| match kind {
        Adversarial::Bce => bce(tape, fake, 1.0),
        Adversarial::RelativisticBce { over_ranks } => {
            let real = real.ok_or_else(|| Error::Internal("the relativistic loss needs the logits of HR".into()))?;
            let [real, fake] = relative(tape, [real, fake], over_ranks)?;
            let terms = [bce(tape, real, 0.0)?, bce(tape, fake, 1.0)?];
            tape.push(Add { alpha: 0.5, beta: 0.5 }, &terms)
        }
        Adversarial::Wasserstein => {
            let mean_fake = mean(tape, fake)?;
            tape.push(Scale::by(-1.0), &[mean_fake])
        }
    })
}

/// Metrics of a discriminator, scalars: the mean sigmoid of its logits on HR and on SR and, for the
/// relativistic objective, of both relative to the other side's mean.
///
/// # Errors
/// Fails if an op cannot work on the extents.
pub fn probabilities(tape: &mut Tape, kind: Adversarial, real: Value, fake: Value) -> Result<Vec<(Metric, Value)>> {
    tape.scoped("probabilities", |tape| {
        let mut all = vec![
            (Metric::RealProbability, tape.push(MeanSigmoid, &[real])?),
            (Metric::FakeProbability, tape.push(MeanSigmoid, &[fake])?),
        ];
        if let Adversarial::RelativisticBce { over_ranks } = kind {
            let [real, fake] = relative(tape, [real, fake], over_ranks)?;
            all.extend([
                (Metric::RealRelativistic, tape.push(MeanSigmoid, &[real])?),
                (Metric::FakeRelativistic, tape.push(MeanSigmoid, &[fake])?),
            ]);
        }
        Ok(all)
    })
}

/// The R1 penalty ½·gamma·mean over images of ‖∂ Σ D(y)/∂y‖², a scalar that can itself be differentiated
/// (Mescheder et al., "Which training methods for GANs do actually converge?", ICML 2018). `real_logits` are
/// the discriminator's on `real_image` (N,H,W,C).
///
/// # Errors
/// [`Error::Internal`] if the logits do not depend on the image.
pub fn r1_penalty(tape: &mut Tape, real_logits: Value, real_image: Value, gamma: f32) -> Result<Value> {
    tape.scoped("r1_penalty", |tape| {
        let shape = tape.shape(real_logits);
        let ones = tape.constant(shape, vec![1.0; shape.len()]);
        let gradient = tape.exactly(|tape| tape.gradients(&[(real_logits, ones)], &[real_image]))?.remove(0);
        let gradient =
            gradient.ok_or_else(|| Error::Internal("the logits of the R1 penalty do not read its image".into()))?;
        let squares = sum_product_to(tape, gradient, gradient, Shape::SCALAR)?;
        let images = tape.shape(real_image).n();
        tape.push(Scale::by(0.5 * gamma / images as f32), &[squares])
    })
}
