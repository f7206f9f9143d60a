//! A run that was interrupted and continued ends with the bits of one that was not.

use libc::{SIGINT, SIGTERM};
use srgan::checkpoint::Meta;

use crate::common::{Scratch, assert_same_tensors, meta, signal, tensors};

/// 40 steps, the second half adversarial; a checkpoint only where something asks for one.
const LONG: [&str; 4] = [
    "Training.max_steps=40",
    "Training.g_pretrain_steps=20",
    "Training.val_check_interval=7",
    "Data.train_batch_size=4",
];

/// Asserts that two runs have the same tensors, metrics and state.
#[track_caller]
pub fn assert_same_runs(scratch: &Scratch, a: &str, b: &str) {
    assert_same_tensors(&tensors(&scratch.last(a)), &tensors(&scratch.last(b)));
    for (a, b) in scratch.metrics_text(a).lines().zip(scratch.metrics_text(b).lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(scratch.metrics_text(a).len(), scratch.metrics_text(b).len());
    let state = |run| Meta { config: String::new(), ..meta(&scratch.last(run)) };
    assert_eq!(state(a), state(b));
}

/// 12 steps at once, and 5, then 7 more.
#[track_caller]
fn check_split(args: &[&str]) {
    let scratch = Scratch::new();
    scratch.trained("whole", args);
    scratch.trained("split", &[args, &["Training.max_steps=5"]].concat());
    assert_eq!(meta(&scratch.last("split")).step, 5);
    scratch.trained("split", &[args, &["--resume", "auto"]].concat());
    assert_eq!(meta(&scratch.last("split")).step, 12);
    assert_same_runs(&scratch, "whole", "split");
}

#[test]
fn in_pretraining() {
    check_split(&["Training.g_pretrain_steps=-1"]);
}

#[test]
fn across_the_phases() {
    check_split(&[]);
}

#[test]
fn in_the_adversarial_phase_with_running_statistics_and_power_iterations() {
    check_split(&[
        "Training.pretrain_g_only=false",
        "Training.Losses.relativistic_average_d=true",
        "Training.Losses.r1_gamma=1.0",
        "Discriminator.model_type=standard",
        "Discriminator.n_blocks=2",
        "Discriminator.use_spectral_norm=true",
    ]);
}

#[test]
fn with_accumulated_gradients() {
    check_split(&["Training.accumulate_grad_batches=2"]);
}

#[test]
fn with_a_generator_that_draws_noise() {
    check_split(&["Generator.model_type=stochastic_gan", "Generator.noise_dim=8"]);
}

#[test]
fn from_one_of_the_best_checkpoints() {
    let scratch = Scratch::new();
    scratch.trained("whole", &[]);
    scratch.trained("again", &[]);
    let best = meta(&scratch.last("again")).best;
    let earliest = best.iter().min_by_key(|e| e.step).unwrap();
    assert!(earliest.step < 11);
    let path = scratch.path("again").join(&earliest.path);
    scratch.train(&["--resume", path.to_str().unwrap()]).exits(0).says(&[&format!("at step {}", earliest.step + 1)]);
    assert_same_runs(&scratch, "whole", "again");
}

#[test]
fn a_finished_run_stays_as_it_is() {
    let scratch = Scratch::new();
    scratch.trained("whole", &[]);
    scratch.trained("again", &[]);
    scratch.train(&["--run-dir", "again", "--resume", "auto"]).exits(0).says(&["finished: 12 steps"]);
    assert_same_runs(&scratch, "whole", "again");
}

#[test]
fn the_plateau_schedulers_moved_in_these_runs() {
    let scratch = Scratch::new();
    scratch.trained("run", &[]);
    let state = meta(&scratch.last("run"));
    assert!(state.plateau_g.factor < 1.0 && state.plateau_d.factor < 1.0, "{state:?}");
    assert!(state.counters.ema_updates == 10 && state.counters.adam_g == 12 && state.counters.adam_d == 6);
}

#[test]
fn after_a_signal_that_saves() {
    let scratch = Scratch::new();
    scratch.trained("whole", &LONG);
    for (run, step, number) in [("pretraining", 3, SIGTERM), ("adversarial", 22, SIGINT)] {
        let child = scratch.started(run, step, &LONG);
        assert_eq!(signal(child, number), Some(75));
        let stopped = meta(&scratch.last(run)).step;
        assert!(stopped > step && stopped < 40, "stopped at step {stopped}");
        scratch.trained(run, &[&LONG[..], &["--resume", "auto"]].concat());
        assert_same_runs(&scratch, "whole", run);
    }
}

/// With a validation after each step, the signal comes between a step and its validation, or in the validation.
#[test]
fn after_a_signal_before_a_validation() {
    let scratch = Scratch::new();
    let often = [&LONG[..], &["Training.val_check_interval=1"]].concat();
    scratch.trained("whole", &often);
    let mut unvalidated = 0;
    for (run, step) in [("first", 2), ("second", 9), ("third", 19), ("fourth", 25)] {
        let child = scratch.started(run, step, &often);
        assert_eq!(signal(child, SIGTERM), Some(75));
        let state = meta(&scratch.last(run));
        unvalidated += u32::from(state.last_validation != Some(state.step));
        scratch.trained(run, &[&often[..], &["--resume", "auto"]].concat());
        assert_same_runs(&scratch, "whole", run);
    }
    assert!(unvalidated > 0, "no run was stopped before its validation");
}

#[test]
fn after_a_kill() {
    let scratch = Scratch::new();
    scratch.trained("whole", &LONG);
    for (run, step) in [("pretraining", 4), ("adversarial", 24)] {
        // With a checkpoint after each step the kill may also hit the writing of one.
        let often = [&LONG[..], &["Training.checkpoint_minutes=1e-9"]].concat();
        let child = scratch.started(run, step, &often);
        assert_eq!(signal(child, libc::SIGKILL), None);
        let saved = meta(&scratch.last(run)).step;
        assert!(saved >= step && saved < 40, "saved at step {saved}");
        scratch.trained(run, &[&LONG[..], &["--resume", "auto"]].concat());
        assert_same_runs(&scratch, "whole", run);
    }
}

#[test]
fn the_bits_do_not_depend_on_threads() {
    let scratch = Scratch::new();
    scratch.trained("first", &["Training.num_threads=1", "Data.num_workers=0"]);
    for (run, threads, workers) in [("second", 2, 2), ("third", 3, 0), ("fourth", 3, 3)] {
        let (threads, workers) = (format!("Training.num_threads={threads}"), format!("Data.num_workers={workers}"));
        scratch.trained(run, &[&threads, &workers]);
        assert_same_runs(&scratch, "first", run);
    }
    scratch.trained("other", &["Training.seed=4"]);
    assert_ne!(tensors(&scratch.last("first")), tensors(&scratch.last("other")), "the seed has no effect");
}
