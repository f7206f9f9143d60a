//! What a checkpoint says beside its tensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The newest checkpoint format that this program reads, and the one that it writes.
pub const FORMAT: u32 = 1;

/// The JSON document of a checkpoint. Unknown fields are ignored and absent ones take their defaults, so a
/// reader and a writer of the same format number need not be of the same version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Number of the file format; see [`FORMAT`].
    pub format: u32,
    /// Version of the program that wrote the file.
    #[serde(default)]
    pub version: String,
    /// The complete configuration of the run, as YAML text.
    #[serde(default)]
    pub config: String,
    /// Steps done = number of the next step.
    #[serde(default)]
    pub step: u64,
    /// The epoch that the next step belongs to, from 0.
    #[serde(default)]
    pub epoch: u64,
    /// Batches of this epoch already done.
    #[serde(default)]
    pub batch_in_epoch: u64,
    /// Samples of the shuffled order of this epoch already drawn.
    #[serde(default)]
    pub data_position: u64,
    /// Seed of all random streams; with the step it is the whole random state.
    #[serde(default)]
    pub seed: u64,
    /// Update counts of the optimisers and the EMA.
    #[serde(default)]
    pub counters: Counters,
    /// Value of `step` at the last validation: a run that was stopped between a step and its validation makes
    /// up for it.
    #[serde(default)]
    pub last_validation: Option<u64>,
    /// Plateau scheduler of the generator.
    #[serde(default)]
    pub plateau_g: PlateauState,
    /// Plateau scheduler of the discriminator.
    #[serde(default)]
    pub plateau_d: PlateauState,
    /// Early stopping.
    #[serde(default)]
    pub early_stopping: EarlyStopping,
    /// The best checkpoints kept so far.
    #[serde(default)]
    pub best: Vec<BestEntry>,
    /// Running means of metrics since the last validation, by metric name.
    #[serde(default)]
    pub means: BTreeMap<String, MeanState>,
    /// The data's normalisation, by its name in the configuration.
    #[serde(default)]
    pub normalisation: String,
    /// Names or numbers of the bands, in the order of the channels.
    #[serde(default)]
    pub bands: Vec<String>,
    /// Algorithms picked by timing, by kind of step; reused on resume.
    #[serde(default)]
    pub choices: BTreeMap<String, String>,
    /// The device and libraries that they were picked on.
    #[serde(default)]
    pub timed_on: String,
    /// Whether the file carries checksums; those of earlier versions do not.
    #[serde(default)]
    pub has_checksums: bool,
    /// What the run was trained on; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imagery: Option<Imagery>,
    /// Rows of `metrics.csv` that may not have come to the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlogged: Vec<LoggedRow>,
    /// Ranks that the run had; 0 in files of earlier versions, which had one.
    #[serde(default)]
    pub ranks: u64,
    /// The validation that was under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationState>,
}

impl Default for Meta {
    fn default() -> Self {
        Meta {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            config: String::new(),
            step: 0,
            epoch: 0,
            batch_in_epoch: 0,
            data_position: 0,
            seed: 0,
            counters: Counters::default(),
            last_validation: None,
            plateau_g: PlateauState::default(),
            plateau_d: PlateauState::default(),
            early_stopping: EarlyStopping::default(),
            best: Vec::new(),
            means: BTreeMap::new(),
            normalisation: String::new(),
            bands: Vec::new(),
            choices: BTreeMap::new(),
            timed_on: String::new(),
            has_checksums: true,
            imagery: None,
            unlogged: Vec::new(),
            ranks: 1,
            validation: None,
        }
    }
}

/// Counts beyond this are no run's.
const MAX_COUNT: u64 = 1 << 53;

impl Meta {
    /// Whether a run can continue from this document.
    ///
    /// # Errors
    /// Says which number is impossible.
    pub fn check(&self) -> Result<(), String> {
        for (name, plateau) in [("plateau_g", &self.plateau_g), ("plateau_d", &self.plateau_d)] {
            if !(plateau.factor > 0.0 && plateau.factor <= 1.0) {
                return Err(format!("{name}.factor is {}, but it lies above 0 and up to 1", plateau.factor));
            }
        }
        let counts = [
            ("step", self.step),
            ("epoch", self.epoch),
            ("batch_in_epoch", self.batch_in_epoch),
            ("data_position", self.data_position),
        ];
        match counts.into_iter().find(|(_, count)| *count > MAX_COUNT) {
            Some((name, count)) => Err(format!("{name} is {count}, more than any run can reach")),
            None => Ok(()),
        }
    }
}

/// How many updates were committed; each advances only when a step's numbers were finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Adam's t of the generator.
    pub adam_g: u64,
    /// Adam's t of the discriminator.
    pub adam_d: u64,
    /// Updates of the averaged weights.
    pub ema_updates: u64,
    /// Steps left out because of non-finite numbers, over the whole run.
    pub skipped: u64,
    /// Such steps in a row up to now.
    pub skipped_in_a_row: u64,
}

/// State of a plateau scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlateauState {
    /// Best value seen; none before the first finite one.
    pub best: Option<f64>,
    /// Validations without an improvement.
    pub bad: u64,
    /// Validations left of the cooldown.
    pub cooldown: u64,
    /// What the base learning rate is multiplied with.
    pub factor: f64,
}

impl Default for PlateauState {
    fn default() -> Self {
        PlateauState { best: None, bad: 0, cooldown: 0, factor: 1.0 }
    }
}

/// State of early stopping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EarlyStopping {
    /// Best value seen; none before the first finite one.
    pub best: Option<f64>,
    /// Validations without an improvement.
    pub bad: u64,
}

/// One of the best checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestEntry {
    /// File name in the run folder.
    pub path: PathBuf,
    /// Value of the monitored metric; infinite for a perfect PSNR.
    #[serde(with = "any_float")]
    pub metric: f64,
    /// The last step before the validation, as in logs and messages.
    pub step: u64,
}

/// What tells imagery from other imagery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imagery {
    /// Training images: files, pairs of files or scenes.
    pub images: u64,
    /// A hash of the sources' sizes and of samples of their bytes, in hexadecimal digits.
    pub contents: String,
}

/// How far a validation has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationState {
    /// Steps done before it.
    pub step: u64,
    /// All of its batches.
    pub batches: u64,
    /// Batches in the sums.
    pub done: u64,
    /// Images in the sums.
    pub images: u64,
    /// Sums over these images, by metric name.
    pub sums: BTreeMap<String, MeanState>,
}

/// A row of `metrics.csv`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRow {
    /// The step.
    pub step: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Metrics by name, as they are written.
    pub values: Vec<(String, String)>,
}

/// A running mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeanState {
    /// Sum of the values so far.
    #[serde(with = "any_float")]
    pub sum: f64,
    /// Their number.
    pub count: u64,
}

/// JSON has no NaN and no infinity; they are written as the strings "NaN", "inf" and "-inf".
mod any_float {
    use super::*;

    pub fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { out.serialize_f64(*value) } else { out.serialize_str(&value.to_string()) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Float {
            Number(f64),
            Text(String),
        }
        match Float::deserialize(input)? {
            Float::Number(value) => Ok(value),
            Float::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}
