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
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::config::Precision;
use crate::device::cuda::libraries::search::Env;
use crate::device::cuda::{FoundGpu, GpuDriver, GpuOptions};
use crate::runtime::{Cpu, Cuda};
use crate::{Error, Result};
use child::Saying;

/// The first argument of a program that is started to check a GPU; then its number, and the stage.
const ARGUMENT: &str = "self-check-of-a-gpu";

/// The longest that a stage may take. Most of it is compiling some hundreds of kernels, on a slow machine on one core.
const LIMIT: Duration = Duration::from_secs(360);
/// Added to it where a process ends itself, because nobody else has.
const MARGIN: Duration = Duration::from_secs(20);

/// The longest that [`check_gpu`] takes with a driver that answers at all.
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
            Stage::Ordinary => &[Precision::F32, Precision::Tf32, Precision::Bf16],
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
    ///
    /// # Errors
    /// Where it cannot be kept, and why.
    fn keep(&self, path: Option<&Path>) -> Result<(), String> {
        let mut all = [&self.ordinary].into_iter().chain(&self.warpgroups);
        if all.any(|verdict| matches!(verdict, Verdict::Unable(_))) {
            return Ok(());
        }
        let path = path.ok_or("without a folder")?;
        self.write(path).map_err(|e| format!("in {}: {e}", path.display()))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
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

/// A GPU with its report, not open yet.
#[derive(Debug)]
pub struct Checked {
    gpu: FoundGpu,
    /// What is known of it.
    pub report: Report,
}

impl Checked {
    /// The GPU's name and kind.
    pub fn describe(&self) -> String {
        self.gpu.describe()
    }

    /// Opens it. Kernels for Hopper that have not passed are not used.
    ///
    /// # Errors
    /// Fails if the driver fails.
    pub fn open(self) -> Result<GpuDriver> {
        let all = self.report.warpgroups == Some(Verdict::Passed);
        let gpu = self.gpu.open()?;
        Ok(if all { gpu } else { gpu.without_warpgroups() })
    }
}

/// Finds a GPU and its report, which is made by `program`, a binary of this project, if there is none yet; `notice` is
/// told so. The GPU is not opened here: it may hang, crash, or be one that a single process can have.
///
/// # Errors
/// There is no driver, no compiler or no such GPU. This process was itself started to check one.
pub fn check_gpu(options: &GpuOptions, program: &Path, trust: Trust, notice: &mut dyn FnMut(&str)) -> Result<Checked> {
    let gpu = FoundGpu::new(options.clone())?;
    let (path, checked_on) = (gpu.check_file(), gpu.checked_on());
    let kept = path.as_ref().and_then(|path| Report::read(path, &checked_on));
    if let Some(report) = kept.filter(|report| trust == Trust::Kept || report.passed()) {
        return Ok(Checked { gpu, report });
    }
    if std::env::var_os(child::PARENT).is_some() {
        return Err(Error::usage("this process was started to check a GPU, and would start another for it")
            .with_hint("`main` of a program that names itself must begin with `self_check::answer`"));
    }
    notice(&format!("checking {} against the CPU", gpu.describe()));
    let run = |stage| child::run(&mut command(program, options.ordinal, stage), &checked_on, LIMIT);
    let report = made(checked_on.clone(), gpu.arch().has_warpgroups(), run);
    if let Err(why) = report.keep(path.as_deref()) {
        notice(&format!(
            "the result of the check cannot be kept {why}; every start checks again (set SRGAN_CACHE_DIR)"
        ));
    }
    Ok(Checked { gpu, report })
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

/// The file of this program, for [`check_gpu`]: what is running, also where its file was replaced since.
pub fn this_program() -> Option<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Some(running) } else { std::env::current_exe().ok() }
}

/// Checks a GPU, if this process was started for that: a binary's first act. Prints the verdict; the exit code.
pub fn answer(arguments: impl Iterator<Item = OsString>, env: Env) -> Option<u8> {
    let arguments: Vec<String> = arguments.skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let [argument, ordinal, stage] = &arguments[..] else { return None };
    if argument != ARGUMENT {
        return None;
    }
    let stage = Stage::ALL.into_iter().find(|known| known.name() == stage);
    let (Some(stage), Ok(ordinal)) = (stage, ordinal.parse()) else { return Some(1) };
    if !limit_process(env) {
        return Some(1);
    }
    let options = GpuOptions { ordinal, ..GpuOptions::new(env) };
    let (checked_on, verdict) = match FoundGpu::new(options.clone()) {
        Ok(found) => (found.checked_on(), check(&options, stage).unwrap_or_else(|e| Verdict::Unable(e.to_string()))),
        Err(e) => (String::new(), Verdict::Unable(e.to_string())),
    };
    say(&Saying::Ended { checked_on, verdict });
    Some(0)
}

fn say(saying: &Saying) {
    println!("{}", child::line(saying));
}

/// Ends the process with its parent, and in any case after a while; it leaves no image of its memory. Whether the parent
/// still lives.
fn limit_process(env: Env) -> bool {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: calls that take numbers; one reads the struct.
    let parent = unsafe {
        libc::alarm((LIMIT + MARGIN).as_secs() as u32);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::getppid()
    };
    // It may have ended before the signal was asked for.
    env(child::PARENT).is_none_or(|expected| expected == *parent.to_string())
}

/// Whether a GPU computes what the CPU does.
///
/// # Errors
/// Why that cannot be found out: the GPU does not open, something else has its memory.
fn check(options: &GpuOptions, stage: Stage) -> Result<Verdict> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let reference = problem::trace(Box::new(Cpu::new(threads)?), Precision::F32)?;
    for &precision in stage.precisions() {
        say(&Saying::Preparing);
        // Choices of earlier runs would keep candidates from being tried.
        let gpu = GpuDriver::new(options.clone())?.without_kept_choices();
        let gpu = if stage == Stage::Warpgroups { gpu } else { gpu.without_warpgroups() };
        let device = Cuda::new(Box::new(gpu)).with_progress(Some(Box::new(|_, compiling| {
            if compiling.done == compiling.total {
                say(&Saying::Computing);
            } else if compiling.done == compiling.cached {
                say(&Saying::Preparing);
            }
        })));
        let wrong = match problem::trace(Box::new(device), precision) {
            Ok(trace) => trace.fault(&reference, precision),
            Err(error) => Some(blamed(error)?),
        };
        if let Some(text) = wrong {
            return Ok(Verdict::Failed(format!("in {}, {text}", precision.name())));
        }
    }
    Ok(Verdict::Passed)
}

/// What an error of a GPU that has opened says of it: a kernel that does not compile, load or start never will.
///
/// # Errors
/// It says nothing of the GPU.
fn blamed(error: Error) -> Result<String> {
    match error {
        Error::Memory { .. } | Error::DeviceMemory { .. } | Error::Io { .. } => Err(error),
        Error::DeviceLost { message } => Ok(format!("the GPU was lost: {message}")),
        other => Ok(other.to_string()),
    }
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
        report(Verdict::Unable("no memory".into())).keep(Some(&path)).unwrap();
        report(Verdict::Unable("no memory".into())).keep(None).unwrap();
        assert_eq!(Report::read(&path, "gpu"), None);
        for verdict in [failed("wrong"), Verdict::Passed] {
            report(verdict.clone()).keep(Some(&path)).unwrap();
            assert_eq!(Report::read(&path, "gpu"), Some(report(verdict)));
        }
        assert_eq!(Report::read(&path, "another gpu"), None);
        for damaged in ["", "{", "[]", "{\"checked_on\": \"gpu\"}", "\u{0}"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(Report::read(&path, "gpu"), None);
        }
        let path = path.join("no/folder");
        let why = report(Verdict::Passed).keep(Some(&path)).unwrap_err();
        assert!(why.starts_with(&format!("in {}: ", path.display())), "{why}");
        assert_eq!(report(Verdict::Passed).keep(None).unwrap_err(), "without a folder");
    }

    /// What is missing now may be there the next time; everything else is as it is.
    #[test]
    fn errors_of_training_speak_against_the_gpu_unless_something_is_missing() {
        let io = Error::io("read", "file", io::Error::other("broken"));
        for error in [Error::Memory { bytes: 1 << 20 }, Error::DeviceMemory { message: "none left".into() }, io] {
            let text = error.to_string();
            assert_eq!(blamed(error).unwrap_err().to_string(), text);
        }
        assert_eq!(blamed(Error::device("kernel add does not compile")).unwrap(), "kernel add does not compile");
        assert_eq!(blamed(Error::DeviceLost { message: "a trap".into() }).unwrap(), "the GPU was lost: a trap");
        assert!(blamed(Error::Internal("a fault".into())).is_ok());
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
