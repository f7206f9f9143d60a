//! The content loss: Σ weight · term over the table [`TERMS`]. A term is one entry there, beside its weight's key in
//! the schema and its two rows in the table of metrics.

use crate::Result;
use crate::config::Losses;
use crate::graph::{Tape, Value};
use crate::metrics::Metric;
use crate::ops::add::Add;
use crate::ops::concat::ConcatChannels;
use crate::ops::image_metrics::ImageMetrics;
use crate::ops::mul::Scale;
use crate::ops::pixel_losses::{COMPONENTS, L1, PSNR, PixelLosses, SAM, TV};
use crate::ops::slice::SliceChannels;
use crate::ops::ssim::Ssim;
use crate::ops::sum_to::mean;

/// A term of the content loss, or, without a weight, a metric that is measured beside it.
#[derive(Debug)]
pub struct Term {
    /// Its weight in the loss.
    pub weight: Option<fn(&Losses) -> f64>,
    /// Its value over a training batch.
    pub train: Metric,
    /// Its mean over the images of a validation.
    pub val: Metric,
    /// How it is computed.
    pub op: TermOp,
}

/// How a term is computed.
#[derive(Debug)]
pub enum TermOp {
    /// This channel of [`PixelLosses`] and of [`ImageMetrics`].
    Pixels(usize),
    /// [`Ssim`], the last channel of [`ImageMetrics`].
    Similarity,
    /// By ops of its own for each image, (N,1,1,1); over a batch it is the mean. `None` if the config does without.
    Images(fn(&mut Tape, &Images) -> Result<Option<Value>>),
}

/// What terms are computed from.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    /// Super-resolved images, (N,H,W,C).
    pub sr: Value,
    /// What they should be, of the same extent.
    pub hr: Value,
    /// Their perceptual distances, (N,1,1,1), where they are computed.
    pub perceptual: Option<Value>,
}

/// All terms, in the order in which they are added and shown.
pub const TERMS: &[Term] = &[
    Term { weight: Some(|l| l.l1_weight), train: Metric::TrainL1, val: Metric::ValL1, op: TermOp::Pixels(L1) },
    Term { weight: Some(|l| l.sam_weight), train: Metric::TrainSam, val: Metric::ValSam, op: TermOp::Pixels(SAM) },
    Term {
        weight: Some(|l| l.perceptual_weight),
        train: Metric::TrainPerceptual,
        val: Metric::ValPerceptual,
        op: TermOp::Images(|_, images| Ok(images.perceptual)),
    },
    Term { weight: Some(|l| l.tv_weight), train: Metric::TrainTv, val: Metric::ValTv, op: TermOp::Pixels(TV) },
    Term { weight: None, train: Metric::TrainPsnr, val: Metric::ValPsnr, op: TermOp::Pixels(PSNR) },
    Term { weight: None, train: Metric::TrainSsim, val: Metric::ValSsim, op: TermOp::Similarity },
];

/// The content loss and its components, all scalars.
#[derive(Clone, Debug, PartialEq)]
pub struct ContentTerms {
    /// Σ weight · component.
    pub total: Value,
    /// The components that are computed.
    pub components: Vec<(Metric, Value)>,
}

impl ContentTerms {
    /// A component, by its metric of training.
    pub fn get(&self, metric: Metric) -> Option<Value> {
        self.components.iter().find(|(m, _)| *m == metric).map(|(_, v)| *v)
    }
}

/// The content loss of a batch. A component of weight 0 is a metric only: it takes no part in the total, whatever its
/// value, and gets no gradient.
///
/// # Errors
/// If the images differ in extent or are too small for SSIM's window.
pub fn content(tape: &mut Tape, images: &Images, losses: &Losses) -> Result<ContentTerms> {
    let (max_val, window) = (losses.max_val as f32, losses.ssim_win);
    let operands = [images.sr, images.hr];
    tape.scoped("content_loss", |tape| {
        let pixels = tape.push(PixelLosses { max_val }, &operands)?;
        let (mut components, mut weighted) = (Vec::new(), Vec::new());
        for term in TERMS {
            let value = match term.op {
                TermOp::Pixels(offset) => Some(tape.push(SliceChannels { offset, channels: 1 }, &[pixels])?),
                TermOp::Similarity => Some(tape.push(Ssim { window, max_val }, &operands)?),
                TermOp::Images(of_images) => of_images(tape, images)?.map(|each| mean(tape, each)).transpose()?,
            };
            components.extend(value.map(|v| (term.train, v)));
            weighted.extend(value.zip(term.weight).map(|(v, weight)| (weight(losses) as f32, v)));
        }
        Ok(ContentTerms { total: weighted_sum(tape, weighted)?, components })
    })
}

/// Σ weight · term over the terms whose weight is not 0.
fn weighted_sum(tape: &mut Tape, terms: Vec<(f32, Value)>) -> Result<Value> {
    let mut total = None;
    for (weight, term) in terms.into_iter().filter(|(weight, _)| *weight != 0.0) {
        total = Some(match total {
            None => tape.push(Scale::by(weight), &[term])?,
            Some(so_far) => tape.push(Add { alpha: 1.0, beta: weight }, &[so_far, term])?,
        });
    }
    Ok(total.unwrap_or_else(|| tape.scalar(0.0)))
}

/// The components of each image of a validation, (N,1,1,T), and the metrics of the T channels.
///
/// # Errors
/// If the images differ in extent or are too small for SSIM's window.
pub fn image_components(tape: &mut Tape, images: &Images, losses: &Losses) -> Result<(Value, Vec<Metric>)> {
    let op = ImageMetrics { max_val: losses.max_val as f32, ssim_win: losses.ssim_win };
    let mut parts = vec![tape.push(op, &[images.sr, images.hr])?];
    let mut metrics: Vec<Metric> = (0..=COMPONENTS).filter_map(metric_of_channel).collect();
    for term in TERMS {
        let TermOp::Images(of_images) = term.op else { continue };
        if let Some(each) = of_images(tape, images)? {
            parts.push(each);
            metrics.push(term.val);
        }
    }
    let all = if parts.len() == 1 { parts[0] } else { tape.push(ConcatChannels, &parts)? };
    Ok((all, metrics))
}

/// The metric of validation in a channel of [`ImageMetrics`].
fn metric_of_channel(channel: usize) -> Option<Metric> {
    let has = |term: &&Term| match term.op {
        TermOp::Pixels(c) => c == channel,
        TermOp::Similarity => channel == COMPONENTS,
        TermOp::Images(_) => false,
    };
    TERMS.iter().find(has).map(|term| term.val)
}
