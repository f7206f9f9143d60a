//! Cases of whole training steps.

use std::collections::{BTreeMap, HashMap};

use srgan::checkpoint::PlateauState;
use srgan::device::collective::Ranks;
use srgan::device::collective::threads::together;
use srgan::runtime::Device;
use srgan::train::programs::BatchShape;
use srgan::train::session::{SavedTensor, Session};
use srgan::train::step::{RawBatch, StepNumbers, run_step};
use srgan::types::{DType, Shape};
use srgan::{Error, Result};

use crate::case::{Case, Findings};
use crate::networks::perceptual_weights;

/// What a rank of a case logged, and the tensors that it ended with.
struct Trained {
    log: BTreeMap<String, Vec<f64>>,
    tensors: Vec<SavedTensor>,
}

pub fn training_case(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let count = case.extra["ranks"].as_u64().unwrap_or(1) as usize;
    let trained = match count {
        1 => {
            let device = case.setting.device()?;
            train(case, device)?
        }
        _ => on_ranks(case, count)?,
    };
    for (name, values) in trained.log {
        // The file holds float32.
        let rounded: Vec<f64> = values.iter().map(|v| f64::from(*v as f32)).collect();
        case.compare_f64(findings, &name, &rounded)?;
    }
    for t in trained.tensors {
        case.compare(findings, &format!("final.{}", t.name), &t.data)?;
    }
    if !case.cfg.training.ema.enabled {
        without_average(case, findings)?;
    }
    Ok(())
}

/// Trains on several ranks, threads of this process, all of which must end with the same bits; the first one's.
fn on_ranks(case: &Case, count: usize) -> Result<Trained> {
    let (path, setting) = (&case.path, case.setting);
    let trained = together(count, |ranks| train(&mut Case::open(path, setting)?, setting.device_among(ranks)?));
    let mut trained = trained.into_iter().collect::<Result<Vec<_>>>()?.into_iter();
    let first = trained.next().ok_or_else(|| Error::Internal("a case of no ranks".into()))?;
    let bits = |t: &SavedTensor| t.data.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for (rank, other) in trained.enumerate() {
        let differs = first.tensors.iter().zip(&other.tensors).find(|(a, b)| bits(a) != bits(b));
        if let Some((tensor, _)) = differs {
            let message = format!("{}: rank {} ends with another {}", case.name, rank + 1, tensor.name);
            return Err(Error::Internal(message));
        }
    }
    Ok(first)
}

fn train(case: &mut Case, device: Box<dyn Device>) -> Result<Trained> {
    let cfg = case.cfg.clone();
    let mut session = Session::new(cfg.clone(), device)?;
    let ranks = session.ranks();
    let extents: HashMap<String, Vec<usize>> = session.tensor_shapes().into_iter().collect();
    session.set_tensors(|name| match name.split_once('.') {
        Some(("generator" | "discriminator", _)) => case.initial(name, &extents[name]),
        Some(("ema", rest)) => case.initial(&format!("generator.{rest}"), &extents[name]),
        // Moments start at zero.
        _ => Ok(vec![0.0; extents[name].iter().product()]),
    })?;
    if let Some(layout) = session.programs().perceptual().cloned() {
        session.set_perceptual(|name| perceptual_weights(&layout, name))?;
    }
    let mut log: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let none = PlateauState::default();
    for step in 0..case.extra["steps"].as_u64().unwrap_or(0) {
        let (_, lr) = of_rank(&ranks, case.image(&format!("batch.{step}.lr"))?);
        let (shape, hr) = of_rank(&ranks, case.image(&format!("batch.{step}.hr"))?);
        let batch =
            BatchShape { batch: shape.n(), hr: (shape.h(), shape.w()), hr_type: DType::F32, lr_type: Some(DType::F32) };
        let codes = vec![0; shape.n()];
        let noise = format!("batch.{step}.noise");
        let noise = if case.shapes.contains_key(&noise) { Some(case.file.read(&noise)?) } else { None };
        let raw = RawBatch {
            hr: bytemuck::cast_slice(&hr),
            lr: Some(bytemuck::cast_slice(&lr)),
            codes: &codes,
            noise: noise.as_deref(),
        };
        let numbers = StepNumbers::at(&cfg, step, &none, &none);
        let report = run_step(&mut session, batch, &[raw], (step, numbers))?;
        if !report.committed {
            return Err(Error::Internal(format!("{}: step {step} was not finite", case.name)));
        }
        for (metric, value) in report.values {
            log.entry(format!("log.{}", metric.name())).or_default().push(value);
        }
    }
    Ok(Trained { log, tensors: session.tensors()? })
}

/// A rank's samples of a global batch: every `count`th.
fn of_rank(ranks: &Ranks, (shape, data): (Shape, Vec<f32>)) -> (Shape, Vec<f32>) {
    let [n, h, w, c] = shape.0;
    let samples = data.chunks_exact(h * w * c).skip(ranks.index()).step_by(ranks.count());
    (Shape([n / ranks.count(), h, w, c]), samples.flatten().copied().collect())
}

/// The cases also hold an average that was switched off: it never left the initial weights, and no step had a
/// decay. A run without average stores neither, so what is shown is that the case says the same.
fn without_average(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let averaged: Vec<String> = case.tol.keys().filter(|k| k.starts_with("final.ema.")).cloned().collect();
    for name in averaged {
        let initial = case.file.read(&name.replacen("final.ema.", "init.generator.", 1))?;
        case.compare(findings, &name, &initial)?;
    }
    let steps = case.extra["steps"].as_u64().unwrap_or(0) as usize;
    case.compare_f64(findings, "log.EMA/last_decay", &vec![0.0; steps])
}
