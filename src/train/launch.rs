//! Which launcher has started this process as one of several ranks.

use std::ffi::OsString;

use crate::config::{Config, Devices};
use crate::{Error, Result};

/// What reads an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A program that starts ranks, with the variables that say which one this is.
struct Launcher {
    name: &'static str,
    index: &'static str,
    count: &'static str,
    /// Where it says on how many nodes the ranks are.
    nodes: Option<&'static str>,
}

/// Launchers in the order in which they are looked for. Of SLURM, the number of ranks is that of the step's tasks: a batch
/// script that `srun` has not started is alone.
const LAUNCHERS: [Launcher; 4] = [
    Launcher { name: "torchrun", index: "RANK", count: "WORLD_SIZE", nodes: None },
    Launcher { name: SLURM, index: "SLURM_PROCID", count: "SLURM_STEP_NUM_TASKS", nodes: Some("SLURM_STEP_NUM_NODES") },
    Launcher { name: "Open MPI", index: "OMPI_COMM_WORLD_RANK", count: "OMPI_COMM_WORLD_SIZE", nodes: None },
    Launcher { name: "PMI", index: "PMI_RANK", count: "PMI_SIZE", nodes: None },
];

/// The launcher of SLURM.
pub const SLURM: &str = "SLURM";

/// Job names under which SLURM runs a person's shell.
const INTERACTIVE: [&str; 2] = ["bash", "interactive"];

/// What the command line says of this rank; it comes before the environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchFlags {
    /// Number of this rank.
    pub rank: Option<usize>,
    /// Number of ranks.
    pub world_size: Option<usize>,
}

/// What a launcher says of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The launcher, for messages.
    pub launcher: &'static str,
    /// Number of this rank, from 0.
    pub index: usize,
    /// Number of ranks.
    pub count: usize,
    /// Number of nodes, if the launcher says it.
    pub nodes: Option<usize>,
}

impl Launched {
    /// `rank 1 of 4`, for messages.
    pub fn name(&self) -> String {
        format!("rank {} of {}", self.index, self.count)
    }
}

/// Whether SLURM runs this process in a person's shell.
pub fn is_interactive(env: Env) -> bool {
    env("SLURM_JOB_NAME").is_some_and(|name| INTERACTIVE.iter().any(|known| name == *known))
}

/// The launcher that started this process as one of several ranks, if one did.
///
/// # Errors
/// [`Error::Usage`] if only one of both flags is given, if only some of a launcher's variables are set, or one is not a
/// number: which.
pub fn launched(flags: LaunchFlags, env: Env) -> Result<Option<Launched>> {
    match (flags.rank, flags.world_size) {
        (None, None) => {}
        (Some(index), Some(count)) => {
            let of_flags = Launched { launcher: "the command line", index, count, nodes: None };
            return checked(of_flags, "--rank", "--world-size");
        }
        (Some(_), None) => return Err(Error::usage("--rank is given without --world-size")),
        (None, Some(_)) => return Err(Error::usage("--world-size is given without --rank")),
    }
    let interactive = is_interactive(env);
    for Launcher { name, index: index_name, count: count_name, nodes } in LAUNCHERS {
        if name == SLURM && (interactive || env(count_name).is_none()) {
            continue;
        }
        let (index, count) = match (env(index_name), env(count_name)) {
            (None, None) => continue,
            (Some(index), Some(count)) => (number(index_name, &index)?, number(count_name, &count)?),
            (Some(_), None) => return Err(half_set(name, index_name, count_name)),
            (None, Some(_)) => return Err(half_set(name, count_name, index_name)),
        };
        let nodes = nodes.and_then(|name| env(name)?.to_str()?.parse().ok());
        if let Some(launched) = checked(Launched { launcher: name, index, count, nodes }, index_name, count_name)? {
            return Ok(Some(launched));
        }
    }
    Ok(None)
}

/// One of several ranks; nothing if it is alone.
fn checked(launched: Launched, index_name: &str, count_name: &str) -> Result<Option<Launched>> {
    let Launched { index, count, .. } = launched;
    if index >= count {
        let message = format!("{index_name}={index}, but {count_name}={count}: ranks are counted from 0");
        return Err(Error::usage(message));
    }
    Ok(Some(launched).filter(|_| count > 1))
}

fn half_set(launcher: &str, set: &str, missing: &str) -> Error {
    Error::usage(format!("{set} is set as {launcher} sets it, but {missing} is not"))
        .with_hint(format!("unset {set} to train in one process, or set both"))
}

fn number(name: &str, value: &OsString) -> Result<usize> {
    let text = value.to_string_lossy();
    text.parse().map_err(|_| Error::usage(format!("{name}={text} is not a number of ranks")))
}

/// Refuses a launcher that has started other ranks than `Training.num_nodes` and `Training.devices` ask for.
///
/// # Errors
/// [`Error::Config`] with both numbers.
pub fn check_asked(cfg: &Config, launched: Option<&Launched>) -> Result<()> {
    const NODES: &str = "Training.num_nodes";
    let nodes = cfg.training.num_nodes;
    let devices = match cfg.training.devices {
        Devices::Auto => None,
        Devices::Count(count) => Some(count),
    };
    let key = if devices.is_some() { "Training.devices" } else { NODES };
    let asked = match (nodes, devices) {
        (None, None) => return Ok(()),
        (Some(n), None) => format!("{n} nodes are asked for"),
        (None, Some(d)) => format!("{d} ranks on each node are asked for"),
        (Some(n), Some(d)) => format!("{n} × {d} ranks (num_nodes × devices) are asked for"),
    };
    let Some(Launched { launcher, count, nodes: found, .. }) = launched else {
        if nodes.unwrap_or(1) * devices.unwrap_or(1) == 1 {
            return Ok(());
        }
        return Err(Error::config(key, format!("{asked}, but no launcher has started this process as one of several"))
            .with_hint("start the ranks with srun or mpiexec, or remove the key"));
    };
    if let (Some(n), Some(found)) = (nodes, found)
        && n != *found
    {
        return Err(Error::config(NODES, format!("{asked}, but {launcher} has started ranks on {found}")));
    }
    let fits = match (nodes.or(*found), devices) {
        (Some(n), Some(d)) => n * d == *count,
        (Some(part), None) | (None, Some(part)) => count.is_multiple_of(part),
        (None, None) => true,
    };
    if fits { Ok(()) } else { Err(Error::config(key, format!("{asked}, but {launcher} has started {count} ranks"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The launcher found among variables.
    fn found(variables: &[(&str, &str)]) -> Result<Option<Launched>> {
        flagged(LaunchFlags::default(), variables)
    }

    fn flagged(flags: LaunchFlags, variables: &[(&str, &str)]) -> Result<Option<Launched>> {
        launched(flags, &|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    fn of(launcher: &'static str, index: usize, count: usize) -> Option<Launched> {
        Some(Launched { launcher, index, count, nodes: None })
    }

    #[test]
    fn launchers_are_told_by_their_variables() {
        assert_eq!(found(&[]).unwrap(), None);
        assert_eq!(found(&[("RANK", "1"), ("WORLD_SIZE", "4")]).unwrap(), of("torchrun", 1, 4));
        assert_eq!(found(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        let step = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "8")];
        assert_eq!(found(&step).unwrap(), of(SLURM, 3, 8));
        let on_nodes = found(&[&step[..], &[("SLURM_STEP_NUM_NODES", "2")]].concat()).unwrap().unwrap();
        assert_eq!(on_nodes.nodes, Some(2));
        let both = [&step[..], &[("PMI_RANK", "3"), ("PMI_SIZE", "8")]].concat();
        assert_eq!(found(&both).unwrap(), of(SLURM, 3, 8));
        assert_eq!(found(&[&step[..], &[("SLURM_JOB_NAME", "bash")]].concat()).unwrap(), None);
        // A batch script, which srun has not started.
        assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(), None);
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(found(&open_mpi).unwrap(), of("Open MPI", 0, 2));
    }

    #[test]
    fn flags_come_before_the_environment() {
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "4")];
        let flags = |rank, world_size| LaunchFlags { rank, world_size };
        assert_eq!(flagged(flags(Some(0), Some(2)), &torchrun).unwrap(), of("the command line", 0, 2));
        assert_eq!(flagged(flags(Some(0), Some(1)), &torchrun).unwrap(), None);
        for (flags, said) in [
            (flags(Some(1), None), "--rank is given without --world-size"),
            (flags(None, Some(2)), "--world-size is given without --rank"),
            (flags(Some(2), Some(2)), "--rank=2, but --world-size=2"),
        ] {
            let error = flagged(flags, &torchrun).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
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

    #[test]
    fn a_config_that_asks_for_other_ranks_is_refused_with_both_numbers() {
        let check = |keys: &[&str], launched: Option<Launched>| {
            let keys: Vec<String> = keys.iter().map(|key| format!("Training.{key}")).collect();
            check_asked(&Config::from_yaml("Model: {in_bands: 3}", None, &keys).unwrap().0, launched.as_ref())
        };
        let slurm = |count, nodes| Some(Launched { launcher: SLURM, index: 0, count, nodes });
        let (nodes, devices) = ("num_nodes=2", "devices=4");
        for (keys, launched) in [
            (&[][..], slurm(3, Some(3))),
            (&["num_nodes=1", "devices=1"], None),
            (&["devices=auto"], None),
            (&[nodes, devices], slurm(8, Some(2))),
            (&[nodes, devices], slurm(8, None)),
            (&[nodes], slurm(6, Some(2))),
            (&[devices], slurm(8, Some(2))),
            (&[devices, "num_nodes=null"], slurm(4, None)),
        ] {
            check(keys, launched).unwrap();
        }
        for (keys, launched, said) in [
            (&[nodes, devices][..], None, "2 × 4 ranks (num_nodes × devices) are asked for, but no launcher"),
            (&[devices], None, "Training.devices: 4 ranks on each node are asked for"),
            (&[nodes, devices], slurm(6, None), "SLURM has started 6 ranks"),
            (&[nodes], slurm(6, Some(3)), "2 nodes are asked for, but SLURM has started ranks on 3"),
            (&[nodes], slurm(3, None), "SLURM has started 3 ranks"),
            (&[devices], slurm(6, Some(2)), "4 ranks on each node are asked for, but SLURM has started 6 ranks"),
        ] {
            let error = check(keys, launched).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
