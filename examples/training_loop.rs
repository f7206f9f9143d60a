//! A training loop of one's own: a step is recorded on a tape, compiled once, and run on batches of the demo's chip.
//!
//! ```sh
//! cargo run --release --example training_loop
//! ```

use std::path::Path;
use std::sync::Arc;

use srgan::config::{Config, Generator};
use srgan::data::{Dataset, Loader, Share};
use srgan::graph::{Tape, Value};
use srgan::nn::{Bound, Layout, Net, Vars, blocks, trunk};
use srgan::ops::adam::{Adam, AdamCommit};
use srgan::ops::add::Add;
use srgan::ops::mul::Scale;
use srgan::ops::prepare::{Normalization, Prepare};
use srgan::ops::resize::Resize;
use srgan::ops::sum_to::sum_product_to;
use srgan::plan::{Commit, Plan, PlanOptions, Program};
use srgan::runtime::{Cpu, Device};
use srgan::train::data_settings;
use srgan::types::{DType, Shape};
use srgan::{Error, Result};

const STEPS: usize = 60;
const BATCH: usize = 4;
const SIDE: usize = 48;
const BANDS: usize = 4;
const SCALE: usize = 4;

/// The network: what is declared once and then bound for every program. Any function of a `Net` will do.
fn network(net: &mut Net, lr: Value) -> Result<Value> {
    let cfg =
        Generator { n_channels: 16, n_blocks: 2, scaling_factor: SCALE, large_kernel_size: 3, ..Generator::default() };
    trunk(net, lr, &cfg, |net, x| blocks::res(net, x, 3))
}

/// The names and extents of the network's tensors, found by writing it once.
fn declare() -> Result<Layout> {
    let mut layout = Layout::new("mine");
    let mut tape = Tape::new();
    let lr = tape.input("lr", Shape([1, 8, 8, BANDS]), DType::F32);
    network(&mut Net::new(&mut tape, Vars::Declare(&mut layout), true), lr)?;
    Ok(layout)
}

/// A whole step: raw pixels to HR and LR, SR, the loss, its gradients, Adam.
fn record(layout: &Layout) -> Result<Program> {
    let mut tape = Tape::new();
    let codes = tape.input("codes", Shape([BATCH, 1, 1, 1]), DType::U8);
    let raw = tape.input("hr", Shape([BATCH, SIDE, SIDE, BANDS]), DType::U16);
    let prepare = Prepare { dtype: DType::U16, normalization: Normalization::Normalise10k };
    let hr = tape.push(prepare, &[raw, codes])?;
    let lr = tape.push(Resize { height: SIDE / SCALE, width: SIDE / SCALE, antialias: true }, &[hr])?;

    let mut bound = Bound::new(&mut tape, layout, "", "");
    let sr = network(&mut Net::new(&mut tape, bound.vars(), true), lr)?;
    let error = tape.push(Add::DIFFERENCE, &[sr, hr])?;
    let squares = sum_product_to(&mut tape, error, error, Shape::SCALAR)?;
    let loss = tape.push(Scale::by(1.0 / (BATCH * SIDE * SIDE * BANDS) as f32), &[squares])?;
    let grad = bound.flat_gradient(&mut tape, loss)?;

    let rate = tape.input("rate", Shape::SCALAR, DType::F32);
    let factor = tape.scalar(1.0);
    let adam = Adam { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, decayed: layout.decayed() };
    let flat = Shape::vector(layout.len);
    let states = [(layout.params_state(), flat), ("m".into(), flat), ("v".into(), flat), ("t".into(), Shape::SCALAR)];
    let update = Commit { op: Arc::new(AdamCommit(adam)), inputs: vec![grad, rate, factor], states: states.into() };
    // The update is made only if the loss is finite.
    Ok(Program { name: "step", tape, outputs: vec![("loss".into(), loss)], checks: vec![loss], commits: vec![update] })
}

fn main() -> Result<()> {
    let sizes = [format!("Data.hr_size={SIDE}"), format!("Data.train_batch_size={BATCH}")];
    let (cfg, _) = Config::load(Path::new("configs/demo.yaml"), &sizes)?;
    let dataset = Dataset::open(&data_settings(&cfg))?;

    let layout = declare()?;
    let mut device = Cpu::new(2)?;
    device.set_state(&layout.params_state(), Shape::vector(layout.len), &layout.initial_params(1))?;
    for moment in ["m", "v"] {
        device.set_state(moment, Shape::vector(layout.len), &vec![0.0; layout.len])?;
    }
    device.set_state("t", Shape::SCALAR, &[0.0])?;
    let plan = Plan::compile(&record(&layout)?, PlanOptions::new(device.target()))?;
    println!("{} parameters, {} steps of a plan, {} KiB", layout.param_count(), plan.steps.len(), plan.arena_len / 256);
    let plan = device.load(plan)?;
    device.upload(plan, "rate", &2e-3f32.to_ne_bytes())?;

    let mut losses = Vec::new();
    for (step, batch) in Loader::start(&dataset, 0, 0, Share::WHOLE)?.take(STEPS).enumerate() {
        let batch = batch?;
        device.upload(plan, "hr", &batch.hr.data)?;
        device.upload(plan, "codes", &batch.augment)?;
        let outcome = device.run(plan)?;
        losses.push(outcome.outputs[0][0]);
        if step % 10 == 0 || step + 1 == STEPS {
            println!("step {step:2}: loss {:.5}", losses[step]);
        }
    }
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&losses[..STEPS / 3]), mean(&losses[2 * STEPS / 3..]));
    if last < 0.5 * first { Ok(()) } else { Err(Error::Internal(format!("the loss fell from {first} to {last} only"))) }
}
