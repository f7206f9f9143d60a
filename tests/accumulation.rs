//! Gradient accumulation: a step of micro-batches is the step of their union, and holds back every change when
//! one of its numbers is not finite.

use srgan::checkpoint::PlateauState;
use srgan::config::Config;
use srgan::metrics::Metric;
use srgan::rng::{Rng, Stream};
use srgan::runtime::Cpu;
use srgan::train::programs::BatchShape;
use srgan::train::session::{SavedTensor, Session};
use srgan::train::step::{RawBatch, StepNumbers, run_step};
use srgan::types::DType;

const CONFIG: &str = "
Data: {normalization: identity, train_batch_size: 4}
Model: {in_bands: 3}
Training:
  pretrain_g_only: true
  g_pretrain_steps: 2
  adv_loss_ramp_steps: 0
  EMA: {enabled: true, decay: 0.9}
  Losses: {adv_loss_beta: 0.1, tv_weight: 0.1}
Generator: {model_type: SRResNet, block_type: res, n_channels: 8, n_blocks: 1, scaling_factor: 2, large_kernel_size: 3}
Discriminator: {model_type: patchgan, n_blocks: 1}
Optimizers: {optim_g_lr: 1.0e-3, optim_d_lr: 1.0e-3, gradient_clip_val: 0.5}
";
const SIDE: usize = 24;

fn images(step: u64, count: usize) -> Vec<f32> {
    let mut rng = Rng::new(1, Stream::Noise, step, 0);
    (0..count * SIDE * SIDE * 3).map(|_| 0.1 + 0.8 * rng.uniform()).collect()
}

/// What a few steps did.
struct Trained {
    tensors: Vec<SavedTensor>,
    metrics: Vec<Vec<(Metric, f64)>>,
    committed: Vec<bool>,
}

/// `steps` steps on four images each, in `parts` micro-batches; step `poison` has a NaN in its last image.
fn train(parts: usize, overrides: &[&str], steps: u64, poison: Option<u64>) -> Trained {
    let mut overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    overrides.push(format!("Training.accumulate_grad_batches={parts}"));
    let (cfg, _) = Config::from_yaml(CONFIG, None, &overrides).unwrap();
    let mut session = Session::new(cfg.clone(), Box::new(Cpu::new(2).unwrap())).unwrap();
    let batch = 4 / parts;
    let shape = BatchShape { batch, hr: (SIDE, SIDE), hr_type: DType::F32, lr_type: None };
    let (mut metrics, mut committed) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let mut hr = images(step, 4);
        if poison == Some(step) {
            let last = hr.len() - 1;
            hr[last] = f32::NAN;
        }
        let codes = vec![0; batch];
        let raw: Vec<RawBatch> = hr
            .chunks(batch * SIDE * SIDE * 3)
            .map(|part| RawBatch { hr: bytemuck::cast_slice(part), lr: None, codes: &codes, noise: None })
            .collect();
        let numbers = StepNumbers::at(&cfg, step, &PlateauState::default(), &PlateauState::default());
        let report = run_step(&mut session, shape, &raw, (step, numbers)).unwrap();
        metrics.push(report.values);
        committed.push(report.committed);
    }
    Trained { tensors: session.tensors().unwrap(), metrics, committed }
}

fn distance(a: &[SavedTensor], b: &[SavedTensor]) -> f64 {
    let (mut diff, mut norm) = (0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        assert_eq!(x.name, y.name);
        for (p, q) in x.data.iter().zip(&y.data) {
            diff += f64::from(p - q).powi(2);
            norm += f64::from(*p).powi(2);
        }
    }
    (diff / norm).sqrt()
}

/// Without batch statistics every loss is a mean over images, so the parts' mean is the whole. Adam with a large
/// eps does not amplify rounding.
#[test]
fn micro_batches_are_one_batch() {
    let gentle = ["Optimizers.eps=1e-3"];
    let whole = train(1, &gentle, 4, None);
    for parts in [2, 4] {
        let split = train(parts, &gentle, 4, None);
        assert_eq!(split.committed, [true; 4]);
        let d = distance(&whole.tensors, &split.tensors);
        assert!(d < 1e-5, "{parts} parts: distance {d:e}");
        for (step, (a, b)) in whole.metrics.iter().zip(&split.metrics).enumerate() {
            for ((metric, x), (_, y)) in a.iter().zip(b) {
                let name = metric.name();
                // The PSNR of a batch is not the mean of its parts'.
                let same = name.ends_with("psnr") || (x - y).abs() <= 1e-4 * x.abs().max(1e-3);
                assert!(same, "step {step}, {name}: {x} in one, {y} in {parts} parts");
            }
        }
    }
    let other = train(1, &["Optimizers.eps=1e-3", "Training.seed=1"], 4, None);
    assert!(distance(&whole.tensors, &other.tensors) > 1e-2, "the comparison would not see a difference");
}

/// The last micro-batch is bad: nothing of the step may stay, with batch norm and spectral norm in play.
#[test]
fn one_bad_part_changes_nothing() {
    let nets = [
        "Generator.block_type=standard",
        "Discriminator.model_type=standard",
        "Discriminator.n_blocks=2",
        "Discriminator.use_spectral_norm=true",
    ];
    // Steps 0 and 1 pretrain, steps 2 and 3 are adversarial.
    for bad in [1, 3] {
        let before = train(2, &nets, bad, None);
        let after = train(2, &nets, bad + 1, Some(bad));
        assert_eq!(after.committed.last(), Some(&false), "step {bad}");
        for (x, y) in before.tensors.iter().zip(&after.tensors) {
            let bits = |t: &SavedTensor| t.data.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(x), bits(y), "step {bad} changed {}", x.name);
        }
        let good = train(2, &nets, bad + 1, None);
        assert!(distance(&good.tensors, &after.tensors) > 1e-4, "a good step {bad} does act");
    }
}
