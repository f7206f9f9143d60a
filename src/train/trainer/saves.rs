//! The checkpoints of a run: the last, the best, and what is saved where it fails.

use std::time::Instant;

use super::Trainer;
use crate::checkpoint::{Counters, LAST, LoggedRow, TensorFile};
use crate::log::{Row, Scalar};
use crate::train::{algorithms, ranks, saving};
use crate::{Error, Result};

impl Trainer {
    /// Saves the state after the last whole step, or, if the device failed within one or there is no room, leaves the
    /// last checkpoint as it is. Says how to go on.
    pub(super) fn save_after_error(&mut self) {
        // Its error is that of the device, which shows in the session, or of the log, which is the run's.
        let _ = self.settle();
        // The others may wait for this rank, and will be ended.
        if !self.ranks.is_first() {
            return;
        }
        let why = if !self.session.is_settled() {
            "a step failed half-way, and what it left is not saved".to_owned()
        } else {
            match self.write_state() {
                Ok(()) => {
                    let (step, folder) = (self.meta.step, self.folder.path().display());
                    return self
                        .messages
                        .warn(&format!("the state after {step} steps is saved: continue with --resume {folder}"));
                }
                Err(e) => format!("the state could not be saved: {e}"),
            }
        };
        self.messages.warn(&format!("{why}; {}", self.last_checkpoint()));
    }

    /// What a run that ends here can go on from.
    pub(super) fn last_checkpoint(&self) -> String {
        match TensorFile::open_checkpoint(&self.folder.join(LAST)) {
            Ok((_, meta)) => format!(
                "the last checkpoint, of {} steps, is kept: continue with --resume {}",
                meta.step,
                self.folder.path().display()
            ),
            Err(_) if !self.folder.path().exists() => {
                let path = self.folder.path().display();
                format!("{path} is no longer there: continue with --resume and the folder's new place")
            }
            Err(_) => "the run has no checkpoint yet: start it again".to_owned(),
        }
    }

    pub(super) fn save_best(&mut self, metric: f64) -> Result<()> {
        if let Some(plan) = self.best.plan(self.meta.step - 1, metric) {
            ranks::check_states(&self.session, self.meta.step)?;
            self.meta.best = plan.entries.clone();
            self.refresh_counters()?;
            if self.ranks.is_first() {
                saving::save(&self.session, &self.meta, &self.folder.join(&plan.entry.path))?;
                self.best.commit(self.folder.path(), plan)?;
            } else {
                self.best.follow(plan);
            }
        }
        Ok(())
    }

    /// Writes the last checkpoint, whatever becomes of the log. Rows come first where they can: a run that continues
    /// then finds all rows before its first step.
    pub(super) fn save_last(&mut self) -> Result<()> {
        let logged = self.log.flush();
        self.save_state()?;
        logged
    }

    /// Saves the state, of which every rank must hold the same bits.
    pub(super) fn save_state(&mut self) -> Result<()> {
        ranks::check_states(&self.session, self.meta.step)?;
        if self.ranks.is_first() {
            return self.write_state();
        }
        self.saved = Instant::now();
        self.refresh_counters()
    }

    fn write_state(&mut self) -> Result<()> {
        self.refresh_counters()?;
        let saved = saving::save(&self.session, &self.meta, &self.folder.join(LAST));
        saved.map_err(|e| match e {
            Error::Diverged { message } => {
                Error::Diverged { message: format!("{message}; {}", self.last_checkpoint()) }
            }
            other => other,
        })?;
        self.saved = Instant::now();
        Ok(())
    }

    /// What a checkpoint holds of the device, and of the log, whose last rows may not have come to the disk.
    pub(super) fn refresh_counters(&mut self) -> Result<()> {
        let text = |(name, value): &(String, Scalar)| (name.clone(), value.to_string());
        let logged =
            |row: &Row| LoggedRow { step: row.step, epoch: row.epoch, values: row.values.iter().map(text).collect() };
        self.meta.unlogged = self.log.unconfirmed().iter().map(logged).collect();
        let [adam_g, adam_d, ema_updates] = self.session.counters()?;
        self.meta.counters = Counters { adam_g, adam_d, ema_updates, ..self.meta.counters };
        algorithms::note(self.session.device(), &mut self.meta);
        Ok(())
    }
}
