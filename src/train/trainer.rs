//! The loop: epochs of steps, with validation, schedules, checkpoints, early stopping and signals in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::names;
use super::programs::BatchShape;
use super::saving;
use super::session::Session;
use super::signals::StopSignal;
use super::step::{RawBatch, StepNumbers, StepReport, run_step};
use super::validate::{DISC, Validation, batch_limit, validate};
use crate::checkpoint::{BestK, Counters, FORMAT, LAST, MeanState, Meta, Mode};
use crate::config::{Config, ValInterval};
use crate::data::{Batch, Dataset, Loader};
use crate::log::{Messages, MetricsLog, Progress, RunDir, Scalar, StepInfo};
use crate::optim::schedule;
use crate::{Error, Result};

/// Non-finite steps in a row after which a run has diverged.
const MAX_SKIPPED: u64 = 10;
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
    /// Images per validation batch.
    pub val_batch: usize,
}

/// A run in progress.
pub struct Trainer<'a> {
    cfg: &'a Config,
    session: Session<'a>,
    dataset: Dataset,
    folder: RunDir,
    log: MetricsLog,
    messages: Messages,
    stop: StopSignal,
    val_batch: usize,
    progress: Progress,
    meta: Meta,
    best: BestK,
    saved: Instant,
}

impl<'a> Trainer<'a> {
    /// A run that goes on at `meta`.
    pub fn new(cfg: &'a Config, session: Session<'a>, dataset: Dataset, parts: RunParts, mut meta: Meta) -> Self {
        let RunParts { folder, log, messages, stop, val_batch } = parts;
        meta.format = FORMAT;
        env!("CARGO_PKG_VERSION").clone_into(&mut meta.version);
        meta.config = cfg.to_yaml();
        // A changed batch goes on at the same place in the data, and a new attempt has its full patience.
        let samples_per_step = (cfg.training.accumulate_grad_batches * cfg.data.train_batch_size) as u64;
        meta.batch_in_epoch = meta.data_position / samples_per_step;
        meta.counters.skipped_in_a_row = 0;
        meta.seed = cfg.training.seed;
        meta.normalisation = cfg.data.normalization.name().to_owned();
        meta.bands = match &cfg.data.bands {
            Some(bands) => bands.iter().map(usize::to_string).collect(),
            None => (0..cfg.model.in_bands).map(|b| b.to_string()).collect(),
        };
        let best = BestK::new(Mode::of(&cfg.schedulers.metric_g), KEEP_BEST, meta.best.clone());
        let progress = Progress::new(messages.clone());
        let saved = Instant::now();
        Trainer { cfg, session, dataset, folder, log, messages, stop, val_batch, progress, meta, best, saved }
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
            Err(_) => {
                if let Err(e) = self.save_last() {
                    self.messages.warn(&format!("the state could not be saved: {e}"));
                }
            }
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

    /// Gives back what outlives the run.
    ///
    /// # Errors
    /// If the metrics could not be written.
    pub fn finish(self) -> Result<(Session<'a>, Dataset, RunDir)> {
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
        let metric = &self.cfg.schedulers.metric_g;
        (bad >= t.early_stopping_patience)
            .then(|| format!("stopped early: {bad} validations without a better {metric}"))
    }

    /// The rest of the current epoch.
    fn epoch(&mut self, shape: BatchShape, steps_per_epoch: u64) -> Result<Option<Ended>> {
        // A step is as many loaded batches as gradients are accumulated over.
        let parts = self.cfg.training.accumulate_grad_batches;
        let first = self.meta.batch_in_epoch as usize * parts;
        let mut loader = Loader::start(&self.dataset, self.meta.epoch, first)?;
        self.progress.start_epoch(self.meta.epoch, steps_per_epoch, self.meta.batch_in_epoch);
        let mut content = MeanState::default();
        let mut waited = Duration::ZERO;
        let ended = loop {
            let start = Instant::now();
            let batches = loader.by_ref().take(parts).collect::<Result<Vec<Batch>>>()?;
            if batches.len() < parts {
                break None;
            }
            let report = self.step(shape, &batches)?;
            let now_waited = loader.waited();
            self.show(&report, parts * shape.batch, start.elapsed(), now_waited - waited);
            waited = now_waited;
            if report.committed {
                content.sum += report.get(names::CONTENT);
                content.count += 1;
            }
            batches.into_iter().for_each(|b| loader.recycle(b));
            if let Some(ended) = self.between_steps(steps_per_epoch)? {
                break Some(ended);
            }
        };
        self.progress.end_epoch((content.sum / content.count.max(1) as f64) as f32);
        Ok(ended)
    }

    /// One step with its log row and the handling of non-finite numbers.
    fn step(&mut self, shape: BatchShape, batches: &[Batch]) -> Result<StepReport> {
        let step = self.meta.step;
        let numbers = StepNumbers::at(self.cfg, step, &self.meta.plateau_g, &self.meta.plateau_d);
        let raw: Vec<RawBatch> = batches.iter().map(RawBatch::from).collect();
        let report = run_step(&mut self.session, self.cfg, shape, &raw, (step, numbers))?;
        if step.is_multiple_of(self.cfg.logging.log_every_n_steps) {
            let row: Vec<(&str, Scalar)> = report.values.iter().map(|(n, v)| (*n, Scalar::F32(*v as f32))).collect();
            self.log.row(step, self.meta.epoch, &row)?;
        }
        self.meta.step += 1;
        self.meta.batch_in_epoch += 1;
        let samples_per_step = (batches.len() * self.cfg.data.train_batch_size) as u64;
        self.meta.data_position = self.meta.batch_in_epoch * samples_per_step;
        if report.committed {
            self.meta.counters.skipped_in_a_row = 0;
            self.add_to_means(&report);
        } else {
            self.skipped(step, batches)?;
        }
        Ok(report)
    }

    fn skipped(&mut self, step: u64, batches: &[Batch]) -> Result<()> {
        let counters = &mut self.meta.counters;
        counters.skipped += 1;
        counters.skipped_in_a_row += 1;
        let in_a_row = counters.skipped_in_a_row;
        let samples = batches.iter().flat_map(|b| b.samples.iter().take(b.n));
        let samples: Vec<String> = samples.map(|s| format!("  {s}")).collect();
        self.messages.warn(&format!(
            "step {step}: a loss or gradient is not finite; weights stay as they were. The batch:\n{}",
            samples.join("\n")
        ));
        if in_a_row < MAX_SKIPPED {
            return Ok(());
        }
        // The weights are still those of the last good step.
        self.save_last()?;
        let message = format!(
            "{in_a_row} steps in a row gave non-finite numbers, the last was step {step}; the weights of the last \
             good step are in {}",
            self.folder.join(LAST).display()
        );
        Err(Error::Diverged { message })
    }

    /// Means since the last validation of the monitored metrics that are measured in training.
    fn add_to_means(&mut self, report: &StepReport) {
        let s = &self.cfg.schedulers;
        for name in [&s.metric_g, &s.metric_d] {
            // Pretraining logs zeros for what it does not compute; they are not measurements.
            if report.pretraining && (name.contains("discriminator/") || *name == *names::GENERATOR_ADVERSARIAL) {
                continue;
            }
            if let Some((_, v)) = report.values.iter().find(|(n, _)| n == name) {
                let mean = self.meta.means.entry(name.clone()).or_default();
                mean.sum += v;
                mean.count += 1;
                if s.metric_g == s.metric_d {
                    break;
                }
            }
        }
    }

    fn show(&mut self, report: &StepReport, patches: usize, elapsed: Duration, waited: Duration) {
        let of_d = |name| (!report.pretraining).then(|| report.get(name) as f32);
        self.progress.step(&StepInfo {
            step: self.meta.step - 1,
            phase: if report.pretraining { "pretrain" } else { "adversarial" },
            content_loss: report.get(names::CONTENT) as f32,
            d_real: of_d(names::D_REAL),
            d_fake: of_d(names::D_FAKE),
            patches,
            elapsed,
            waited,
        });
    }

    /// Validation, checkpoints and the end of the run, after a step.
    fn between_steps(&mut self, steps_per_epoch: u64) -> Result<Option<Ended>> {
        if let Some(name) = self.stop.received() {
            return Ok(Some(Ended::Signal(name)));
        }
        if self.is_due(steps_per_epoch)
            && let Some(ended) = self.validation_round()?
        {
            return Ok(Some(ended));
        }
        if self.saved.elapsed().as_secs_f64() >= 60.0 * self.cfg.training.checkpoint_minutes {
            self.save_last()?;
        }
        Ok(self.finished().map(Ended::Finished))
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

    /// Validates, moves the schedules, keeps the best checkpoints and saves the state.
    fn validation_round(&mut self) -> Result<Option<Ended>> {
        if batch_limit(self.cfg, &self.dataset, self.val_batch) == 0 {
            return Ok(None);
        }
        // The step that was just done decides the phase.
        let adversarial = !schedule::is_pretraining(&self.cfg.training, self.meta.step - 1);
        let how = (self.val_batch, adversarial, &self.stop);
        let found = validate(&mut self.session, self.cfg, &self.dataset, how)?;
        let Some(validation) = found else {
            return Ok(self.stop.received().map(Ended::Signal));
        };
        let row: Vec<(&str, Scalar)> = validation.values.iter().map(|(n, v)| (*n, Scalar::F64(*v))).collect();
        let at = self.meta.step - 1;
        self.log.row(at, self.meta.epoch, &row)?;
        self.meta.last_validation = Some(self.meta.step);
        let monitored = self.monitored(&self.cfg.schedulers.metric_g, adversarial, &validation);
        let is_best = self.move_schedules(monitored, adversarial, &validation);
        let shown: Vec<(&str, f64)> =
            validation.values.iter().map(|(n, v)| (*n, *v)).filter(|(_, v)| *v != 0.0).collect();
        self.progress.validation(at, &shown, is_best);
        if !validation.panels.rows().is_empty() {
            self.log.panels(at, validation.panels)?;
        }
        self.meta.means = BTreeMap::new();
        self.save_best(monitored)?;
        self.save_last()?;
        Ok(None)
    }

    /// A metric at this validation; NaN if it was not measured since the last one.
    fn monitored(&self, name: &str, adversarial: bool, validation: &Validation) -> f64 {
        if name == DISC && !adversarial {
            return f64::NAN;
        }
        let of_training = || self.meta.means.get(name).filter(|m| m.count > 0).map(|m| m.sum / m.count as f64);
        validation.get(name).or_else(of_training).unwrap_or(f64::NAN)
    }

    /// Plateau schedulers and early stopping; true if the generator's metric improved.
    fn move_schedules(&mut self, metric_g: f64, adversarial: bool, validation: &Validation) -> bool {
        let (s, o) = (&self.cfg.schedulers, &self.cfg.optimizers);
        let before = (self.meta.plateau_g.factor, self.meta.plateau_d.factor);
        schedule::plateau_step(&mut self.meta.plateau_g, s, schedule::Network::Generator, o.optim_g_lr, metric_g);
        if adversarial {
            let metric_d = self.monitored(&s.metric_d, adversarial, validation);
            let network = schedule::Network::Discriminator;
            schedule::plateau_step(&mut self.meta.plateau_d, s, network, o.optim_d_lr, metric_d);
        }
        for (name, before, after, base) in [
            ("generator", before.0, self.meta.plateau_g.factor, o.optim_g_lr),
            ("discriminator", before.1, self.meta.plateau_d.factor, o.optim_d_lr),
        ] {
            if after != before {
                let rate = base * after;
                self.messages.info(&format!("plateau: the {name}'s learning rate falls to {rate:.3e}"));
            }
        }
        schedule::early_stopping_step(&mut self.meta.early_stopping, Mode::of(&s.metric_g), metric_g)
    }

    fn save_best(&mut self, metric: f64) -> Result<()> {
        if let Some(plan) = self.best.plan(self.meta.step, metric) {
            self.meta.best = plan.entries.clone();
            self.refresh_counters()?;
            saving::save(&self.session, &self.meta, &self.folder.join(&plan.entry.path))?;
            self.best.commit(self.folder.path(), plan)?;
        }
        Ok(())
    }

    fn save_last(&mut self) -> Result<()> {
        self.log.flush()?;
        self.refresh_counters()?;
        saving::save(&self.session, &self.meta, &self.folder.join(LAST))?;
        self.saved = Instant::now();
        Ok(())
    }

    fn refresh_counters(&mut self) -> Result<()> {
        let [adam_g, adam_d, ema_updates] = self.session.counters()?;
        self.meta.counters = Counters { adam_g, adam_d, ema_updates, ..self.meta.counters };
        Ok(())
    }
}
