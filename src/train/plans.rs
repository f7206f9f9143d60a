//! Which plans a run uses, listed once from its config and data: the memory that it needs, what is compiled before the
//! first step, and the runs themselves follow from the list.

use super::programs::{BatchShape, EvaluateOptions, Phase};
use super::schedule;
use super::session::Key;
use crate::config::{BatchLimit, Config};
use crate::data::Dataset;

/// Longest side of an area that is super-resolved at once for the closing table; larger ones are cut.
const MAX_SIDE: usize = 512;

/// Longest side of the part that the picture at a run's end shows.
const POSTER_SIDE: usize = 128;

/// The plans of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans {
    /// Those of training and validation.
    pub run: Vec<Key>,
    /// Those of the table at the run's end, which is left out where they do not fit into memory.
    pub closing: Vec<Key>,
}

impl Plans {
    /// The plans of a run of `cfg` on `dataset`, each once.
    ///
    /// A config whose weights are averaged from step 0 on validates with the average alone: only a run without a single
    /// good step would validate without, and compiles that plan when it does.
    pub fn of(cfg: &Config, dataset: &Dataset) -> Plans {
        let (training, shape) = (&cfg.training, train_shape(cfg, dataset));
        let phases = schedule::phases(training);
        let mut run = Vec::new();
        for phase in &phases {
            add(&mut run, of_step(*phase, shape, training.accumulate_grad_batches).into_iter().map(|(key, _)| key));
        }
        let weights: &[bool] = match (training.ema.enabled, training.ema.update_after_step) {
            (false, _) => &[false],
            (true, 0) => &[true],
            (true, _) => &[false, true],
        };
        let batches = validation_batches(cfg, dataset);
        for phase in phases {
            for averaged in weights {
                let key = |batch: &ValBatch| {
                    let size = &dataset.val_sizes()[batch.size];
                    let hr = (size.hr_height, size.hr_width);
                    let val = BatchShape { batch: batch.extent, hr, ..shape };
                    Key::Evaluate(val, validation(*averaged, phase, batch.images))
                };
                add(&mut run, batches.iter().map(key));
            }
        }
        let mut closing = Vec::new();
        for averaged in weights {
            for area in dataset.held_out_sizes() {
                let scale = cfg.generator.scaling_factor;
                let keys = |[_, _, height, width]: [usize; 4]| {
                    let of = |hr, options| Key::Evaluate(BatchShape { batch: 1, hr, ..shape }, options);
                    let hr = (height, width);
                    [of(hr, comparison(*averaged)), of(poster_size(hr, scale), poster(*averaged))]
                };
                add(&mut closing, pieces(area, scale).into_iter().flat_map(keys));
            }
        }
        Plans { run, closing }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Key> + '_ {
        self.run.iter().chain(&self.closing).copied()
    }
}

/// Adds what is not there yet.
fn add(keys: &mut Vec<Key>, more: impl Iterator<Item = Key>) {
    for key in more {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
}

/// The extent of a training batch.
pub fn train_shape(cfg: &Config, dataset: &Dataset) -> BatchShape {
    let spec = dataset.train_spec();
    BatchShape {
        batch: cfg.data.train_batch_size,
        hr: (spec.hr.1, spec.hr.2),
        hr_type: spec.hr.0.into(),
        lr_type: spec.lr.map(|lr| lr.0.into()),
    }
}

/// What a step of `micro_batches` runs, in order, and whether it takes images: such a plan runs once for each
/// micro-batch. A step of one batch is one plan; else its segments are plans of their own.
pub fn of_step(phase: Phase, shape: BatchShape, micro_batches: usize) -> Vec<(Key, bool)> {
    if micro_batches == 1 {
        return vec![(Key::Step(phase, shape), true)];
    }
    let segment = |segment: &super::programs::Segment| (Key::Segment(phase, *segment, shape), segment.takes_images());
    [(Key::Begin(phase, shape), false)].into_iter().chain(phase.segments().iter().map(segment)).collect()
}

/// What a validation with averaged or live weights, in a phase, asks of a batch.
pub fn validation(averaged: bool, phase: Phase, images: bool) -> EvaluateOptions {
    let discriminator = phase == Phase::Adversarial;
    EvaluateOptions { ema: averaged, discriminator, images, perceptual: true, ..EvaluateOptions::default() }
}

/// What the closing table asks of a piece of held-out imagery.
pub fn comparison(averaged: bool) -> EvaluateOptions {
    EvaluateOptions { ema: averaged, bicubic: true, ..EvaluateOptions::default() }
}

/// What the picture at a run's end asks of a part of the held-out imagery.
pub fn poster(averaged: bool) -> EvaluateOptions {
    EvaluateOptions { ema: averaged, images: true, ..EvaluateOptions::default() }
}

/// Rows and columns of that part in a piece of this size, whose sides are multiples of `scale`.
pub fn poster_size((height, width): (usize, usize), scale: usize) -> (usize, usize) {
    let most = POSTER_SIDE.next_multiple_of(scale);
    (height.min(most), width.min(most))
}

/// A batch of a validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValBatch {
    /// Which of the data set's validation sizes.
    pub size: usize,
    /// Images that it has room for.
    pub extent: usize,
    /// Images in it.
    pub count: usize,
    /// Whether pictures are drawn of some of its images.
    pub images: bool,
}

/// The batches of a validation, in order; none if there is nothing to validate on or the config wants no validation.
pub fn validation_batches(cfg: &Config, dataset: &Dataset) -> Vec<ValBatch> {
    let (mut batches, mut images) = (Vec::new(), 0);
    for (size, of_size) in dataset.val_sizes().iter().enumerate() {
        let extent = cfg.data.val_batch_size.min(of_size.count);
        for first in (0..of_size.count).step_by(extent.max(1)) {
            let count = extent.min(of_size.count - first);
            batches.push(ValBatch { size, extent, count, images: images < cfg.logging.num_val_images });
            images += count;
        }
    }
    batches.truncate(match cfg.training.limit_val_batches {
        BatchLimit::Batches(n) => usize::try_from(n).unwrap_or(usize::MAX),
        // A share that was asked for is not rounded to nothing.
        BatchLimit::Fraction(f) if f > 0.0 => ((f * batches.len() as f64).floor() as usize).max(1),
        BatchLimit::Fraction(_) => 0,
    });
    batches
}

/// Row, column, height and width of the parts of an image, none longer than [`MAX_SIDE`].
pub fn pieces((height, width): (usize, usize), scale: usize) -> Vec<[usize; 4]> {
    let columns = cuts(width, scale);
    let row = |(y, h): (usize, usize)| columns.iter().map(move |(x, w)| [y, *x, h, *w]);
    cuts(height, scale).into_iter().flat_map(row).collect()
}

/// Start and length of nearly equal parts, each a multiple of `scale`.
fn cuts(len: usize, scale: usize) -> Vec<(usize, usize)> {
    let parts = len.div_ceil(MAX_SIDE).max(1);
    let side = len.div_ceil(parts).next_multiple_of(scale);
    (0..len).step_by(side).map(|start| (start, side.min(len - start))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_image_once() {
        for (len, scale) in [(300, 4), (512, 4), (516, 4), (2040, 8), (1030, 2), (4, 4)] {
            let cuts = cuts(len, scale);
            assert!(cuts.iter().all(|(s, l)| *l <= MAX_SIDE && s % scale == 0 && *l > 0), "{cuts:?}");
            assert_eq!(cuts.iter().map(|(_, l)| l).sum::<usize>(), len);
            assert!(cuts.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0));
        }
    }
}
