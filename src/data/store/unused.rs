//! Stores that no run uses any more.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// A store that no run has opened for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedStore {
    /// The files to remove: index, pixels, masked pixels.
    pub files: Vec<PathBuf>,
    /// Their size.
    pub bytes: u64,
    /// Whole days since the last use.
    pub days: u64,
}

/// The stores in `dir` that no run has opened for `days` days, by name. A folder that cannot be read has none.
pub fn unused_stores(dir: &Path, days: u64) -> Vec<UnusedStore> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut indices: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    indices.sort();
    let unused = |index: PathBuf| {
        let used = index.metadata().ok()?.modified().ok()?;
        let age = SystemTime::now().duration_since(used).ok()?;
        // Other programs may keep JSON files here.
        let is_store = std::fs::read_to_string(&index).is_ok_and(|text| text.contains("\"masked_runs\""));
        if !is_store || age < DAY * u32::try_from(days).ok()? {
            return None;
        }
        let of_store = ["json", "npy", "masked.npy"].map(|ending| index.with_extension(ending));
        let files: Vec<PathBuf> = of_store.into_iter().filter(|path| path.is_file()).collect();
        let bytes = files.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
        Some(UnusedStore { files, bytes, days: age.as_secs() / DAY.as_secs() })
    };
    indices.into_iter().filter_map(unused).collect()
}
