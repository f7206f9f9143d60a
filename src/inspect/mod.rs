//! `srgan inspect`: what a file of weights holds, of this program, of opensr-srgan, or a plain state dict.

mod architecture;
mod show;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Result;
use crate::checkpoint::{Entry, LAST, META_KEY, Meta, Named, TensorFile, prefix_note};
use crate::config::Config;
use crate::trained::{CONFIG_KEY, STEP_KEY};

pub use architecture::Architecture;

/// What a file holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: PathBuf,
    /// Who wrote it, and what it is.
    pub kind: String,
    /// The generator, where there is one.
    pub generator: Option<Architecture>,
    /// The bands by name or number, where the file says so.
    pub bands: Vec<String>,
    /// How pixels become network input, where the file says so.
    pub normalisation: Option<String>,
    /// Steps of training.
    pub step: Option<u64>,
    /// Epoch of the next step, from 0.
    pub epoch: Option<u64>,
    /// Updates of the averaged weights; `None` if there are none.
    pub averaged: Option<u64>,
    /// The metric that best checkpoints are chosen by.
    pub metric: Option<String>,
    /// The run's best checkpoints: file, step, value of the metric.
    pub best: Vec<Best>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// Every tensor, in the order of the file.
    pub tensors: Vec<TensorSummary>,
}

/// One of a run's best checkpoints.
#[derive(Clone, Debug, Serialize)]
pub struct Best {
    /// File name in the run folder.
    pub file: PathBuf,
    /// The last step before its validation.
    pub step: u64,
    /// Value of the metric, as text: it may be infinite.
    pub value: String,
}

/// A tensor and its values.
#[derive(Clone, Debug, Serialize)]
pub struct TensorSummary {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Root of the sum of squares of the finite values; `None` if the values cannot be read.
    pub norm: Option<f64>,
    /// Smallest finite value.
    pub min: Option<f32>,
    /// Largest finite value.
    pub max: Option<f32>,
    /// Values that are NaN or infinite.
    pub non_finite: usize,
    /// Why the values cannot be read.
    pub error: Option<String>,
}

/// Reads a file of weights, or the last checkpoint in a run's folder.
///
/// # Errors
/// [`Error::Checkpoint`](crate::Error) if it is none; a tensor whose values cannot be read is no error.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let path = if path.is_dir() { path.join(LAST) } else { path.to_owned() };
    let mut file = TensorFile::open(&path)?;
    let found: Vec<Named> = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
    let mut inspection = Inspection::of_tensors(&path, &found);
    let metadata = file.metadata().clone();
    let number = |key: &str| metadata.get(key).and_then(|text| text.parse().ok());
    if metadata.contains_key(META_KEY) {
        let (_, meta) = TensorFile::open_checkpoint(&path)?;
        inspection.describe_run(&meta);
    } else if file.is_of_torch() {
        inspection.kind = match metadata.get("pytorch-lightning_version") {
            Some(version) => format!("checkpoint of Lightning {version}"),
            None => "state dict of PyTorch".into(),
        };
        (inspection.step, inspection.epoch) = (number("global_step"), number("epoch"));
    } else if let Some(config) = metadata.get(CONFIG_KEY) {
        inspection.kind = "state dict in safetensors, exported by srgan".into();
        inspection.step = number(STEP_KEY);
        inspection.bands = metadata.get("bands").map(|b| b.split(',').map(str::to_owned).collect()).unwrap_or_default();
        inspection.describe_config(config);
        inspection.notes.extend(metadata.get("weights").map(|weights| format!("{weights} weights")));
    }
    inspection.tensors = file.entries().to_vec().iter().map(|entry| summary(&mut file, entry)).collect();
    Ok(inspection)
}

impl Inspection {
    /// What names and shapes tell.
    fn of_tensors(path: &Path, found: &[Named]) -> Self {
        let guess = Architecture::of_tensors(found);
        let mut notes = Vec::new();
        match &guess {
            Some((_, prefix)) => notes.extend(prefix_note(prefix, "generator.")),
            None => notes.push("no generator of this program or of opensr-srgan".into()),
        }
        Inspection {
            file: path.into(),
            kind: "state dict in safetensors".into(),
            generator: guess.map(|(generator, _)| generator),
            bands: vec![],
            normalisation: None,
            step: None,
            epoch: None,
            averaged: found.iter().any(|(name, _)| name.starts_with("ema.")).then_some(0),
            metric: None,
            best: vec![],
            notes,
            tensors: vec![],
        }
    }

    /// What a checkpoint of this program says of itself.
    fn describe_run(&mut self, meta: &Meta) {
        self.kind = format!("checkpoint of srgan {}, format {}", meta.version, meta.format);
        (self.step, self.epoch) = (Some(meta.step), Some(meta.epoch));
        self.bands = meta.bands.clone();
        self.averaged = self.averaged.map(|_| meta.counters.ema_updates);
        if meta.counters.skipped > 0 {
            self.notes.push(format!("{} steps were left out because of non-finite numbers", meta.counters.skipped));
        }
        let best = meta.best.iter();
        self.best = best.map(|b| Best { file: b.path.clone(), step: b.step, value: b.metric.to_string() }).collect();
        self.describe_config(&meta.config);
    }

    fn describe_config(&mut self, yaml: &str) {
        match Config::from_yaml(yaml, None, &[]) {
            Ok((cfg, _)) => {
                self.generator = Some(Architecture::of_config(&cfg));
                self.normalisation = Some(cfg.data.method().name().into());
                self.metric = Some(cfg.schedulers.metric_g.name().into());
            }
            Err(e) => self.notes.push(format!("its configuration cannot be read: {e}")),
        }
    }

    /// Values that are NaN or infinite.
    pub fn non_finite(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.non_finite).sum()
    }
}

fn summary(file: &mut TensorFile, entry: &Entry) -> TensorSummary {
    let (name, dtype, shape) = (entry.name.clone(), entry.dtype(), entry.shape.clone());
    let mut summary =
        TensorSummary { name, dtype, shape, norm: None, min: None, max: None, non_finite: 0, error: None };
    // Whole numbers are counts: nothing here measures them.
    let is_whole = ["I", "U", "BOOL"].iter().any(|start| summary.dtype.starts_with(start));
    match file.read(&entry.name) {
        Ok(values) => {
            let finite = || values.iter().copied().filter(|v| v.is_finite());
            summary.norm = Some(finite().map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt());
            (summary.min, summary.max) = (finite().reduce(f32::min), finite().reduce(f32::max));
            summary.non_finite = values.len() - finite().count();
        }
        Err(_) if is_whole => {}
        Err(e) => summary.error = Some(e.to_string()),
    }
    summary
}
