//! A step with a number that is not finite changes nothing: weights, moments, averages, running statistics,
//! power-iteration vectors and counters stay as they were, and training goes on as if it had not been.

use srgan::config::Config;
use srgan::metrics::Metric;
use srgan::train::open_device;
use srgan::train::programs::{BatchShape, Phase};
use srgan::train::session::Session;
use srgan::train::step::{RawBatch, StepNumbers, StepReport, run_step};
use srgan::types::DType;

use crate::common::{Bits, Scratch, assert_same_tensors, meta, tensors};

const SHAPE: BatchShape = BatchShape { batch: 2, hr: (16, 16), hr_type: DType::F32, lr_type: None };

/// A generator with batch norm, a discriminator with batch norm and spectral norm, an EMA from the first step.
fn config(changes: &[&str]) -> Config {
    let text = "\
Data: {dataset_type: LRHRFolderDataset, root_dir: none, normalization: normalise_10k, augment: false}
Model: {in_bands: 3}
Training: {device: cpu, num_threads: 2, adv_loss_ramp_steps: 0, EMA: {enabled: true}}
Generator: {block_type: standard, large_kernel_size: 3, n_channels: 8, n_blocks: 1, scaling_factor: 2}
Discriminator: {model_type: standard, n_blocks: 2, use_spectral_norm: true}
Optimizers: {betas: [0.9, 0.99]}
";
    let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
    Config::from_yaml(text, None, &changes).unwrap().0
}

fn session(cfg: &Config) -> Session {
    Session::new(cfg.clone(), open_device(cfg).unwrap()).unwrap()
}

/// The images of step `step`; pixel 0 is `first`.
fn images(step: u64, first: Option<f32>) -> Vec<u8> {
    let value = |i: usize| 3000.0 + 2000.0 * ((i * 7 + step as usize * 1001) as f32 * 0.013).sin();
    (0..2 * 16 * 16 * 3).map(|i| first.filter(|_| i == 0).unwrap_or(value(i))).flat_map(f32::to_le_bytes).collect()
}

fn numbers(cfg: &Config, step: u64) -> StepNumbers {
    StepNumbers::at(cfg, step, &Default::default(), &Default::default())
}

fn run(session: &mut Session, hr: &[u8], numbers: (u64, StepNumbers)) -> StepReport {
    let batch = RawBatch { hr, lr: None, codes: &[0, 0], noise: None };
    run_step(session, SHAPE, &[batch], numbers).unwrap()
}

/// Everything that a checkpoint would hold.
fn state(session: &Session) -> (Vec<Bits>, [u64; 3]) {
    let bits = |data: &[f32]| data.iter().map(|v| v.to_bits()).collect();
    let tensors = session.tensors().unwrap().iter().map(|t| (t.name.clone(), bits(&t.data))).collect();
    (tensors, session.counters().unwrap())
}

/// Two good steps, `bad`, and a good step again; a second session does the good ones alone.
fn check(cfg: &Config, bad: impl Fn(&mut Session) -> StepReport) -> StepReport {
    let (mut poisoned, mut clean) = (session(cfg), session(cfg));
    let good = |s: &mut Session, step| assert!(run(s, &images(step, None), (step, numbers(cfg, step))).committed);
    for step in [0, 1] {
        good(&mut poisoned, step);
        good(&mut clean, step);
    }
    let before = state(&poisoned);
    assert_eq!(before.1, [2, if numbers(cfg, 0).phase == Phase::Pretrain { 0 } else { 2 }, 2]);
    let report = bad(&mut poisoned);
    assert!(!report.committed);
    let after = state(&poisoned);
    assert_same_tensors(&before.0, &after.0);
    assert_eq!(before.1, after.1);
    good(&mut poisoned, 3);
    good(&mut clean, 3);
    assert_same_tensors(&state(&poisoned).0, &state(&clean).0);
    assert!(state(&clean).0 != before.0, "a good step moves the weights");
    report
}

#[test]
fn in_the_input_of_batch_norm() {
    let unlimited = "Data.normalization=identity";
    for (value, normalization) in [(f32::NAN, "Data.normalization=normalise_10k"), (f32::INFINITY, unlimited)] {
        for phase in ["Training.pretrain_g_only=true", "Training.pretrain_g_only=false"] {
            let cfg = config(&[phase, "Training.g_pretrain_steps=9", normalization]);
            let bad = |s: &mut Session| run(s, &images(2, Some(value)), (2, numbers(&cfg, 2)));
            let report = check(&cfg, bad);
            assert!(!report.get(Metric::Content).is_finite(), "{report:?}");
        }
    }
}

#[test]
fn in_the_generators_loss_alone() {
    let cfg = config(&[]);
    let endless = StepNumbers { adv_weight: f64::INFINITY, ..numbers(&cfg, 2) };
    let report = check(&cfg, |s| run(s, &images(2, None), (2, endless)));
    assert!(report.get(Metric::DiscriminatorLoss).is_finite() && report.get(Metric::Content).is_finite(), "{report:?}");
    assert!(report.get(Metric::DiscriminatorGradNorm).is_finite(), "{report:?}");
    assert!(!report.get(Metric::GeneratorTotal).is_finite(), "{report:?}");
}

/// A penalty whose gradient overflows; the generator's forward pass knows nothing of it.
#[test]
fn in_the_discriminators_loss_alone() {
    let cfg = config(&["Training.Losses.r1_gamma=3e38"]);
    let mut session = session(&cfg);
    let before = state(&session);
    let report = run(&mut session, &images(0, None), (0, numbers(&cfg, 0)));
    assert!(!report.committed && report.get(Metric::Content).is_finite(), "{report:?}");
    assert!(!report.get(Metric::DiscriminatorGradNorm).is_finite(), "{report:?}");
    assert_same_tensors(&before.0, &state(&session).0);
    assert_eq!(before.1, [0; 3]);
}

/// Gradients whose squares overflow would leave infinite second moments behind, which stop a weight for ever. The
/// generator's numbers are all finite here.
#[test]
fn in_the_discriminators_second_moments_alone() {
    let cfg = config(&["Training.Losses.r1_gamma=1e25"]);
    let mut session = session(&cfg);
    let before = state(&session);
    let report = run(&mut session, &images(0, None), (0, numbers(&cfg, 0)));
    assert!(report.values.iter().all(|(_, v)| v.is_finite()), "{report:?}");
    assert!(!report.committed);
    assert_same_tensors(&before.0, &state(&session).0);

    let clipped = config(&["Training.Losses.r1_gamma=1e25", "Optimizers.gradient_clip_val=1"]);
    let mut session = self::session(&clipped);
    assert!(run(&mut session, &images(0, None), (0, numbers(&clipped, 0))).committed, "clipping mends it");
    assert!(session.tensors().unwrap().iter().all(|t| t.data.iter().all(|v| v.is_finite())));
}

#[test]
fn in_one_of_the_micro_batches_of_a_step() {
    let cfg = config(&["Training.accumulate_grad_batches=2"]);
    let mut session = session(&cfg);
    let mut step = |step, first| {
        let (a, b) = (images(step, None), images(step + 100, first));
        let batches = [&a, &b].map(|hr| RawBatch { hr, lr: None, codes: &[0, 0], noise: None });
        let report = run_step(&mut session, SHAPE, &batches, (step, numbers(&cfg, step))).unwrap();
        (report.committed, state(&session))
    };
    let (committed, before) = step(0, None);
    assert!(committed);
    let (committed, after) = step(1, Some(f32::NAN));
    assert!(!committed);
    assert_same_tensors(&before.0, &after.0);
    assert_eq!(before.1, after.1);
    let (committed, later) = step(2, None);
    assert!(committed && later.0 != before.0);
    assert!(later.0.iter().all(|(_, bits)| bits.iter().all(|b| f32::from_bits(*b).is_finite())));
}

/// Through the program: the run ends as diverged, says which samples, and leaves the last good state.
#[test]
fn ten_in_a_row_end_the_run_with_the_last_good_weights() {
    let scratch = Scratch::new();
    let args = ["Optimizers.optim_g_lr=1e30", "Training.max_steps=40", "--run-dir", "run"];
    scratch.train(&args).exits(3).says(&[
        "diverged",
        "10 steps in a row",
        "not finite",
        "scene.npy",
        "run/last.safetensors",
    ]);
    let state = meta(&scratch.last("run"));
    assert_eq!((state.counters.skipped_in_a_row, state.step), (10, state.counters.adam_g + 10));
    for (name, values) in tensors(&scratch.last("run")) {
        assert!(values.iter().all(|v| f32::from_bits(*v).is_finite()), "{name}");
    }
    assert!(scratch.numbers("run", "generator/content_loss").iter().any(|v| !v.is_finite()), "the rows are logged");
}
