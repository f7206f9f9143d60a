//! Whether a run fits into its device's memory, before any work.

use super::session::{Session, StateBytes};
use super::summary::compile_all;
use crate::config::Config;
use crate::data::Dataset;
use crate::log::Messages;
use crate::plan::Plan;
use crate::{Error, Result};

/// What a run takes of its device's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub states: StateBytes,
    /// Of all plans, which share one arena, the largest.
    pub activations: usize,
    pub workspace: usize,
    /// Inputs, constants and results, which every plan has for itself.
    pub held: usize,
}

impl Need {
    /// What the states of `session` and these plans take.
    pub fn of_plans(session: &Session, plans: &[Plan]) -> Need {
        let arena = 4 * plans.iter().map(|p| p.arena_len).max().unwrap_or(0);
        let workspace = 4 * plans.iter().map(|p| p.scratch_len).max().unwrap_or(0);
        Need {
            states: session.state_bytes(),
            activations: arena.saturating_sub(workspace),
            workspace: workspace.min(arena),
            held: plans.iter().map(Plan::held_bytes).sum(),
        }
    }

    fn of(session: &Session, cfg: &Config, dataset: &Dataset) -> Result<Need> {
        Ok(Need::of_plans(session, &compile_all(session, cfg, dataset)?))
    }

    pub fn total(&self) -> usize {
        self.states.weights + self.states.optimiser + self.activations + self.workspace + self.held
    }
}

/// Bytes that the device has for a run, what the session's states have taken included; `None` where nobody says.
///
/// # Errors
/// Those of the device.
pub(super) fn available(session: &Session) -> Result<Option<usize>> {
    let StateBytes { weights, optimiser } = session.state_bytes();
    Ok(session.device().available_memory()?.map(|left| left + weights + optimiser))
}

/// The validation batch that fits: the config's, halved as often as needed. A training batch that cannot fit is
/// refused, naming the largest that can.
///
/// # Errors
/// [`Error::Config`] with what is needed, what there is, and what would fit.
pub(super) fn fit_memory(session: &Session, cfg: &Config, dataset: &Dataset, messages: &Messages) -> Result<usize> {
    let available = available(session)?.unwrap_or(usize::MAX);
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
    let message = refusal(&need, available);
    match largest_batch(session, smaller, dataset, available)? {
        0 => {
            Err(Error::config("Data.hr_size", message).with_hint("even a batch of 1 does not fit: use smaller patches"))
        }
        batch => Err(Error::config("Data.train_batch_size", message)
            .with_hint(format!("a training batch of {batch} fits; Training.accumulate_grad_batches makes up for it"))),
    }
}

fn refusal(need: &Need, available: usize) -> String {
    let mib = |bytes: usize| bytes >> 20;
    format!(
        "the run needs {} MiB (weights {}, optimiser {}, activations and workspace {}, inputs and results {}), {} MiB are \
         available",
        mib(need.total()),
        mib(need.states.weights),
        mib(need.states.optimiser),
        mib(need.activations + need.workspace),
        mib(need.held),
        mib(available)
    )
}

/// The largest training batch under that of `cfg`, which does not fit, that fits; 0 if none does.
fn largest_batch(session: &Session, mut cfg: Config, dataset: &Dataset, available: usize) -> Result<usize> {
    let (mut fits, mut too_large) = (0, cfg.data.train_batch_size);
    while too_large - fits > 1 {
        let batch = fits.midpoint(too_large);
        cfg.data.train_batch_size = batch;
        match Need::of(session, &cfg, dataset)?.total() <= available {
            true => fits = batch,
            false => too_large = batch,
        }
    }
    Ok(fits)
}
