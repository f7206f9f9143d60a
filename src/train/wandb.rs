//! Weights & Biases: what the configuration and its client's own environment variables say of a run, and the upload.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::files::write_atomic;
use crate::log::{Messages, WandbInfo, WandbRun, new_id};
use crate::{Error, Result};

/// The folder of Weights & Biases' files in a run's folder.
const FOLDER: &str = "wandb";
/// Keeps the run's id there, for the run that continues.
const ID: &str = "run-id";
/// What the client prints while it uploads.
const UPLOAD_LOG: &str = "upload.log";
/// How long the end of a run waits for the upload.
const PATIENCE: Duration = Duration::from_secs(60);

/// What reads an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether and how a run is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disabled,
    Offline,
    Online,
}

/// The client's process that uploads a run while it goes on.
#[derive(Debug)]
pub struct Upload {
    child: Child,
    log: PathBuf,
    run: PathBuf,
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Refuses variables with values that they cannot have, before a run has done anything.
///
/// # Errors
/// [`Error::Usage`] with the variable and what it can be.
pub fn check(cfg: &Config) -> Result<()> {
    if !cfg.logging.wandb.enabled {
        return Ok(());
    }
    mode(&env)?;
    env("WANDB_RUN_ID").map_or(Ok(()), |id| check_id(&id))
}

/// Begins or continues the run's log for Weights & Biases, where `Logging.wandb.enabled` asks for it; with its upload under
/// `WANDB_MODE=online`. `from_step` is the run's next step.
///
/// # Errors
/// A variable with a value that it cannot have, or a file that cannot be written.
pub fn open(
    cfg: &Config,
    folder: &Path,
    from_step: u64,
    messages: &Messages,
) -> Result<Option<(WandbRun, Option<Upload>)>> {
    let mode = mode(&env)?;
    if !cfg.logging.wandb.enabled || mode == Mode::Disabled {
        return Ok(None);
    }
    let id = run_id(folder, &env)?;
    let info = info(cfg, folder, id, &env)?;
    let parent = env("WANDB_DIR").map_or_else(|| folder.join(FOLDER), |dir| PathBuf::from(dir).join(FOLDER));
    let run = WandbRun::open(&parent, &info, from_step)?;
    let path = run.folder().to_owned();
    messages.info(&format!("Weights & Biases: run {} of project {} in {}", info.id, info.project, path.display()));
    let upload = match mode {
        Mode::Online => Upload::start(&path, &folder.join(FOLDER).join(UPLOAD_LOG), messages),
        _ => None,
    };
    if upload.is_none() {
        messages.info(&format!("  upload it with: wandb sync {}", path.display()));
    }
    Ok(Some((run, upload)))
}

fn mode(env: Env) -> Result<Mode> {
    match env("WANDB_MODE").as_deref() {
        None | Some("offline" | "dryrun") => Ok(Mode::Offline),
        Some("online" | "run") => Ok(Mode::Online),
        Some("disabled") => Ok(Mode::Disabled),
        Some(other) => Err(Error::usage(format!("WANDB_MODE={other} is not a mode that is known here"))
            .with_hint("set it to offline, online or disabled")),
    }
}

/// The run's id: the user's, that of the run which is continued, or a new one.
fn run_id(folder: &Path, env: Env) -> Result<String> {
    let kept = folder.join(FOLDER).join(ID);
    let known = env("WANDB_RUN_ID").or_else(|| Some(fs::read_to_string(&kept).ok()?.trim().to_owned()));
    let id = known.filter(|id| !id.is_empty()).unwrap_or_else(new_id);
    check_id(&id)?;
    let parent = folder.join(FOLDER);
    fs::create_dir_all(&parent).map_err(|e| Error::io("make folder", &parent, e))?;
    write_atomic(&kept, |out| writeln!(out, "{id}"))?;
    Ok(id)
}

fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.len() <= 64 && id.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::usage(format!("{id:?} cannot be the id of a run of Weights & Biases"))
        .with_hint("set WANDB_RUN_ID to at most 64 letters, digits, `-` and `_`"))
}

fn info(cfg: &Config, folder: &Path, id: String, env: Env) -> Result<WandbInfo> {
    let wandb = &cfg.logging.wandb;
    let of_folder = || Some(folder.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
    let split = |tags: String| tags.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect();
    Ok(WandbInfo {
        id,
        entity: env("WANDB_ENTITY").or_else(|| wandb.entity.clone()).unwrap_or_default(),
        project: env("WANDB_PROJECT").unwrap_or_else(|| wandb.project.clone()),
        name: env("WANDB_NAME").or_else(|| wandb.name.clone()).or_else(of_folder).unwrap_or_default(),
        notes: env("WANDB_NOTES").unwrap_or_default(),
        tags: env("WANDB_TAGS").map_or_else(|| wandb.tags.clone(), split),
        group: env("WANDB_RUN_GROUP").unwrap_or_default(),
        job_type: env("WANDB_JOB_TYPE").unwrap_or_default(),
        config: cfg.to_json()?.as_object().cloned().unwrap_or_default(),
    })
}

impl Upload {
    /// Starts `wandb beta sync --live`; where that is impossible, says why.
    fn start(run: &Path, log: &Path, messages: &Messages) -> Option<Upload> {
        let spawned = File::create(log).and_then(|output| {
            let errors = output.try_clone()?;
            let mut command = Command::new("wandb");
            command.args(["beta", "sync", "--live"]).arg(run).stdin(Stdio::null()).stdout(output).stderr(errors);
            // Ctrl-C is for the training, which then tells the client of its end.
            command.process_group(0).spawn()
        });
        match spawned {
            Ok(child) => {
                messages.info(&format!("  uploading it; what its client says is in {}", log.display()));
                Some(Upload { child, log: log.to_owned(), run: run.to_owned() })
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                messages.warn("WANDB_MODE is online, but there is no program `wandb` on the PATH (pip install wandb)");
                None
            }
            Err(e) => {
                messages.warn(&format!("WANDB_MODE is online, but `wandb` cannot be started: {e}"));
                None
            }
        }
    }

    /// Waits for the rest of the upload, a minute at most; `ended` says that the run's file is complete.
    pub fn finish(mut self, ended: bool, messages: &Messages) {
        let started = Instant::now();
        let state = loop {
            match self.child.try_wait() {
                Ok(None) if ended && started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
                state => break state,
            }
        };
        let (run, log) = (self.run.display(), self.log.display());
        match state {
            Ok(Some(status)) if status.success() => messages.info("Weights & Biases: the run is uploaded"),
            Ok(None) => {
                // It would wait for the end of a file that no longer grows.
                let _ = self.child.kill();
                let _ = self.child.wait();
                messages.warn(&format!("Weights & Biases: not all is uploaded; complete it with: wandb sync {run}"));
            }
            _ => {
                messages.warn(&format!("Weights & Biases: the upload failed ({log}); repeat it with: wandb sync {run}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(list: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| list.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_environment_comes_before_the_configuration() {
        let text = "Model: {in_bands: 3}\nLogging: {wandb: {enabled: true, project: mine, entity: me, name: first, tags: [a, b]}}";
        let (cfg, _) = Config::from_yaml(text, None, &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let of = |list| info(&cfg, folder.path(), "x".into(), &variables(list)).unwrap();
        let plain = of(&[]);
        assert_eq!((plain.project.as_str(), plain.entity.as_str(), plain.name.as_str()), ("mine", "me", "first"));
        assert_eq!(plain.tags, ["a", "b"]);
        assert_eq!(plain.config["Training"]["seed"], cfg.training.seed);
        let list = [("WANDB_PROJECT", "p"), ("WANDB_ENTITY", "e"), ("WANDB_NAME", "n"), ("WANDB_TAGS", "c, d,")];
        let set = of(&list);
        assert_eq!((set.project.as_str(), set.entity.as_str(), set.name.as_str()), ("p", "e", "n"));
        assert_eq!(set.tags, ["c", "d"]);
        for (value, want) in [("online", Mode::Online), ("dryrun", Mode::Offline), ("disabled", Mode::Disabled)] {
            assert_eq!(mode(&variables(&[("WANDB_MODE", value)])).unwrap(), want);
        }
        let error = mode(&variables(&[("WANDB_MODE", "onlin")])).unwrap_err().to_string();
        assert!(error.contains("WANDB_MODE=onlin") && error.contains("offline, online"), "{error}");
    }

    #[test]
    fn a_continued_run_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let first = run_id(folder.path(), &variables(&[])).unwrap();
        assert_eq!(run_id(folder.path(), &variables(&[])).unwrap(), first);
        assert_eq!(run_id(folder.path(), &variables(&[("WANDB_RUN_ID", "other_1")])).unwrap(), "other_1");
        assert_eq!(run_id(folder.path(), &variables(&[])).unwrap(), "other_1");
        let error = run_id(folder.path(), &variables(&[("WANDB_RUN_ID", "../x")])).unwrap_err();
        assert!(error.to_string().contains("WANDB_RUN_ID"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
