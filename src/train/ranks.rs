//! A run of several ranks: how they join, what they must agree on, and what each has of the data.

use std::sync::Arc;
use std::time::Duration;

use super::launch::{Env, Launched, SLURM};
use super::session::Session;
use crate::config::Config;
use crate::data::{Dataset, Share};
use crate::device::collective::counted::Counted;
use crate::device::collective::mpi::Mpi;
use crate::device::collective::{Collective, Ranks};
use crate::loss::Adversarial;
use crate::{Error, Result};

/// How long a rank that fails waits to tell the others.
const ABANDON: Duration = Duration::from_secs(30);

/// Joins the ranks that a launcher has started; one process where none did. None waits longer than `timeout` for another.
///
/// # Errors
/// No MPI library, an MPI that finds other ranks than the launcher has started, a launcher that nothing joins yet.
pub fn join(timeout: Duration, launched: Option<Launched>, env: Env) -> Result<Ranks> {
    let Some(launched) = launched else { return Ok(Ranks::default()) };
    let Launched { launcher, index, count, .. } = launched;
    if launcher == "torchrun" {
        let message = format!("torchrun has started {count} ranks, which nothing joins on the CPU");
        return Err(Error::usage(message).with_hint("start them with mpiexec or srun"));
    }
    let ranks = Ranks::joined(Arc::new(Mpi::start(timeout, launched.name(), env)?));
    if (ranks.index(), ranks.count()) != (index, count) {
        let message = format!("{launcher} has started {count} ranks, but MPI knows {}", ranks.count());
        let hint = match launcher {
            SLURM => "start them with an MPI plugin: `srun --mpi=pmi2` (`srun --mpi=list` shows what there is)",
            _ => "start them with the mpiexec of the library that is found",
        };
        return Err(Error::usage(message).with_hint(hint));
    }
    Ok(ranks)
}

/// How long ranks of a run wait for each other.
pub fn timeout(cfg: &Config) -> Duration {
    Duration::from_secs_f64(cfg.training.dist_timeout.min(1e9))
}

/// The ranks that a launcher has started, which do not join, for what is planned and not run.
pub fn counted(launched: Option<Launched>) -> Ranks {
    let counted = |Launched { launcher, index, count, .. }| Ranks::joined(Arc::new(Counted { index, count, launcher }));
    launched.map_or_else(Ranks::default, counted)
}

/// Ends the other ranks, which wait for one that fails before it has joined them.
pub fn abandon(launched: Launched, code: u8, env: Env) {
    if let Ok(mpi) = Mpi::start(ABANDON, launched.name(), env) {
        mpi.abort(code);
    }
}

/// What a run of several ranks says at its start: who has started them, what a step is, whose statistics norms use.
pub fn ranks_notes(session: &Session, launcher: Option<&str>) -> Vec<String> {
    let (cfg, ranks) = (session.config(), session.ranks());
    let Some(library) = ranks.library() else { return Vec::new() };
    let (count, batch) = (ranks.count(), samples_per_step(cfg, &ranks));
    let by = launcher.map_or_else(String::new, |launcher| format!(", started by {launcher}"));
    let mut notes = vec![format!("{count} ranks of this device{by}, over {library} · {batch} samples a step")];
    let relativistic = matches!(session.programs().objective(), Adversarial::RelativisticBce { .. });
    let names = [(session.programs().has_batch_norm(), "batch norm"), (relativistic, "the relativistic loss")];
    let names: Vec<&str> = names.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
    if !names.is_empty() {
        let own = cfg.data.train_batch_size;
        notes.push(match cfg.training.sync_batchnorm {
            true => format!("{}: statistics of the {} samples of all ranks", names.join(" and "), own * count),
            false => format!(
                "{}: each rank takes statistics of its own {own} samples; Training.sync_batchnorm=true takes those of all",
                names.join(" and ")
            ),
        });
    }
    notes
}

/// This rank's part of each global batch.
pub fn share(ranks: &Ranks) -> Share {
    Share { index: ranks.index(), count: ranks.count() }
}

/// Samples that a step of all ranks takes.
pub fn samples_per_step(cfg: &Config, ranks: &Ranks) -> u64 {
    (cfg.training.accumulate_grad_batches * cfg.data.train_batch_size * ranks.count()) as u64
}

/// Refuses ranks that would not train the same: other programs, configs or imagery.
///
/// # Errors
/// [`Error::Usage`] with the rank and what differs, on every rank.
pub fn check_alike(cfg: &Config, dataset: &Dataset, ranks: &Ranks) -> Result<()> {
    let (images, contents) = dataset.contents();
    let values = [
        ("the program's version", u64::from(crc32c::crc32c(env!("CARGO_PKG_VERSION").as_bytes()))),
        ("the configuration", u64::from(crc32c::crc32c(cfg.to_yaml().as_bytes()))),
        ("the number of images", images as u64),
        ("the imagery", contents),
    ];
    match ranks.difference(&values.map(|(_, value)| value))? {
        Some((rank, at)) => Err(Error::usage(format!("{} of rank {rank} is not that of rank 0", values[at].0))
            .with_hint("start every rank with the same program, configuration and data")),
        None => Ok(()),
    }
}

/// Refuses to save a state of which a rank holds other bits.
///
/// # Errors
/// [`Error::Device`] with the rank and the tensor, on every rank.
pub fn check_states(session: &Session, step: u64) -> Result<()> {
    let ranks = session.ranks();
    if !ranks.are_several() {
        return Ok(());
    }
    let mut sums = Vec::new();
    session.visit_tensors(&mut |values| {
        sums.push(u64::from(crc32c::crc32c(bytemuck::cast_slice(values))));
        Ok(())
    })?;
    let Some((rank, at)) = ranks.difference(&sums)? else { return Ok(()) };
    let name = session.tensor_shapes().into_iter().nth(at).map_or_else(String::new, |(name, _)| name);
    Err(Error::device(format!(
        "after {step} steps tensor {name} of rank {rank} is not that of rank 0; it is not saved"
    ))
    .with_hint("a node computes wrongly: continue from the last checkpoint on other nodes"))
}
