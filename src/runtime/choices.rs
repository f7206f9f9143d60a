//! Algorithms that a device has picked by timing, as data: kept on disk, in a run's folder and in its checkpoints, so
//! that a run that is continued computes the same bits.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The name of the algorithm that is this program's own kernel.
pub const OWN: &str = "own";

/// Characters of an algorithm's name that are shown.
const SHOWN: usize = 24;

/// An algorithm's name for people, its middle left out if it is long.
pub fn short_name(algorithm: &str) -> String {
    if algorithm.len() <= SHOWN || !algorithm.is_ascii() {
        return algorithm.to_owned();
    }
    format!("{}…{}", &algorithm[..SHOWN / 2], &algorithm[algorithm.len() - SHOWN / 2..])
}

/// Whether an algorithm is a library's: their names begin with that of the library and a colon.
pub fn is_of_library(algorithm: &str) -> bool {
    algorithm.contains(':')
}

/// What was picked for one kind of step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The algorithm: [`OWN`], or a library's.
    pub algorithm: String,
    /// Microseconds of each candidate, the fastest first; empty where there was no other.
    #[serde(default)]
    pub times: Vec<(String, f64)>,
    /// Candidates whose results were wrong, and their relative distance from the right ones, if that is a number; or
    /// that ended the GPU's context. They are not tried again on this device and libraries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<(String, Option<f64>)>,
}

/// The picked algorithms of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choices {
    /// The device and the libraries that they were timed with; times on others say nothing.
    pub timed_on: String,
    /// By kind of step: what is computed on which extents and layouts.
    #[serde(default)]
    pub steps: BTreeMap<String, Choice>,
}

impl Choices {
    /// None yet, on a device.
    pub fn new(timed_on: impl Into<String>) -> Choices {
        Choices { timed_on: timed_on.into(), steps: BTreeMap::new() }
    }

    /// The algorithms alone, by kind of step.
    pub fn algorithms(&self) -> BTreeMap<String, String> {
        self.steps.iter().map(|(step, choice)| (step.clone(), choice.algorithm.clone())).collect()
    }

    /// Takes what the file at `path` has for the same device and what is not known here. A file that is missing,
    /// damaged or of another device has nothing.
    pub fn add_from(&mut self, path: &Path) {
        let found = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Choices>(&text).ok());
        if let Some(found) = found.filter(|found| found.timed_on == self.timed_on) {
            for (step, choice) in found.steps {
                self.steps.entry(step).or_insert(choice);
            }
        }
    }

    /// As JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Adds what the file at `path` has, and writes all to it. Readers see the old file or the new one, also when
    /// several processes write.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn merge_into(&self, path: &Path) -> io::Result<()> {
        let mut all = self.clone();
        all.add_from(path);
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(all.to_json().as_bytes())?;
        file.persist(path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(timed_on: &str, algorithm: &str) -> Choices {
        let mut choices = Choices::new(timed_on);
        let times = vec![(algorithm.to_owned(), 12.5), (OWN.to_owned(), 20.25)];
        choices.steps.insert("conv2d".into(), Choice { algorithm: algorithm.into(), times, ..Choice::default() });
        choices
    }

    #[test]
    fn what_was_written_is_read_for_the_same_device_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("algorithms.json");
        sample("gpu", "lib").merge_into(&path).unwrap();
        let read = |timed_on: &str| {
            let mut choices = Choices::new(timed_on);
            choices.add_from(&path);
            choices
        };
        assert_eq!(read("gpu"), sample("gpu", "lib"));
        assert_eq!(read("another gpu"), Choices::new("another gpu"));
        // What is known is kept.
        let mut known = sample("gpu", OWN);
        known.add_from(&path);
        assert_eq!(known, sample("gpu", OWN));
        // A second process adds its own.
        let mut second = Choices::new("gpu");
        second.steps.insert("linear".into(), Choice::default());
        second.merge_into(&path).unwrap();
        assert_eq!(read("gpu").steps.len(), 2);
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(short_name(OWN), "own");
        let long = format!("cublaslt:{:0128x}", 7);
        assert_eq!(short_name(&long), "cublaslt:000…000000000007");
    }

    #[test]
    fn a_damaged_or_missing_file_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("algorithms.json");
        let mut choices = Choices::new("gpu");
        choices.add_from(&path);
        for text in ["", "{", "[1]", "{\"timed_on\": 3}", "\u{0}"] {
            fs::write(&path, text).unwrap();
            choices.add_from(&path);
        }
        assert_eq!(choices, Choices::new("gpu"));
        sample("gpu", "lib").merge_into(&path.join("no/folder")).unwrap_err();
    }
}
