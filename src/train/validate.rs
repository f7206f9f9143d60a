//! Validation: SR of the held-out images with the averaged weights, metrics as means over images.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::perceptual::Bands;
use super::plans::{self, ValBatch};
use super::programs::{BAND_SUMS, BatchShape, EvaluateOptions, Phase};
use super::session::{Key, Session};
use super::step::latent_noise;
use crate::checkpoint::{MeanState, ValidationState};
use crate::config::{AdvLoss, Config};
use crate::data::{Batch, Dataset, Loader};
use crate::device::collective::Ranks;
use crate::log::{PanelImages, PanelShape, Panels};
use crate::loss::TERMS;
use crate::metrics::{Metric, ergas};
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

/// A validation under way: one batch after the other, so that the state can be saved in between.
pub struct Validating {
    dataset: Dataset,
    batches: Arc<[ValBatch]>,
    phase: Phase,
    averaged: bool,
    ranks: Ranks,
    /// The round that comes next, in which each rank evaluates a batch: the number of the first one's.
    next: usize,
    /// Batches that an earlier part of the run has counted.
    counted: usize,
    /// What loads this rank's batches of a size.
    loader: Option<(usize, Loader)>,
    /// Of the batches of all ranks that were counted so far.
    means: Means,
    panels: Panels,
}

impl Validating {
    /// Begins a validation on `batches` of the data set.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(session: &Session, dataset: &Dataset, batches: Arc<[ValBatch]>, phase: Phase) -> Result<Self> {
        Ok(Validating {
            dataset: dataset.clone(),
            batches,
            phase,
            averaged: uses_average(session)?,
            ranks: session.ranks(),
            next: 0,
            counted: 0,
            loader: None,
            means: Means::default(),
            panels: panels(session.config()),
        })
    }

    /// Takes over what an earlier part of the run has counted, unless it validated on other batches.
    pub fn resume(&mut self, state: &ValidationState) {
        let done = usize::try_from(state.done).unwrap_or(usize::MAX).min(self.batches.len());
        let images: usize = self.batches[..done].iter().map(|batch| batch.count).sum();
        if state.batches != self.batches.len() as u64 || state.done != done as u64 || state.images != images as u64 {
            return;
        }
        let sums = state.sums.iter().filter_map(|(name, mean)| Some((Metric::named(name)?, *mean)));
        self.means = Means { sums: sums.collect(), images };
        self.counted = done;
    }

    /// What all ranks have counted so far, after `step` steps.
    pub fn state(&self, step: u64) -> ValidationState {
        let Means { sums, images } = &self.means;
        let sums = sums.iter().map(|(metric, mean)| (metric.name().to_owned(), *mean)).collect();
        let done = self.next.max(self.counted).min(self.batches.len()) as u64;
        ValidationState { step, batches: self.batches.len() as u64, done, images: *images as u64, sums }
    }

    /// Whether this rank counts a batch.
    fn counts(&self, index: usize) -> bool {
        index >= self.counted && index % self.ranks.count() == self.ranks.index()
    }

    /// Whether this rank draws pictures of a batch.
    fn draws(&self, index: usize) -> bool {
        self.batches[index].images && self.ranks.is_first()
    }

    fn takes(&self, index: usize) -> bool {
        self.counts(index) || self.draws(index)
    }

    /// Evaluates the next batch of each rank, and adds up what they count: numbers are summed in the same order whether or
    /// not a validation is continued. False if there is none.
    ///
    /// # Errors
    /// If the data cannot be read, or the device or the library between ranks fails.
    pub fn step(&mut self, session: &mut Session) -> Result<bool> {
        let round = self.next..(self.next + self.ranks.count()).min(self.batches.len());
        // Of what was counted before, only pictures are drawn again.
        let mut of_round = Means::default();
        for index in round.clone().filter(|index| self.takes(*index)).collect::<Vec<_>>() {
            self.evaluate(session, index, &mut of_round)?;
        }
        if self.ranks.are_several() && !round.is_empty() {
            self.means.merge(of_round.over(&self.ranks)?);
        }
        self.next += self.ranks.count();
        Ok(!round.is_empty())
    }

    fn evaluate(&mut self, session: &mut Session, index: usize, of_round: &mut Means) -> Result<()> {
        let planned = self.batches[index];
        let batch = self.load(index)?;
        let cfg = session.config().clone();
        let options = plans::validation(self.averaged, self.phase, planned.images);
        let evaluated = evaluate(session, &batch, options)?;
        if self.counts(index) {
            let means = if self.ranks.are_several() { of_round } else { &mut self.means };
            means.add(&cfg, &batch, &evaluated)?;
        }
        if self.draws(index) {
            draw(&mut self.panels, &cfg, &batch, &evaluated)?;
        }
        if let Some((_, loader)) = &mut self.loader {
            loader.recycle(batch);
        }
        Ok(())
    }

    /// A batch, after all before it that this rank takes.
    fn load(&mut self, index: usize) -> Result<Batch> {
        let ValBatch { size, extent, .. } = self.batches[index];
        let loader = match self.loader.take() {
            Some((known, loader)) if known == size => loader,
            _ => {
                // Batches of one size lie side by side.
                let first = self.batches.iter().position(|batch| batch.size == size).unwrap_or(index);
                let of_size = (index..self.batches.len()).take_while(|i| self.batches[*i].size == size);
                let taken = of_size.filter(|i| self.takes(*i)).map(|i| i - first).collect();
                self.dataset.val_batches(size, extent, taken)?
            }
        };
        let (_, loader) = self.loader.insert((size, loader));
        loader.next().unwrap_or_else(|| Err(Error::Internal(format!("validation has no batch {index}"))))
    }

    /// Means over all images, and the pictures.
    pub fn finish(self) -> Validation {
        Validation { values: self.means.finish(), panels: self.panels }
    }
}

/// Sums over images, by metric. An image that has no value of a metric does not count for it.
#[derive(Clone, Default)]
struct Means {
    sums: BTreeMap<Metric, MeanState>,
    images: usize,
}

impl Means {
    fn add(&mut self, cfg: &Config, batch: &Batch, evaluated: &Evaluated) -> Result<()> {
        let metrics = &evaluated.metrics;
        for image in evaluated.output("metrics")?.chunks_exact(metrics.len()).take(batch.n) {
            metrics.iter().zip(image).for_each(|(metric, v)| self.count(*metric, f64::from(*v)));
        }
        for sums in evaluated.output(BAND_SUMS)?.chunks_exact(2 * batch.hr.bands).take(batch.n) {
            if let Some(value) = ergas_of_sums(sums, batch.hr.height * batch.hr.width, cfg.generator.scaling_factor) {
                self.count(Metric::ValErgas, value);
            }
        }
        if let (Ok(real), Ok(fake)) = (evaluated.output("real_logits"), evaluated.output("fake_logits")) {
            let per_image = real.len() / batch.hr.batch;
            for (real, fake) in real.chunks_exact(per_image).zip(fake.chunks_exact(per_image)).take(batch.n) {
                self.count(Metric::ValDiscriminator, discriminator_loss(cfg, real, fake));
            }
        }
        self.images += batch.n;
        Ok(())
    }

    /// The sums of all ranks.
    fn over(&self, ranks: &Ranks) -> Result<Means> {
        // A rank without a batch has measured nothing.
        let of = |metric: &Metric| self.sums.get(metric).copied().unwrap_or_default();
        let mut values: Vec<f64> = Metric::ALL.iter().map(of).flat_map(|mean| [mean.sum, mean.count as f64]).collect();
        values.push(self.images as f64);
        ranks.sum_f64(&mut values)?;
        let (sums, images) = values.split_at(2 * Metric::ALL.len());
        let sums = Metric::ALL.iter().zip(sums.chunks_exact(2)).filter(|(_, of_ranks)| of_ranks[1] > 0.0);
        let mean = |of_ranks: &[f64]| MeanState { sum: of_ranks[0], count: of_ranks[1] as u64 };
        let sums = sums.map(|(metric, of_ranks)| (*metric, mean(of_ranks))).collect();
        Ok(Means { sums, images: images[0] as usize })
    }

    fn merge(&mut self, other: Means) {
        for (metric, MeanState { sum, count }) in other.sums {
            let mean = self.sums.entry(metric).or_default();
            mean.sum += sum;
            mean.count += count;
        }
        self.images += other.images;
    }

    fn count(&mut self, metric: Metric, value: f64) {
        let mean = self.sums.entry(metric).or_default();
        mean.sum += value;
        mean.count += 1;
    }

    /// The mean of every metric of validations; 0 of what was not measured.
    fn finish(self) -> Vec<(Metric, f64)> {
        let mean = |metric| (metric, self.sums.get(&metric).map_or(0.0, |mean| mean.sum / mean.count as f64));
        TERMS.iter().map(|term| term.val).chain([Metric::ValDiscriminator, Metric::ValErgas]).map(mean).collect()
    }
}

/// ERGAS of an image from the sums of [`BAND_SUMS`] over its `pixels`.
pub fn ergas_of_sums(sums: &[f32], pixels: usize, scale: usize) -> Option<f64> {
    let mean = |sum: f32| f64::from(sum) / pixels as f64;
    let (squares, values) = sums.split_at(sums.len() / 2);
    ergas(squares.iter().zip(values).map(|(square, value)| (mean(*square), mean(*value))), scale)
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

/// Empty panels of a config's colours.
pub(super) fn panels(cfg: &Config) -> Panels {
    Panels::new(&cfg.data.rgb_bands, cfg.training.losses.max_val)
}

/// Extent of the pictures of a batch.
pub fn panel_shape(cfg: &Config, batch: &Batch) -> PanelShape {
    let (scale, channels) = (cfg.generator.scaling_factor, batch.hr.bands);
    PanelShape { lr_height: batch.hr.height / scale, lr_width: batch.hr.width / scale, scale, channels }
}

/// The first `count` images of an evaluation of `batch`.
///
/// # Errors
/// [`Error::Internal`] if the program did not give back images.
pub(super) fn panel_images<'a>(shape: &PanelShape, evaluated: &'a Evaluated, count: usize) -> Result<PanelImages<'a>> {
    let lr = count * shape.lr_height * shape.lr_width * shape.channels;
    let hr = lr * shape.scale * shape.scale;
    let part = |name, len: usize| Ok::<_, Error>(&evaluated.output(name)?[..len]);
    Ok(PanelImages { lr: part("lr", lr)?, bicubic: part("bicubic", hr)?, sr: part("sr", hr)?, hr: part("hr", hr)? })
}

fn draw(panels: &mut Panels, cfg: &Config, batch: &Batch, evaluated: &Evaluated) -> Result<()> {
    let shape = panel_shape(cfg, batch);
    let count = batch.n.min(cfg.logging.num_val_images - panels.rows().len());
    panels.push(&shape, &panel_images(&shape, evaluated, count)?)
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
