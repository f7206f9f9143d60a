//! Training by a call.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::{Arc, OnceLock};

use engine::Result;
use engine::embed::{self, ConfigSource};
use engine::log::Messages;
use engine::metrics;
use engine::train::Caller;
use engine::train::programs::Phase;
use engine::train::step::StepReport;

use crate::arguments::{optional, optional_path, path, reference, slice_mut, texts, utf8};
use crate::errors::{Status, c_text, guarded};
use crate::messages::{messages, program};

/// A number that a step measured.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, as in metrics.csv: "generator/content_loss". The text lives as long as the program.
    pub name: *const c_char,
    /// Its value.
    pub value: f64,
}

/// What a step did.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number, from 0.
    pub step: u64,
    /// False while the generator is trained alone.
    pub adversarial: bool,
    /// False if a loss or a gradient was not finite: nothing has changed then.
    pub committed: bool,
    /// What it measured; valid during the call.
    pub metrics: *const Metric,
    /// Number of `metrics`.
    pub metric_count: usize,
}

/// Called after each step from the thread that trains; anything but 0 stops the run with its state saved, after the step
/// that may be under way already. `user` is that of the options.
pub type OnStep = Option<unsafe extern "C" fn(step: *const Step, user: *mut c_void) -> c_int>;

/// How a run is trained. Set what is not named to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TrainOptions {
    /// The YAML file.
    pub config: *const c_char,
    /// Values that override the file's: "Training.seed=1".
    pub overrides: *const *const c_char,
    /// Number of `overrides`.
    pub override_count: usize,
    /// The run's folder; null is a new one.
    pub run_dir: *const c_char,
    /// A run to continue: "auto", its folder or a checkpoint; null begins one.
    pub resume: *const c_char,
    /// Called after each step; may be null.
    pub on_step: OnStep,
    /// Handed to `on_step`.
    pub user: *mut c_void,
}

/// A run that has come to its end, or was stopped with its state saved.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Steps that were done, those before it was continued included.
    pub steps: u64,
    /// Whether `on_step` stopped it; it goes on with its folder as `resume`.
    pub stopped: bool,
    /// Its folder; valid until the next srgan_train() on this thread.
    pub folder: *const c_char,
}

thread_local! {
    static FOLDER: RefCell<CString> = RefCell::default();
}

/// The function of the program, and what it is called with.
struct Hook {
    call: OnStep,
    user: *mut c_void,
}

// SAFETY: the run calls back on the thread that called it, and the pointer is handed back and never looked at.
unsafe impl Send for Hook {}
// SAFETY: the same.
unsafe impl Sync for Hook {}

/// Trains as `srgan train` does, to the end or until `on_step` stops the run. `run` may be null. Signal handlers stay as
/// they are: to stop on a signal, have `on_step` look at a variable that the program's handler sets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srgan_train(options: *const TrainOptions, run: *mut Run) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let ended = train(unsafe { reference(options, "options") }?)?;
        if run.is_null() {
            return Ok(());
        }
        let folder = CString::new(ended.folder.as_os_str().as_bytes()).unwrap_or_default();
        let folder = FOLDER.with(|kept| {
            *kept.borrow_mut() = folder;
            kept.borrow().as_ptr()
        });
        // SAFETY: the caller's promise.
        let target = unsafe { slice_mut(run, 1, "run") }?;
        target[0] = Run { steps: ended.steps, stopped: ended.stopped, folder };
        Ok(())
    })
}

fn train(options: &TrainOptions) -> Result<embed::EmbeddedRun> {
    let TrainOptions { config, overrides, override_count, run_dir, resume, on_step, user } = *options;
    // SAFETY: the promise of `srgan_train`'s caller.
    let (config, overrides, run_dir, resume) = unsafe {
        let resume = optional(resume).map(|text| utf8(text, "resume")).transpose()?;
        (path(config, "config")?, texts(overrides, override_count, "overrides")?, optional_path(run_dir), resume)
    };
    let hook = Hook { call: on_step, user };
    let caller = Caller {
        on_step: Arc::new(move |step, report| hook.goes_on(step, report)),
        wants_stop: Arc::new(|| false),
        messages: messages().unwrap_or_else(Messages::stderr),
    };
    let options = embed::TrainOptions { run_dir, resume, program: program(), ..embed::TrainOptions::default() };
    embed::train(ConfigSource::File(&config), &overrides, &options, caller)
}

impl Hook {
    /// Calls the program back; whether it lets the run go on.
    fn goes_on(&self, step: u64, report: &StepReport) -> bool {
        let Some(call) = self.call else { return true };
        let metric = |(metric, value): &(metrics::Metric, f64)| Metric { name: name(*metric), value: *value };
        let metrics: Vec<Metric> = report.values.iter().map(metric).collect();
        let step = Step {
            step,
            adversarial: report.phase == Phase::Adversarial,
            committed: report.committed,
            metrics: metrics.as_ptr(),
            metric_count: metrics.len(),
        };
        // SAFETY: what `step` shows lives until the call is over; the rest is the promise of who gave the function.
        unsafe { call(&step, self.user) == 0 }
    }
}

/// A metric's name for C.
fn name(metric: metrics::Metric) -> *const c_char {
    static NAMES: OnceLock<Vec<(metrics::Metric, CString)>> = OnceLock::new();
    let all = || metrics::Metric::ALL.iter().map(|metric| (*metric, c_text(metric.name()))).collect();
    let known = NAMES.get_or_init(all).iter().find(|(known, _)| *known == metric);
    known.map_or(ptr::null(), |(_, name)| name.as_ptr())
}
