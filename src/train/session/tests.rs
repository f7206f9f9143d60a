//! Sessions whose programs pad channels, that take weights of other programs, and whose ranks are lost.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::bench::{Phase, random_program, upload_random};
use crate::checkpoint::TensorFile;
use crate::device::collective::Collective;
use crate::runtime::Cpu;
use crate::train::step::{RawBatch, StepNumbers, run_step};
use crate::types::DType;

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

/// One of two ranks, of which the other is gone after this many sums.
struct Leaving(AtomicUsize);

impl Collective for Leaving {
    fn index(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        2
    }

    fn describe(&self) -> String {
        "a rank that leaves".into()
    }

    fn sum(&self, _values: &mut [f32]) -> Result<()> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sums| sums.checked_sub(1));
        left.map(|_| ()).map_err(|_| Error::device("the other rank is gone"))
    }

    fn sum_f64(&self, _values: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn max(&self, _values: &mut [u64]) -> Result<()> {
        Ok(())
    }

    fn abort(&self, _code: u8) {}
}

/// A state may be saved only if the ranks have got through the whole step, its report too: else the step's row of metrics
/// and its part of the schedules' means would be lost.
#[test]
fn a_step_is_settled_when_all_ranks_have_its_report() {
    let (cfg, _) = Config::from_yaml(OPENSR, None, &[]).unwrap();
    let shape = BatchShape { batch: 2, hr: (16, 16), hr_type: DType::F32, lr_type: None };
    let hr: Vec<f32> = (0..2 * 16 * 16 * 3).map(|i| 0.5 + 0.4 * (i as f32).sin()).collect();
    let batch = || RawBatch { hr: bytemuck::cast_slice(&hr), lr: None, codes: &[0, 0], noise: None };
    let numbers = StepNumbers {
        phase: crate::train::programs::Phase::Pretrain,
        ..StepNumbers::at(&cfg, 0, &Default::default(), &Default::default())
    };
    let step_with = |sums: usize| {
        let ranks = Ranks::joined(Arc::new(Leaving(AtomicUsize::new(sums))));
        let mut session = Session::new(cfg.clone(), Box::new(Cpu::new(1).unwrap().among(ranks))).unwrap();
        let done = run_step(&mut session, shape, &[batch()], (0, numbers)).is_ok();
        (done, session.is_settled())
    };
    // The generator's gradients, the statistics of two norms and more, the report.
    let needed = (0..100).find(|sums| step_with(*sums).0).unwrap();
    assert!(needed >= 4, "{needed}");
    for sums in 0..=needed {
        let whole = sums == needed;
        assert_eq!(step_with(sums), (whole, whole), "after {sums} sums of {needed}");
    }
}
