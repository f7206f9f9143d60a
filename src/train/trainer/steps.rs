//! Steps of a run, one ahead: a step is given to the device before the report of the one before it is handled, so that
//! the device has work while the host writes logs and loads data.

use std::time::{Duration, Instant};

use super::Trainer;
use crate::checkpoint::LAST;
use crate::data::{Batch, SampleId};
use crate::log::{Scalar, StepInfo};
use crate::metrics::Metric;
use crate::train::programs::{BatchShape, Phase};
use crate::train::ranks::samples_per_step;
use crate::train::step::{RawBatch, StartedStep, StepNumbers, StepReport, start_step};
use crate::{Error, Result};

/// Non-finite steps in a row after which a run has diverged.
const MAX_SKIPPED: u64 = 10;

/// A step on the device.
pub(super) struct Queued {
    step: u64,
    started: StartedStep,
    samples: Vec<SampleId>,
    patches: usize,
    /// Time to load and start it, and the part of it spent waiting for data.
    elapsed: Duration,
    waited: Duration,
}

impl Trainer {
    /// Starts the next step on batches that have been loaded since `since`, then handles the report of the step before.
    pub(super) fn step(
        &mut self,
        shape: BatchShape,
        batches: &mut [Batch],
        (since, waited): (Instant, Duration),
    ) -> Result<()> {
        // After the step that ends a run as diverged, none may be started.
        if self.meta.counters.skipped_in_a_row + 1 >= MAX_SKIPPED {
            self.settle()?;
        }
        let step = self.meta.step;
        let numbers = StepNumbers::at(&self.cfg, step, &self.meta.plateau_g, &self.meta.plateau_d);
        let raw: Vec<RawBatch> = batches.iter().map(RawBatch::from).collect();
        let started = start_step(&mut self.session, shape, &raw, (step, numbers))?;
        self.meta.step += 1;
        self.meta.batch_in_epoch += 1;
        self.meta.data_position = self.meta.batch_in_epoch * samples_per_step(&self.cfg, &self.ranks);
        let queued = Queued {
            step,
            started,
            samples: batches.iter_mut().flat_map(|b| b.samples.drain(..).take(b.n)).collect(),
            patches: batches.len() * shape.batch * self.ranks.count(),
            elapsed: since.elapsed(),
            waited,
        };
        self.queued.replace(queued).map_or(Ok(()), |before| self.handle(before))
    }

    /// Handles the report of the step on the device, if there is one: then states and counters are those after the
    /// last step that was started.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.queued.take().map_or(Ok(()), |last| self.handle(last))
    }

    /// Waits for a step; its log row, its place in the means, the handling of numbers that are not finite.
    fn handle(&mut self, queued: Queued) -> Result<()> {
        let Queued { step, started, samples, patches, elapsed, waited } = queued;
        let since = Instant::now();
        let report = started.finish(&mut self.session)?;
        let elapsed = elapsed + since.elapsed();
        let logged = if step.is_multiple_of(self.cfg.logging.log_every_n_steps) {
            let row: Vec<(&str, Scalar)> =
                report.values.iter().map(|(m, v)| (m.name(), Scalar::F32(*v as f32))).collect();
            self.log.row(step, self.meta.epoch, &row)
        } else {
            Ok(())
        };
        if report.committed {
            self.meta.counters.skipped_in_a_row = 0;
            self.add_to_means(&report);
        } else {
            self.skipped(step, &samples)?;
        }
        self.show(&report, StepInfo { step, patches, elapsed, waited, ..StepInfo::default() });
        if self.on_step.as_ref().is_some_and(|on_step| !on_step(step, &report)) {
            self.stop.stop();
        }
        // The step is done, whatever became of its row.
        logged
    }

    fn skipped(&mut self, step: u64, samples: &[SampleId]) -> Result<()> {
        let counters = &mut self.meta.counters;
        counters.skipped += 1;
        counters.skipped_in_a_row += 1;
        let in_a_row = counters.skipped_in_a_row;
        let samples: Vec<String> = samples.iter().map(|s| format!("  {s}")).collect();
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

    /// Means over the epoch, and since the last validation of the monitored metrics that are measured in training.
    fn add_to_means(&mut self, report: &StepReport) {
        self.content.sum += report.get(Metric::Content);
        self.content.count += 1;
        let s = &self.cfg.schedulers;
        let watched = if s.metric_g == s.metric_d { vec![s.metric_g] } else { vec![s.metric_g, s.metric_d] };
        for metric in watched {
            // Pretraining logs zeros for what it does not compute; they are not measurements.
            if !metric.is_measured(report.phase == Phase::Adversarial) {
                continue;
            }
            if let Some((_, v)) = report.values.iter().find(|(m, _)| *m == metric) {
                let mean = self.meta.means.entry(metric.name().to_owned()).or_default();
                mean.sum += v;
                mean.count += 1;
            }
        }
    }

    /// Shows a step whose times are known.
    fn show(&mut self, report: &StepReport, times: StepInfo) {
        let of_d = |metric| (report.phase == Phase::Adversarial).then(|| report.get(metric) as f32);
        self.progress.step(&StepInfo {
            phase: report.phase.name(),
            content_loss: report.get(Metric::Content) as f32,
            d_real: of_d(Metric::RealProbability),
            d_fake: of_d(Metric::FakeProbability),
            ..times
        });
    }
}
