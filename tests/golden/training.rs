//! Cases of whole training steps.

use std::collections::BTreeMap;

use srgan::checkpoint::PlateauState;
use srgan::train::programs::BatchShape;
use srgan::train::session::Session;
use srgan::train::step::{RawBatch, StepNumbers, run_step};
use srgan::types::DType;
use srgan::{Error, Result};

use crate::case::{Case, Findings};
use crate::networks::perceptual_weights;

pub fn training_case(case: &mut Case, findings: &mut Findings) -> Result<()> {
    let cfg = case.cfg.clone();
    let mut session = Session::new(cfg.clone(), case.setting.device()?)?;
    session.set_tensors(|name| match name.split_once('.') {
        Some(("generator" | "discriminator", _)) => case.file.read(&format!("init.{name}")),
        Some(("ema", rest)) => case.file.read(&format!("init.generator.{rest}")),
        // Moments start at zero, in the extent of their parameter.
        _ => {
            let (network, rest) = if name.starts_with("optim_g") { ("generator", 3) } else { ("discriminator", 3) };
            let parameter = name.splitn(rest, '.').nth(2).unwrap_or_default();
            let shape = &case.shapes[&format!("init.{network}.{parameter}")];
            Ok(vec![0.0; shape.iter().product()])
        }
    })?;
    if let Some(layout) = session.programs().perceptual().cloned() {
        session.set_perceptual(|name| perceptual_weights(&layout, name))?;
    }
    let mut log: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let none = PlateauState::default();
    for step in 0..case.extra["steps"].as_u64().unwrap_or(0) {
        let (_, lr) = case.image(&format!("batch.{step}.lr"))?;
        let (shape, hr) = case.image(&format!("batch.{step}.hr"))?;
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
    for (name, values) in log {
        // The file holds float32.
        let rounded: Vec<f64> = values.iter().map(|v| f64::from(*v as f32)).collect();
        case.compare_f64(findings, &name, &rounded)?;
    }
    for t in session.tensors()? {
        case.compare(findings, &format!("final.{}", t.name), &t.data)?;
    }
    if !cfg.training.ema.enabled {
        without_average(case, findings)?;
    }
    Ok(())
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
