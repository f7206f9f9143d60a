//! A session whose programs pad channels trains the same networks.

use std::path::Path;

use super::*;
use crate::bench::{Phase, random_program, upload_random};
use crate::checkpoint::TensorFile;
use crate::runtime::Cpu;
use crate::train::step::StepNumbers;

const ODD_GROWTH: &str = "Model: {in_bands: 3}\nData: {train_batch_size: 2}\n\
    Generator: {model_type: esrgan, n_channels: 16, growth_channels: 5, n_blocks: 1, scaling_factor: 2}\n\
    Discriminator: {model_type: patchgan, n_blocks: 1}\n";

/// The tensors and outputs after one adversarial step with channels in multiples of `align`.
fn step(align: usize) -> (Vec<SavedTensor>, Vec<Vec<f32>>, usize) {
    let (cfg, _) = Config::from_yaml(ODD_GROWTH, None, &[]).unwrap();
    let mut session = Session::new(cfg.clone(), Box::new(Cpu::new(2).unwrap())).unwrap();
    session.programs = Programs::new(cfg.clone()).unwrap().aligned_to(align);
    let key = random_program(&cfg, Phase::Adversarial, 32).unwrap();
    let plan = session.plan(key).unwrap();
    upload_random(&mut session, plan, 32).unwrap();
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

/// The networks of tests/fixtures/torch/opensr.ckpt, which opensr-srgan saved.
const OPENSR: &str = "Model: {in_bands: 3}\nData: {train_batch_size: 2}\n\
    Generator: {model_type: SRResNet, block_type: standard, large_kernel_size: 3, n_channels: 4, n_blocks: 1, \
    scaling_factor: 2}\nDiscriminator: {model_type: esrgan, base_channels: 1, linear_size: 2}\n\
    Training: {EMA: {enabled: true}}\n";

#[test]
fn a_checkpoint_of_opensr_srgan_gives_all_weights_of_its_networks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch/opensr.ckpt");
    let (cfg, _) = Config::from_yaml(OPENSR, None, &[]).unwrap();
    let mut session = Session::new(cfg.clone(), Box::new(Cpu::new(1).unwrap())).unwrap();
    let mut file = TensorFile::open(&path).unwrap();
    assert_eq!(session.restore_weights(&mut file, &path, true).unwrap().networks, ["generator", "discriminator"]);
    let saved = session.tensors().unwrap();
    let mut compared = 0;
    // The average in the file is for maps; a training's own starts at the weights.
    for entry in file.entries().to_vec().into_iter().filter(|entry| !entry.name.starts_with("ema.")) {
        let other = entry.name.starts_with("content_loss_criterion.") || entry.name.ends_with(".num_batches_tracked");
        let tensor = saved.iter().find(|t| t.name == entry.name);
        assert_eq!(tensor.is_none(), other, "{}", entry.name);
        let Some(tensor) = tensor else { continue };
        assert_eq!((&tensor.shape, &tensor.data), (&entry.shape, &file.read(&entry.name).unwrap()), "{}", entry.name);
        compared += 1;
        let average = entry.name.replace("generator.", "ema.");
        if average != entry.name {
            assert_eq!(saved.iter().find(|t| t.name == average).unwrap().data, tensor.data, "{average}");
        }
    }
    let live = |name: &str| name.starts_with("generator.") || name.starts_with("discriminator.");
    assert_eq!(compared, saved.iter().filter(|t| live(&t.name)).count());
    // Of a network with one tensor too many or few, nothing is taken.
    let (cfg, _) = Config::from_yaml(&OPENSR.replace("n_blocks: 1", "n_blocks: 2"), None, &[]).unwrap();
    let mut session = Session::new(cfg.clone(), Box::new(Cpu::new(1).unwrap())).unwrap();
    let error = session.restore_weights(&mut file, &path, true).unwrap_err().to_string();
    assert!(error.contains("its generator is not that of this configuration"), "{error}");
    assert!(error.contains("Model.load_strict=false"), "{error}");
    // Unless what fits is asked for: the other tensors stay.
    let before = session.tensors().unwrap();
    let restored = session.restore_weights(&mut file, &path, false).unwrap();
    assert_eq!(restored.networks, ["generator", "discriminator"]);
    assert!(restored.notes[0].contains("missing") && restored.notes[0].contains("residual_blocks.1"), "{restored:?}");
    for (old, new) in before.iter().zip(session.tensors().unwrap()).filter(|(t, _)| t.name.starts_with("generator.")) {
        let want =
            if old.name.contains("residual_blocks.1") { old.data.clone() } else { file.read(&old.name).unwrap() };
        assert_eq!(new.data, want, "{}", old.name);
    }
}
