//! Losses: functions that write ops on a tape. Formulas and their order of evaluation are those of the design's
//! training semantics; losses are means, so they do not depend on the batch's size.

use crate::Result;
use crate::ops::add::Add;
use crate::ops::bce::{BceLogits, MeanSigmoid};
use crate::ops::mul::{Mul, Scale};
use crate::ops::pixel_losses::PixelLosses;
use crate::ops::slice::SliceChannels;
use crate::ops::ssim::Ssim;
use crate::ops::sum_to::{mean, sum_to};
use crate::tape::{Shape, Tape, Value};
use crate::train::names;

/// Weights of the content loss and settings of its metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentWeights {
    /// Of the mean absolute error.
    pub l1: f32,
    /// Of the spectral angle.
    pub sam: f32,
    /// Of the total variation.
    pub tv: f32,
    /// Peak value of PSNR and SSIM.
    pub max_val: f32,
    /// Taps of SSIM's window.
    pub ssim_win: usize,
}

/// The content loss and its components, all scalars.
#[derive(Clone, Copy, Debug)]
pub struct ContentTerms {
    /// Weighted sum of the first three components.
    pub total: Value,
    /// Mean absolute error.
    pub l1: Value,
    /// Mean spectral angle in radians.
    pub sam: Value,
    /// Total variation of SR.
    pub tv: Value,
    /// PSNR in dB over the whole batch.
    pub psnr: Value,
    /// Mean SSIM.
    pub ssim: Value,
}

/// Writes the content loss of `sr` against `hr` (N,H,W,B). A component of weight 0 is a metric only.
///
/// # Errors
/// A shape error if the images differ in extent or are smaller than SSIM's window.
pub fn content(tape: &mut Tape, sr: Value, hr: Value, weights: &ContentWeights) -> Result<ContentTerms> {
    tape.scoped("content_loss", |tape| {
        let all = tape.push(PixelLosses { max_val: weights.max_val }, &[sr, hr])?;
        let mut component = |offset| tape.push(SliceChannels { offset, channels: 1 }, &[all]);
        let (l1, sam, tv, psnr) = (component(0)?, component(1)?, component(2)?, component(3)?);
        let ssim = tape.push(Ssim { window: weights.ssim_win, max_val: weights.max_val }, &[sr, hr])?;
        let mut total: Option<Value> = None;
        for (weight, term) in [(weights.l1, l1), (weights.sam, sam), (weights.tv, tv)] {
            if weight != 0.0 {
                total = Some(match total {
                    Some(sum) => tape.push(Add { alpha: 1.0, beta: weight }, &[sum, term])?,
                    None => tape.push(Scale::by(weight), &[term])?,
                });
            }
        }
        let total = match total {
            Some(total) => total,
            None => tape.scalar(0.0),
        };
        Ok(ContentTerms { total, l1, sam, tv, psnr, ssim })
    })
}

/// The adversarial objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adversarial {
    /// Binary cross-entropy on logits (Goodfellow et al., 2014, non-saturating).
    Bce,
    /// Relativistic average (Jolicoeur-Martineau, 2018).
    RelativisticBce,
    /// Wasserstein critic (Arjovsky et al., 2017).
    Wasserstein,
}

/// `a − mean(b)`, with a gradient through the mean.
fn relative(tape: &mut Tape, a: Value, b: Value) -> Result<Value> {
    let mean = mean(tape, b)?;
    tape.push(Add::DIFFERENCE, &[a, mean])
}

fn bce(tape: &mut Tape, logits: Value, target: f32) -> Result<Value> {
    tape.push(BceLogits { target }, &[logits])
}

/// The discriminator's loss on its logits for HR and SR; `target` is that of real images.
///
/// # Errors
/// Those of the ops.
pub fn discriminator_loss(tape: &mut Tape, kind: Adversarial, real: Value, fake: Value, target: f32) -> Result<Value> {
    tape.scoped("discriminator_loss", |tape| match kind {
        Adversarial::Bce => {
            let (on_real, on_fake) = (bce(tape, real, target)?, bce(tape, fake, 0.0)?);
            tape.push(Add { alpha: 0.5, beta: 0.5 }, &[on_real, on_fake])
        }
        Adversarial::RelativisticBce => {
            let (r, f) = (relative(tape, real, fake)?, relative(tape, fake, real)?);
            let (on_real, on_fake) = (bce(tape, r, target)?, bce(tape, f, 0.0)?);
            tape.push(Add::SUM, &[on_real, on_fake])
        }
        Adversarial::Wasserstein => {
            let (real, fake) = (mean(tape, real)?, mean(tape, fake)?);
            tape.push(Add::DIFFERENCE, &[fake, real])
        }
    })
}

/// The generator's adversarial loss on D's logits for SR and, if relativistic, for HR, which gets no gradient
/// because HR does not depend on the generator.
///
/// # Errors
/// Those of the ops; [`crate::Error::Internal`] if the relativistic loss lacks `real`.
pub fn generator_loss(tape: &mut Tape, kind: Adversarial, fake: Value, real: Option<Value>) -> Result<Value> {
    tape.scoped("adversarial_loss", |tape| match (kind, real) {
        (Adversarial::Bce, _) => bce(tape, fake, 1.0),
        (Adversarial::RelativisticBce, Some(real)) => {
            let (r, f) = (relative(tape, real, fake)?, relative(tape, fake, real)?);
            let (on_real, on_fake) = (bce(tape, r, 0.0)?, bce(tape, f, 1.0)?);
            tape.push(Add { alpha: 0.5, beta: 0.5 }, &[on_real, on_fake])
        }
        (Adversarial::RelativisticBce, None) => {
            Err(crate::Error::Internal("the relativistic loss needs D's logits of HR".into()))
        }
        (Adversarial::Wasserstein, _) => {
            let mean = mean(tape, fake)?;
            tape.push(Scale::by(-1.0), &[mean])
        }
    })
}

/// Metrics of D's certainty before its update: mean sigmoid of its logits, and of the relativistic ones.
///
/// # Errors
/// Those of the ops.
pub fn probabilities(
    tape: &mut Tape,
    kind: Adversarial,
    real: Value,
    fake: Value,
) -> Result<Vec<(&'static str, Value)>> {
    let mut all =
        vec![(names::D_REAL, tape.push(MeanSigmoid, &[real])?), (names::D_FAKE, tape.push(MeanSigmoid, &[fake])?)];
    if kind == Adversarial::RelativisticBce {
        let (r, f) = (relative(tape, real, fake)?, relative(tape, fake, real)?);
        all.push((names::D_REAL_RELATIVISTIC, tape.push(MeanSigmoid, &[r])?));
        all.push((names::D_FAKE_RELATIVISTIC, tape.push(MeanSigmoid, &[f])?));
    }
    Ok(all)
}

/// The R1 penalty (Mescheder et al., "Which training methods for GANs do actually converge?", 2018):
/// ½·γ·mean over images of ‖∂ΣD(y)/∂y‖², where `real_logits` = D(`real_image`).
///
/// # Errors
/// Those of the ops; [`crate::Error::Internal`] if the logits do not depend on the image.
pub fn r1_penalty(tape: &mut Tape, real_logits: Value, real_image: Value, gamma: f32) -> Result<Value> {
    tape.scoped("r1_penalty", |tape| {
        let shape = tape.shape(real_logits);
        let ones = tape.constant(shape, vec![1.0; shape.len()]);
        let grad = tape.gradients(&[(real_logits, ones)], &[real_image])?[0];
        let grad = grad.ok_or_else(|| crate::Error::Internal("D does not depend on its image".into()))?;
        let square = tape.push(Mul, &[grad, grad])?;
        let sum = sum_to(tape, square, Shape::SCALAR)?;
        let images = tape.shape(real_image).n() as f32;
        tape.push(Scale::by(0.5 * gamma / images), &[sum])
    })
}
