//! `srgan evaluate`: checkpoints beside each other and beside bicubic upsampling, on patches that none was trained on.
//!
//! [`contract`] refuses checkpoints that the data do not fit, [`measure`] runs the programs of validation over all patches,
//! [`statistics`] makes means and intervals of their numbers, [`tables`] and [`files`] show them. [`opensr`] are the columns of
//! opensr-test.

mod contract;
mod extremes;
mod files;
mod measure;
pub mod opensr;
mod statistics;
mod tables;

use std::path::{Path, PathBuf};

use crate::checkpoint::{LAST, TensorFile};
use crate::config::{BatchLimit, Config};
use crate::data::{Dataset, Split};
use crate::files::make_folder;
use crate::log::Messages;
use crate::train::{DeviceOptions, data_settings};
use crate::trained::Checkpoint;
use crate::{Error, Result};
use extremes::Extremes;
pub use measure::{Measure, Method, PatchValues, Place};
pub use statistics::Summary;

/// What is asked of an evaluation.
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    /// Checkpoints, or folders of runs: their last ones.
    pub checkpoints: Vec<PathBuf>,
    /// Configuration with the data, and of a checkpoint of PyTorch, which holds none.
    pub config: PathBuf,
    /// Values that override the configuration's.
    pub overrides: Vec<String>,
    /// Which patches.
    pub split: Split,
    /// Also the columns of opensr-test.
    pub opensr_test: bool,
    /// Folder for tables, pictures and a page.
    pub report: Option<PathBuf>,
    /// Use the live weights although there are averaged ones.
    pub live: bool,
    /// Where the weights of perceptual networks are, if the configuration does not say.
    pub torch_hub: Option<PathBuf>,
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The configuration's file.
    pub config: PathBuf,
    /// Which patches.
    pub split: Split,
    /// HR pixels per LR pixel along a side.
    pub scale: usize,
    /// Names of the bands.
    pub bands: Vec<String>,
    /// What was measured over all bands.
    pub measures: Vec<Measure>,
    /// What was measured of each band.
    pub band_measures: Vec<Measure>,
    /// The patches.
    pub places: Vec<Place>,
    /// Bicubic upsampling, then the checkpoints in the order in which they were named.
    pub methods: Vec<Method>,
}

/// Evaluates checkpoints, and writes the report where one is asked for.
///
/// # Errors
/// Wrong options, configuration, data or checkpoint (exit code 2), I/O, the device.
pub fn evaluate(options: &EvaluateOptions, device: &DeviceOptions) -> Result<Evaluation> {
    let messages = device.messages.clone().unwrap_or_else(Messages::stderr);
    let (mut cfg, warnings) = Config::load(&options.config, &options.overrides)?;
    warnings.iter().for_each(|warning| messages.warn(warning));
    cfg.training.limit_val_batches = BatchLimit::Fraction(1.0);
    let mut checkpoints = options.checkpoints.iter().map(|path| open(path, options)).collect::<Result<Vec<_>>>()?;
    for checkpoint in &checkpoints {
        contract::check(&cfg, checkpoint)?.iter().for_each(|warning| messages.warn(warning));
    }
    let mut settings = data_settings(&cfg);
    settings.split = options.split;
    let dataset = Dataset::open(&settings)?;
    dataset.notes().iter().for_each(|note| messages.info(note));
    dataset.warnings().iter().for_each(|warning| messages.warn(warning));
    contract::check_patches(&cfg, &dataset, options.opensr_test)?;
    // Before the work: what cannot be written is not worth measuring.
    options.report.as_deref().map_or(Ok(()), make_folder)?;
    let measures = Measure::overall(&cfg, options.opensr_test);
    let (mut places, mut methods) = (Vec::new(), Vec::new());
    let mut extremes = Extremes::default();
    let names = names(&checkpoints);
    for (number, (checkpoint, name)) in checkpoints.iter_mut().zip(names).enumerate() {
        let wanted = measure::Wanted {
            measures: &measures,
            opensr_test: options.opensr_test,
            bicubic: number == 0,
            pictures: number == 0 && options.report.is_some(),
        };
        let averaged = checkpoint.has_average && !options.live;
        let mut session = measure::session(&cfg, checkpoint, averaged, (device, options.torch_hub.as_deref()))?;
        let weights = checkpoint.describe(averaged);
        messages.info(&format!("{}: {weights} · {}", checkpoint.path().display(), session.device().describe()));
        let measured = measure::measure(&mut session, &dataset, &wanted, &mut extremes)?;
        if let Some(bicubic) = measured.bicubic {
            places = measured.places;
            methods.push(Method { name: "bicubic".into(), weights: String::new(), checkpoint: None, values: bicubic });
        }
        let checkpoint = Some(checkpoint.path().to_owned());
        methods.push(Method { name, weights, checkpoint, values: measured.sr });
    }
    let bands = cfg.data.bands.clone().unwrap_or_else(|| (0..cfg.model.in_bands).collect());
    let evaluation = Evaluation {
        config: options.config.clone(),
        split: options.split,
        scale: cfg.generator.scaling_factor,
        bands: bands.iter().map(usize::to_string).collect(),
        measures,
        band_measures: Measure::of_bands(),
        places,
        methods,
    };
    if let Some(folder) = &options.report {
        files::write(folder, &evaluation, &extremes, &cfg)?;
        messages.info(&format!("report: {}", folder.join(crate::log::REPORT).display()));
    }
    Ok(evaluation)
}

/// Opens a checkpoint; one of PyTorch is described by the configuration of the evaluation.
fn open(path: &Path, options: &EvaluateOptions) -> Result<Checkpoint> {
    let file = if path.is_dir() { path.join(LAST) } else { path.to_owned() };
    let is_of_torch = TensorFile::open(&file)?.is_of_torch();
    Checkpoint::open(&file, is_of_torch.then_some(options.config.as_path()), &[])
}

/// A name for each checkpoint: that of its file, with its folder's where several files have the same.
fn names(checkpoints: &[Checkpoint]) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let long = |path: &Path| {
        let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        folder.map_or_else(|| stem(path), |folder| format!("{folder}/{}", stem(path)))
    };
    let name = |checkpoint: &Checkpoint| {
        let path = checkpoint.path();
        let is_alone = checkpoints.iter().filter(|other| stem(other.path()) == stem(path)).count() == 1;
        if is_alone { stem(path) } else { long(path) }
    };
    let mut names: Vec<String> = checkpoints.iter().map(name).collect();
    for i in 1..names.len() {
        if names[..i].contains(&names[i]) {
            names[i] = format!("{} ({})", names[i], i + 1);
        }
    }
    names
}

/// Refuses an evaluation without a patch.
fn no_patches(cfg: &Config) -> Error {
    let path = cfg.data.root_dir.clone().or_else(|| cfg.data.scenes.first().map(|s| s.paths()[0].clone()));
    Error::data(path.unwrap_or_default(), "there is no patch to evaluate on")
        .with_hint("hold some imagery out: Data.val_fraction, or the folder of the split")
}
