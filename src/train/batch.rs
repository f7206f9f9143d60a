//! The SLURM job that a run is part of: its name, its end, and how it is queued again.

use std::process::Command;
use std::time::{Duration, SystemTime};

use super::launch::{Env, is_interactive};
use crate::{Error, Result};

/// A run stops this long before its job ends, to save its state: longer than a step and a checkpoint take.
const MARGIN: Duration = Duration::from_secs(120);
/// And at most this part of the time that is left at its start.
const LEAST_PART: u32 = 10;

/// A job of SLURM, as its environment describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    id: String,
    /// Array job and task.
    task: Option<(String, String)>,
    is_interactive: bool,
    /// How often it was queued again.
    restarts: u64,
    end: Option<SystemTime>,
}

impl Job {
    /// The job that this process is part of.
    pub fn of(env: Env) -> Option<Job> {
        let text = |name: &str| env(name)?.into_string().ok().filter(|text| !text.is_empty());
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        Some(Job {
            id: text("SLURM_JOB_ID").filter(|id| is_plain(id))?,
            task: text("SLURM_ARRAY_JOB_ID")
                .zip(text("SLURM_ARRAY_TASK_ID"))
                .filter(|(a, t)| is_plain(a) && is_plain(t)),
            is_interactive: is_interactive(env),
            restarts: number("SLURM_RESTART_COUNT").unwrap_or(0),
            end: number("SLURM_JOB_END_TIME")
                .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        })
    }

    /// What its runs are called, also after it was queued again: `job_71`, `job_70_3` for task 3 of array job 70. A
    /// person's shell runs many that have nothing to do with each other.
    pub fn name(&self) -> Option<String> {
        let name = match &self.task {
            Some((array, task)) => format!("job_{array}_{task}"),
            None => format!("job_{}", self.id),
        };
        Some(name).filter(|_| !self.is_interactive)
    }

    /// Whether it is one of an array of jobs, each with a run of its own.
    pub fn is_task(&self) -> bool {
        self.task.is_some()
    }

    /// How long a run that starts at `now` may train; `None` if that is not known. An end that has passed is that of
    /// another job, whose environment was handed on.
    pub fn time_to_train(&self, now: SystemTime) -> Option<Duration> {
        let left = self.end?.duration_since(now).ok().filter(|left| !left.is_zero())?;
        Some(left - MARGIN.min(left / LEAST_PART))
    }

    /// Puts the job into the queue again; what was done.
    ///
    /// # Errors
    /// [`Error::Usage`] with what `scontrol` says, or why it does not run.
    pub fn requeue(&self) -> Result<String> {
        let command = format!("scontrol requeue {}", self.id);
        let failed = |why: String| Error::usage(format!("{command}: {why}"));
        let output =
            Command::new("scontrol").args(["requeue", &self.id]).output().map_err(|e| failed(e.to_string()))?;
        if output.status.success() {
            return Ok(format!("SLURM job {} is queued again ({command})", self.id));
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(failed(if said.is_empty() { output.status.to_string() } else { said }))
    }
}

/// SLURM job 72 (task 3 of array job 70), queued again 2 times.
impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SLURM job {}", self.id)?;
        if let Some((array, task)) = &self.task {
            write!(f, " (task {task} of array job {array})")?;
        }
        match self.restarts {
            0 => Ok(()),
            1 => f.write_str(", queued again once"),
            times => write!(f, ", queued again {times} times"),
        }
    }
}

/// Whether a text can be part of a folder's name.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Option<Job> {
        Job::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn a_job_is_named_by_what_a_requeue_keeps() {
        assert_eq!(job(&[]), None);
        let plain = job(&[("SLURM_JOB_ID", "71")]).unwrap();
        assert_eq!((plain.name().as_deref(), plain.is_task()), (Some("job_71"), false));
        let array = [("SLURM_ARRAY_JOB_ID", "70"), ("SLURM_ARRAY_TASK_ID", "3")];
        let variables = [&[("SLURM_JOB_ID", "72"), ("SLURM_RESTART_COUNT", "2")][..], &array].concat();
        let task = job(&variables).unwrap();
        assert_eq!((task.name().as_deref(), task.is_task()), (Some("job_70_3"), true));
        assert_eq!(task.to_string(), "SLURM job 72 (task 3 of array job 70), queued again 2 times");
        let shell = job(&[("SLURM_JOB_ID", "71"), ("SLURM_JOB_NAME", "interactive")]).unwrap();
        assert_eq!(shell.name(), None);
        assert_eq!(job(&[("SLURM_JOB_ID", "../x")]), None);
    }

    #[test]
    fn a_run_stops_before_its_job_ends() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let left = |end: &str| job(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", end)]).unwrap().time_to_train(start);
        assert_eq!(left("1036000"), Some(Duration::from_secs(36_000 - 120)));
        assert_eq!(left("1000100"), Some(Duration::from_secs(90)));
        for unknown in ["1000000", "999999", "", "never", "99999999999999999999"] {
            assert_eq!(left(unknown), None, "{unknown}");
        }
    }
}
