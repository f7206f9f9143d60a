//! A session whose programs pad channels trains the same networks.

use super::*;
use crate::bench::{Phase, random_program, upload_random};
use crate::device::cpu::Cpu;
use crate::train::step::StepNumbers;

const ODD_GROWTH: &str = "Model: {in_bands: 3}\nData: {train_batch_size: 2}\n\
    Generator: {model_type: esrgan, n_channels: 16, growth_channels: 5, n_blocks: 1, scaling_factor: 2}\n\
    Discriminator: {model_type: patchgan, n_blocks: 1}\n";

/// The tensors and outputs after one adversarial step with channels in multiples of `align`.
fn step(align: usize) -> (Vec<SavedTensor>, Vec<Vec<f32>>, usize) {
    let (cfg, _) = Config::from_yaml(ODD_GROWTH, None, &[]).unwrap();
    let mut session = Session::new(&cfg, Box::new(Cpu::new(2).unwrap())).unwrap();
    session.programs = Programs::new(&cfg).unwrap().aligned_to(align);
    let key = random_program(&cfg, Phase::Adversarial, 32).unwrap();
    let plan = session.plan(key).unwrap();
    upload_random(&mut session, plan, &cfg, 32).unwrap();
    let numbers = StepNumbers::at(&cfg, 30_000, &Default::default(), &Default::default());
    let outcome = session.run(plan, numbers.scalars()).unwrap();
    assert!(outcome.committed);
    let padded = session.device().plan(plan).steps.iter().filter(|s| s.label().contains("pad_channels")).count();
    (session.tensors().unwrap(), outcome.outputs, padded)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn padding_between_channels_changes_nothing_but_rounding() {
    let ((plain, plain_outputs, none), (padded, outputs, pads)) = (step(1), step(8));
    assert_eq!(none, 0);
    // Weights of 15 convolutions and biases of 12, and the gradients of both.
    assert_eq!(pads, 2 * (15 + 12));
    let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for (a, b) in plain_outputs.iter().zip(&outputs) {
        assert!(distance(a, b) <= 1e-5 * norm(a).max(1.0), "{a:?} and {b:?}");
    }
    assert_eq!(plain.len(), padded.len());
    for (a, b) in plain.iter().zip(&padded) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        assert!(distance(&a.data, &b.data) <= 1e-3 * norm(&a.data).max(1e-3), "{}", a.name);
    }
}
