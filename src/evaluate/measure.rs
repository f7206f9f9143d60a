//! What is measured of each patch, by the programs of validation.

use std::path::{Path, PathBuf};

use super::extremes::{Extremes, Kept};
use super::opensr::{self, Planes};
use crate::config::{Config, PerceptualMetric};
use crate::data::{Batch, Dataset};
use crate::metrics::{Direction, Metric};
use crate::ops::image_metrics;
use crate::train::perceptual::PerceptualWeights;
use crate::train::plans::{ValBatch, validation_batches};
use crate::train::programs::{BAND_METRICS, BAND_SUMS, BICUBIC, BatchShape, EvaluateOptions};
use crate::train::session::{Key, Session};
use crate::train::validate::{Evaluated, ergas_of_sums, evaluate, panel_shape};
use crate::train::{DeviceOptions, open_device_with};
use crate::trained::{Checkpoint, restore};
use crate::{Error, Result};

/// A number that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Its name in files.
    pub key: &'static str,
    /// Its name in tables, with the unit.
    pub title: &'static str,
    /// Digits behind the point in tables.
    pub digits: usize,
    /// Which direction is better.
    pub better: Direction,
}

const PSNR: Measure = Measure { key: "psnr", title: "PSNR [dB]", digits: 2, better: Direction::Higher };
const SSIM: Measure = Measure { key: "ssim", title: "SSIM", digits: 4, better: Direction::Higher };
const SAM: Measure = Measure { key: "sam", title: "SAM [°]", digits: 3, better: Direction::Lower };
const ERGAS: Measure = Measure { key: "ergas", title: "ERGAS", digits: 3, better: Direction::Lower };
const LPIPS: Measure = Measure { key: "lpips", title: "LPIPS", digits: 4, better: Direction::Lower };
const VGG: Measure = Measure { key: "vgg", title: "VGG-19", digits: 4, better: Direction::Lower };

impl Measure {
    /// What is measured over all bands.
    pub(super) fn overall(cfg: &Config, opensr_test: bool) -> Vec<Measure> {
        let mut all = vec![PSNR, SSIM, SAM, ERGAS];
        if cfg.training.losses.has_perceptual() {
            all.push(match cfg.training.losses.perceptual_metric {
                PerceptualMetric::Lpips => LPIPS,
                PerceptualMetric::Vgg => VGG,
            });
        }
        if opensr_test {
            all.extend(opensr::COLUMNS.map(|(key, higher)| {
                let better = if higher { Direction::Higher } else { Direction::Lower };
                Measure { key, title: key, digits: 4, better }
            }));
        }
        all
    }

    /// What is measured of each band.
    pub(super) fn of_bands() -> Vec<Measure> {
        vec![PSNR, SSIM, ERGAS]
    }
}

/// Where a patch lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The source file.
    pub file: String,
    /// First row and column of HR.
    pub origin: (usize, usize),
    /// Rows and columns of HR.
    pub size: (usize, usize),
}

/// The numbers of a patch.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchValues {
    /// Of all bands, by measure. NaN where there is none.
    pub overall: Vec<f64>,
    /// By band and measure.
    pub bands: Vec<Vec<f64>>,
}

/// A way to make SR, and its numbers.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its name in tables.
    pub name: String,
    /// Which weights, in words.
    pub weights: String,
    /// The checkpoint's file.
    pub checkpoint: Option<PathBuf>,
    /// By patch.
    pub values: Vec<PatchValues>,
}

/// What is asked of a checkpoint.
pub(super) struct Wanted<'a> {
    pub measures: &'a [Measure],
    pub opensr_test: bool,
    /// Measure bicubic upsampling too.
    pub bicubic: bool,
    /// Keep the images of the best and the worst patches.
    pub pictures: bool,
}

/// What was measured.
pub(super) struct Measured {
    pub places: Vec<Place>,
    pub sr: Vec<PatchValues>,
    pub bicubic: Option<Vec<PatchValues>>,
}

/// The generator of a checkpoint with the data of `cfg`.
///
/// # Errors
/// If the device cannot be opened, or the checkpoint's tensors are not those of its configuration.
pub(super) fn session(
    cfg: &Config,
    checkpoint: &mut Checkpoint,
    averaged: bool,
    (device, torch_hub): (&DeviceOptions, Option<&Path>),
) -> Result<Session> {
    let mut cfg = cfg.clone();
    cfg.generator = checkpoint.cfg.generator.clone();
    // Weights are those that the checkpoint's reader chooses, and nothing is trained.
    cfg.training.ema.enabled = false;
    cfg.training.accumulate_grad_batches = 1;
    let perceptual = PerceptualWeights::open(&cfg, torch_hub)?;
    let device = open_device_with(&cfg, device)?;
    let mut session = Session::new(cfg, device)?;
    if let Some(weights) = perceptual {
        weights.load(&mut session)?;
    }
    restore(&mut session, checkpoint, averaged)?;
    Ok(session)
}

/// Measures all patches of a data set.
///
/// # Errors
/// If the data cannot be read, or the device fails.
pub(super) fn measure(
    session: &mut Session,
    dataset: &Dataset,
    wanted: &Wanted,
    extremes: &mut Extremes,
) -> Result<Measured> {
    let cfg = session.config().clone();
    let options = EvaluateOptions {
        images: wanted.opensr_test || wanted.pictures,
        bicubic: wanted.bicubic,
        bands: true,
        perceptual: true,
        ..EvaluateOptions::default()
    };
    let mut measured = Measured { places: vec![], sr: vec![], bicubic: wanted.bicubic.then(Vec::new) };
    let mut sizes: Vec<ValBatch> = Vec::new();
    for batch in validation_batches(&cfg, dataset) {
        if sizes.iter().all(|known| known.size != batch.size) {
            sizes.push(batch);
        }
    }
    for ValBatch { size, extent, .. } in sizes {
        let extent = fitting(session, dataset, (size, extent), options)?;
        let count = dataset.val_sizes()[size].count;
        let mut loader = dataset.val_batches(size, extent, (0..count.div_ceil(extent.max(1))).collect())?;
        while let Some(batch) = loader.next().transpose()? {
            let evaluated = evaluate(session, &batch, options)?;
            let reader = Reader { cfg: &cfg, batch: &batch, evaluated: &evaluated, wanted };
            for image in 0..batch.n {
                let (sr, bicubic) = (
                    reader.values(image, "")?,
                    match &measured.bicubic {
                        Some(_) => Some(reader.values(image, BICUBIC)?),
                        None => None,
                    },
                );
                if let (true, Some(bicubic)) = (wanted.pictures, &bicubic) {
                    let kept = reader.kept(image, measured.places.len())?;
                    extremes.consider(sr.overall[0] - bicubic.overall[0], kept);
                }
                measured.places.push(reader.place(image));
                measured.sr.push(sr);
                measured.bicubic.iter_mut().for_each(|all| all.extend(bicubic.clone()));
            }
            loader.recycle(batch);
        }
    }
    Ok(measured)
}

/// The largest batch of a size that fits into memory: halved as often as needed.
fn fitting(
    session: &mut Session,
    dataset: &Dataset,
    (size, mut extent): (usize, usize),
    options: EvaluateOptions,
) -> Result<usize> {
    let (spec, size) = (dataset.train_spec(), dataset.val_sizes()[size]);
    let available = session.device().available_memory()?.unwrap_or(usize::MAX);
    loop {
        let shape = BatchShape {
            batch: extent,
            hr: (size.hr_height, size.hr_width),
            hr_type: spec.hr.0.into(),
            lr_type: spec.lr.map(|lr| lr.0.into()),
        };
        let plan = session.compile(Key::Evaluate(shape, options))?;
        if extent == 1 || 4 * plan.arena_len + plan.held_bytes() <= available {
            return Ok(extent);
        }
        session.keep_compiled(&[]);
        extent /= 2;
    }
}

/// Takes the numbers of an image from what a program gave back.
struct Reader<'a> {
    cfg: &'a Config,
    batch: &'a Batch,
    evaluated: &'a Evaluated,
    wanted: &'a Wanted<'a>,
}

impl Reader<'_> {
    fn place(&self, image: usize) -> Place {
        let (sample, hr) = (&self.batch.samples[image], &self.batch.hr);
        Place { file: sample.file.clone(), origin: (sample.row, sample.column), size: (hr.height, hr.width) }
    }

    /// An image's part of an output.
    fn part(&self, name: &str, image: usize) -> Result<&[f32]> {
        let all = self.evaluated.output(name)?;
        let len = all.len() / self.batch.hr.batch;
        Ok(&all[image * len..(image + 1) * len])
    }

    /// The numbers of SR, or of the method whose outputs' names begin with `prefix`.
    fn values(&self, image: usize, prefix: &str) -> Result<PatchValues> {
        let (scale, pixels) = (self.cfg.generator.scaling_factor, self.batch.hr.height * self.batch.hr.width);
        let metrics = self.part(&format!("{prefix}metrics"), image)?;
        let value = |metric: Metric| {
            let channel = self.evaluated.metrics.iter().position(|m| *m == metric);
            channel.map_or(f64::NAN, |channel| f64::from(metrics[channel]))
        };
        let sums = self.part(&format!("{prefix}{BAND_SUMS}"), image)?;
        let scores = if self.wanted.opensr_test { Some(self.scores(image, prefix)?) } else { None };
        let overall = self.wanted.measures.iter().map(|measure| match measure.key {
            "psnr" => value(Metric::ValPsnr),
            "ssim" => value(Metric::ValSsim),
            "sam" => value(Metric::ValSam).to_degrees(),
            "ergas" => ergas_of_sums(sums, pixels, scale).unwrap_or(f64::NAN),
            "lpips" | "vgg" => value(Metric::ValPerceptual),
            column => score(scores.as_ref(), column),
        });
        let overall = overall.collect();
        let of_bands = self.part(&format!("{prefix}{BAND_METRICS}"), image)?;
        let channel = |name: &str| image_metrics::NAMES.iter().position(|n| *n == name).unwrap_or_default();
        let (squares, means) = sums.split_at(sums.len() / 2);
        let bands = of_bands.chunks_exact(image_metrics::NAMES.len()).zip(squares.iter().zip(means));
        let bands = bands.map(|(metrics, (square, mean))| {
            let ergas = ergas_of_sums(&[*square, *mean], pixels, scale).unwrap_or(f64::NAN);
            vec![f64::from(metrics[channel("psnr")]), f64::from(metrics[channel("ssim")]), ergas]
        });
        Ok(PatchValues { overall, bands: bands.collect() })
    }

    /// The columns of opensr-test.
    fn scores(&self, image: usize, prefix: &str) -> Result<opensr::Scores> {
        let (scale, hr) = (self.cfg.generator.scaling_factor, &self.batch.hr);
        let planes = |name: &str, scale: usize| {
            let extent = [hr.height / scale, hr.width / scale, hr.bands];
            Ok::<_, Error>(Planes::from_interleaved(self.part(name, image)?, extent))
        };
        let sr = planes(if prefix == BICUBIC { "bicubic" } else { "sr" }, 1)?;
        Ok(opensr::scores(&planes("lr", scale)?, &sr, &planes("hr", 1)?, scale, &self.cfg.data.rgb_bands))
    }

    /// An image as it is kept for a picture.
    fn kept(&self, image: usize, patch: usize) -> Result<Kept> {
        let copy = |name| Ok::<_, Error>(self.part(name, image)?.to_vec());
        let shape = panel_shape(self.cfg, self.batch);
        Ok(Kept { patch, shape, lr: copy("lr")?, bicubic: copy("bicubic")?, sr: copy("sr")?, hr: copy("hr")? })
    }
}

/// A column by its name.
fn score(scores: Option<&opensr::Scores>, column: &str) -> f64 {
    let at = opensr::COLUMNS.iter().position(|(name, _)| *name == column);
    scores.zip(at).map_or(f64::NAN, |(scores, at)| scores.values()[at])
}
