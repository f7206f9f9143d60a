//! Training by a call of the library.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use srgan::Error;
use srgan::embed::{ConfigSource, EmbeddedRun, TrainOptions, train};
use srgan::log::Messages;
use srgan::metrics::Metric;
use srgan::train::Caller;

use super::common::{Scratch, Shared, assert_same_tensors, tensors};

/// Trains in the run folder `run`; `on_step` is given the step and says whether to go on.
fn call(
    scratch: &Scratch,
    run: &str,
    resume: bool,
    on_step: impl Fn(u64, f64) -> bool + Send + Sync + 'static,
) -> (srgan::Result<EmbeddedRun>, String) {
    let said = Shared::default();
    let caller = Caller {
        on_step: Arc::new(move |step, report| on_step(step, report.get(Metric::Content))),
        wants_stop: Arc::new(|| false),
        messages: Messages::plain(said.clone()),
    };
    let folder = scratch.path(run);
    let resume = resume.then(|| folder.display().to_string());
    let options = TrainOptions { run_dir: Some(folder), resume, ..TrainOptions::default() };
    let scene = format!("Data.scenes=[{}]", scratch.path("scene.npy").display());
    let store = format!("Data.store_dir={}", scratch.path("store").display());
    let result = train(ConfigSource::File(&scratch.path("cfg.yaml")), &[scene, store], &options, caller);
    (result, said.text())
}

#[test]
fn each_step_is_told_and_a_stopped_run_goes_on_to_the_same_bits() {
    let scratch = Scratch::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&told);
    let (run, said) = call(&scratch, "whole", false, move |step, loss| {
        all.lock().unwrap().push((step, loss));
        true
    });
    assert_eq!(run.unwrap(), EmbeddedRun { folder: scratch.path("whole"), steps: 12, stopped: false });
    let told = told.lock().unwrap();
    assert!(told.iter().map(|(step, _)| *step).eq(0..12) && told.iter().all(|(_, loss)| *loss > 0.0), "{told:?}");
    assert!(said.contains("training patches"), "{said}");
    // It is the run of the program.
    scratch.trained("program", &[]);
    assert_same_tensors(&tensors(&scratch.last("whole")), &tensors(&scratch.last("program")));

    let run = call(&scratch, "stopped", false, |step, _| step < 4).0.unwrap();
    assert!(run.stopped && (5..=6).contains(&run.steps), "{run:?}");
    let last = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&last);
    let run = call(&scratch, "stopped", true, move |step, _| {
        seen.store(step, Ordering::Relaxed);
        true
    });
    assert_eq!((run.0.unwrap().steps, last.load(Ordering::Relaxed)), (12, 11));
    assert_same_tensors(&tensors(&scratch.last("whole")), &tensors(&scratch.last("stopped")));
}

#[test]
fn a_caller_that_wants_to_stop_is_asked_early() {
    let scratch = Scratch::new();
    let caller = Caller {
        on_step: Arc::new(|_, _| true),
        wants_stop: Arc::new(|| true),
        messages: Messages::plain(std::io::sink()),
    };
    let scene = format!("Data.scenes=[{}]", scratch.path("scene.npy").display());
    let options = TrainOptions { run_dir: Some(scratch.path("run")), ..TrainOptions::default() };
    match train(ConfigSource::File(&scratch.path("cfg.yaml")), &[scene], &options, caller) {
        Err(Error::StoppedEarly { by }) => assert_eq!(by, "the calling program"),
        // A scene that need not be unpacked is opened at once; the run stops behind its first step.
        Ok(run) => assert!(run.stopped && run.steps <= 1, "{run:?}"),
        Err(other) => panic!("{other}"),
    }
}
