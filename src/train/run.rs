//! From a config to a finished run: opens data, device and folder, continues or starts, trains, reports.

use std::path::{Path, PathBuf};

use super::session::Session;
use super::signals::StopSignal;
use super::summary::{check_patch, compile_all, state_bytes, steps_per_epoch, train_shape};
use super::table::compare_with_bicubic;
use super::trainer::{Ended, RunParts, Trainer};
use super::validate::DISC;
use super::{data_settings, names, open_device, saving, step};
use crate::checkpoint::{LAST, Meta, TensorFile};
use crate::config::{Config, Resume};
use crate::data::Dataset;
use crate::device::Device;
use crate::log::{Messages, MetricsLog, RunDir, RunLogFile, write_atomic};
use crate::{Error, Result};

/// What the command line adds to a config.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Continue a run; overrides `Training.resume`.
    pub resume: Option<Resume>,
    /// The run's folder instead of a new one under `Logging.dir`.
    pub run_dir: Option<PathBuf>,
}

/// Where a run begins.
enum Begin {
    New,
    Continue { checkpoint: PathBuf, folder: PathBuf },
}

/// Trains `cfg` to its end and prints where the run's files are.
///
/// # Errors
/// Wrong config, data or checkpoint (exit code 2), divergence (3), a signal after the state was saved (75), I/O.
pub fn run(cfg: &Config, warnings: &[String], options: &RunOptions) -> Result<()> {
    let messages = Messages::stderr();
    warnings.iter().for_each(|w| messages.warn(w));
    let result = open_device(cfg).and_then(|device| run_on(device, cfg, options, &messages));
    if let Err(e) = &result {
        messages.keep_error(&e.to_string());
    }
    result
}

/// As [`run`], on a device that is already open, whatever `Training.device` says.
///
/// # Errors
/// Those of [`run`].
pub fn run_on(device: Box<dyn Device>, cfg: &Config, options: &RunOptions, messages: &Messages) -> Result<()> {
    let begin = begin(cfg, options)?;
    // A folder is locked before its checkpoint is read: an earlier job may still be writing it.
    let locked = match &begin {
        Begin::Continue { folder, .. } if folder.exists() => Some(RunDir::reopen(folder)?),
        Begin::Continue { folder, .. } => Some(RunDir::create_at(folder)?),
        Begin::New => None,
    };
    let mut session = Session::new(cfg, device)?;
    session.precision_note().into_iter().for_each(|note| messages.warn(&note));
    let meta = load(&mut session, cfg, &begin, messages)?;
    let dataset = Dataset::open(&data_settings(cfg))?;
    dataset.notes().iter().for_each(|n| messages.info(n));
    check_patch(cfg, &dataset)?;
    let steps_per_epoch = steps_per_epoch(cfg, &dataset)?;
    let val_batch = fit_memory(&session, cfg, &dataset, messages)?;
    let folder = match (locked, &options.run_dir) {
        (Some(folder), _) => folder,
        (None, Some(path)) => RunDir::create_at(path)?,
        (None, None) => RunDir::create(&cfg.logging.dir, &cfg.logging.wandb.project)?,
    };
    let log = open_logs(cfg, &session, &folder, &meta, messages)?;
    let patches = dataset.train_len();
    messages.info(&format!("data {patches} training patches · {steps_per_epoch} steps per epoch"));

    let stop = StopSignal::install()?;
    let shape = train_shape(cfg, &dataset);
    let parts = RunParts { folder, log, messages: messages.clone(), stop: stop.clone(), val_batch };
    let mut trainer = Trainer::new(cfg, session, dataset, parts, meta);
    let ended = trainer.train(shape, steps_per_epoch)?;
    let (mut session, dataset, folder) = trainer.finish()?;
    let path = folder.path().display();
    match ended {
        Ended::Signal(name) => {
            messages.info(&format!("{name}; continue with --resume {path}"));
            Err(Error::Stopped { checkpoint: folder.join(LAST) })
        }
        Ended::Finished(why) => {
            messages.info(&why);
            if let Some(table) = compare_with_bicubic(&mut session, cfg, &dataset, &stop)? {
                messages.info(&format!("\n{table}\n"));
            }
            messages.info(&format!("files of the run: {path}"));
            Ok(())
        }
    }
}

/// Opens what a run writes beside checkpoints, and says what is run.
fn open_logs(cfg: &Config, session: &Session, folder: &RunDir, meta: &Meta, messages: &Messages) -> Result<MetricsLog> {
    messages.set_log(RunLogFile::open(&folder.join("train.log"))?);
    if !folder.is_locked() {
        messages.warn("this file system has no locks: make sure that no other run uses the folder");
    }
    let yaml = cfg.to_yaml();
    write_atomic(&folder.join("config.yaml"), |out| out.write_all(yaml.as_bytes()))?;
    let (g, d) = (session.programs().generator().param_count(), session.programs().discriminator().param_count());
    messages.info(&format!("run folder {}", folder.path().display()));
    let (device, precision) = (session.device().describe(), session.precision());
    messages.info(&format!("device {device}, {precision} · generator {g} parameters · discriminator {d}"));
    let mut metrics = step::metric_names(cfg, session.programs().objective());
    metrics.extend(["val_metrics/perceptual", DISC]);
    metrics.extend(names::VAL_COMPONENTS);
    MetricsLog::open(folder.path(), &metrics, meta.step)
}

/// Decides whether a run is continued, and from where.
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

/// Takes the state of a checkpoint, or the weights alone, or nothing.
fn load(session: &mut Session, cfg: &Config, begin: &Begin, messages: &Messages) -> Result<Meta> {
    if let Begin::Continue { checkpoint, .. } = begin {
        let (_, meta) = TensorFile::open_checkpoint(checkpoint)?;
        report_changes(cfg, &meta, checkpoint, messages)?;
        let meta = saving::load(session, checkpoint)?;
        messages.info(&format!("continuing at step {} from {}", meta.step, checkpoint.display()));
        let newer = TensorFile::open_checkpoint(&checkpoint.with_file_name(LAST)).map(|(_, last)| last.step);
        if newer.as_ref().is_ok_and(|last| *last > meta.step) {
            messages
                .warn(&format!("the run had got to step {}; what came after step {} is done again", newer?, meta.step));
        }
        return Ok(meta);
    }
    if let Some(path) = &cfg.model.load_checkpoint {
        let mut file = TensorFile::open(path)?;
        let taken = session.restore_weights(&mut file, path)?;
        messages.info(&format!("initial weights of {} from {}", taken.join(" and "), path.display()));
    }
    Ok(Meta::default())
}

/// Architecture keys must match; other changed keys are listed and used.
fn report_changes(cfg: &Config, meta: &Meta, checkpoint: &Path, messages: &Messages) -> Result<()> {
    let Ok((old, _)) = Config::from_yaml(&meta.config, Some(checkpoint), &[]) else {
        messages.warn("the checkpoint's own configuration cannot be read; only its tensors are compared");
        return Ok(());
    };
    let changes = old.diff(cfg);
    let show = |c: &crate::config::Change| format!("  {}: {} -> {}", c.key, c.old, c.new);
    let fixed: Vec<String> = changes.iter().filter(|c| c.architecture).map(show).collect();
    if !fixed.is_empty() {
        let message = format!("it was trained with another architecture:\n{}", fixed.join("\n"));
        return Err(Error::checkpoint(checkpoint, message)
            .with_hint("undo these changes, or start a new run (Model.load_checkpoint takes fitting weights)"));
    }
    let other: Vec<String> = changes.iter().filter(|c| c.key != "Training.resume").map(show).collect();
    if !other.is_empty() {
        messages.warn(&format!("keys changed since the checkpoint, now in effect:\n{}", other.join("\n")));
    }
    Ok(())
}

/// What a run needs, in bytes.
struct Need {
    weights: usize,
    optimiser: usize,
    arena: usize,
}

impl Need {
    fn of(session: &Session, cfg: &Config, dataset: &Dataset) -> Result<Need> {
        let (weights, optimiser) = state_bytes(session, cfg);
        let arena = compile_all(session, cfg, dataset)?.iter().map(|p| 4 * p.arena_len).max().unwrap_or(0);
        Ok(Need { weights, optimiser, arena })
    }

    fn total(&self) -> usize {
        self.weights + self.optimiser + self.arena
    }
}

/// The validation batch that fits: the config's, halved as often as needed. A training batch that cannot fit is
/// refused, naming the largest that can.
fn fit_memory(session: &Session, cfg: &Config, dataset: &Dataset, messages: &Messages) -> Result<usize> {
    let available = available_memory().unwrap_or(usize::MAX);
    let need = Need::of(session, cfg, dataset)?;
    if need.total() <= available {
        return Ok(cfg.data.val_batch_size);
    }
    let mut smaller = cfg.clone();
    while smaller.data.val_batch_size > 1 {
        smaller.data.val_batch_size /= 2;
        if Need::of(session, &smaller, dataset)?.total() <= available {
            let batch = smaller.data.val_batch_size;
            messages.warn(&format!("validation runs with batches of {batch}: more do not fit into memory"));
            return Ok(batch);
        }
    }
    let mib = |bytes: usize| bytes >> 20;
    let message = format!(
        "the run needs {} MiB (weights {}, optimiser {}, activations and workspace {}), {} MiB are available",
        mib(need.total()),
        mib(need.weights),
        mib(need.optimiser),
        mib(need.arena),
        mib(available)
    );
    while smaller.data.train_batch_size > 1 {
        smaller.data.train_batch_size /= 2;
        if Need::of(session, &smaller, dataset)?.total() <= available {
            let hint = format!("a training batch of {} fits", smaller.data.train_batch_size);
            return Err(Error::config("Data.train_batch_size", message).with_hint(hint));
        }
    }
    Err(Error::config("Data.hr_size", message).with_hint("even a batch of 1 does not fit: use smaller patches"))
}

/// Bytes that new memory can be had for without swapping; `None` where the system does not say.
fn available_memory() -> Option<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib * 1024)
}
