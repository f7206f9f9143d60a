//! Which checkpoints are worth keeping.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::BestEntry;
use crate::metrics::Direction;
use crate::{Error, Result};

/// Keeps the best `keep` checkpoints of a run, best first.
#[derive(Clone, Debug)]
pub struct BestK {
    direction: Direction,
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
    /// Keeps the best `keep` by a metric of this direction, going on from `entries` (empty for a new run).
    pub fn new(direction: Direction, keep: usize, entries: Vec<BestEntry>) -> Self {
        BestK { direction, keep, entries }
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
        let place = entries.iter().position(|e| self.direction.better(metric, e.metric)).unwrap_or(entries.len());
        if place >= self.keep {
            return None;
        }
        let entry = BestEntry { path: format!("best-step={step}.safetensors").into(), metric, step };
        entries.insert(place, entry.clone());
        let dropped = entries.drain(self.keep.min(entries.len())..).map(|e| e.path).collect();
        Some(SavePlan { entry, entries, dropped })
    }

    /// Takes over a plan whose file another process writes.
    pub fn follow(&mut self, plan: SavePlan) {
        self.entries = plan.entries;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers values to a fresh list in a folder; returns the steps kept and the files that are there.
    fn offer(direction: Direction, values: &[(u64, f64)]) -> (Vec<u64>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let mut best = BestK::new(direction, 2, Vec::new());
        for &(step, metric) in values {
            if let Some(plan) = best.plan(step, metric) {
                fs::write(dir.path().join(&plan.entry.path), b"x").unwrap();
                best.commit(dir.path(), plan).unwrap();
            }
        }
        let mut files: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        (best.entries().iter().map(|e| e.step).collect(), files)
    }

    #[test]
    fn the_best_two_are_kept_best_first() {
        let (steps, files) = offer(Direction::Lower, &[(1, 0.5), (2, 0.7), (3, 0.6), (4, 0.9), (5, 0.1)]);
        assert_eq!(steps, [5, 1]);
        assert_eq!(files, ["best-step=1.safetensors", "best-step=5.safetensors"]);
        assert_eq!(offer(Direction::Higher, &[(1, 30.0), (2, 31.0), (3, 29.0), (4, 30.5)]).0, [2, 4]);
    }

    #[test]
    fn non_finite_values_are_never_best_even_first() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for direction in [Direction::Lower, Direction::Higher] {
                assert_eq!(offer(direction, &[(1, value), (2, 0.5), (3, value), (4, 0.4)]).1.len(), 2);
                assert_eq!(offer(direction, &[(1, value)]), (vec![], vec![]));
            }
        }
    }

    #[test]
    fn of_equal_values_the_earlier_stays() {
        assert_eq!(offer(Direction::Lower, &[(1, 0.5), (2, 0.5), (3, 0.5)]).0, [1, 2]);
    }

    #[test]
    fn a_repeated_validation_replaces_its_own_entry() {
        let (steps, files) = offer(Direction::Lower, &[(1, 0.5), (2, 0.4), (2, 0.3)]);
        assert_eq!((steps, files.len()), (vec![2, 1], 2));
    }

    #[test]
    fn nothing_is_deleted_before_the_new_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("best-step=1.safetensors");
        fs::write(&old, b"x").unwrap();
        let entry = BestEntry { path: "best-step=1.safetensors".into(), metric: 1.0, step: 1 };
        let mut best = BestK::new(Direction::Lower, 1, vec![entry]);
        let plan = best.plan(2, 0.5).unwrap();
        assert!(old.exists() && best.entries()[0].step == 1, "planning changes nothing");
        best.commit(dir.path(), plan).unwrap();
        assert!(!old.exists());
    }

    #[test]
    fn only_best_files_of_the_folder_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::write(dir.path().join("best-step=1.safetensors"), b"x").unwrap();
        fs::write(run.join("last.safetensors"), b"x").unwrap();
        for name in ["../best-step=1.safetensors", "last.safetensors", "..", "/"] {
            let entry = BestEntry { path: name.into(), metric: 1.0, step: 1 };
            let mut best = BestK::new(Direction::Lower, 1, vec![entry]);
            let plan = best.plan(2, 0.5).unwrap();
            best.commit(&run, plan).unwrap();
        }
        assert!(dir.path().join("best-step=1.safetensors").exists() && run.join("last.safetensors").exists());
    }
}
