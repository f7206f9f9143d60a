//! Validation: SR of the held-out images with the averaged weights, metrics as means over images.

use super::names;
use super::perceptual::Bands;
use super::programs::{BatchShape, EvaluateOptions};
use super::session::{Key, Session};
use super::signals::StopSignal;
use super::step::latent_noise;
use crate::config::{AdvLoss, BatchLimit, Config};
use crate::data::{Batch, Dataset};
use crate::log::{PanelShape, Panels};
use crate::rng::Stream;
use crate::types::DType;
use crate::{Error, Result, nn};

/// Metrics of D in validation.
pub const DISC: &str = "validation/DISC_adversarial_loss";

/// What a validation found.
#[derive(Debug)]
pub struct Validation {
    /// Means over images, by metric name.
    pub values: Vec<(&'static str, f64)>,
    /// Pictures of the first images.
    pub panels: Panels,
}

impl Validation {
    /// A metric's value.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// The extent of a loaded batch.
pub fn shape_of(batch: &Batch) -> BatchShape {
    BatchShape {
        batch: batch.hr.batch,
        hr: (batch.hr.height, batch.hr.width),
        hr_type: batch.hr.dtype.into(),
        lr_type: batch.lr.as_ref().map(|lr| lr.dtype.into()),
    }
}

/// Runs an evaluation program on a batch; outputs by name.
pub fn evaluate(
    session: &mut Session,
    cfg: &Config,
    batch: &Batch,
    options: EvaluateOptions,
) -> Result<Vec<(String, Vec<f32>)>> {
    let plan = session.plan(Key::Evaluate(shape_of(batch), options))?;
    session.upload(plan, "hr", &batch.hr.data)?;
    session.upload(plan, "codes", &batch.augment)?;
    if let Some(lr) = &batch.lr {
        session.upload(plan, "lr", &lr.data)?;
    }
    if nn::is_stochastic(cfg) {
        let noise = latent_noise(cfg, Stream::ValidationNoise, 0, batch.indices.iter().copied());
        session.upload(plan, "noise", bytemuck::cast_slice(&noise))?;
    }
    // One choice for all validations of a run, so that they can be compared whatever their batches are.
    Bands::upload(session, plan, cfg, (Stream::ValidationBands, 0, 0))?;
    let outcome = session.run(plan, Default::default())?;
    let names = session.device().plan(plan).outputs.iter().map(|(name, _)| name.clone());
    Ok(names.zip(outcome.outputs).collect())
}

/// Validates on at most `Training.limit_val_batches` batches of `val_batch` images; `None` if a signal came in
/// between.
///
/// # Errors
/// Those of reading the data and of the device.
pub fn validate(
    session: &mut Session,
    cfg: &Config,
    dataset: &Dataset,
    (val_batch, adversarial, stop): (usize, bool, &StopSignal),
) -> Result<Option<Validation>> {
    let mut left = batch_limit(cfg, dataset, val_batch);
    let ema = cfg.training.ema.enabled && session.counters()?[2] > 0;
    let mut panels = Panels::new(&cfg.data.rgb_bands);
    let mut means = Means::default();
    for size in 0..dataset.val_sizes().len() {
        let mut loader = dataset.val_batches(size, batch_size(val_batch, dataset, size))?;
        while left > 0 {
            let Some(batch) = loader.next() else { break };
            if stop.received().is_some() {
                return Ok(None);
            }
            let batch = batch?;
            let images = panels.rows().len() < cfg.logging.num_val_images;
            let options = EvaluateOptions { ema, discriminator: adversarial, images, bicubic: false, perceptual: true };
            let outputs = evaluate(session, cfg, &batch, options)?;
            means.add(cfg, &batch, &outputs)?;
            if images {
                draw(&mut panels, cfg, &batch, &outputs)?;
            }
            loader.recycle(batch);
            left -= 1;
        }
    }
    Ok(Some(Validation { values: means.finish(adversarial), panels }))
}

/// Batches of a validation; 0 if there is nothing to validate on or the config wants no validation.
pub fn batch_limit(cfg: &Config, dataset: &Dataset, val_batch: usize) -> usize {
    let total: usize = dataset.val_sizes().iter().map(|s| s.count.div_ceil(val_batch)).sum();
    match cfg.training.limit_val_batches {
        BatchLimit::Batches(n) => total.min(usize::try_from(n).unwrap_or(usize::MAX)),
        // A share that was asked for is not rounded to nothing.
        BatchLimit::Fraction(f) if f > 0.0 => ((f * total as f64).floor() as usize).max(1).min(total),
        BatchLimit::Fraction(_) => 0,
    }
}

/// Images per batch for validation size `size`: never more than there are.
pub fn batch_size(val_batch: usize, dataset: &Dataset, size: usize) -> usize {
    val_batch.min(dataset.val_sizes()[size].count)
}

fn output<'o>(outputs: &'o [(String, Vec<f32>)], name: &str) -> Result<&'o [f32]> {
    let found = outputs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
    found.ok_or_else(|| Error::Internal(format!("the program has no output {name}")))
}

/// Sums over images.
#[derive(Default)]
struct Means {
    components: [f64; 5],
    perceptual: f64,
    disc: f64,
    images: usize,
}

impl Means {
    fn add(&mut self, cfg: &Config, batch: &Batch, outputs: &[(String, Vec<f32>)]) -> Result<()> {
        let metrics = output(outputs, "metrics")?;
        for image in metrics.chunks_exact(self.components.len()).take(batch.n) {
            self.components.iter_mut().zip(image).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        if cfg.training.losses.has_perceptual() {
            let distances = output(outputs, "perceptual")?.iter().take(batch.n);
            self.perceptual += distances.map(|v| f64::from(*v)).sum::<f64>();
        }
        if let (Ok(real), Ok(fake)) = (output(outputs, "real_logits"), output(outputs, "fake_logits")) {
            let per_image = real.len() / batch.hr.batch;
            for (real, fake) in real.chunks_exact(per_image).zip(fake.chunks_exact(per_image)).take(batch.n) {
                self.disc += discriminator_loss(cfg, real, fake);
            }
        }
        self.images += batch.n;
        Ok(())
    }

    fn finish(self, adversarial: bool) -> Vec<(&'static str, f64)> {
        let count = self.images as f64;
        let mut values: Vec<_> = names::VAL_COMPONENTS.into_iter().zip(self.components.map(|v| v / count)).collect();
        values.insert(2, (names::VAL_PERCEPTUAL, self.perceptual / count));
        values.push((DISC, if adversarial { self.disc / count } else { 0.0 }));
        values
    }
}

/// BCE(D(SR), 0) + BCE(D(HR), 1) of one image's logits, or mean D(SR) − mean D(HR) for Wasserstein.
fn discriminator_loss(cfg: &Config, real: &[f32], fake: &[f32]) -> f64 {
    let mean =
        |logits: &[f32], f: fn(f64) -> f64| logits.iter().map(|v| f(f64::from(*v))).sum::<f64>() / logits.len() as f64;
    match cfg.training.losses.adv_loss_type {
        AdvLoss::Wasserstein => mean(fake, |v| v) - mean(real, |v| v),
        AdvLoss::Bce => mean(fake, softplus) + mean(real, |v| softplus(-v)),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn draw(panels: &mut Panels, cfg: &Config, batch: &Batch, outputs: &[(String, Vec<f32>)]) -> Result<()> {
    let (scale, channels) = (cfg.generator.scaling_factor, batch.hr.bands);
    let shape = PanelShape { lr_height: batch.hr.height / scale, lr_width: batch.hr.width / scale, scale, channels };
    let count = batch.n.min(cfg.logging.num_val_images - panels.rows().len());
    let lr_len = shape.lr_height * shape.lr_width * channels;
    let hr_len = lr_len * scale * scale;
    let part = |name, len: usize| Ok::<_, Error>(&output(outputs, name)?[..count * len]);
    panels.push(&shape, part("lr", lr_len)?, part("sr", hr_len)?, part("hr", hr_len)?)
}

impl From<crate::data::PixelType> for DType {
    fn from(t: crate::data::PixelType) -> Self {
        match t {
            crate::data::PixelType::U8 => DType::U8,
            crate::data::PixelType::U16 => DType::U16,
            crate::data::PixelType::I16 => DType::I16,
            crate::data::PixelType::F32 => DType::F32,
        }
    }
}
