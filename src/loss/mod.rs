//! The losses of training, written on a tape: the generator's [`content`] loss, the [`Adversarial`]
//! objectives of both networks, and the discriminator's [R1 penalty](r1_penalty).

mod adversarial;
#[cfg(test)]
mod tests;

pub use adversarial::{Adversarial, discriminator_loss, generator_loss, probabilities, r1_penalty};

use crate::Result;
use crate::graph::{Tape, Value};
use crate::ops::add::Add;
use crate::ops::mul::Scale;
use crate::ops::pixel_losses::{L1, PSNR, PixelLosses, SAM, TV};
use crate::ops::slice::SliceChannels;
use crate::ops::ssim::Ssim;

/// What the content loss is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentWeights {
    /// Weight of the mean absolute error.
    pub l1: f32,
    /// Weight of the spectral angle in radians.
    pub sam: f32,
    /// Weight of the perceptual distance.
    pub perceptual: f32,
    /// Weight of the total variation of SR.
    pub tv: f32,
    /// Largest value of an image, for PSNR and SSIM.
    pub max_val: f32,
    /// Taps of SSIM's window.
    pub ssim_win: usize,
}

/// The content loss and its components, all scalars.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentTerms {
    /// Σ weight · component.
    pub total: Value,
    /// Mean absolute error.
    pub l1: Value,
    /// Mean spectral angle in radians.
    pub sam: Value,
    /// Mean perceptual distance, where one was given.
    pub perceptual: Option<Value>,
    /// Total variation of SR.
    pub tv: Value,
    /// Peak signal-to-noise ratio of the whole batch in dB; a metric.
    pub psnr: Value,
    /// Mean structural similarity; a metric.
    pub ssim: Value,
}

/// The content loss of `sr` against `hr`, both (N,H,W,C); `perceptual` is their perceptual distance, a scalar, where it
/// is computed. A component of weight 0 is a metric only: it takes no part in the total, whatever its value, and gets
/// no gradient.
///
/// # Errors
/// If the images differ in extent or are too small for SSIM's window.
pub fn content(
    tape: &mut Tape,
    (sr, hr): (Value, Value),
    perceptual: Option<Value>,
    weights: &ContentWeights,
) -> Result<ContentTerms> {
    let ContentWeights { max_val, ssim_win: window, .. } = *weights;
    tape.scoped("content_loss", |tape| {
        let all = tape.push(PixelLosses { max_val }, &[sr, hr])?;
        let mut component = |offset| tape.push(SliceChannels { offset, channels: 1 }, &[all]);
        let (l1, sam, tv, psnr) = (component(L1)?, component(SAM)?, component(TV)?, component(PSNR)?);
        let ssim = tape.push(Ssim { window, max_val }, &[sr, hr])?;
        let terms = [(weights.l1, Some(l1)), (weights.sam, Some(sam)), (weights.perceptual, perceptual)];
        let given = terms.into_iter().filter_map(|(weight, term)| Some((weight, term?)));
        let total = weighted_sum(tape, given.chain([(weights.tv, tv)]))?;
        Ok(ContentTerms { total, l1, sam, perceptual, tv, psnr, ssim })
    })
}

/// Σ weight · term over the terms whose weight is not 0.
fn weighted_sum(tape: &mut Tape, terms: impl Iterator<Item = (f32, Value)>) -> Result<Value> {
    let mut total = None;
    for (weight, term) in terms.filter(|(weight, _)| *weight != 0.0) {
        total = Some(match total {
            None => tape.push(Scale::by(weight), &[term])?,
            Some(so_far) => tape.push(Add { alpha: 1.0, beta: weight }, &[so_far, term])?,
        });
    }
    Ok(total.unwrap_or_else(|| tape.scalar(0.0)))
}
