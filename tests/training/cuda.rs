//! Whole runs on the CUDA device: on the host driver, and on a GPU. Without a GPU those tests say that they are skipped;
//! `SRGAN_REQUIRE_CUDA` turns the skip into a failure.

use std::io::Write;
use std::path::Path;

use srgan::bench::{Phase, random_program, upload_random};
use srgan::config::{Config, Resume};
use srgan::device::cuda::host::{HostDriver, HostOptions};
use srgan::device::cuda::{GpuDriver, GpuOptions};
use srgan::log::Messages;
use srgan::runtime::{Cpu, Cuda, Device};
use srgan::train::scalars;
use srgan::train::session::Session;
use srgan::train::{RunOptions, run_on};

use crate::common::{Scratch, meta};
use crate::resume::assert_same_runs;

/// Few steps of both phases, with every kind of state of the networks: running statistics, power iterations, an average;
/// and R1's second derivatives.
const SMALL: [&str; 8] = [
    "Training.max_steps=4",
    "Training.g_pretrain_steps=2",
    "Training.val_check_interval=2",
    "Training.limit_val_batches=1",
    "Training.Losses.r1_gamma=1.0",
    "Discriminator.model_type=standard",
    "Discriminator.n_blocks=2",
    "Discriminator.use_spectral_norm=true",
];

/// Side of random patches.
const SIDE: usize = 16;

type Open = fn() -> Box<dyn Device>;

fn on_cpu() -> Box<dyn Device> {
    Box::new(Cpu::new(2).unwrap())
}

fn on_host() -> Box<dyn Device> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_kernels");
    Box::new(Cuda::new(Box::new(HostDriver::new(&cache, HostOptions::default()).unwrap())))
}

/// The same, its plans run part by part.
fn on_host_in_parts() -> Box<dyn Device> {
    let mut device = on_host();
    device.set_profile(true);
    device
}

fn on_gpu() -> Box<dyn Device> {
    Box::new(Cuda::new(Box::new(gpu().unwrap())))
}

/// Launches kernel by kernel, and waits after each.
fn on_gpu_by_launches() -> Box<dyn Device> {
    Box::new(Cuda::new(Box::new(gpu_with(true).unwrap())))
}

/// A profiled device has other graphs, with events between the parts of a plan.
fn on_gpu_in_parts() -> Box<dyn Device> {
    let mut device = on_gpu();
    device.set_profile(true);
    device
}

fn gpu() -> srgan::Result<GpuDriver> {
    gpu_with(false)
}

fn gpu_with(sync_kernels: bool) -> srgan::Result<GpuDriver> {
    let options = GpuOptions::new(&|name| std::env::var_os(name));
    GpuDriver::new(GpuOptions { sync_kernels, ..options })
}

/// Whether there is a GPU for `test`.
fn has_gpu(test: &str) -> bool {
    let Err(e) = gpu() else { return true };
    assert!(std::env::var_os("SRGAN_REQUIRE_CUDA").is_none(), "{e}");
    // `eprintln` is not shown of a test that passes.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{test}: SKIPPED: {}", e.to_string().lines().next().unwrap().trim_end_matches(':')).unwrap();
    false
}

/// Trains a configuration in the run folder `run` of `scratch`.
fn train(scratch: &Scratch, run: &str, device: Box<dyn Device>, config: &Path, args: &[&str]) {
    let folder = |key: &str, name: &str| format!("{key}={}", scratch.path(name).display());
    let mut overrides: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    overrides.push(folder("Data.store_dir", "store"));
    let (cfg, _) = Config::load(config, &overrides).unwrap();
    let options = RunOptions { resume: Some(Resume::Auto), run_dir: Some(scratch.path(run)), ..RunOptions::default() };
    run_on(|| Ok(device), &cfg, &options, &Messages::plain(std::io::sink())).unwrap();
}

/// The same for the scratch's own configuration, with [`SMALL`].
fn train_small(scratch: &Scratch, run: &str, device: Box<dyn Device>, args: &[&str]) {
    let scene = format!("Data.scenes=[{}]", scratch.path("scene.npy").display());
    train(scratch, run, device, &scratch.path("cfg.yaml"), &[&SMALL[..], &[scene.as_str()], args].concat());
}

/// A run has the same bits when it stops after 3 of 4 steps and goes on, and when plans run in other ways than as graphs.
fn runs_have_the_same_bits(open: Open, others: &[Open]) {
    let scratch = Scratch::new();
    train_small(&scratch, "whole", open(), &[]);
    train_small(&scratch, "split", open(), &["Training.max_steps=3"]);
    assert_eq!(meta(&scratch.last("split")).step, 3);
    train_small(&scratch, "split", open(), &[]);
    assert_eq!(meta(&scratch.last("split")).step, 4);
    assert_same_runs(&scratch, "whole", "split");
    for (i, other) in others.iter().enumerate() {
        let run = format!("other_{i}");
        train_small(&scratch, &run, other(), &[]);
        assert_same_runs(&scratch, "whole", &run);
    }
}

/// Every step of a training step is timed in each of its ways, and the program goes on to run.
fn every_step_is_timed_alone(open: Open) {
    let scratch = Scratch::new();
    let overrides: Vec<String> = SMALL.iter().map(|a| (*a).to_owned()).collect();
    let (cfg, _) = Config::load(&scratch.path("cfg.yaml"), &overrides).unwrap();
    let mut session = Session::new(cfg.clone(), open()).unwrap();
    let plan = session.plan(random_program(&cfg, Phase::Adversarial, SIDE).unwrap()).unwrap();
    upload_random(&mut session, plan, SIDE).unwrap();
    session.run(plan, [0.0; scalars::COUNT]).unwrap();
    let count = session.device().plan(plan).steps.len();
    for step in 0..count {
        for way in session.ways(plan, step).unwrap() {
            let time = session.time_step(plan, step, &way, 1).unwrap();
            assert!(!time.is_zero(), "step {step}, {way}");
        }
    }
    session.set_profile(true);
    session.run(plan, [0.0; scalars::COUNT]).unwrap();
    let parts = session.device().times(plan);
    assert!(parts.len() > count && parts[..count].iter().all(|part| !part.time.is_zero()), "{parts:?}");
}

/// Asserts that all metrics of a run are finite; the mean content loss of its last `count` steps.
fn content_loss(scratch: &Scratch, run: &str, count: usize) -> f64 {
    let text = scratch.metrics_text(run);
    for name in text.lines().next().unwrap().split(',') {
        let cells = scratch.column(run, name);
        let bad = cells.iter().find(|(_, cell)| cell.parse::<f64>().is_ok_and(|v| !v.is_finite()));
        assert!(bad.is_none(), "{run}: {name} at step {bad:?}");
    }
    let losses = scratch.numbers(run, "generator/content_loss");
    let last = &losses[losses.len() - count..];
    last.iter().sum::<f64>() / count as f64
}

/// Asserts that the mean content losses of the last `count` steps of two runs are within 1 %.
fn assert_like(scratch: &Scratch, run: &str, reference: &str, count: usize) {
    let (got, want) = (content_loss(scratch, run, count), content_loss(scratch, reference, count));
    assert!((got - want).abs() <= 0.01 * want, "{run} {got:e}, {reference} {want:e}");
}

#[test]
fn on_the_host_runs_have_the_same_bits() {
    runs_have_the_same_bits(on_host, &[on_host_in_parts]);
}

#[test]
fn on_the_host_every_step_is_timed_alone() {
    every_step_is_timed_alone(on_host);
}

#[test]
fn on_the_host_training_is_like_on_the_cpu() {
    let scratch = Scratch::new();
    for (run, device) in [("cpu", on_cpu()), ("host", on_host())] {
        train_small(&scratch, run, device, &["Training.precision=f32"]);
    }
    assert_like(&scratch, "host", "cpu", 2);
}

#[test]
fn on_a_gpu_runs_have_the_same_bits() {
    if has_gpu("on_a_gpu_runs_have_the_same_bits") {
        runs_have_the_same_bits(on_gpu, &[on_gpu_by_launches, on_gpu_in_parts]);
    }
}

#[test]
fn on_a_gpu_every_step_is_timed_alone() {
    if has_gpu("on_a_gpu_every_step_is_timed_alone") {
        every_step_is_timed_alone(on_gpu);
    }
}

#[test]
fn on_a_gpu_tensor_cores_have_the_higher_rate() {
    if has_gpu("on_a_gpu_tensor_cores_have_the_higher_rate") {
        let peaks = on_gpu().peaks().unwrap();
        let [tf32, bf16] = [peaks.tf32_flops, peaks.bf16_flops].map(Option::unwrap);
        assert!(peaks.flops < tf32 && tf32 < bf16 && peaks.bandwidth > 0.0, "{peaks}");
    }
}

/// The GPU has passed its check, or `auto` would be the CPU, and say so.
#[test]
fn on_a_gpu_auto_takes_it() {
    if !has_gpu("on_a_gpu_auto_takes_it") {
        return;
    }
    let scratch = Scratch::new();
    let args = ["--device", "auto", "--run-dir", "run", "Training.max_steps=2"];
    let run = scratch.train(&args).exits(0).says(&["device cuda ("]);
    assert!(!run.text.contains("training on the CPU"), "{}", run.text);
}

/// 200 steps of the demonstration, of which the last 80 are adversarial.
#[test]
fn on_a_gpu_training_is_like_on_the_cpu() {
    if !has_gpu("on_a_gpu_training_is_like_on_the_cpu") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scene = format!("Data.scenes=[{}]", root.join("data/sentinel2_10m_b2_b3_b4_b8.npy").display());
    let steps = ["Training.max_steps=200", "Training.g_pretrain_steps=120", "Training.precision=f32"];
    let args = [&steps[..], &[scene.as_str()]].concat();
    let scratch = Scratch::new();
    for (run, device) in [("cpu", on_cpu()), ("cuda", on_gpu())] {
        train(&scratch, run, device, &root.join("configs/demo.yaml"), &args);
    }
    assert_like(&scratch, "cuda", "cpu", 20);
}
