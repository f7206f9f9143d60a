//! Validation: SR of the held-out images with the averaged weights, metrics as means over images.

use std::collections::BTreeMap;

use super::perceptual::Bands;
use super::plans::{self, ValBatch};
use super::programs::{BatchShape, EvaluateOptions, Phase};
use super::session::{Key, Session};
use super::signals::StopSignal;
use super::step::latent_noise;
use crate::config::{AdvLoss, Config};
use crate::data::{Batch, Dataset};
use crate::log::{PanelShape, Panels};
use crate::loss::TERMS;
use crate::metrics::Metric;
use crate::rng::Stream;
use crate::types::DType;
use crate::{Error, Result, nn};

/// What a validation found.
#[derive(Debug)]
pub struct Validation {
    /// Means over images.
    pub values: Vec<(Metric, f64)>,
    /// Pictures of the first images.
    pub panels: Panels,
}

impl Validation {
    /// A metric's value.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.iter().find(|(m, _)| *m == metric).map(|(_, v)| *v)
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

/// What an evaluation program gave back.
#[derive(Debug)]
pub struct Evaluated {
    /// The metrics in the channels of the output `metrics`.
    pub metrics: Vec<Metric>,
    outputs: Vec<(String, Vec<f32>)>,
}

impl Evaluated {
    /// An output by name.
    ///
    /// # Errors
    /// [`Error::Internal`] if the program does not have it.
    pub fn output(&self, name: &str) -> Result<&[f32]> {
        let found = self.outputs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
        found.ok_or_else(|| Error::Internal(format!("the program has no output {name}")))
    }
}

/// Runs an evaluation program on a batch.
///
/// # Errors
/// If the program cannot be compiled at its first use, or the device fails.
pub fn evaluate(session: &mut Session, batch: &Batch, options: EvaluateOptions) -> Result<Evaluated> {
    let plan = session.plan(Key::Evaluate(shape_of(batch), options))?;
    session.upload(plan, "hr", &batch.hr.data)?;
    session.upload(plan, "codes", &batch.augment)?;
    if let Some(lr) = &batch.lr {
        session.upload(plan, "lr", &lr.data)?;
    }
    if nn::is_stochastic(session.config()) {
        let noise = latent_noise(session.config(), Stream::ValidationNoise, 0, batch.indices.iter().copied());
        session.upload(plan, "noise", bytemuck::cast_slice(&noise))?;
    }
    // One choice for all validations of a run, so that they can be compared whatever their batches are.
    Bands::upload(session, plan, (Stream::ValidationBands, 0, 0))?;
    let outcome = session.run(plan, Default::default())?;
    let names = session.device().plan(plan).outputs.iter().map(|(name, _)| name.clone());
    Ok(Evaluated { outputs: names.zip(outcome.outputs).collect(), metrics: session.metrics(plan).to_vec() })
}

/// Whether validations use averaged weights: those of a run that has averaged any.
///
/// # Errors
/// If the device fails.
pub fn uses_average(session: &Session) -> Result<bool> {
    Ok(session.config().training.ema.enabled && session.counters()?[2] > 0)
}

/// Validates on `batches` of the data set; `None` if a signal came in between.
///
/// # Errors
/// If the data cannot be read, or the device fails.
pub fn validate(
    session: &mut Session,
    dataset: &Dataset,
    batches: &[ValBatch],
    (phase, stop): (Phase, &StopSignal),
) -> Result<Option<Validation>> {
    let cfg = session.config().clone();
    let averaged = uses_average(session)?;
    let mut panels = Panels::new(&cfg.data.rgb_bands);
    let mut means = Means::default();
    for of_size in batches.chunk_by(|a, b| a.size == b.size) {
        let mut loader = dataset.val_batches(of_size[0].size, of_size[0].extent)?;
        for planned in of_size {
            let Some(batch) = loader.next() else { break };
            if stop.received().is_some() {
                return Ok(None);
            }
            let batch = batch?;
            let evaluated = evaluate(session, &batch, plans::validation(averaged, phase, planned.images))?;
            means.add(&cfg, &batch, &evaluated)?;
            if planned.images {
                draw(&mut panels, &cfg, &batch, &evaluated)?;
            }
            loader.recycle(batch);
        }
    }
    Ok(Some(Validation { values: means.finish(), panels }))
}

/// Sums over images, by metric.
#[derive(Default)]
struct Means {
    sums: BTreeMap<Metric, f64>,
    images: usize,
}

impl Means {
    fn add(&mut self, cfg: &Config, batch: &Batch, evaluated: &Evaluated) -> Result<()> {
        let metrics = &evaluated.metrics;
        for image in evaluated.output("metrics")?.chunks_exact(metrics.len()).take(batch.n) {
            metrics.iter().zip(image).for_each(|(metric, v)| *self.sums.entry(*metric).or_default() += f64::from(*v));
        }
        if let (Ok(real), Ok(fake)) = (evaluated.output("real_logits"), evaluated.output("fake_logits")) {
            let per_image = real.len() / batch.hr.batch;
            let sum = self.sums.entry(Metric::ValDiscriminator).or_default();
            for (real, fake) in real.chunks_exact(per_image).zip(fake.chunks_exact(per_image)).take(batch.n) {
                *sum += discriminator_loss(cfg, real, fake);
            }
        }
        self.images += batch.n;
        Ok(())
    }

    /// The mean of every metric of validations; 0 of what was not measured.
    fn finish(self) -> Vec<(Metric, f64)> {
        let mean = |metric| (metric, self.sums.get(&metric).map_or(0.0, |sum| sum / self.images as f64));
        TERMS.iter().map(|term| term.val).chain([Metric::ValDiscriminator]).map(mean).collect()
    }
}

/// ½[BCE(D(SR), 0) + BCE(D(HR), 1)] of one image's logits, or mean D(SR) − mean D(HR) for Wasserstein.
fn discriminator_loss(cfg: &Config, real: &[f32], fake: &[f32]) -> f64 {
    let mean =
        |logits: &[f32], f: fn(f64) -> f64| logits.iter().map(|v| f(f64::from(*v))).sum::<f64>() / logits.len() as f64;
    match cfg.training.losses.adv_loss_type {
        AdvLoss::Wasserstein => mean(fake, |v| v) - mean(real, |v| v),
        AdvLoss::Bce => 0.5 * (mean(fake, softplus) + mean(real, |v| softplus(-v))),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn draw(panels: &mut Panels, cfg: &Config, batch: &Batch, evaluated: &Evaluated) -> Result<()> {
    let (scale, channels) = (cfg.generator.scaling_factor, batch.hr.bands);
    let shape = PanelShape { lr_height: batch.hr.height / scale, lr_width: batch.hr.width / scale, scale, channels };
    let count = batch.n.min(cfg.logging.num_val_images - panels.rows().len());
    let lr_len = shape.lr_height * shape.lr_width * channels;
    let hr_len = lr_len * scale * scale;
    let part = |name, len: usize| Ok::<_, Error>(&evaluated.output(name)?[..count * len]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discriminators_loss_is_halved_and_wassersteins_is_a_difference() {
        let mut cfg = Config::default();
        // At logits of 0 each term is ln 2, and so is half of their sum.
        assert!((discriminator_loss(&cfg, &[0.0; 3], &[0.0; 3]) - 2f64.ln()).abs() < 1e-15);
        // ½[softplus(1) + softplus(−2)]: D takes SR for real a little, HR surely.
        let want = 0.5 * (1.313_261_687_518_222_8 + 0.126_928_011_042_972_6);
        assert!((discriminator_loss(&cfg, &[2.0], &[1.0]) - want).abs() < 1e-12);
        cfg.training.losses.adv_loss_type = AdvLoss::Wasserstein;
        assert_eq!(discriminator_loss(&cfg, &[2.0, 4.0], &[1.0, 0.0]), -2.5);
    }
}
