//! `--dry-run`: the networks, what they cost, and whether they fit, without training.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use super::memory::{Need, available};
use super::perceptual::PerceptualWeights;
use super::plans::{Plans, of_step, train_shape, validation_batches};
use super::programs::{BatchShape, Phase};
use super::ranks::samples_per_step;
use super::run::initial_weights;
use super::schedule;
use super::session::{Key, Session};
use super::{DeviceOptions, algorithms, data_settings, open_device_with};
use crate::config::Config;
use crate::data::Dataset;
use crate::graph::Source;
use crate::nn::{Layout, Network};
use crate::plan::Program;
use crate::runtime::Device;
use crate::table::Table;
use crate::types::Shape;
use crate::{Error, Result};

/// Steps of an epoch of several `ranks`; what is left over at its end is dropped.
///
/// # Errors
/// [`Error::Config`] if an epoch has too few samples for one step.
pub fn steps_per_epoch(cfg: &Config, dataset: &Dataset, ranks: usize) -> Result<u64> {
    let batches = dataset.steps_per_epoch(cfg.data.train_batch_size.saturating_mul(ranks))?;
    let parts = cfg.training.accumulate_grad_batches;
    if batches < parts {
        let message = format!("a step takes {parts} batches, but an epoch has only {batches}");
        return Err(Error::config("Training.accumulate_grad_batches", message));
    }
    Ok((batches / parts) as u64)
}

/// Refuses images that SSIM's window or a network would reduce to nothing; with
/// `Data.hr_size` the config's own checks have done so before the files were opened.
///
/// # Errors
/// [`Error::Config`] with the smallest side that works.
pub fn check_patch(cfg: &Config, dataset: &Dataset) -> Result<()> {
    let (_, height, width) = dataset.train_spec().hr;
    let window = cfg.training.losses.ssim_win;
    let of_validation = dataset.val_sizes().iter().map(|size| size.hr_height.min(size.hr_width)).min();
    let smallest = of_validation.unwrap_or(usize::MAX).min(height).min(width);
    if smallest <= window / 2 {
        let message = format!(
            "a window of {window} pixels needs images of {} a side; the smallest has {smallest}",
            window / 2 + 1
        );
        return Err(Error::config("Training.Losses.ssim_win", message).with_hint("lower it, or use larger images"));
    }
    let rules = [
        (
            "Discriminator",
            cfg.discriminator.smallest_input(cfg.data.train_batch_size),
            "use fewer n_blocks or larger images",
        ),
        ("Training.Losses.perceptual_weight", cfg.smallest_perceptual_input(), "set it to 0, or use larger images"),
    ];
    let too_small = |key: &str, what: String, smallest: usize, hint: &str| {
        let message = format!("it needs images of at least {smallest} pixels a side, {what}");
        Err(Error::config(key, message).with_hint(hint))
    };
    if let Some((key, smallest, hint)) = rules.iter().find(|(_, smallest, _)| height.min(width) < *smallest) {
        return too_small(key, format!("the training images are {height}×{width}"), *smallest, hint);
    }
    if validation_batches(cfg, dataset).is_empty() {
        return Ok(());
    }
    // In evaluation mode a norm may work on a single value, but no convolution on none.
    let judges = schedule::phases(&cfg.training).contains(&Phase::Adversarial);
    let of_validation = of_validation.unwrap_or(usize::MAX);
    let rules = [
        ("Discriminator", if judges { cfg.discriminator.smallest_input(2) } else { 1 }),
        ("Training.Losses.perceptual_weight", cfg.smallest_perceptual_input()),
    ];
    match rules.into_iter().find(|(_, smallest)| of_validation < *smallest) {
        Some((key, smallest)) => {
            let hint = "remove the small validation images, or set Training.limit_val_batches=0";
            too_small(key, format!("the smallest validation image has {of_validation}"), smallest, hint)
        }
        None => Ok(()),
    }
}

/// The text that `--dry-run` prints: layers, parameters, multiply-adds, memory, steps per epoch; if `verbose`, which
/// algorithms the device has chosen.
///
/// # Errors
/// Whatever would keep a run from starting: data, networks, device, weights of the perceptual network, which are looked
/// for in `torch_hub` if the config does not say where they are.
pub fn dry_run(cfg: &Config, verbose: bool, options: &DeviceOptions, torch_hub: Option<&Path>) -> Result<String> {
    let weights = PerceptualWeights::open(cfg, torch_hub)?;
    let text = dry_run_on(open_device_with(cfg, options)?, cfg, verbose)?;
    Ok(text
        + &weights.map_or(String::new(), |w| {
            format!("\nperceptual loss: {}, weights of {}", w.network(), w.path().display())
        }))
}

/// The same for a run on this device.
///
/// # Errors
/// If the data cannot be opened or do not fit the config, or a plan cannot be built.
pub fn dry_run_on(device: Box<dyn Device>, cfg: &Config, verbose: bool) -> Result<String> {
    let mut session = Session::new(cfg.clone(), device)?;
    let weights = initial_weights(&mut session)?;
    let dataset = Dataset::open(&data_settings(cfg))?;
    check_patch(cfg, &dataset)?;
    let steps = steps_per_epoch(cfg, &dataset, session.ranks().count())?;
    let of_run = Plans::of(cfg, &dataset);
    let keys: Vec<Key> = of_run.all().collect();
    let mut text = String::new();
    let shape = train_shape(cfg, &dataset);
    let scale = cfg.generator.scaling_factor;
    let [g, d] = Network::ALL.map(|network| session.programs().layout(network));
    let forward = session.programs().forward(1, (shape.hr.0 / scale, shape.hr.1 / scale))?;
    let _ = writeln!(text, "{}\n", layer_table(g, &macs_by_path(&forward)));
    let _ = writeln!(text, "{}\n", layer_table(d, &macs_by_path(&session.programs().judge(1, shape.hr)?)));
    let mut programs = Table::new(["program", "steps", "GMAC", "activations [MiB]", "workspace [MiB]"]).left_aligned(1);
    for key in &keys {
        let plan = session.compile(*key)?;
        programs.row([
            key.to_string(),
            plan.steps.len().to_string(),
            format!("{:.2}", plan.macs() as f64 / 1e9),
            mib(4 * (plan.arena_len - plan.scratch_len.min(plan.arena_len))),
            mib(4 * plan.scratch_len),
        ]);
    }
    let available = available(&session)?;
    let whole = Need::of_run(&mut session, (cfg, &dataset), keys, true)?;
    let compares = available.is_none_or(|available| whole.total() <= available);
    // Without room for the closing table a run does without.
    let need = match compares {
        true => whole,
        false => Need::of_run(&mut session, (cfg, &dataset), of_run.run.clone(), false)?,
    };
    let memory = memory_table(&need, available);
    let _ = writeln!(text, "{programs}\n\n{memory}\n");
    let _ = writeln!(text, "device: {}", session.device().describe());
    let _ = write!(text, "data: {} training patches, {steps} steps per epoch", dataset.train_len());
    let ranks = ranks_line(&mut session, cfg, shape)?;
    ranks.iter().for_each(|line| text.push_str(&format!("\n{line}")));
    weights.iter().chain(dataset.notes()).for_each(|note| text.push_str(&format!("\n{note}")));
    dataset.warnings().iter().for_each(|warning| text.push_str(&format!("\nwarning: {warning}")));
    if verbose {
        let _ = write!(text, "\n\n{}", algorithms_of(&mut session, &of_run.run, need.total(), available)?);
    }
    Ok(text)
}

/// How many samples several ranks take in a step, and how many bytes they add up in it.
fn ranks_line(session: &mut Session, cfg: &Config, shape: BatchShape) -> Result<Option<String>> {
    let (ranks, parts) = (session.ranks(), cfg.training.accumulate_grad_batches);
    let Some(by) = ranks.library() else { return Ok(None) };
    let mut text = format!("ranks: {}, {by} · {} samples a step", ranks.count(), samples_per_step(cfg, &ranks));
    for phase in schedule::phases(&cfg.training) {
        let mut bytes = 0;
        for (key, takes_images) in of_step(phase, shape, parts) {
            let times = if takes_images { parts as u64 } else { 1 };
            bytes += times * session.compile(key)?.bytes_over_ranks();
        }
        let (size, unit) = if bytes < 1 << 20 { (bytes << 10, "KiB") } else { (bytes, "MiB") };
        let _ = write!(text, " · all-reduced in a step ({}): {} {unit}", phase.name(), mib(size as usize));
    }
    Ok(Some(text))
}

/// What the device chooses for a run that takes `needed` bytes.
fn algorithms_of(session: &mut Session, plans: &[Key], needed: usize, available: Option<usize>) -> Result<String> {
    if session.device().choices().is_none() {
        return Ok(algorithms::table(session.device(), &[]));
    }
    if available.is_some_and(|available| available < needed) {
        return Ok("algorithms: not timed, because the run does not fit into memory".to_owned());
    }
    let plans = session.load_all(plans)?;
    Ok(algorithms::table(session.device(), &plans))
}

/// What a run takes, and what the device has for it.
fn memory_table(need: &Need, available: Option<usize>) -> Table {
    let mut memory = Table::new(["memory", "MiB"]).left_aligned(1);
    let mut rows = vec![
        ("weights", need.states.weights),
        ("optimiser", need.states.optimiser),
        ("activations", need.activations),
        ("workspace", need.workspace),
        ("inputs and results", need.held),
    ];
    let host = [("data loader", need.host.loader), ("pictures, checkpoints", need.host.other)];
    if need.is_shared {
        rows.extend(host);
    }
    rows.push(("total", need.total()));
    rows.into_iter().for_each(|(name, bytes)| memory.row([name.to_owned(), mib(bytes)]));
    memory.row(["available".to_owned(), available.map_or("unknown".to_owned(), mib)]);
    if !need.is_shared {
        let of_process = host.into_iter().map(|(name, bytes)| [format!("in the machine's memory: {name}"), mib(bytes)]);
        of_process.for_each(|row| memory.row(row));
    }
    memory
}

fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// Multiply-adds of a program by the path of the layer that writes them.
fn macs_by_path(program: &Program) -> HashMap<String, u64> {
    let mut macs = HashMap::new();
    for node in program.tape.nodes() {
        if let Source::Op(op) = &node.source {
            let shapes: Vec<Shape> = node.inputs.iter().map(|v| program.tape.shape(*v)).collect();
            *macs.entry(node.path.to_string()).or_default() += op.macs(&shapes, node.shape);
        }
    }
    macs
}

/// One line per layer: its tensors' extents in files, their number of elements, and the multiply-adds of a
/// forward pass over one patch.
fn layer_table(layout: &Layout, macs: &HashMap<String, u64>) -> Table {
    let mut table = Table::new([layout.prefix.as_str(), "tensors", "parameters", "MMAC"]).left_aligned(2);
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
    let mmac = |v: u64| format!("{:.2}", v as f64 / 1e6);
    for (layer, tensors, count) in rows {
        let macs = macs.get(&layer).copied().unwrap_or(0);
        table.row([layer, tensors.join(", "), count.to_string(), mmac(macs)]);
    }
    let total = ["total".to_owned(), String::new(), layout.param_count().to_string(), mmac(macs.values().sum())];
    table.row(total);
    table
}
