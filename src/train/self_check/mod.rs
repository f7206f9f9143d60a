//! Whether a GPU trains as the CPU does, found out before it is trusted: two training steps of small networks on both.
//!
//! A GPU, its driver and its libraries may be broken in ways that no error tells, and kernels may be compiled for a GPU
//! that nobody has run them on. The check is a process of its own and has two stages, so that kernels that use what
//! only Hopper has can be left out where they alone fail. Its result is kept beside the compiled kernels, for this GPU,
//! driver, libraries and kernels.

mod child;
mod problem;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::config::Precision;
use crate::device::cpu::Cpu;
use crate::device::cuda::driver::Driver;
use crate::device::cuda::search::Env;
use crate::device::cuda::{Cuda, GpuDriver, GpuOptions};
use crate::{Error, Result};

/// The first argument of a program that is started to check a GPU; then its number, and the stage.
const ARGUMENT: &str = "self-check-of-a-gpu";

/// The longest that a stage may take. Most of it is compiling some two hundred kernels, on a slow machine on one core.
const LIMIT: Duration = Duration::from_secs(240);
/// Added to it where a process ends itself, because nobody else has.
const MARGIN: Duration = Duration::from_secs(20);

/// The longest that [`open_checked`] takes with a driver that answers at all.
pub const LONGEST: Duration = LIMIT.saturating_mul(3);

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The GPU trains as the CPU does.
    Passed,
    /// It does not: what differs, or how the process ended.
    Failed(String),
    /// The check could not be made, for a reason that may be gone the next time.
    Unable(String),
}

/// The part of a GPU's kernels that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Kernels that all GPUs have, and libraries.
    Ordinary,
    /// Also those that use `wgmma` and bulk copies.
    Warpgroups,
}

impl Stage {
    const ALL: [Stage; 2] = [Stage::Ordinary, Stage::Warpgroups];

    fn name(self) -> &'static str {
        match self {
            Stage::Ordinary => "ordinary",
            Stage::Warpgroups => "warpgroups",
        }
    }

    /// The second stage has kernels of its own in bf16 alone.
    fn precisions(self) -> &'static [Precision] {
        match self {
            Stage::Ordinary => &[Precision::F32, Precision::Bf16],
            Stage::Warpgroups => &[Precision::Bf16],
        }
    }
}

/// The results of a GPU's checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The GPU, driver, libraries and kernels that it holds for.
    checked_on: String,
    /// Of the kernels that all GPUs have.
    pub ordinary: Verdict,
    /// Of those for Hopper alone; `None` where there are none, or the others have not passed.
    pub warpgroups: Option<Verdict>,
}

impl Report {
    /// Whether nothing speaks against the GPU.
    pub fn passed(&self) -> bool {
        let mut all = [&self.ordinary].into_iter().chain(&self.warpgroups);
        all.all(|verdict| *verdict == Verdict::Passed)
    }

    /// What speaks against training on the GPU at all.
    pub fn fault(&self) -> Option<String> {
        match &self.ordinary {
            Verdict::Passed => None,
            Verdict::Failed(text) => Some(format!("it failed its self-check: {text}")),
            Verdict::Unable(text) => Some(format!("it could not be checked: {text}")),
        }
    }

    /// What speaks against its kernels for Hopper.
    pub fn warpgroups_fault(&self) -> Option<&str> {
        match &self.warpgroups {
            None | Some(Verdict::Passed) => None,
            Some(Verdict::Failed(text) | Verdict::Unable(text)) => Some(text),
        }
    }

    /// The report in a file, if it holds for `checked_on`.
    fn read(path: &Path, checked_on: &str) -> Option<Report> {
        let report: Report = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (report.checked_on == checked_on).then_some(report)
    }

    /// Keeps what the next run would find too.
    fn keep(&self, path: &Path) -> io::Result<()> {
        let mut all = [&self.ordinary].into_iter().chain(&self.warpgroups);
        if all.any(|verdict| matches!(verdict, Verdict::Unable(_))) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.persist(path)?;
        Ok(())
    }
}

/// Which kept reports are good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// All: a GPU is checked once.
    Kept,
    /// Those that have passed: a GPU that may have been mended is checked again.
    Passed,
}

/// Opens a GPU with its report, which is made by `program`, a binary of this project, if there is none yet; `notice` is
/// told so. Kernels that have not passed are not used.
///
/// # Errors
/// The GPU does not open.
pub fn open_checked(
    options: &GpuOptions,
    program: &Path,
    trust: Trust,
    notice: &mut dyn FnMut(&str),
) -> Result<(GpuDriver, Report)> {
    let gpu = GpuDriver::new(options.clone())?;
    let (path, checked_on, has_warpgroups) = (gpu.check_file(), gpu.checked_on(), gpu.arch().has_warpgroups());
    let kept = path.as_ref().and_then(|path| Report::read(path, &checked_on));
    let (gpu, report) = match kept.filter(|report| trust == Trust::Kept || report.passed()) {
        Some(report) => (gpu, report),
        None => {
            notice(&format!("checking {} against the CPU, once for its driver and these kernels", gpu.describe()));
            // It may be a GPU that only one process can have at a time.
            drop(gpu);
            let run = |stage| child::run(&mut command(program, options.ordinal, stage), LIMIT);
            let report = made(checked_on, has_warpgroups, run);
            // `srgan doctor` says why a folder cannot be written.
            path.iter().for_each(|path| _ = report.keep(path));
            (GpuDriver::new(options.clone())?, report)
        }
    };
    let all = !has_warpgroups || report.warpgroups == Some(Verdict::Passed);
    Ok((if all { gpu } else { gpu.without_warpgroups() }, report))
}

fn made(checked_on: String, has_warpgroups: bool, mut run: impl FnMut(Stage) -> Verdict) -> Report {
    let ordinary = run(Stage::Ordinary);
    let warpgroups = (has_warpgroups && ordinary == Verdict::Passed).then(|| run(Stage::Warpgroups));
    Report { checked_on, ordinary, warpgroups }
}

fn command(program: &Path, ordinal: usize, stage: Stage) -> Command {
    let mut command = Command::new(program);
    command.args([ARGUMENT, &ordinal.to_string(), stage.name()]);
    command
}

/// The file of this program, for [`open_checked`].
pub fn this_program() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

/// Checks a GPU, if this process was started for that: a binary's first act. Prints the verdict.
pub fn answer(arguments: impl Iterator<Item = OsString>, env: Env) -> Option<ExitCode> {
    let arguments: Vec<String> = arguments.skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let [argument, ordinal, stage] = &arguments[..] else { return None };
    if argument != ARGUMENT {
        return None;
    }
    let stage = Stage::ALL.into_iter().find(|known| known.name() == stage);
    let (Some(stage), Ok(ordinal)) = (stage, ordinal.parse()) else { return Some(ExitCode::FAILURE) };
    limit_process();
    let verdict = match check(ordinal, stage, env) {
        Ok(None) => Verdict::Passed,
        Ok(Some(difference)) => Verdict::Failed(difference),
        Err(Error::DeviceLost { message }) => Verdict::Failed(format!("the GPU was lost: {message}")),
        Err(other) => Verdict::Unable(other.to_string()),
    };
    println!("{}", child::line(&verdict));
    Some(ExitCode::SUCCESS)
}

/// Ends the process where its parent is gone and the GPU hangs; it leaves no image of its memory.
fn limit_process() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the first call takes a number, the second reads the struct.
    unsafe {
        libc::alarm((LIMIT + MARGIN).as_secs() as u32);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
    }
}

/// What a GPU computes otherwise than the CPU.
fn check(ordinal: usize, stage: Stage, env: Env) -> Result<Option<String>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let reference = problem::trace(Box::new(Cpu::new(threads)?), Precision::F32)?;
    for &precision in stage.precisions() {
        // Choices of earlier runs would keep candidates from being tried.
        let gpu = GpuDriver::new(GpuOptions { ordinal, ..GpuOptions::new(env) })?.without_kept_choices();
        let gpu = if stage == Stage::Warpgroups { gpu } else { gpu.without_warpgroups() };
        let trace = problem::trace(Box::new(Cuda::new(Box::new(gpu))), precision)?;
        if let Some(difference) = trace.difference(&reference, precision) {
            return Ok(Some(format!("in {}, {difference}", precision.name())));
        }
        if !trace.rejected.is_empty() {
            return Ok(Some(format!(
                "in {}, wrong results of kernels: {}",
                precision.name(),
                trace.rejected.join(", ")
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> Verdict {
        Verdict::Failed(text.to_owned())
    }

    #[test]
    fn kernels_for_hopper_are_checked_where_they_are_and_the_others_have_passed() {
        let of = |has_warpgroups, ordinary: &Verdict, warpgroups: &Verdict| {
            made("gpu".into(), has_warpgroups, |stage| match stage {
                Stage::Ordinary => ordinary.clone(),
                Stage::Warpgroups => warpgroups.clone(),
            })
        };
        let (passed, wrong) = (Verdict::Passed, failed("wrong"));
        assert!(of(true, &passed, &passed).passed());
        assert_eq!(of(true, &passed, &passed).warpgroups, Some(Verdict::Passed));
        assert_eq!(of(false, &passed, &wrong).warpgroups, None);
        assert!(of(false, &passed, &wrong).passed());
        assert_eq!(of(true, &wrong, &passed).warpgroups, None);
        assert_eq!(of(true, &wrong, &passed).fault().unwrap(), "it failed its self-check: wrong");
        let part = of(true, &passed, &wrong);
        assert_eq!((part.passed(), part.fault(), part.warpgroups_fault()), (false, None, Some("wrong")));
    }

    #[test]
    fn a_report_is_kept_for_the_same_gpu_if_it_says_something_lasting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/check.json");
        let report = |ordinary| made("gpu".into(), false, |_| Verdict::clone(&ordinary));
        report(Verdict::Unable("no memory".into())).keep(&path).unwrap();
        assert_eq!(Report::read(&path, "gpu"), None);
        for verdict in [failed("wrong"), Verdict::Passed] {
            report(verdict.clone()).keep(&path).unwrap();
            assert_eq!(Report::read(&path, "gpu"), Some(report(verdict)));
        }
        assert_eq!(Report::read(&path, "another gpu"), None);
        for damaged in ["", "{", "[]", "{\"checked_on\": \"gpu\"}", "\u{0}"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(Report::read(&path, "gpu"), None);
        }
        report(Verdict::Passed).keep(&path.join("no/folder")).unwrap_err();
    }

    #[test]
    fn only_the_parents_arguments_are_answered() {
        let answered = |arguments: &[&str]| {
            let all = ["srgan"].iter().chain(arguments).map(OsString::from);
            answer(all, &|_| None).is_some()
        };
        assert!(!answered(&[]) && !answered(&["doctor"]) && !answered(&[ARGUMENT]) && !answered(&["-c", "a", "b"]));
        assert!(answered(&[ARGUMENT, "0", "everything"]) && answered(&[ARGUMENT, "first", "ordinary"]));
    }
}
