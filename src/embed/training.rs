//! Training by a call.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::worker::caught;
use crate::checkpoint::TensorFile;
use crate::config::{Config, Resume};
use crate::train::launch::{LaunchFlags, launched};
use crate::train::{Caller, RunOptions, run, torch_hub};
use crate::{Error, Result};

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug)]
pub enum ConfigSource<'a> {
    /// A YAML file.
    File(&'a Path),
    /// YAML text, or JSON, which is YAML too.
    Text(&'a str),
}

/// How a run is trained.
#[derive(Clone, Default)]
pub struct TrainOptions {
    /// The run's folder instead of a new one.
    pub run_dir: Option<PathBuf>,
    /// Continue a run: `auto`, a run's folder, or a checkpoint.
    pub resume: Option<String>,
    /// With `resume`: go on although the imagery is not what the run was trained on.
    pub accept_new_data: bool,
    /// A program of this project, which checks GPUs; see [`DeviceOptions::program`](crate::train::DeviceOptions::program).
    pub program: Option<PathBuf>,
}

/// A run that has come to its end, or was stopped with its state saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedRun {
    /// Its folder.
    pub folder: PathBuf,
    /// Steps that were done, those before it was continued included.
    pub steps: u64,
    /// Whether the caller stopped it.
    pub stopped: bool,
}

fn env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A complete configuration, with warnings for the user.
///
/// # Errors
/// [`Error::Config`] with file, line and key.
pub fn load_config(source: ConfigSource, overrides: &[String]) -> Result<(Config, Vec<String>)> {
    caught(|| match source {
        ConfigSource::File(path) => Config::load(path, overrides),
        ConfigSource::Text(text) => Config::from_yaml(text, None, overrides),
    })
}

/// Trains to the end, or until `caller` stops the run. The caller is called back on this thread.
///
/// # Errors
/// Wrong config, data or checkpoint; divergence; I/O; the device; [`Error::StoppedEarly`] if the caller stops it before
/// there is anything to save; [`Error::Usage`] in one of several processes that a launcher has started.
pub fn train(
    source: ConfigSource,
    overrides: &[String],
    options: &TrainOptions,
    caller: Caller,
) -> Result<EmbeddedRun> {
    let (cfg, warnings) = load_config(source, overrides)?;
    if let Some(launched) = launched(LaunchFlags::default(), &env)? {
        let message =
            format!("{} has started {} processes, and a call trains in one", launched.launcher, launched.count);
        return Err(Error::usage(message).with_hint("start the program srgan-train on several nodes"));
    }
    let resume = options.resume.as_deref().map(|r| if r == "auto" { Resume::Auto } else { Resume::From(r.into()) });
    let program = options.program.clone();
    let options = RunOptions {
        resume,
        run_dir: options.run_dir.clone(),
        accept_new_data: options.accept_new_data,
        torch_hub: torch_hub(&env),
        caller: Some(caller),
        ..RunOptions::default()
    };
    match caught(|| run(&cfg, &warnings, &options, program)) {
        Ok(finished) => Ok(EmbeddedRun { folder: finished.folder, steps: finished.steps, stopped: false }),
        Err(Error::Stopped { checkpoint, .. }) => {
            let steps = TensorFile::open_checkpoint(&checkpoint)?.1.step;
            let folder = checkpoint.parent().unwrap_or(Path::new(".")).to_owned();
            Ok(EmbeddedRun { folder, steps, stopped: true })
        }
        Err(other) => Err(other),
    }
}
