//! A run of several ranks: which launcher started them, what they must agree on, and what each has of the data.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use super::session::Session;
use crate::config::Config;
use crate::data::{Dataset, Share};
use crate::device::collective::mpi::Mpi;
use crate::device::collective::{Collective, Ranks};
use crate::{Error, Result};

/// What reads an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Programs that start ranks, with the variables that say which one this is: rank, number of ranks. Of SLURM, the number is
/// that of the step's tasks: a batch script that `srun` has not started is alone.
const LAUNCHERS: [(&str, &str, &str); 4] = [
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("SLURM", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI", "PMI_RANK", "PMI_SIZE"),
];

/// Job names under which SLURM runs a person's shell.
const INTERACTIVE: [&str; 2] = ["bash", "interactive"];

/// How long a rank that fails waits to tell the others.
const ABANDON: Duration = Duration::from_secs(30);

/// What a launcher says of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The launcher, for messages.
    pub launcher: &'static str,
    /// Number of this rank, from 0.
    pub index: usize,
    /// Number of ranks.
    pub count: usize,
}

impl Launched {
    /// `rank 1 of 4`, for messages.
    pub fn name(&self) -> String {
        format!("rank {} of {}", self.index, self.count)
    }
}

/// The launcher that started this process as one of several ranks, if one did.
///
/// # Errors
/// [`Error::Usage`] if only some of a launcher's variables are set, or one is not a number: which.
pub fn launched(env: Env) -> Result<Option<Launched>> {
    let interactive = env("SLURM_JOB_NAME").is_some_and(|name| INTERACTIVE.iter().any(|known| name == *known));
    for (launcher, index_name, count_name) in LAUNCHERS {
        if launcher == "SLURM" && (interactive || env(count_name).is_none()) {
            continue;
        }
        let (index, count) = match (env(index_name), env(count_name)) {
            (None, None) => continue,
            (Some(index), Some(count)) => (number(index_name, &index)?, number(count_name, &count)?),
            (Some(_), None) => return Err(half_set(launcher, index_name, count_name)),
            (None, Some(_)) => return Err(half_set(launcher, count_name, index_name)),
        };
        if count < 2 {
            continue;
        }
        if index >= count {
            let message = format!("{index_name}={index}, but {count_name}={count}: ranks are counted from 0");
            return Err(Error::usage(message));
        }
        return Ok(Some(Launched { launcher, index, count }));
    }
    Ok(None)
}

fn half_set(launcher: &str, set: &str, missing: &str) -> Error {
    Error::usage(format!("{set} is set as {launcher} sets it, but {missing} is not"))
        .with_hint(format!("unset {set} to train in one process, or set both"))
}

fn number(name: &str, value: &OsString) -> Result<usize> {
    let text = value.to_string_lossy();
    text.parse().map_err(|_| Error::usage(format!("{name}={text} is not a number of ranks")))
}

/// Joins the ranks that a launcher has started; one process where none did.
///
/// # Errors
/// Half-set variables, no MPI library, an MPI that finds other ranks than the launcher has started, a device that ranks
/// cannot have yet.
pub fn join(cfg: &Config, env: Env) -> Result<Ranks> {
    let Some(launched) = launched(env)? else { return Ok(Ranks::default()) };
    let Launched { launcher, index, count } = launched;
    if launcher == "torchrun" {
        let message = format!("torchrun has started {count} ranks, which nothing joins on the CPU");
        return Err(Error::usage(message).with_hint("start them with mpiexec or srun"));
    }
    let timeout = Duration::from_secs_f64(cfg.training.dist_timeout.min(1e9));
    let ranks = Ranks::joined(Arc::new(Mpi::start(timeout, launched.name(), env)?));
    if (ranks.index(), ranks.count()) != (index, count) {
        let message = format!("{launcher} has started {count} ranks, but MPI knows {}", ranks.count());
        let hint = match launcher {
            "SLURM" => "start them with an MPI plugin: `srun --mpi=pmi2` (`srun --mpi=list` shows what there is)",
            _ => "start them with the mpiexec of the library that is found",
        };
        return Err(Error::usage(message).with_hint(hint));
    }
    Ok(ranks)
}

/// Ends the other ranks, which wait for one that fails before it has joined them.
pub fn abandon(launched: Launched, code: u8, env: Env) {
    if let Ok(mpi) = Mpi::start(ABANDON, launched.name(), env) {
        mpi.abort(code);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The launcher found among variables.
    fn found(variables: &[(&str, &str)]) -> Result<Option<Launched>> {
        launched(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn launchers_are_told_by_their_variables() {
        let of = |launcher, index, count| Some(Launched { launcher, index, count });
        assert_eq!(found(&[]).unwrap(), None);
        assert_eq!(found(&[("RANK", "1"), ("WORLD_SIZE", "4")]).unwrap(), of("torchrun", 1, 4));
        assert_eq!(found(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        let step = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "8")];
        assert_eq!(found(&step).unwrap(), of("SLURM", 3, 8));
        let both = [&step[..], &[("PMI_RANK", "3"), ("PMI_SIZE", "8")]].concat();
        assert_eq!(found(&both).unwrap(), of("SLURM", 3, 8));
        assert_eq!(found(&[&step[..], &[("SLURM_JOB_NAME", "bash")]].concat()).unwrap(), None);
        // A batch script, which srun has not started.
        assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(), None);
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(found(&open_mpi).unwrap(), of("Open MPI", 0, 2));
    }

    #[test]
    fn half_set_variables_are_named() {
        for (variables, named) in [
            (&[("RANK", "1")][..], ["RANK is set", "WORLD_SIZE is not"]),
            (&[("PMI_SIZE", "2")], ["PMI_SIZE is set", "PMI_RANK is not"]),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], ["RANK=x", "not a number"]),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], ["RANK=2", "WORLD_SIZE=2"]),
        ] {
            let error = found(variables).unwrap_err();
            assert!(named.iter().all(|part| error.to_string().contains(part)), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
