//! Whether a run is continued, and from where.

use std::path::{Path, PathBuf};

use super::run::RunOptions;
use super::run_dir::RunDir;
use crate::checkpoint::LAST;
use crate::config::{Config, Resume};
use crate::{Error, Result};

/// Where a run begins.
pub(super) enum Begin {
    /// With the first step.
    New,
    /// With the state of a checkpoint.
    Continue {
        /// The file.
        checkpoint: PathBuf,
        /// The run's folder from now on.
        folder: PathBuf,
    },
}

/// Where a run begins: what the first rank decides, for all.
///
/// # Errors
/// There is no such checkpoint, or the folder holds another run.
pub(super) fn begin_together(cfg: &Config, options: &RunOptions) -> Result<Begin> {
    let ranks = &options.ranks;
    if ranks.is_first() {
        let begin = begin(cfg, options)?;
        let paths = match &begin {
            Begin::New => [String::new(), String::new()],
            Begin::Continue { checkpoint, folder } => {
                [checkpoint, folder].map(|path| path.to_string_lossy().into_owned())
            }
        };
        paths.iter().try_for_each(|path| ranks.first_text(path).map(|_| ()))?;
        return Ok(begin);
    }
    let [checkpoint, folder] = [ranks.first_text("")?, ranks.first_text("")?].map(PathBuf::from);
    Ok(if checkpoint.as_os_str().is_empty() { Begin::New } else { Begin::Continue { checkpoint, folder } })
}

/// Decides whether a run is continued, and from where.
///
/// # Errors
/// There is no such checkpoint, or the folder holds another run.
pub(super) fn begin(cfg: &Config, options: &RunOptions) -> Result<Begin> {
    let from_config = match (&cfg.training.resume, &cfg.model.continue_training) {
        (Resume::Never, Some(path)) => Resume::From(path.clone()),
        (resume, _) => resume.clone(),
    };
    let at_folder = |folder: PathBuf| Begin::Continue { checkpoint: folder.join(LAST), folder };
    match options.resume.clone().unwrap_or(from_config) {
        Resume::Never => Ok(Begin::New),
        Resume::Auto => {
            let known = match &options.run_dir {
                Some(folder) => Some(folder.clone()).filter(|f| f.join(LAST).exists()),
                None => RunDir::newest(&cfg.logging.dir, &cfg.logging.wandb.project),
            };
            Ok(known.map_or(Begin::New, at_folder))
        }
        Resume::From(path) if path.is_dir() => Ok(at_folder(path)),
        Resume::From(checkpoint) => {
            if !checkpoint.is_file() {
                return Err(Error::checkpoint(&checkpoint, "there is no such file")
                    .with_hint("--resume takes `auto`, a run folder, or a .safetensors file in one"));
            }
            let parent = checkpoint.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
            let folder = options.run_dir.clone().unwrap_or_else(|| parent.clone());
            let other = folder.canonicalize().ok() != parent.canonicalize().ok();
            if other && folder.join(LAST).exists() {
                return Err(Error::data(&folder, "this folder holds another run")
                    .with_hint("choose a new folder with --run-dir, or continue that run"));
            }
            Ok(Begin::Continue { checkpoint, folder })
        }
    }
}
