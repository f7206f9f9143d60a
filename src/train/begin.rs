//! Whether a run is continued, and from where.

use std::path::{Path, PathBuf};

use super::batch::Job;
use super::run::{NOTHING_TO_CONTINUE, RunOptions, report_changes};
use super::run_dir::RunDir;
use crate::checkpoint::{LAST, TensorFile};
use crate::config::{Config, Resume};
use crate::log::Messages;
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

/// The folder of a new run, which the first rank makes and tells the others.
pub(super) fn new_folder(cfg: &Config, options: &RunOptions) -> Result<RunDir> {
    let folder = match &options.run_dir {
        Some(path) => RunDir::create_at(path)?,
        None => RunDir::create(&cfg.logging.dir, &cfg.logging.wandb.project, options.job_name().as_deref())?,
    };
    options.ranks.first_text(&folder.path().to_string_lossy())?;
    Ok(folder)
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

/// Where a run would begin, for `--dry-run`; nothing where a new one was not to be a continued one.
///
/// # Errors
/// If what is to be continued is not there, cannot be read, or has another architecture.
pub fn describe_begin(cfg: &Config, options: &RunOptions, messages: &Messages) -> Result<Option<String>> {
    let asked = options.resume.as_ref().unwrap_or(&cfg.training.resume);
    match begin(cfg, options)? {
        Begin::New => Ok(matches!(asked, Resume::Auto).then(|| NOTHING_TO_CONTINUE.to_owned())),
        Begin::Continue { checkpoint, .. } => {
            let (_, meta) = TensorFile::open_checkpoint(&checkpoint)?;
            report_changes(cfg, &meta, &checkpoint, messages)?;
            Ok(Some(format!("a run would continue at step {} from {}", meta.step, checkpoint.display())))
        }
    }
}

/// Decides whether a run is continued, and from where.
///
/// # Errors
/// There is no such checkpoint, or the folder holds another run.
fn begin(cfg: &Config, options: &RunOptions) -> Result<Begin> {
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
                None => newest(cfg, options.job.as_ref()),
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

/// The run that `--resume auto` continues: that of this job, if it was queued again; else the project's newest, unless the
/// job is one of an array, which have a run each.
fn newest(cfg: &Config, job: Option<&Job>) -> Option<PathBuf> {
    let (dir, project) = (&cfg.logging.dir, &cfg.logging.wandb.project);
    let own = job.and_then(Job::name).and_then(|name| RunDir::newest_of_job(dir, project, &name));
    own.or_else(|| if job.is_some_and(Job::is_task) { None } else { RunDir::newest(dir, project) })
}
