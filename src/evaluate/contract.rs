//! Whether a checkpoint fits the data that it is to be evaluated on.

use super::{no_patches, opensr};
use crate::config::Config;
use crate::data::Dataset;
use crate::trained::Checkpoint;
use crate::{Error, Result};

/// Compares the configuration of the evaluation with that of the checkpoint. Returns warnings.
///
/// # Errors
/// [`Error::Checkpoint`] with what the checkpoint expects and what the configuration says, if bands, scale or normalisation
/// differ.
pub(super) fn check(cfg: &Config, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let trained = &checkpoint.cfg;
    let refuse = |what: &str, expected: String, found: String, hint: &str| {
        let message = format!("it expects {what} {expected}; the configuration says {found}");
        Err(Error::checkpoint(checkpoint.path(), message).with_hint(hint))
    };
    let counts = [trained.model.in_bands, cfg.model.in_bands];
    if counts[0] != counts[1] {
        return refuse("bands:", counts[0].to_string(), counts[1].to_string(), "set Model.in_bands and Data.bands");
    }
    let scales = [trained.generator.scaling_factor, cfg.generator.scaling_factor];
    if scales[0] != scales[1] {
        let hint = "set Generator.scaling_factor; paired data have to be of that scale";
        return refuse("a scale of", scales[0].to_string(), scales[1].to_string(), hint);
    }
    let methods = [trained.data.method().name(), cfg.data.method().name()];
    if methods[0] != methods[1] {
        return refuse("the normalisation", methods[0].into(), methods[1].into(), "set Data.normalization");
    }
    let bands = [trained, cfg].map(|cfg| cfg.data.bands.clone().unwrap_or_else(|| (0..counts[0]).collect()));
    let sorted = bands.clone().map(|mut bands| {
        bands.sort_unstable();
        bands
    });
    let mut warnings = Vec::new();
    if bands[0] != bands[1] && sorted[0] == sorted[1] {
        let hint = "set Data.bands to the order of the checkpoint";
        return refuse("the bands in the order", format!("{:?}", bands[0]), format!("{:?}", bands[1]), hint);
    }
    if bands[0] != bands[1] {
        warnings.push(format!(
            "{}: it was trained on the bands {:?} of its files; here they are {:?}",
            checkpoint.path().display(),
            bands[0],
            bands[1]
        ));
    }
    if trained.data.degradation != cfg.data.degradation {
        warnings.push(format!("{}: its LR was made with another Data.degradation", checkpoint.path().display()));
    }
    Ok(warnings)
}

/// Refuses data without a patch, and patches that are too small to be measured.
///
/// # Errors
/// [`Error::Data`] without a patch, [`Error::Config`] or [`Error::Usage`] with the smallest side that works.
pub(super) fn check_patches(cfg: &Config, dataset: &Dataset, opensr_test: bool) -> Result<()> {
    let sides = dataset.val_sizes().iter().map(|size| size.hr_height.min(size.hr_width));
    let Some(smallest) = sides.min() else { return Err(no_patches(cfg)) };
    let window = cfg.training.losses.ssim_win;
    if smallest <= window / 2 {
        let message = format!(
            "a window of {window} pixels needs images of {} a side; the smallest has {smallest}",
            window / 2 + 1
        );
        return Err(Error::config("Training.Losses.ssim_win", message).with_hint("lower it, or use larger images"));
    }
    let needed = opensr::smallest_side(cfg.generator.scaling_factor);
    if opensr_test && smallest < needed {
        let message = format!(
            "--opensr-test leaves out 16 pixels at each border and needs images of {needed} a side; the smallest has {smallest}"
        );
        return Err(Error::usage(message).with_hint("use larger images, of scenes a larger Data.hr_size"));
    }
    Ok(())
}
