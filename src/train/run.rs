//! From a config to a finished run: opens data, device and folder, continues or starts, trains, reports.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::batch::Job;
use super::begin::{Begin, begin_together, new_folder};
use super::caller::Caller;
use super::facts::{facts_of, keep_facts, keep_picture, write_page};
use super::imagery::check_imagery;
use super::memory::fit_memory;
use super::open::{DeviceOptions, open_device_with};
use super::perceptual::PerceptualWeights;
use super::plans::train_shape;
use super::ranks::{check_alike, ranks_notes};
use super::run_dir::RunDir;
use super::session::{Restored, Session};
use super::signals::{StopSignal, TimeLimit, wants_requeue};
use super::step::logged_metrics;
use super::summary::{check_patch, steps_per_epoch};
use super::table::compare_with_bicubic;
use super::trainer::{Ended, RunParts, Trainer};
use super::wandb::{self, Upload};
use super::{algorithms, data_settings, saving};
use crate::checkpoint::{LAST, LoggedRow, Meta, TensorFile};
use crate::config::{Config, Resume};
use crate::data::Dataset;
use crate::device::collective::Ranks;
use crate::files::write_atomic;
use crate::log::{Messages, MetricsLog, RunFacts, RunLogFile, Scalar};
use crate::metrics::Metric;
use crate::nn::Network;
use crate::runtime::Device;
use crate::{Error, Result};

pub(super) const NOTHING_TO_CONTINUE: &str = "there is no run to continue: a new one begins";

/// What the command line, or the calling program, adds to a config.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Continue a run; overrides `Training.resume`.
    pub resume: Option<Resume>,
    /// The run's folder instead of `Logging.output_dir` or a new one under `Logging.dir`.
    pub run_dir: Option<PathBuf>,
    /// Continue on other imagery than the run's.
    pub accept_new_data: bool,
    /// Wait after each kernel, so that an error names the kernel that caused it.
    pub sync_kernels: bool,
    /// The ranks that this process is one of.
    pub ranks: Ranks,
    /// What has started them.
    pub launcher: Option<&'static str>,
    /// The batch job that the run is part of.
    pub job: Option<Job>,
    /// Queue the job again when its time is over.
    pub requeue: bool,
    /// Where the weights of perceptual networks are, if the config does not say ([`torch_hub`](super::torch_hub)).
    pub torch_hub: Option<PathBuf>,
    /// The program that trains by a call of this library; `None` for this project's own programs.
    pub caller: Option<Caller>,
}

impl RunOptions {
    /// What the job's runs are called.
    pub(super) fn job_name(&self) -> Option<String> {
        self.job.as_ref().and_then(Job::name)
    }
}

/// A run that has come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedRun {
    /// Its folder.
    pub folder: PathBuf,
    /// Steps, those before it was continued included.
    pub steps: u64,
}

/// Trains `cfg` to its end and prints where the run's files are. `program` is a binary of this project, which checks
/// GPUs.
///
/// # Errors
/// Wrong config, data or checkpoint (exit code 2), divergence (3), a signal after the state was saved (75), I/O.
pub fn run(cfg: &Config, warnings: &[String], options: &RunOptions, program: Option<PathBuf>) -> Result<FinishedRun> {
    let ranks = &options.ranks;
    let messages = match &options.caller {
        Some(caller) => caller.messages.clone(),
        // The first rank speaks for all.
        None if ranks.is_first() => Messages::stderr(),
        None => Messages::plain(std::io::sink()),
    };
    warnings.iter().for_each(|w| messages.warn(w));
    let sync_kernels = options.sync_kernels;
    let device = DeviceOptions { sync_kernels, messages: Some(messages.clone()), program, ranks: ranks.clone() };
    run_on(|| open_device_with(cfg, &device), cfg, options, &messages)
}

/// Trains as [`run`] does, on the device that `open` opens; messages go to `messages`.
///
/// # Errors
/// Fails as [`run`] does, or if `open` fails.
pub fn run_on(
    open: impl FnOnce() -> Result<Box<dyn Device>>,
    cfg: &Config,
    options: &RunOptions,
    messages: &Messages,
) -> Result<FinishedRun> {
    let run_dir = options.run_dir.clone().or_else(|| cfg.logging.output_dir.clone());
    let result = train(open, cfg, &RunOptions { run_dir, ..options.clone() }, messages);
    if let Err(e) = &result {
        messages.keep_error(&e.to_string());
    }
    result
}

fn train(
    open: impl FnOnce() -> Result<Box<dyn Device>>,
    cfg: &Config,
    options: &RunOptions,
    messages: &Messages,
) -> Result<FinishedRun> {
    // Before the first file is opened: no signal ends the preparations without a saved state.
    let stop = stop_signal(cfg, options)?;
    wandb::check(cfg)?;
    let perceptual = PerceptualWeights::open(cfg, options.torch_hub.as_deref())?;
    let ranks = &options.ranks;
    let begin = begin_together(cfg, options)?;
    let asked = options.resume.as_ref().unwrap_or(&cfg.training.resume);
    if matches!((&begin, asked), (Begin::New, Resume::Auto)) {
        messages.info(NOTHING_TO_CONTINUE);
    }
    // A folder is locked before its checkpoint is read: an earlier job may still be writing it.
    let locked = match &begin {
        Begin::Continue { folder, .. } if !ranks.is_first() => Some(RunDir::of_first_rank(folder.clone())),
        Begin::Continue { folder, .. } if folder.exists() => Some(RunDir::reopen(folder)?),
        Begin::Continue { folder, .. } => Some(RunDir::create_at(folder)?),
        Begin::New => None,
    };
    let mut session = Session::new(cfg.clone(), open()?)?;
    session.precision_note().into_iter().for_each(|note| messages.warn(&note));
    if let Some(weights) = perceptual {
        messages.info(&format!("weights of the perceptual loss: {}", weights.path().display()));
        weights.load(&mut session)?;
    }
    let mut meta = load(&mut session, &begin, messages)?;
    let proceed = || stop.received().map_or(Ok(()), |by| Err(Error::StoppedEarly { by }));
    // The first rank unpacks what is not in the patch store yet.
    if !ranks.is_first() {
        ranks.wait()?;
    }
    let dataset = Dataset::open_while(&data_settings(cfg), &proceed)?;
    if ranks.is_first() {
        ranks.wait()?;
    }
    check_alike(cfg, &dataset, ranks)?;
    if let Begin::Continue { checkpoint, .. } = &begin {
        check_imagery(&mut meta, &dataset, (checkpoint, options.accept_new_data), messages)?;
    }
    dataset.notes().iter().for_each(|n| messages.info(n));
    dataset.warnings().iter().for_each(|w| messages.warn(w));
    check_patch(cfg, &dataset)?;
    let steps_per_epoch = steps_per_epoch(cfg, &dataset, ranks.count())?;
    let plans = fit_memory(&mut session, &dataset, messages)?;
    let folder = match (locked, ranks.is_first()) {
        (Some(folder), _) => folder,
        (None, true) => new_folder(cfg, options)?,
        (None, false) => RunDir::of_first_rank(ranks.first_text("")?.into()),
    };
    if let Some(name) = options.job_name().filter(|_| ranks.is_first()) {
        folder.note_job(&name)?;
    }
    let (log, upload) = match ranks.is_first() {
        true => open_logs(&session, (&folder, &meta), options, messages)?,
        false => (MetricsLog::discarding(), None),
    };
    algorithms::decide(&mut session, &plans.run, &folder)?;
    let patches = dataset.train_len();
    let data = format!("{patches} training patches · {steps_per_epoch} steps per epoch");
    messages.info(&format!("data {data}"));
    let data = [data].into_iter().chain(dataset.notes().iter().cloned()).collect();
    keep_facts(&folder, messages, |facts| {
        let started = std::mem::take(&mut facts.started);
        *facts = RunFacts { data, ..facts_of(&session) };
        if !started.is_empty() {
            facts.started = started;
        }
    });

    let shape = train_shape(cfg, &dataset);
    let (compares, validation) = (plans.compares && ranks.is_first(), plans.validation);
    let on_step = options.caller.as_ref().map(|caller| caller.on_step.clone());
    let parts = RunParts { folder, log, messages: messages.clone(), stop: stop.clone(), on_step, validation };
    let mut trainer = Trainer::new(session, dataset, parts, meta);
    let ended = trainer.train(shape, steps_per_epoch);
    let finished = ended.and_then(|ended| {
        let steps = trainer.steps();
        Ok((ended, steps, trainer.finish()?))
    });
    upload.into_iter().for_each(|upload| upload.finish(finished.is_ok(), messages));
    let (ended, steps, parts) = finished?;
    let folder = parts.2.path().to_owned();
    end(ended, parts, (compares, &stop, options), messages)?;
    Ok(FinishedRun { folder, steps })
}

/// Says how a run ended, and after training the table against bicubic upsampling if it `compares`.
///
/// # Errors
/// [`Error::Stopped`] after a signal.
fn end(
    ended: Ended,
    (mut session, dataset, folder): (Session, Dataset, RunDir),
    (compares, stop, options): (bool, &StopSignal, &RunOptions),
    messages: &Messages,
) -> Result<()> {
    let path = folder.path().display();
    let why = match ended {
        Ended::Finished(why) => why,
        Ended::Signal(name) => {
            keep_facts(&folder, messages, |facts| facts.ended = format!("stopped by {name}"));
            write_page(&folder, messages);
            messages.info(&format!("{name}; continue with --resume {path}"));
            if folder.is_written_here() && options.requeue && wants_requeue(name) {
                requeue(options.job.as_ref(), messages);
            }
            return Err(Error::Stopped { by: name, checkpoint: folder.join(LAST) });
        }
    };
    messages.info(&why);
    keep_facts(&folder, messages, |facts| facts.ended.clone_from(&why));
    let table = if compares { compare_with_bicubic(&mut session, &dataset, stop) } else { Ok(None) };
    match table {
        Ok(Some(comparison)) => {
            messages.info(&format!("\n{}\n", comparison.table));
            keep_picture(comparison.picture, &folder, messages);
            keep_facts(&folder, messages, |facts| facts.comparison = comparison.table);
        }
        Ok(None) => {}
        // Training has ended well, and its state is saved.
        Err(e) => messages.warn(&format!("no comparison with bicubic upsampling: {e}")),
    }
    write_page(&folder, messages);
    messages.info(&format!("files of the run: {path}"));
    Ok(())
}

/// Queues a job again. A run ends as it would without.
fn requeue(job: Option<&Job>, messages: &Messages) {
    match job.map(Job::requeue) {
        Some(Ok(done)) => messages.info(&done),
        Some(Err(e)) => messages.warn(&format!("the job is not queued again: {e}")),
        None => messages.warn("no job is queued again: SLURM_JOB_ID is not set"),
    }
}

/// What asks a run to stop: signals, `Training.max_time`, the end of its job.
fn stop_signal(cfg: &Config, options: &RunOptions) -> Result<StopSignal> {
    let mut stop = match &options.caller {
        Some(caller) => StopSignal::of_caller(caller.wants_stop.clone()),
        None => StopSignal::install()?,
    };
    if let Some(time) = cfg.training.max_time {
        stop = stop.within(TimeLimit::Config, Duration::from_secs(time.seconds()));
    }
    if let Some(time) = options.job.as_ref().and_then(|job| job.time_to_train(SystemTime::now())) {
        stop = stop.within(TimeLimit::Job, time);
    }
    Ok(stop)
}

/// Opens what a run writes beside checkpoints, and says what is run.
fn open_logs(
    session: &Session,
    (folder, meta): (&RunDir, &Meta),
    options: &RunOptions,
    messages: &Messages,
) -> Result<(MetricsLog, Option<Upload>)> {
    let cfg = session.config();
    messages.set_log(RunLogFile::open(&folder.join("train.log"))?);
    if !folder.is_locked() {
        messages.warn("this file system has no locks: make sure that no other run uses the folder");
    }
    let yaml = cfg.to_yaml();
    write_atomic(&folder.join("config.yaml"), |out| out.write_all(yaml.as_bytes()))?;
    let [g, d] = Network::ALL.map(|network| session.programs().layout(network).param_count());
    messages.info(&format!("run folder {}", folder.path().display()));
    let (device, precision) = (session.device().describe(), session.precision());
    messages.info(&format!("device {device}, {precision}"));
    options.job.iter().for_each(|job| messages.info(&job.to_string()));
    ranks_notes(session, options.launcher).iter().for_each(|note| messages.info(note));
    messages.info(&format!("generator {g} parameters · discriminator {d} parameters"));
    let metrics: Vec<&str> = logged_metrics(cfg).into_iter().map(Metric::name).collect();
    // What a failing disk may not have taken is written again. Of the first of these steps there may be a row with other
    // values, which it has taken.
    let from = meta.unlogged.iter().map(|row| row.step + 1).min().unwrap_or(meta.step).min(meta.step);
    let (wandb, upload) = wandb::open(cfg, folder.path(), from, messages)?.unzip();
    let mut log = MetricsLog::open(folder.path(), &metrics, from, wandb, messages)?;
    for LoggedRow { step, epoch, values } in &meta.unlogged {
        let known = values.iter().filter(|(name, _)| metrics.contains(&name.as_str()));
        let values: Vec<_> =
            known.filter_map(|(name, v)| Some((name.as_str(), Scalar::F64(v.parse().ok()?)))).collect();
        log.row(*step, *epoch, &values)?;
    }
    Ok((log, upload.flatten()))
}

/// Takes the state of a checkpoint, or the weights alone, or nothing.
fn load(session: &mut Session, begin: &Begin, messages: &Messages) -> Result<Meta> {
    let cfg = session.config().clone();
    if let Begin::Continue { checkpoint, .. } = begin {
        let (_, meta) = TensorFile::open_checkpoint(checkpoint)?;
        report_changes(&cfg, &meta, checkpoint, messages)?;
        let meta = saving::load(session, checkpoint)?;
        let ranks = session.ranks().count() as u64;
        if meta.ranks.max(1) != ranks {
            messages.warn(&format!(
                "the run had {} ranks and goes on with {ranks}: it takes the same samples, in other batches",
                meta.ranks.max(1)
            ));
        }
        algorithms::reuse(session, &meta, messages);
        messages.info(&format!("continuing at step {} from {}", meta.step, checkpoint.display()));
        let newer = TensorFile::open_checkpoint(&checkpoint.with_file_name(LAST)).map(|(_, last)| last.step);
        if newer.as_ref().is_ok_and(|last| *last > meta.step) {
            messages
                .warn(&format!("the run had got to step {}; what came after step {} is done again", newer?, meta.step));
        }
        return Ok(meta);
    }
    initial_weights(session)?.into_iter().for_each(|note| messages.info(&note));
    Ok(Meta::default())
}

/// Takes the weights that `Model.load_checkpoint` names, of a file or of the last checkpoint in a folder; what was taken.
pub(super) fn initial_weights(session: &mut Session) -> Result<Vec<String>> {
    let Some(path) = session.config().model.load_checkpoint.clone() else { return Ok(Vec::new()) };
    let path = if path.is_dir() { path.join(LAST) } else { path };
    let mut file = TensorFile::open(&path)?;
    let strict = session.config().model.load_strict;
    let Restored { networks, notes: told } = session.restore_weights(&mut file, &path, strict)?;
    let mut notes = vec![format!("initial weights of {} from {}", networks.join(" and "), path.display())];
    notes.extend(told);
    if !networks.iter().any(|network| network == Network::Discriminator.name()) {
        notes.push("the discriminator starts anew: the file has none that fits this configuration".to_owned());
    }
    Ok(notes)
}

/// Architecture keys must match; other changed keys are listed and used.
pub(super) fn report_changes(cfg: &Config, meta: &Meta, checkpoint: &Path, messages: &Messages) -> Result<()> {
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
