//! Whole runs on the CUDA device: on the host driver, and on a GPU. Without a GPU those tests say that they are skipped;
//! `SRGAN_REQUIRE_CUDA` turns the skip into a failure.

use std::io::Write;
use std::path::Path;

use srgan::config::{Config, Resume};
use srgan::device::Device;
use srgan::device::cpu::Cpu;
use srgan::device::cuda::host::{HostDriver, HostOptions};
use srgan::device::cuda::{Cuda, GpuDriver, GpuOptions};
use srgan::log::Messages;
use srgan::train::{RunOptions, run_on};

use crate::common::{Scratch, meta};
use crate::resume::assert_same_runs;

/// Few steps of both phases, with every kind of state of the networks: running statistics, power iterations, an average;
/// and R1's second derivatives.
const SMALL: [&str; 8] = [
    "Training.max_steps=6",
    "Training.g_pretrain_steps=3",
    "Training.val_check_interval=3",
    "Training.limit_val_batches=1",
    "Training.Losses.r1_gamma=1.0",
    "Discriminator.model_type=standard",
    "Discriminator.n_blocks=2",
    "Discriminator.use_spectral_norm=true",
];

type Open = fn() -> Box<dyn Device>;

fn on_cpu() -> Box<dyn Device> {
    Box::new(Cpu::new(2).unwrap())
}

fn on_host() -> Box<dyn Device> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("host_kernels");
    Box::new(Cuda::new(Box::new(HostDriver::new(&cache, HostOptions::default()).unwrap())))
}

fn on_gpu() -> Box<dyn Device> {
    Box::new(Cuda::new(Box::new(gpu().unwrap())))
}

fn gpu() -> srgan::Result<GpuDriver> {
    GpuDriver::new(GpuOptions::new(&|name| std::env::var_os(name)))
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

/// 6 steps at once, and 4, then 2 more.
fn resumed_runs_have_the_same_bits(open: Open) {
    let scratch = Scratch::new();
    train_small(&scratch, "whole", open(), &[]);
    train_small(&scratch, "split", open(), &["Training.max_steps=4"]);
    assert_eq!(meta(&scratch.last("split")).step, 4);
    train_small(&scratch, "split", open(), &[]);
    assert_eq!(meta(&scratch.last("split")).step, 6);
    assert_same_runs(&scratch, "whole", "split");
}

/// A profiled device launches kernel by kernel and waits after each step of the plan.
fn graphs_compute_what_launches_do(open: Open) {
    let scratch = Scratch::new();
    train_small(&scratch, "graphs", open(), &[]);
    let mut device = open();
    device.set_profile(true);
    train_small(&scratch, "launches", device, &[]);
    assert_same_runs(&scratch, "graphs", "launches");
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
fn on_the_host_resumed_runs_have_the_same_bits() {
    resumed_runs_have_the_same_bits(on_host);
}

#[test]
fn on_the_host_graphs_compute_what_launches_do() {
    graphs_compute_what_launches_do(on_host);
}

#[test]
fn on_the_host_training_is_like_on_the_cpu() {
    let scratch = Scratch::new();
    for (run, device) in [("cpu", on_cpu()), ("host", on_host())] {
        train_small(&scratch, run, device, &["Training.precision=f32"]);
    }
    assert_like(&scratch, "host", "cpu", 3);
}

#[test]
fn on_a_gpu_resumed_runs_have_the_same_bits() {
    if has_gpu("on_a_gpu_resumed_runs_have_the_same_bits") {
        resumed_runs_have_the_same_bits(on_gpu);
    }
}

#[test]
fn on_a_gpu_graphs_compute_what_launches_do() {
    if has_gpu("on_a_gpu_graphs_compute_what_launches_do") {
        graphs_compute_what_launches_do(on_gpu);
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
