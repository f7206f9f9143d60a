//! A residual block of one's own in a generator: depthwise separable convolutions with a channel attention. The network is
//! declared, counted, and run on a device; gradients follow from the ops.
//!
//! ```sh
//! cargo run --release --example custom_block
//! ```
//!
//! A block that configurations can name is added in three places of this crate: docs/develop/add-a-block.md.

use srgan::config::Generator;
use srgan::graph::{Tape, Value};
use srgan::nn::{Bound, ConvSpec, Layout, Net, Vars, blocks, trunk};
use srgan::ops::avg_pool::AvgPool;
use srgan::ops::conv2d::Geometry;
use srgan::ops::mul::Mul;
use srgan::ops::sigmoid::Sigmoid;
use srgan::ops::sum_to::mean;
use srgan::plan::{Plan, PlanOptions, Program};
use srgan::runtime::{Cpu, Device};
use srgan::types::{DType, Shape};
use srgan::{Error, Result};

const LR: Shape = Shape([1, 24, 24, 4]);

/// Depthwise 5×5, PReLU, pointwise, attention over channels, scaled residual: a function from a feature map to one of the
/// same extent. Names become those of the tensors in a checkpoint: `mine.body.0.dw.weight`.
fn block(net: &mut Net, x: Value) -> Result<Value> {
    let channels = net.shape(x).c();
    let geometry = Geometry { depthwise: true, ..Geometry::same(5) };
    let y = net.conv("dw", x, ConvSpec { geometry, ..ConvSpec::same(channels, 5) })?;
    let y = net.prelu("act", y)?;
    let y = net.conv("pw", y, ConvSpec::same(channels, 1))?;
    let attention = net.at("attention", |net| {
        let pooled = net.push(AvgPool { out_h: 1, out_w: 1 }, &[y])?;
        let weights = net.conv(0, pooled, ConvSpec::same(channels, 1))?;
        net.push(Sigmoid, &[weights])
    })?;
    let y = net.push(Mul, &[y, attention])?;
    blocks::residual(net, x, y, 0.2)
}

/// A generator of such blocks.
fn generator(net: &mut Net, lr: Value) -> Result<Value> {
    let cfg =
        Generator { n_channels: 32, n_blocks: 3, scaling_factor: 4, large_kernel_size: 3, ..Generator::default() };
    trunk(net, lr, &cfg, block)
}

fn main() -> Result<()> {
    // Once to declare the tensors …
    let mut layout = Layout::new("mine");
    let mut tape = Tape::new();
    let lr = tape.input("lr", LR, DType::F32);
    generator(&mut Net::new(&mut tape, Vars::Declare(&mut layout), true), lr)?;
    println!("{} tensors, {} parameters", layout.params.len(), layout.param_count());
    for tensor in layout.params.iter().filter(|t| t.name.starts_with("mine.body.0.")) {
        println!("  {} {:?}", tensor.name, tensor.file_shape());
    }

    // … and again for every program, with the tensors bound to a state of the device.
    let mut tape = Tape::new();
    let lr = tape.input("lr", LR, DType::F32);
    let mut bound = Bound::new(&mut tape, &layout, "", "");
    let sr = generator(&mut Net::new(&mut tape, bound.vars(), true), lr)?;
    let loss = mean(&mut tape, sr)?;
    let grad = bound.flat_gradient(&mut tape, loss)?;
    let outputs = vec![("sr".into(), sr), ("grad".into(), grad)];
    let program = Program { name: "example", tape, outputs, checks: vec![], commits: vec![] };

    let mut device = Cpu::new(2)?;
    device.set_state(&layout.params_state(), Shape::vector(layout.len), &layout.initial_params(7))?;
    let plan = device.load(Plan::compile(&program, PlanOptions::new(device.target()))?)?;
    let image: Vec<f32> = (0..LR.len()).map(|i| 0.3 + 0.2 * (0.05 * i as f32).sin()).collect();
    device.upload(plan, "lr", bytemuck::cast_slice(&image))?;
    let outcome = device.run(plan)?;
    println!("SR has {} values", outcome.outputs[0].len());

    for tensor in &layout.params {
        let grad = layout.slice(tensor, &outcome.outputs[1]);
        let norm = grad.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if !(norm > 0.0 && norm.is_finite()) {
            return Err(Error::Internal(format!("the gradient of {} has the norm {norm}", tensor.name)));
        }
    }
    println!("every tensor has a gradient");
    Ok(())
}
