//! The loop: epochs of steps, with validation, schedules, checkpoints, early stopping and signals in between. What needs
//! the state after a certain step settles the step that is still on the device first.

mod saves;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caller::OnStep;
use super::imagery::imagery;
use super::plans::ValBatch;
use super::programs::{BatchShape, Phase};
use super::ranks::{self, samples_per_step};
use super::run_dir::RunDir;
use super::schedule;
use super::session::Session;
use super::signals::StopSignal;
use super::validate::{Validating, Validation};
use crate::checkpoint::{BestK, FORMAT, MeanState, Meta};
use crate::config::{Config, ValInterval};
use crate::data::{Batch, Dataset, Loader};
use crate::device::collective::Ranks;
use crate::log::{Messages, MetricsLog, Progress, Scalar};
use crate::metrics::Metric;
use crate::nn::Network;
use crate::{Error, Result};
use steps::Queued;

/// Best checkpoints that are kept.
const KEEP_BEST: usize = 2;

/// How training ended.
pub enum Ended {
    /// By itself; the sentence says why.
    Finished(String),
    /// By a signal, with the state saved.
    Signal(&'static str),
}

/// Where a run writes, what may stop it, and how it validates.
pub struct RunParts {
    /// The run's folder.
    pub folder: RunDir,
    /// Its metrics.
    pub log: MetricsLog,
    /// What is printed.
    pub messages: Messages,
    /// Signals.
    pub stop: StopSignal,
    /// The calling program, told of each step.
    pub on_step: Option<OnStep>,
    /// The batches of each validation.
    pub validation: Arc<[ValBatch]>,
}

/// A run in progress.
pub struct Trainer {
    cfg: Arc<Config>,
    session: Session,
    ranks: Ranks,
    dataset: Dataset,
    folder: RunDir,
    log: MetricsLog,
    messages: Messages,
    stop: StopSignal,
    on_step: Option<OnStep>,
    validation: Arc<[ValBatch]>,
    progress: Progress,
    /// Position and schedules after the steps that were started.
    meta: Meta,
    /// The step on the device whose report has not been handled.
    queued: Option<Queued>,
    /// Mean of the content loss in this epoch.
    content: MeanState,
    best: BestK,
    saved: Instant,
}

impl Trainer {
    /// A run that goes on at `meta`.
    pub fn new(session: Session, dataset: Dataset, parts: RunParts, mut meta: Meta) -> Self {
        let RunParts { folder, log, messages, stop, on_step, validation } = parts;
        let cfg = session.config().clone();
        (meta.format, meta.has_checksums) = (FORMAT, true);
        env!("CARGO_PKG_VERSION").clone_into(&mut meta.version);
        meta.config = cfg.to_yaml();
        // A changed batch goes on at the same place in the data, and a new attempt has its full patience.
        let ranks = session.ranks();
        let samples_per_step = samples_per_step(&cfg, &ranks);
        meta.batch_in_epoch = meta.data_position / samples_per_step;
        meta.ranks = ranks.count() as u64;
        meta.counters.skipped_in_a_row = 0;
        meta.seed = cfg.training.seed;
        meta.normalisation = cfg.data.method().name().to_owned();
        meta.bands = match &cfg.data.bands {
            Some(bands) => bands.iter().map(usize::to_string).collect(),
            None => (0..cfg.model.in_bands).map(|b| b.to_string()).collect(),
        };
        meta.imagery = Some(imagery(&dataset));
        let best = BestK::new(schedule::direction(cfg.schedulers.metric_g), KEEP_BEST, meta.best.clone());
        let progress = Progress::new(messages.clone());
        let saved = Instant::now();
        let (queued, content) = (None, MeanState::default());
        Trainer {
            cfg,
            session,
            ranks,
            dataset,
            folder,
            log,
            messages,
            stop,
            on_step,
            validation,
            progress,
            meta,
            queued,
            content,
            best,
            saved,
        }
    }

    /// Trains until the config, early stopping, a signal or an error ends the run. The state is saved at the end.
    ///
    /// # Errors
    /// [`Error::Diverged`], errors of the data, the device and of writing.
    pub fn train(&mut self, shape: BatchShape, steps_per_epoch: u64) -> Result<Ended> {
        let ended = self.train_on(shape, steps_per_epoch);
        match &ended {
            Ok(_) => self.save_last()?,
            // Divergence has saved the weights of the last good step.
            Err(Error::Diverged { .. }) => {}
            Err(_) => self.save_after_error(),
        }
        ended
    }

    fn train_on(&mut self, shape: BatchShape, steps_per_epoch: u64) -> Result<Ended> {
        if self.is_due(steps_per_epoch) && self.meta.last_validation != Some(self.meta.step) && self.meta.step > 0 {
            // The run was stopped between a step and its validation.
            if let Some(ended) = self.validation_round()? {
                return Ok(ended);
            }
        }
        loop {
            if let Some(why) = self.finished() {
                return Ok(Ended::Finished(why));
            }
            if let Some(ended) = self.epoch(shape, steps_per_epoch)? {
                return Ok(ended);
            }
            self.meta.epoch += 1;
            self.meta.batch_in_epoch = 0;
            self.meta.data_position = 0;
        }
    }

    /// Steps that were done.
    pub fn steps(&self) -> u64 {
        self.meta.step
    }

    /// Gives back what outlives the run.
    ///
    /// # Errors
    /// If the metrics could not be written.
    pub fn finish(self) -> Result<(Session, Dataset, RunDir)> {
        self.log.finish()?;
        Ok((self.session, self.dataset, self.folder))
    }

    fn finished(&self) -> Option<String> {
        let t = &self.cfg.training;
        if t.max_steps.is_some_and(|max| self.meta.step >= max) {
            return Some(format!("finished: {} steps", self.meta.step));
        }
        if t.max_epochs >= 0 && self.meta.epoch >= t.max_epochs as u64 {
            return Some(format!("finished: {} epochs", self.meta.epoch));
        }
        let bad = self.meta.early_stopping.bad;
        let metric = self.cfg.schedulers.metric_g.name();
        (bad >= t.early_stopping_patience)
            .then(|| format!("stopped early: {bad} validations without a better {metric}"))
    }

    /// Steps of the run, if its end is known.
    fn total_steps(&self, steps_per_epoch: u64) -> Option<u64> {
        let training = &self.cfg.training;
        let epochs = u64::try_from(training.max_epochs).ok().map(|n| n.saturating_mul(steps_per_epoch));
        [epochs, training.max_steps].into_iter().flatten().min()
    }

    /// The rest of the current epoch.
    fn epoch(&mut self, shape: BatchShape, steps_per_epoch: u64) -> Result<Option<Ended>> {
        // A step is as many loaded batches as gradients are accumulated over.
        let parts = self.cfg.training.accumulate_grad_batches;
        let first = self.meta.batch_in_epoch as usize * parts;
        let share = ranks::share(&self.ranks);
        let mut loader = Loader::start(&self.dataset, self.meta.epoch, first, share)?;
        let total = self.total_steps(steps_per_epoch);
        self.progress.start_epoch(self.meta.epoch, (steps_per_epoch, self.meta.batch_in_epoch), total);
        self.content = MeanState::default();
        let mut waited = Duration::ZERO;
        let ended = loop {
            let start = Instant::now();
            let mut batches = loader.by_ref().take(parts).collect::<Result<Vec<Batch>>>()?;
            if batches.len() < parts {
                break None;
            }
            let before = std::mem::replace(&mut waited, loader.waited());
            self.step(shape, &mut batches, (start, waited - before))?;
            batches.into_iter().for_each(|b| loader.recycle(b));
            if let Some(ended) = self.between_steps(steps_per_epoch)? {
                break Some(ended);
            }
        };
        self.settle()?;
        self.progress.end_epoch((self.content.sum / self.content.count.max(1) as f64) as f32);
        Ok(ended)
    }

    /// Validation, checkpoints and the end of the run, after a step.
    fn between_steps(&mut self, steps_per_epoch: u64) -> Result<Option<Ended>> {
        let (signal, saves) = self.agreed()?;
        if let Some(name) = signal {
            return Ok(Some(Ended::Signal(name)));
        }
        if self.is_due(steps_per_epoch)
            && let Some(ended) = self.validation_round()?
        {
            return Ok(Some(ended));
        }
        if saves {
            self.settle()?;
            self.save_last()?;
        }
        Ok(self.finished().map(Ended::Finished))
    }

    /// What all ranks do after this step: stop on a signal that one of them was sent, save when the first finds it time.
    fn agreed(&self) -> Result<(Option<&'static str>, bool)> {
        let saves = self.ranks.is_first() && self.is_checkpoint_due();
        let mut flags = [self.stop.number(), u64::from(saves)];
        self.ranks.max(&mut flags)?;
        Ok((StopSignal::name(flags[0]), flags[1] > 0))
    }

    fn is_checkpoint_due(&self) -> bool {
        self.saved.elapsed().as_secs_f64() >= 60.0 * self.cfg.training.checkpoint_minutes
    }

    /// Whether a validation belongs after the steps done so far.
    fn is_due(&self, steps_per_epoch: u64) -> bool {
        match self.cfg.training.val_check_interval {
            ValInterval::Steps(n) => self.meta.step.is_multiple_of(n),
            ValInterval::Fraction(f) => {
                let every = ((f * steps_per_epoch as f64).floor() as u64).max(1);
                self.meta.batch_in_epoch > 0 && self.meta.batch_in_epoch.is_multiple_of(every)
            }
        }
    }

    /// Validates, moves the schedules, keeps the best checkpoints and saves the state. One that fails, by a file that cannot
    /// be written, counts as not begun: a run that continues does it again, with all its files.
    fn validation_round(&mut self) -> Result<Option<Ended>> {
        self.settle()?;
        if self.validation.is_empty() {
            return Ok(None);
        }
        if self.meta.last_validation.is_none() {
            // A run has a last checkpoint before it has a best one.
            self.save_last()?;
        }
        let before = self.meta.clone();
        let done = self.validate_and_save();
        if done.is_err() {
            self.meta = before;
        }
        done
    }

    fn validate_and_save(&mut self) -> Result<Option<Ended>> {
        // The step that was just done decides the phase.
        let phase = schedule::phase(&self.cfg.training, self.meta.step - 1);
        let mut validating = Validating::new(&self.session, &self.dataset, self.validation.clone(), phase)?;
        if let Some(state) = self.meta.validation.take().filter(|state| state.step == self.meta.step) {
            validating.resume(&state);
        }
        loop {
            let (signal, saves) = self.agreed()?;
            if let Some(name) = signal {
                self.meta.validation = Some(validating.state(self.meta.step));
                return Ok(Some(Ended::Signal(name)));
            }
            if !validating.step(&mut self.session)? {
                break;
            }
            if saves {
                self.meta.validation = Some(validating.state(self.meta.step));
                self.save_last()?;
            }
        }
        self.meta.validation = None;
        let validation = validating.finish();
        let row: Vec<(&str, Scalar)> = validation.values.iter().map(|(m, v)| (m.name(), Scalar::F64(*v))).collect();
        let at = self.meta.step - 1;
        self.log.row(at, self.meta.epoch, &row)?;
        self.meta.last_validation = Some(self.meta.step);
        let monitored = self.monitored(self.cfg.schedulers.metric_g, phase, &validation);
        let is_best = self.move_schedules(monitored, phase, &validation);
        self.progress.validation(at, &validation.values, is_best);
        if !validation.panels.rows().is_empty() {
            self.log.panels(at, validation.panels)?;
        }
        self.log.page()?;
        self.meta.means = BTreeMap::new();
        self.save_best(monitored)?;
        self.save_last()?;
        Ok(None)
    }

    /// A metric at this validation; NaN if it was not measured since the last one.
    fn monitored(&self, metric: Metric, phase: Phase, validation: &Validation) -> f64 {
        if !metric.is_measured(phase == Phase::Adversarial) {
            return f64::NAN;
        }
        let of_training = || self.meta.means.get(metric.name()).filter(|m| m.count > 0).map(|m| m.sum / m.count as f64);
        validation.get(metric).or_else(of_training).unwrap_or(f64::NAN)
    }

    /// Plateau schedulers and early stopping; true if the generator's metric improved.
    fn move_schedules(&mut self, metric_g: f64, phase: Phase, validation: &Validation) -> bool {
        let cfg = self.cfg.clone();
        let (s, o) = (&cfg.schedulers, &cfg.optimizers);
        let before = (self.meta.plateau_g.factor, self.meta.plateau_d.factor);
        schedule::plateau_step(&mut self.meta.plateau_g, s, Network::Generator, o.optim_g_lr, metric_g);
        if phase == Phase::Adversarial {
            let metric_d = self.monitored(s.metric_d, phase, validation);
            schedule::plateau_step(&mut self.meta.plateau_d, s, Network::Discriminator, o.optim_d_lr, metric_d);
        }
        for (network, before, after, base) in [
            (Network::Generator, before.0, self.meta.plateau_g.factor, o.optim_g_lr),
            (Network::Discriminator, before.1, self.meta.plateau_d.factor, o.optim_d_lr),
        ] {
            if after != before {
                let rate = base * after;
                let name = network.name();
                self.messages.info(&format!("plateau: the {name}'s learning rate falls to {rate:.3e}"));
            }
        }
        schedule::early_stopping_step(&mut self.meta.early_stopping, schedule::direction(s.metric_g), metric_g)
    }
}
