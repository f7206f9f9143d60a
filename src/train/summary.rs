//! `--dry-run`: the networks, what they cost, and whether they fit, without training.

use std::fmt::Write;

use super::programs::{BatchShape, EvaluateOptions};
use super::session::{Key, Session};
use super::validate::batch_size;
use super::{data_settings, open_device};
use crate::Result;
use crate::config::Config;
use crate::data::Dataset;
use crate::log::Table;
use crate::nn::Layout;
use crate::plan::Plan;

/// The extent of a training batch.
pub fn train_shape(cfg: &Config, dataset: &Dataset) -> BatchShape {
    let spec = dataset.train_spec();
    BatchShape {
        batch: cfg.data.train_batch_size,
        hr: (spec.hr.1, spec.hr.2),
        hr_type: spec.hr.0.into(),
        lr_type: spec.lr.map(|lr| lr.0.into()),
    }
}

/// The programs that a run of `cfg` on `dataset` will use, with their plans.
///
/// # Errors
/// Shape errors of the networks, which name the layer.
pub fn compile_all(session: &Session, cfg: &Config, dataset: &Dataset) -> Result<Vec<Plan>> {
    let shape = train_shape(cfg, dataset);
    let mut plans = vec![session.compile(Key::Pretrain(shape))?, session.compile(Key::Adversarial(shape))?];
    let ema = cfg.training.ema.enabled;
    for (i, size) in dataset.val_sizes().iter().enumerate() {
        let options = EvaluateOptions { ema, discriminator: true, images: true, bicubic: false };
        let val = BatchShape { batch: batch_size(cfg, dataset, i), hr: (size.hr_height, size.hr_width), ..shape };
        plans.push(session.compile(Key::Evaluate(val, options))?);
    }
    Ok(plans)
}

/// Bytes of the states: (weights with buffers and average, optimiser).
pub fn state_bytes(session: &Session, cfg: &Config) -> (usize, usize) {
    let (g, d) = (session.programs().generator(), session.programs().discriminator());
    let buffers = |l: &Layout| l.buffers.iter().map(|b| b.shape.len()).sum::<usize>();
    let average = if cfg.training.ema.enabled { g.len + buffers(g) } else { 0 };
    let weights = g.len + d.len + buffers(g) + buffers(d) + average;
    (4 * weights, 4 * 2 * (g.len + d.len))
}

/// The text that `--dry-run` prints: layers, parameters, multiply-adds, memory, steps per epoch.
///
/// # Errors
/// Whatever would keep a run from starting: data, networks, device.
pub fn dry_run(cfg: &Config) -> Result<String> {
    let session = Session::new(cfg, open_device(cfg)?)?;
    let dataset = Dataset::open(&data_settings(cfg))?;
    let steps = dataset.steps_per_epoch(cfg.data.train_batch_size)?;
    let plans = compile_all(&session, cfg, &dataset)?;
    let mut text = String::new();
    for layout in [session.programs().generator(), session.programs().discriminator()] {
        let _ = writeln!(text, "{}\n", layer_table(layout));
    }
    let mut programs = Table::new(["program", "steps", "GMAC", "activations [MiB]", "workspace [MiB]"]).left_aligned(1);
    for plan in &plans {
        programs.row([
            plan.name.to_owned(),
            plan.steps.len().to_string(),
            format!("{:.2}", plan.macs() as f64 / 1e9),
            mib(4 * (plan.arena_len - plan.scratch_len.min(plan.arena_len))),
            mib(4 * plan.scratch_len),
        ]);
    }
    let arena = 4 * plans.iter().map(|p| p.arena_len).max().unwrap_or(0);
    let (weights, optimiser) = state_bytes(&session, cfg);
    let scratch = 4 * plans.iter().map(|p| p.scratch_len).max().unwrap_or(0);
    let mut memory = Table::new(["memory", "MiB"]).left_aligned(1);
    for (name, bytes) in [
        ("weights", weights),
        ("optimiser", optimiser),
        ("activations", arena.saturating_sub(scratch)),
        ("workspace", scratch.min(arena)),
        ("total", weights + optimiser + arena),
    ] {
        memory.row([name.to_owned(), mib(bytes)]);
    }
    let _ = writeln!(text, "{programs}\n\n{memory}\n");
    let _ = writeln!(text, "device: {}", session.device().describe());
    let _ = write!(text, "data: {} training patches, {steps} steps per epoch", dataset.train_len());
    Ok(text)
}

fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// One line per layer: its tensors' extents in files and their number of elements.
fn layer_table(layout: &Layout) -> Table {
    let mut table = Table::new([layout.prefix.as_str(), "tensors", "parameters"]).left_aligned(2);
    let mut rows: Vec<(String, Vec<String>, usize)> = Vec::new();
    for p in &layout.params {
        let (layer, leaf) = p.name.rsplit_once('.').unwrap_or(("", &p.name));
        let shape = p.file_shape().iter().map(usize::to_string).collect::<Vec<_>>().join("×");
        let tensor = format!("{leaf} {shape}");
        match rows.last_mut().filter(|r| r.0 == layer) {
            Some(row) => {
                row.1.push(tensor);
                row.2 += p.shape.len();
            }
            None => rows.push((layer.to_owned(), vec![tensor], p.shape.len())),
        }
    }
    for (layer, tensors, count) in rows {
        table.row([layer, tensors.join(", "), count.to_string()]);
    }
    table.row(["total".to_owned(), String::new(), layout.param_count().to_string()]);
    table
}
