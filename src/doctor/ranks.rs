//! What joins several ranks: MPI, the launcher that has started this process, and how fast the ranks add up.

use std::time::{Duration, Instant};

use super::{Report, first_line};
use crate::device::collective::Ranks;
use crate::device::collective::mpi::Mpi;
use crate::device::cuda::libraries::search::Env;
use crate::train::launch::Launched;
use crate::train::ranks::join;
use crate::{Error, Result};

/// How long ranks wait for each other.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Floats that are added up in a round: the gradients of a small network.
const FLOATS: usize = 1 << 20;
/// Rounds that are timed, after one that is not.
const ROUNDS: u32 = 10;

impl Report {
    /// The MPI library, the launcher and, where there are several ranks, a round between them.
    pub(super) fn ranks(&mut self, launched: Option<Launched>, env: Env) {
        match Mpi::find(env) {
            Ok((version, path)) => self.row("MPI", version, path.display().to_string()),
            Err(_) => self.row("MPI", "not found", "joins several ranks on CPUs: MPICH 5, or PyPI's mpich"),
        }
        let Some(launched) = launched else {
            return self.row("Launcher", "none", "this process is alone");
        };
        self.row("Launcher", launched.launcher, launched.name());
        match take_part(launched, env) {
            Ok(time) => self.row("All-reduce", format!("{} ranks", launched.count), speed(time)),
            Err(e) => self.row("All-reduce", "failed", first_line(&e.to_string())),
        }
    }
}

/// Joins the ranks and adds up a buffer between them; the time of a round on the slowest.
///
/// # Errors
/// If the ranks cannot be joined, one of them is gone, or the sum is wrong.
pub fn take_part(launched: Launched, env: Env) -> Result<Duration> {
    time_round(&join(TIMEOUT, Some(launched), env)?)
}

fn time_round(ranks: &Ranks) -> Result<Duration> {
    // The mean over ranks of their numbers from 1.
    let (own, mean) = (ranks.index() as f32 + 1.0, (ranks.count() as f32 + 1.0) / 2.0);
    let mut values = vec![own; FLOATS];
    ranks.mean(&mut values)?;
    if values.iter().any(|v| *v != mean) {
        return Err(Error::device(format!("the mean over {} ranks is not {mean}", ranks.count())));
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        ranks.mean(&mut values)?;
    }
    let mut slowest = [(start.elapsed() / ROUNDS).as_nanos() as u64];
    ranks.max(&mut slowest)?;
    Ok(Duration::from_nanos(slowest[0]))
}

/// `4.0 MiB in 1.27 ms: 3.30 GB/s for each rank`.
fn speed(time: Duration) -> String {
    let (bytes, seconds) = ((4 * FLOATS) as f64, time.as_secs_f64().max(1e-9));
    let (mib, gigabytes) = (bytes / f64::from(1 << 20), bytes / seconds / 1e9);
    format!("{mib:.1} MiB in {:.2} ms: {gigabytes:.2} GB/s for each rank", 1e3 * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::collective::threads::together;

    #[test]
    fn every_rank_hears_the_time_of_the_slowest() {
        let times = together(3, |ranks| time_round(&ranks).unwrap());
        assert!(times[0] > Duration::ZERO && times.iter().all(|time| *time == times[0]), "{times:?}");
    }

    #[test]
    fn a_speed_is_bytes_over_time() {
        assert_eq!(speed(Duration::from_millis(2)), "4.0 MiB in 2.00 ms: 2.10 GB/s for each rank");
    }
}
