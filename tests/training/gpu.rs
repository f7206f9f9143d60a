//! What a GPU does to a run: it works on while the host goes on, it has as much memory as it has, and it fails. Kernels
//! run on the host, behind a driver that is as late as a GPU.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use srgan::config::{Config, Resume};
use srgan::graph::Tape;
use srgan::log::Messages;
use srgan::ops::sum_to::{Expand, SumTo};
use srgan::plan::{Plan, PlanOptions, Program};
use srgan::runtime::choices::OWN;
use srgan::runtime::{CudaTarget, Device};
use srgan::train::{RunOptions, dry_run_on, run_on};
use srgan::types::{DType, Shape};
use srgan::{Error, Result};

use crate::common::{Scratch, Shared, assert_same_tensors, meta, tensors};
use crate::late_driver::{Faults, Seen, late_device};

/// Six steps, the last three adversarial; checkpoints after steps 2, 4 and 6.
const SHORT: [&str; 4] = [
    "Training.max_steps=6",
    "Training.g_pretrain_steps=3",
    "Training.val_check_interval=2",
    "Training.limit_val_batches=1",
];

/// The folder's configuration with `changes`.
fn config(scratch: &Scratch, changes: &[&str]) -> Config {
    let mut changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
    changes.push(format!("Data.scenes=[{}]", scratch.path("scene.npy").display()));
    changes.push("Training.precision=f32".to_owned());
    changes.push(format!("Data.store_dir={}", scratch.path("store").display()));
    Config::load(&scratch.path("cfg.yaml"), &changes).unwrap().0
}

/// Trains on a device, or goes on in the run folder; the result and what was printed.
fn train(scratch: &Scratch, run: &str, changes: &[&str], device: Box<dyn Device>) -> (Result<()>, String) {
    let cfg = config(scratch, changes);
    let folder = scratch.path(run);
    let resume = folder.exists().then_some(Resume::Auto);
    let options = RunOptions { resume, run_dir: Some(folder), ..RunOptions::default() };
    let out = Shared::default();
    let result = run_on(|| Ok(device), &cfg, &options, &Messages::plain(out.clone())).map(|_| ());
    (result, out.text())
}

/// A run without faults.
fn trained(scratch: &Scratch, run: &str, changes: &[&str]) -> Rc<RefCell<Seen>> {
    let (device, seen) = late_device(Faults::default());
    let (result, text) = train(scratch, run, changes, device);
    assert!(result.is_ok(), "{result:?}\n{text}");
    seen
}

/// A step is on the device before the one before it is waited for, and waiting for it is all that is waited for.
#[test]
fn steps_are_queued_one_ahead() {
    let scratch = Scratch::new();
    // Twelve steps in three epochs; only the end of an epoch waits for its last step.
    let quiet = ["Training.g_pretrain_steps=-1", "Training.val_check_interval=1000", "Logging.num_val_images=0"];
    let seen = trained(&scratch, "run", &quiet);
    let seen = seen.borrow();
    let epoch = [1, 1, 1, 0];
    assert_eq!(seen.behind[..12], [epoch; 3].concat());
    assert_eq!(meta(&scratch.last("run")).step, 12);

    let half = trained(&scratch, "half", &[&quiet[..], &["Training.max_steps=8"]].concat());
    let half = half.borrow();
    assert_eq!((seen.other_waits, seen.allocations), (half.other_waits, half.allocations), "steps wait or allocate");
    assert!(seen.replays == half.replays + 4);
}

/// Late reports say of each step what reports at once say.
#[test]
fn a_late_device_trains_as_the_cpu_does() {
    let scratch = Scratch::new();
    for (run, changes) in [("plain", vec![]), ("parts", vec!["Training.accumulate_grad_batches=2"])] {
        let changes = [&SHORT[..], &changes].concat();
        let cpu = format!("{run}_cpu");
        trained(&scratch, run, &changes);
        scratch.trained(&cpu, &changes);
        for name in ["EMA/num_updates", "EMA/last_decay", "lr_generator", "training/adv_loss_weight"] {
            assert_eq!(scratch.column(run, name), scratch.column(&cpu, name), "{name}");
        }
        for name in ["generator/content_loss", "discriminator/adversarial_loss", "val_metrics/l1"] {
            let (late, cpu) = (scratch.numbers(run, name), scratch.numbers(&cpu, name));
            assert_eq!(late.len(), cpu.len());
            assert!(late.iter().zip(&cpu).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs()), "{name}: {late:?}, {cpu:?}");
        }
        let counters = |run: &str| meta(&scratch.last(run)).counters;
        assert_eq!(counters(run), counters(&cpu));
    }
}

/// Nothing is started behind the step that ends the run, or its update would be in the checkpoint.
#[test]
fn ten_steps_that_are_not_finite_end_a_late_run_too() {
    let scratch = Scratch::new();
    let (device, seen) = late_device(Faults::default());
    let changes = ["Optimizers.optim_g_lr=1e30", "Training.g_pretrain_steps=-1", "Training.val_check_interval=1000"];
    let (result, text) = train(&scratch, "run", &[&changes[..], &["Training.max_steps=40"]].concat(), device);
    assert!(matches!(result, Err(Error::Diverged { .. })), "{result:?}");
    let state = meta(&scratch.last("run"));
    assert_eq!((state.counters.skipped_in_a_row, state.step), (10, state.counters.adam_g + 10), "{text}");
    assert_eq!(seen.borrow().behind.last(), Some(&0));
    for (name, values) in tensors(&scratch.last("run")) {
        assert!(values.iter().all(|v| f32::from_bits(*v).is_finite()), "{name}");
    }
}

#[test]
fn a_lost_gpu_leaves_the_last_checkpoint_and_says_how_to_go_on() {
    let scratch = Scratch::new();
    let whole = trained(&scratch, "whole", &SHORT).borrow().launches;
    // The run's last launches belong to the table at its end.
    let (device, _) = late_device(Faults { lost_at: Some(whole / 2), ..Faults::default() });
    let (result, text) = train(&scratch, "lost", &SHORT, device);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("CUDA_ERROR_ECC_UNCORRECTABLE"), "{error}");
    assert!(error.to_string().contains("--resume"), "{error}");

    let kept = meta(&scratch.last("lost")).step;
    assert!(kept == 2 || kept == 4, "{kept}\n{text}");
    let folder = scratch.path("lost");
    let advice = format!("the last checkpoint, of {kept} steps, is kept: continue with --resume {}", folder.display());
    assert!(text.contains(&advice), "{text}");
    let log = fs::read_to_string(folder.join("train.log")).unwrap();
    assert!(log.contains("the GPU is lost") && log.contains("--resume"), "{log}");

    // It is the checkpoint of a run that ended there, and goes on as if nothing had been.
    trained(&scratch, "short", &[&SHORT[..], &[&format!("Training.max_steps={kept}")]].concat());
    assert_same_tensors(&tensors(&scratch.last("short")), &tensors(&scratch.last("lost")));
    trained(&scratch, "lost", &SHORT);
    assert_same_tensors(&tensors(&scratch.last("whole")), &tensors(&scratch.last("lost")));
    assert_eq!(scratch.metrics_text("whole"), scratch.metrics_text("lost"));
}

#[test]
fn a_gpu_lost_before_the_first_checkpoint_leaves_none() {
    let scratch = Scratch::new();
    let (device, _) = late_device(Faults { lost_at: Some(30), ..Faults::default() });
    let (result, text) = train(&scratch, "run", &SHORT, device);
    assert!(matches!(result, Err(Error::DeviceLost { .. })), "{result:?}");
    assert!(text.contains("the run has no checkpoint yet"), "{text}");
    assert!(!scratch.last("run").exists());
}

#[test]
fn a_launch_that_fails_names_node_and_kernel() {
    let scratch = Scratch::new();
    let (device, seen) = late_device(Faults { wrong_at: Some(20), ..Faults::default() });
    let (result, text) = train(&scratch, "run", &SHORT, device);
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let path = seen.borrow().wrong_path.clone();
    assert!(path.contains("generator."), "{path}");
    let message = error.to_string();
    assert!(message.starts_with(&format!("{path}: kernel ")) && message.contains("threads a block"), "{message}");
    assert!(text.contains("a step failed half-way"), "{text}");
    assert!(!scratch.last("run").exists());
}

/// Patches that are large enough for a difference of some MiB between batches.
const LARGE: [&str; 2] = ["Data.hr_size=32", "Data.val_fraction=0.5"];

/// The total that a dry run shows, in MiB.
fn total(scratch: &Scratch, batch: usize) -> f64 {
    let cfg = config(scratch, &[&LARGE[..], &[&format!("Data.train_batch_size={batch}")]].concat());
    let text = dry_run_on(late_device(Faults::default()).0, &cfg, false).unwrap();
    number(&text, "total")
}

/// The number in a row of the last table that has such a row.
fn number(text: &str, row: &str) -> f64 {
    let line = text.lines().rfind(|l| l.trim_start_matches(['│', '|', ' ']).starts_with(row)).unwrap();
    line.split(|c: char| !c.is_ascii_digit() && c != '.').rfind(|w| !w.is_empty()).unwrap().parse().unwrap()
}

/// What a GPU with `mib` MiB free says to a run with batches of 8.
fn refusal(scratch: &Scratch, mib: f64) -> String {
    let free = Some((mib * f64::from(1 << 20)) as usize);
    let (device, seen) = late_device(Faults { free, ..Faults::default() });
    let (result, _) = train(scratch, "run", &[&LARGE[..], &["Data.train_batch_size=8"]].concat(), device);
    let error = result.unwrap_err();
    assert_eq!((error.exit_code(), seen.borrow().replays), (2, 0), "{error}");
    assert!(!scratch.path("run").exists());
    error.to_string()
}

#[test]
fn a_gpu_without_room_is_refused_before_any_work_with_the_batch_that_fits() {
    let scratch = Scratch::new();
    let reserved = 256.0;
    let [five, six] = [5, 6].map(|batch| total(&scratch, batch));
    assert!(six > five + 0.5, "{five} {six}");
    let text = refusal(&scratch, reserved + five + 0.3);
    assert!(text.contains("Data.train_batch_size") && text.contains("a training batch of 5 fits"), "{text}");
    // Without the table and the picture at the end, which a run goes without where they do not fit.
    let one = five - 4.0 * (six - five);
    let text = refusal(&scratch, reserved + one - 0.3);
    assert!(text.contains("even a batch of 1 does not fit"), "{text}");
    let text = refusal(&scratch, reserved + 0.1);
    assert!(text.contains("the networks need") && text.contains("n_channels"), "{text}");
}

#[test]
fn a_dry_run_says_how_much_memory_there_is() {
    let scratch = Scratch::new();
    let (device, _) = late_device(Faults { free: Some(1000 << 20), ..Faults::default() });
    let text = dry_run_on(device, &config(&scratch, &[]), false).unwrap();
    assert_eq!(number(&text, "available"), 1000.0 - 256.0, "{text}");
}

/// Every plan that a run comes to is foreseen: validations of both phases, before and after the first average, with
/// pictures and without, and the closing table.
#[test]
fn a_run_takes_the_memory_that_its_dry_run_shows() {
    let scratch = Scratch::new();
    let changes = [
        &SHORT[..2],
        &["Training.val_check_interval=1", "Training.EMA.update_after_step=4", "Training.limit_val_batches=3"],
        &["Data.val_batch_size=1", "Data.hr_size=32", "Data.val_fraction=0.5", "Logging.num_val_images=1"],
    ];
    for accumulation in ["Training.accumulate_grad_batches=1", "Training.accumulate_grad_batches=2"] {
        let changes = [&changes.concat()[..], &[accumulation]].concat();
        let shown = dry_run_on(late_device(Faults::default()).0, &config(&scratch, &changes), false).unwrap();
        for plan in
            ["average, D, images", "average, D", "D, images", "images", "average", "average, bicubic", "bicubic"]
        {
            let row = |line: &str| line.trim_start().starts_with("evaluate") && line.contains(&format!(", {plan}  "));
            assert!(shown.lines().any(row), "{plan}:\n{shown}");
        }
        let (device, seen) = late_device(Faults::default());
        let (result, text) = train(&scratch, accumulation, &changes, device);
        assert!(result.is_ok() && text.contains("held-out imagery"), "{result:?}\n{text}");
        let (taken, foreseen) = (seen.borrow().peak as f64 / f64::from(1 << 20), number(&shown, "total"));
        assert!(taken <= foreseen + 0.06, "{taken} MiB taken, {foreseen} MiB foreseen");
        assert!(taken >= 0.9 * foreseen, "{taken} MiB taken, {foreseen} MiB foreseen");
    }
}

/// Sums `count` copies of a number, which takes as many floats of working memory.
fn sum_of_copies(count: usize) -> Plan {
    let mut tape = Tape::new();
    let x = tape.input("x", Shape::SCALAR, DType::F32);
    let copies = tape.push(Expand { target: Shape::vector(count) }, &[x]).unwrap();
    let sum = tape.push(SumTo { target: Shape::SCALAR }, &[copies, copies]).unwrap();
    let outputs = vec![("sum".to_owned(), sum)];
    let program = Program { name: "sum", tape, outputs, checks: vec![], commits: vec![] };
    Plan::compile(&program, PlanOptions::new(&CudaTarget)).unwrap()
}

/// A step that is timed alone is launched as often as asked, each time behind a sweep of the cache.
#[test]
fn a_step_is_timed_as_often_as_asked() {
    let (mut device, seen) = late_device(Faults::default());
    let plan = device.load(sum_of_copies(64)).unwrap();
    device.upload(plan, "x", bytemuck::cast_slice(&[2.0f32])).unwrap();
    device.run(plan).unwrap();
    for runs in [1, 16, 40] {
        for step in 0..device.plan(plan).steps.len() {
            device.time_step(plan, step, OWN, runs).unwrap();
            let before = seen.borrow().launches;
            device.time_step(plan, step, OWN, runs).unwrap();
            let launched = (seen.borrow().launches - before) as u64;
            assert!(launched >= 2 * runs && launched.is_multiple_of(runs), "{launched} launches in {runs} runs");
        }
    }
    assert_eq!(device.run(plan).unwrap().outputs, [[256.0]]);
}

#[test]
fn a_plan_does_not_run_on_memory_that_another_one_failed_to_get() {
    let (mut device, _) = late_device(Faults { free: Some(1 << 20), ..Faults::default() });
    let small = device.load(sum_of_copies(64)).unwrap();
    device.upload(small, "x", bytemuck::cast_slice(&[2.0f32])).unwrap();
    assert_eq!(device.run(small).unwrap().outputs, [[256.0]]);
    let text = device.load(sum_of_copies(1 << 20)).unwrap_err().to_string();
    assert!(text.contains("bytes of memory left"), "{text}");
    let text = device.run(small).unwrap_err().to_string();
    assert!(text.contains("plan sum was not loaded"), "{text}");
}
