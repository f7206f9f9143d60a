//! Which checkpoints are worth keeping.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::BestEntry;
use crate::{Error, Result};

/// Which direction of a metric is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Lower is better.
    Min,
    /// Higher is better.
    Max,
}

impl Mode {
    /// PSNR and SSIM (also as `val_metrics/psnr`, …): higher is better. Everything else: lower.
    pub fn of(metric: &str) -> Self {
        match metric.rsplit('/').next().unwrap_or(metric) {
            "psnr" | "ssim" => Mode::Max,
            _ => Mode::Min,
        }
    }

    /// Whether `a` is strictly better than `b`; an unordered pair never is.
    pub fn better(self, a: f64, b: f64) -> bool {
        match self {
            Mode::Min => a < b,
            Mode::Max => a > b,
        }
    }
}

/// Keeps the best `keep` checkpoints of a run, best first.
#[derive(Clone, Debug)]
pub struct BestK {
    mode: Mode,
    keep: usize,
    entries: Vec<BestEntry>,
}

/// A checkpoint that should be saved as one of the best. Write the file `entry.path` with the metadata field
/// `best` = `entries`; once it is safely there, hand the plan to [`BestK::commit`].
#[derive(Clone, Debug, PartialEq)]
pub struct SavePlan {
    /// The new checkpoint; its path is a file name in the run folder.
    pub entry: BestEntry,
    /// The list as it will be, best first.
    pub entries: Vec<BestEntry>,
    /// The files that drop out of the list, to be deleted after the new one is written.
    pub dropped: Vec<PathBuf>,
}

impl BestK {
    /// Keeps the best `keep` by a metric of this `mode`, going on from `entries` (empty for a new run).
    pub fn new(mode: Mode, keep: usize, entries: Vec<BestEntry>) -> Self {
        BestK { mode, keep, entries }
    }

    /// The checkpoints kept, best first.
    pub fn entries(&self) -> &[BestEntry] {
        &self.entries
    }

    /// Whether the state at `step` with this `metric` belongs to the best. A non-finite value never does. Of
    /// equal values the earlier is kept.
    pub fn plan(&self, step: u64, metric: f64) -> Option<SavePlan> {
        if !metric.is_finite() || self.keep == 0 {
            return None;
        }
        // A validation repeated after a resume replaces its own earlier entry.
        let mut entries: Vec<_> = self.entries.iter().filter(|e| e.step != step).cloned().collect();
        let place = entries.iter().position(|e| self.mode.better(metric, e.metric)).unwrap_or(entries.len());
        if place >= self.keep {
            return None;
        }
        let entry = BestEntry { path: format!("best-step={step}.safetensors").into(), metric, step };
        entries.insert(place, entry.clone());
        let dropped = entries.drain(self.keep.min(entries.len())..).map(|e| e.path).collect();
        Some(SavePlan { entry, entries, dropped })
    }

    /// Takes over a plan whose file has been written, and deletes the files that dropped out of the list
    /// from the run folder `folder`.
    pub fn commit(&mut self, folder: &Path, plan: SavePlan) -> Result<()> {
        self.entries = plan.entries;
        // The list may come from a checkpoint of unknown origin: only a best file of this folder is deleted.
        let names = plan.dropped.iter().filter_map(|path| path.file_name()?.to_str());
        for path in names.filter(|name| name.starts_with("best-step=")).map(|name| folder.join(name)) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("delete", path, e)),
                _ => {}
            }
        }
        Ok(())
    }
}
