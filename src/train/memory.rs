//! Whether a run fits into its device's memory, before any work.

use std::sync::Arc;

use super::host::HostBytes;
use super::plans::{Plans, ValBatch, validation_batches};
use super::session::{Key, Session, StateBytes};
use crate::config::{BatchLimit, Config};
use crate::data::Dataset;
use crate::log::Messages;
use crate::{Error, Result};

/// What a run takes of memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub states: StateBytes,
    /// Of all plans, which share one arena, the largest.
    pub activations: usize,
    pub workspace: usize,
    /// Inputs, constants and results, which every plan has for itself.
    pub held: usize,
    /// What is in the process's memory whatever the device is.
    pub host: HostBytes,
    /// Whether the device's memory is that of the process.
    pub is_shared: bool,
}

impl Need {
    /// What the states of `session`, the plans of `keys` and the rest of a run of `cfg` take; `closes` if the run ends
    /// with the table.
    ///
    /// # Errors
    /// If a plan cannot be compiled.
    pub fn of_run(
        session: &mut Session,
        (cfg, dataset): (&Config, &Dataset),
        keys: impl IntoIterator<Item = Key>,
        closes: bool,
    ) -> Result<Need> {
        let (mut arena, mut workspace, mut held) = (0, 0, 0);
        for key in keys {
            let plan = session.compile(key)?;
            arena = arena.max(4 * plan.arena_len);
            workspace = workspace.max(4 * plan.scratch_len);
            held += plan.held_bytes();
        }
        let states = session.state_bytes();
        let (activations, workspace) = (arena.saturating_sub(workspace), workspace.min(arena));
        let host = HostBytes::of_run(session, cfg, dataset, closes);
        let is_shared = session.device().memory_in_use().is_none();
        Ok(Need { states, activations, workspace, held, host, is_shared })
    }

    /// What of it is in the device's memory.
    pub fn total(&self) -> usize {
        let own = self.states.weights + self.states.optimiser + self.activations + self.workspace + self.held;
        if self.is_shared { own.saturating_add(self.host.total()) } else { own }
    }
}

/// Bytes that the device has for a run, what the session's states have taken included; `None` if it is not known.
///
/// # Errors
/// Fails if the device fails.
pub(super) fn available(session: &Session) -> Result<Option<usize>> {
    let StateBytes { weights, optimiser } = session.state_bytes();
    Ok(session.device().available_memory()?.map(|left| left + weights + optimiser))
}

/// The plans of a run that fits: the config's, with a validation batch halved as often as needed, and without the closing
/// table if that does not fit. A training batch that cannot fit is refused, naming the largest that can.
///
/// # Errors
/// [`Error::Config`] with what is needed, what there is, and what would fit.
pub(super) fn fit_memory(session: &mut Session, dataset: &Dataset, messages: &Messages) -> Result<FittedPlans> {
    let available = available(session)?.unwrap_or(usize::MAX);
    let mut cfg = Config::clone(session.config());
    let need = need_of_run(session, &cfg, dataset)?;
    let mut fits = need.total() <= available;
    while !fits && cfg.data.val_batch_size > 1 {
        cfg.data.val_batch_size /= 2;
        fits = need_of_run(session, &cfg, dataset)?.total() <= available;
        if fits {
            let batch = cfg.data.val_batch_size;
            messages.warn(&format!("validation runs with batches of {batch}: more do not fit into memory"));
        }
    }
    if !fits {
        return Err(refused(session, cfg, dataset, (&need, available)));
    }
    let plans = Plans::of(&cfg, dataset);
    let need = Need::of_run(session, (&cfg, dataset), plans.all(), true)?.total();
    let compares = need <= available;
    if !compares {
        let [need, available] = [need, available].map(|bytes| bytes >> 20);
        messages.warn(&format!(
            "no comparison with bicubic upsampling at the end: it would need {need} MiB, {available} MiB are available"
        ));
    }
    session.keep_compiled(&if compares { plans.all().collect() } else { plans.run.clone() });
    Ok(FittedPlans { run: plans.run, validation: validation_batches(&cfg, dataset).into(), compares })
}

/// What a run does that fits into memory.
#[derive(Debug)]
pub(super) struct FittedPlans {
    /// The plans of training and validation.
    pub run: Vec<Key>,
    /// The batches of each validation.
    pub validation: Arc<[ValBatch]>,
    /// Whether the closing table fits.
    pub compares: bool,
}

/// What training and validation take under `cfg`, which differs from the session's in batches alone.
fn need_of_run(session: &mut Session, cfg: &Config, dataset: &Dataset) -> Result<Need> {
    Need::of_run(session, (cfg, dataset), Plans::of(cfg, dataset).run, false)
}

/// The error for a run of `cfg` that does not fit.
fn refused(session: &mut Session, cfg: Config, dataset: &Dataset, (need, available): (&Need, usize)) -> Error {
    let message = refusal(need, available);
    if need.is_shared && need.total() - need.host.loader <= available {
        return Error::config("Data.num_workers", message).with_hint(format!(
            "{} MiB of that are batches that are loaded ahead: lower Data.num_workers or Data.prefetch_factor",
            need.host.loader >> 20
        ));
    }
    if let Some(error) = too_large_to_validate(session, &cfg, dataset, (&message, available)).transpose() {
        return error.unwrap_or_else(|e| e);
    }
    match largest_batch(session, cfg, dataset, available) {
        Err(e) => e,
        Ok(0) => {
            Error::config("Data.hr_size", message).with_hint("even a batch of 1 does not fit: use smaller patches")
        }
        Ok(batch) => Error::config("Data.train_batch_size", message)
            .with_hint(format!("a training batch of {batch} fits; Training.accumulate_grad_batches makes up for it")),
    }
}

/// The error for a run whose training fits, but not the validation of one of its images.
fn too_large_to_validate(
    session: &mut Session,
    cfg: &Config,
    dataset: &Dataset,
    (message, available): (&str, usize),
) -> Result<Option<Error>> {
    let mut training = cfg.clone();
    training.training.limit_val_batches = BatchLimit::Batches(0);
    if need_of_run(session, &training, dataset)?.total() > available {
        return Ok(None);
    }
    let largest = dataset.val_sizes().iter().max_by_key(|size| size.hr_height * size.hr_width);
    let (height, width) = largest.map_or((0, 0), |size| (size.hr_height, size.hr_width));
    let message =
        format!("training fits into memory, but not the validation of an image of {height}×{width}: {message}");
    Ok(Some(Error::config("Training.limit_val_batches", message).with_hint(
        "cut the validation images into smaller ones, or train without validation (Training.limit_val_batches=0)",
    )))
}

fn refusal(need: &Need, available: usize) -> String {
    let mib = |bytes: usize| bytes >> 20;
    format!(
        "the run needs {} MiB (weights {}, optimiser {}, activations and workspace {}, inputs and results {}, data loader \
         {}), {} MiB are available",
        mib(need.total()),
        mib(need.states.weights),
        mib(need.states.optimiser),
        mib(need.activations + need.workspace),
        mib(need.held),
        mib(need.host.loader),
        mib(available)
    )
}

/// The largest training batch under that of `cfg`, which does not fit, that fits; 0 if none does.
fn largest_batch(session: &mut Session, mut cfg: Config, dataset: &Dataset, available: usize) -> Result<usize> {
    let (mut fits, mut too_large) = (0, cfg.data.train_batch_size);
    while too_large - fits > 1 {
        let batch = fits.midpoint(too_large);
        cfg.data.train_batch_size = batch;
        session.keep_compiled(&[]);
        match need_of_run(session, &cfg, dataset)?.total() <= available {
            true => fits = batch,
            false => too_large = batch,
        }
    }
    Ok(fits)
}
